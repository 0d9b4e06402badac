// The sum of squares, in double, by CUB's device-wide reduction: the one sum over everything that
// comes with no arithmetic of its own (the gradient norm), where the library's choice of loads and
// block sizes for each architecture is better than ours. Two launches at most, no memory of its
// own, nothing that a captured step could not hold, and the same bits in every run on the same GPU
// (CUB promises that for floating-point sums).
//
// CUB does not compile as C++: the emulated build has tests/emulator/standins/sum_of_squares.cpp
// instead. Sums that are fused with what they are of are in blocked_sum.cuh.

#include <cuda_runtime.h>

#include <cub/device/device_reduce.cuh>
#include <cuda/functional>

#include "kernels/cuda_queue.h"
#include "kernels/reduce.h"

namespace sidechannel::kernels {
namespace {

struct Square {
  __device__ __forceinline__ double operator()(float x) const {
    const double value = x;
    return value * value;
  }
};

}  // namespace

void run(CudaQueue& queue, const SumOfSquares<float>& call) {
  const auto reduce = [&](void* scratch, std::size_t& bytes) {
    return cub::DeviceReduce::TransformReduce(scratch, bytes, call.x, call.result, call.size,
                                              cuda::std::plus<>(), Square(), 0.0, queue.stream());
  };
  CudaLaunch record;
  record.operation = "sum_of_squares";
  std::size_t bytes = 0;
  cudaError_t error = reduce(nullptr, bytes);  // asks how much scratch memory it needs
  if (error == cudaSuccess) error = reduce(queue.scratch(bytes), bytes);
  queue.launched(record, error);
}

}  // namespace sidechannel::kernels
