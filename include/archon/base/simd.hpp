#pragma once

/// Compiles a function for several x86-64 levels and picks one when the library is loaded, so that
/// one binary is fast on every node. (Levels, not arch=skylake-avx512 and the like: those match
/// one vendor's processors only. Sanitizers cannot instrument the resolvers this needs.)
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(ARCHON_SANITIZE)
#define ARCHON_SIMD_CLONES \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define ARCHON_SIMD_CLONES
#endif

/// A function that becomes part of each of its caller's clones.
#define ARCHON_INLINE inline __attribute__((always_inline))
