#pragma once

// What choices of kernels for convolutions have in common.

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "kernels/conv1d.h"
#include "kernels/cuda/conv1d/kernels.h"
#include "kernels/cuda/sizes.h"
#include "kernels/cuda_queue.h"

namespace sidechannel::kernels {

// Whether this build has the code of sm_90a.
#ifdef SIDECHANNEL_HAS_SM90A
inline constexpr bool kHasHopperCode = true;
#else
inline constexpr bool kHasHopperCode = false;
#endif

// What a choice depends on, beside the problem.
struct Target {
  const CudaDeviceInfo& device;
  Precision precision;

  explicit Target(const CudaQueue& queue) : Target(queue.info(), queue.precision()) {}
  Target(const CudaDeviceInfo& device_, Precision precision_)
      : device(device_), precision(precision_) {}

  bool meets(const Needs& needs) const {
    return (needs.precision == Precision::kFp32 || needs.precision == precision) &&
           device.compute_capability >= needs.compute_capability &&
           (!needs.hopper || (device.compute_capability == 90 && kHasHopperCode)) &&
           device.shared_per_block >= needs.shared && (!needs.fast_tf32 || fast_tf32());
  }
  // By NVIDIA's data sheets, A100, H100 and B200 have eight times as many products a second and
  // more in TF32 as in fp32; the GPUs between, of 8.6 and 8.9, as many.
  bool fast_tf32() const {
    const int capability = device.compute_capability;
    return capability == 80 || capability == 90 || capability == 100;
  }
  int multiprocessors() const { return std::max(device.multiprocessors, 1); }
};

inline bool aligned(std::initializer_list<const void*> pointers) {
  return std::all_of(pointers.begin(), pointers.end(),
                     [](const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; });
}

inline bool has_shape(const Needs& needs, int channels_in, int channels_out, int taps, int stride) {
  const auto is = [](int needed, int n) { return needed == 0 || needed == n; };
  return is(needs.channels_in, channels_in) && is(needs.channels_out, channels_out) &&
         is(needs.taps, taps) && is(needs.stride, stride);
}

// About how long a row product takes by blocks of so many positions: rounds of them on all
// multiprocessors, each as long as its tile and what comes before and after it, which is about 32
// positions' worth.
inline std::int64_t row_cost(const Target& target, int positions, int batch, int length_out) {
  constexpr std::int64_t kOverhead = 32;
  const std::int64_t blocks = std::int64_t{batch} * ceil_div(length_out, positions);
  return ceil_div(blocks, target.multiprocessors()) * (positions + kOverhead);
}

inline WeightSums problem_of(const Conv1dBackwardParams<float>& call) {
  const Conv1dDims& dims = call.dims;
  WeightSums p = {};
  p.batch = narrow(dims.batch);
  p.length = narrow(dims.length);
  p.length_out = narrow(dims.length_out());
  p.channels_in = narrow(dims.channels_in);
  p.channels_out = narrow(dims.channels_out);
  p.taps = narrow(dims.kernel_size);
  p.padding = narrow(dims.padding);
  p.stride = narrow(dims.stride);
  p.x = call.x;
  p.dy = call.dy;
  p.weight_sums = dims.kernel_size * dims.channels_in * dims.channels_out;
  p.row = p.weight_sums + dims.channels_out;
  p.weights = call.dw.data && p.weight_sums > 0;
  p.bias = call.db.data && dims.channels_out > 0;
  return p;
}

// Cuts the positions into chunks, and these into as many splits as there are chunks for.
inline void split(WeightSums& p, int chunk, std::int64_t splits) {
  p.chunk = chunk;
  p.chunks_per_sample = ceil_div(p.length_out, p.chunk);
  p.chunks = narrow(std::int64_t{p.batch} * p.chunks_per_sample);
  p.splits = static_cast<int>(std::clamp<std::int64_t>(splits, 1, p.chunks));
}

}  // namespace sidechannel::kernels
