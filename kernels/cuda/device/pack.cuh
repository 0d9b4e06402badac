#pragma once

// A few neighbouring floats that one thread moves at once.

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/write.h"

namespace sidechannel::kernels::device {

// kVec is 1, or 4: loaded and stored by 16 bytes, at addresses that are multiples of 16.
template <int kVec>
struct Pack {
  static_assert(kVec == 1 || kVec == 4);
  float v[kVec];

  static __device__ __forceinline__ Pack load(const float* from) {
    Pack pack;
    if constexpr (kVec == 4) {
      const float4 all = *reinterpret_cast<const float4*>(from);
      pack.v[0] = all.x;
      pack.v[1] = all.y;
      pack.v[2] = all.z;
      pack.v[3] = all.w;
    } else {
      pack.v[0] = *from;
    }
    return pack;
  }

  __device__ __forceinline__ void store(float* to) const {
    if constexpr (kVec == 4) {
      *reinterpret_cast<float4*>(to) = make_float4(v[0], v[1], v[2], v[3]);
    } else {
      *to = v[0];
    }
  }

  // From anywhere: for the few constants of a channel, which may lie at odd places.
  static __device__ __forceinline__ Pack gather(const float* from) {
    Pack pack;
#pragma unroll
    for (int j = 0; j < kVec; ++j) pack.v[j] = from[j];
    return pack;
  }

  __device__ __forceinline__ void add(const Pack& other) {
#pragma unroll
    for (int j = 0; j < kVec; ++j) v[j] += other.v[j];
  }
};

template <int kVec>
__device__ __forceinline__ void write(Pack<kVec> value, GradOut<float> to, std::int64_t at) {
  if (to.write == Write::kAccumulate) value.add(Pack<kVec>::load(to.data + at));
  value.store(to.data + at);
}

}  // namespace sidechannel::kernels::device
