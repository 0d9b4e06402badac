// The sums of squares of several tensors of one size, in double, in two launches for all of them:
// blocked_sum.cuh. Of a single one it is CUB's (cub/sum_of_squares.cu).

#include "kernels/cuda/blocked_sum.cuh"
#include "kernels/reduce.h"

namespace sidechannel::kernels {
namespace {

constexpr std::size_t kMost = 64;  // of a launch

struct Squares {
  const float* x[kMost];
  __device__ __forceinline__ double operator()(unsigned set, std::int64_t i) const {
    const double value = x[set][i];
    return value * value;
  }
};

struct StoreSquares {
  double* result[kMost];
  __device__ __forceinline__ void operator()(unsigned set, double sum) const { *result[set] = sum; }
};

}  // namespace

void run(CudaQueue& queue, View<SumOfSquares<float>> calls) {
  calls.for_parts(kMost, [&](View<SumOfSquares<float>> some) {
    Squares squares = {};
    StoreSquares store = {};
    for (std::size_t i = 0; i < some.size(); ++i) {
      squares.x[i] = some[i].x;
      store.result[i] = some[i].result;
    }
    blocked_sum(queue, "sums_of_squares", some[0].size, squares, store,
                static_cast<std::int64_t>(some.size()));
  });
}

}  // namespace sidechannel::kernels
