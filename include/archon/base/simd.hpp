#pragma once

/// Whether parts of a file can be compiled for x86 processors of other levels than the rest (GCC's
/// target pragma).
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define ARCHON_X86_TARGETS 1
#else
#define ARCHON_X86_TARGETS 0
#endif

/// Compiles a function for several x86-64 levels and picks one when the library is loaded, so that
/// one binary is fast on every node. (Levels, not arch=skylake-avx512 and the like: those match
/// one vendor's processors only. Sanitizers cannot instrument the resolvers this needs.)
#if ARCHON_X86_TARGETS && !defined(ARCHON_SANITIZE)
#define ARCHON_SIMD_CLONES \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define ARCHON_SIMD_CLONES
#endif

/// A function that becomes part of each of its caller's clones.
#define ARCHON_INLINE inline __attribute__((always_inline))
