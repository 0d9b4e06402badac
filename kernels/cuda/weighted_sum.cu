// y[n, i] = hold[n, i] where held[i] != 0, elsewhere the sum over j of w[j][n] x[j][n, i], in the
// order of the terms; and back, an input at a time. How threads map to elements is told in map.cuh.

#include "kernels/weighted_sum.h"

#include "kernels/cuda/map.cuh"

namespace sidechannel::kernels {
namespace {

struct Mix {
  WeightedSumForward<float> call;

  __device__ __forceinline__ float term(int j, std::int64_t n, std::int64_t i) const {
    return call.w[j][n] * call.x[j][i];
  }
  __device__ __forceinline__ float operator()(std::int64_t i) const {
    const std::int64_t n = i / call.dims.size;
    if (call.held && call.held[i - n * call.dims.size] != 0.0f) return call.hold[i];
    static_assert(kMostTerms == 3, "each stands here");
    float sum = term(0, n, i);
    if (call.dims.terms > 1) sum += term(1, n, i);
    if (call.dims.terms > 2) sum += term(2, n, i);
    return sum;
  }
};

struct WeighBack {
  std::int64_t size;
  const float *w, *held;

  __device__ __forceinline__ float operator()(std::int64_t i, float dy) const {
    const std::int64_t n = i / size;
    return held && held[i - n * size] != 0.0f ? 0.0f : w[n] * dy;
  }
};

struct HoldBack {
  std::int64_t size;
  const float* held;

  __device__ __forceinline__ float operator()(std::int64_t i, float dy) const {
    return held && held[i % size] != 0.0f ? dy : 0.0f;
  }
};

}  // namespace

void run(CudaQueue& queue, const WeightedSumForward<float>& call) {
  map(queue, "weighted_sum_forward", call.dims.batch * call.dims.size, Mix{call}, {call.y});
}

void run(CudaQueue& queue, const WeightedSumBackward<float>& call) {
  const std::int64_t size = call.dims.size, all = call.dims.batch * size;
  for (int j = 0; j < call.dims.terms; ++j) {
    if (!call.dx[j].data) continue;
    map(queue, "weighted_sum_backward", all, WeighBack{size, call.w[j], call.held}, call.dx[j],
        call.dy);
  }
  if (!call.dhold.data) return;
  map(queue, "weighted_sum_backward", all, HoldBack{size, call.held}, call.dhold, call.dy);
}

}  // namespace sidechannel::kernels
