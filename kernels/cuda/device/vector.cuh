#pragma once

// Arithmetic of one, two or four neighbouring floats, each by itself.

#include <cuda_runtime.h>

namespace sidechannel::kernels::device {

// f of each component.
template <class F, class... More>
__device__ __forceinline__ float map(const F& f, float a, More... more) {
  return f(a, more...);
}
template <class F, class... More>
__device__ __forceinline__ float2 map(const F& f, const float2& a, const More&... more) {
  return make_float2(f(a.x, more.x...), f(a.y, more.y...));
}
template <class F, class... More>
__device__ __forceinline__ float4 map(const F& f, const float4& a, const More&... more) {
  return make_float4(f(a.x, more.x...), f(a.y, more.y...), f(a.z, more.z...), f(a.w, more.w...));
}

template <class V>
__device__ __forceinline__ V add(const V& a, const V& b) {
  return map([](float x, float y) { return x + y; }, a, b);
}
template <class V>
__device__ __forceinline__ V subtract(const V& a, const V& b) {
  return map([](float x, float y) { return x - y; }, a, b);
}
template <class V>
__device__ __forceinline__ V negate(const V& a) {
  return map([](float x) { return -x; }, a);
}
// a * b + c, rounded once.
template <class V>
__device__ __forceinline__ V multiply_add(const V& a, const V& b, const V& c) {
  return map([](float x, float y, float z) { return fmaf(x, y, z); }, a, b, c);
}

// At addresses that are aligned to their size.
template <class V>
__device__ __forceinline__ V load_as(const float* from) {
  return *reinterpret_cast<const V*>(from);
}
template <class V>
__device__ __forceinline__ void store_as(float* to, const V& value) {
  *reinterpret_cast<V*>(to) = value;
}

}  // namespace sidechannel::kernels::device
