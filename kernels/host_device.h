#pragma once

// Functions that every backend computes with: plain C++ here, host and device code under nvcc.
#if defined(__CUDACC__)
#define SC_HOST_DEVICE __host__ __device__
#else
#define SC_HOST_DEVICE
#endif
