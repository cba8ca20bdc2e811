#pragma once

/// Marks a function that runs on the CPU and in CUDA kernels: the arithmetic which both share, and
/// which tests check on the CPU.
#ifdef __CUDACC__
#define ARCHON_HOST_DEVICE __host__ __device__
#else
#define ARCHON_HOST_DEVICE
#endif

namespace archon {

/// Whether this build has CUDA kernels: `if constexpr (kCudaBuild)` around a call of one.
#ifdef ARCHON_CUDA
inline constexpr bool kCudaBuild = true;
#else
inline constexpr bool kCudaBuild = false;
#endif

}  // namespace archon
