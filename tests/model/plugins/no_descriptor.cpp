// A shared object that is no plugin.
extern "C" void archon_register_plugin() {}
