"""Two hosts on one machine: each a namespace for its network and one for its name.

    host1 eth0 10.77.0.1 ---- bridge ---- eth0 10.77.0.2 host2
          eth1 10.78.0.1 ---   no way  --- eth1 10.78.0.2

eth1 leads nowhere, as networks do that only some of a cluster's hosts are connected to. The bridge
lies in the namespace of the caller, which must be one of its own (unshare --net). Files are shared.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

# Words before a command that is to end with this process, however it ends.
DEPENDENT = ("setpriv", "--pdeathsig", "KILL")
NAMES = ("host1", "host2")
DEVICES = {"eth0": 77, "eth1": 78}  # and the second number of their addresses


def run(*command):
    subprocess.run(command, check=True)


class TwoHosts:
    def __init__(self, folder):
        self.holders = []
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "bridge", "type", "bridge")
        run("ip", "link", "set", "bridge", "up")
        for number, name in enumerate(NAMES, 1):
            self.holders.append(subprocess.Popen([*DEPENDENT, "unshare", "--net", "--uts", "sleep",
                                                  "infinity"]))
            self.wait_for_namespace(self.holders[-1].pid)
            self.run_on(name, "hostname", name)
            self.run_on(name, "ip", "link", "set", "lo", "up")
            for device, network in DEVICES.items():
                self.connect(name, device, f"10.{network}.0.{number}/24")
            run("ip", "link", "set", self.cable(name, "eth0"), "master", "bridge")
        self.write_agent(folder / "agent")

    @staticmethod
    def wait_for_namespace(pid):
        limit = time.monotonic() + 10
        while os.readlink(f"/proc/{pid}/ns/uts") == os.readlink("/proc/self/ns/uts"):
            assert time.monotonic() < limit, "no namespace"
            time.sleep(0.01)

    @staticmethod
    def cable(name, device):
        return f"{name}-{device}"

    def connect(self, name, device, address):
        holder = str(self.holders[NAMES.index(name)].pid)
        run("ip", "link", "add", self.cable(name, device), "type", "veth", "peer", "name", device,
            "netns", holder)
        run("ip", "link", "set", self.cable(name, device), "up")
        self.run_on(name, "ip", "address", "add", address, "dev", device)
        self.run_on(name, "ip", "link", "set", device, "up")

    def set_link(self, name, state):
        run("ip", "link", "set", self.cable(name, "eth0"), state)

    def enter(self, name):
        """Words before a command that is to run on a host."""
        return ["nsenter", f"--target={self.holders[NAMES.index(name)].pid}", "--net", "--uts"]

    def run_on(self, name, *command):
        run(*self.enter(name), *command)

    def write_agent(self, path):
        """What mpiexec calls in place of ssh: AGENT HOST COMMAND..."""
        cases = "".join(f"  10.77.0.{number}) set -- {' '.join(self.enter(name))} sh -c \"$*\" ;;\n"
                        for number, name in enumerate(NAMES, 1))
        path.write_text(f'#!/bin/sh\nhost=$1\nshift\ncase $host in\n{cases}esac\nexec "$@"\n')
        path.chmod(0o755)
        self.agent = path

    def launch(self, interface="eth0"):
        """Words before a program that is to run on both hosts, with a rank each, which talk over
        this interface. Open MPI's own daemons always find each other, and miss each other
        within seconds."""
        keepalive = [word for name, value in (("time", 5), ("intvl", 2), ("probes", 3))
                     for word in ("--mca", f"oob_tcp_keepalive_{name}", str(value))]
        return [*self.enter("host1"), os.environ.get("ARCHON_MPIEXEC", "mpiexec"),
                "--mca", "plm_rsh_agent", str(self.agent), "--mca", "oob_tcp_if_include", "eth0",
                *keepalive, "--mca", "btl_tcp_if_include", interface, "--host", "10.77.0.1,10.77.0.2",
                "--bind-to", "none", "-n", "2"]

    def processes(self):
        """All processes of the hosts, but for those that hold the namespaces."""
        spaces = {os.readlink(f"/proc/{holder.pid}/ns/net") for holder in self.holders}
        holders = {holder.pid for holder in self.holders}
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and os.readlink(entry / "ns" / "net") in spaces:
                    found.append(int(entry.name))
            except OSError:
                pass  # it has ended
        return [pid for pid in found if pid not in holders]

    def count(self, program):
        """How many processes of the hosts run a program."""
        found = 0
        for pid in self.processes():
            try:
                found += os.readlink(f"/proc/{pid}/exe") == str(program)
            except OSError:
                pass  # it has ended
        return found

    def end_processes(self):
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def close(self):
        self.end_processes()
        for name, holder in zip(NAMES, self.holders):
            for device in DEVICES:
                run("ip", "link", "delete", self.cable(name, device))
            holder.kill()
            holder.wait()
        run("ip", "link", "delete", "bridge")
