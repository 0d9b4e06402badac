#pragma once

// What libraries have for the same work, for the column beside each kernel: Eigen on the CPU,
// cuBLASLt on a GPU. library(queue, call) runs theirs on the call's buffers; a call without such a
// function has no counterpart (or is a library's own: a sum of squares on a GPU is CUB's).
//
// A convolution's is the one product that it is (implicit GEMM), of a matrix that is unfolded
// already: [positions, taps C_in] x [taps C_in, C_out]. Neither unfolding nor bias is counted. A
// dense layer's are its products, without bias and ReLU.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/activate.h"
#include "kernels/adam.h"
#include "kernels/copy.h"
#include "kernels/cuda/conv_norm_act/variants.h"
#include "kernels/cuda/matmul.h"
#include "kernels/fill.h"
#include "kernels/linear.h"
#include "kernels/mse.h"
#include "kernels/reduce.h"

namespace sidechannel::bench {

using kernels::CpuQueue;
using kernels::CudaQueue;

// c = op(a) op(b)
struct Product {
  kernels::MatmulDims dims;
  const float* a = nullptr;
  const float* b = nullptr;
  float* c = nullptr;
};

// As calls: what kernels/ has as functions, and an optimizer's step.
struct Copy {
  std::int64_t size = 0;
  const float* x = nullptr;
  float* y = nullptr;
};
struct Fill {
  std::int64_t size = 0;
  float* x = nullptr;
};
struct AdamStep {
  kernels::AdamBegin<float> begin;
  kernels::AdamUpdate<float> update;
};
// A call of layers in a row, and the lists that it views.
template <class Call>
struct Row {
  Call call;
  std::shared_ptr<const void> lists;
};
template <class Queue, class Call, class... Variant>
auto run(Queue& queue, const Row<Call>& row, Variant... variant)
    -> decltype(run(queue, row.call, variant...)) {
  return run(queue, row.call, variant...);
}
template <class Call>
std::vector<std::string> variants_of(const kernels::CudaDeviceInfo& device,
                                     kernels::Precision precision, const Row<Call>& row) {
  return variants_of(device, precision, row.call);
}
template <class Queue>
void run(Queue& queue, const Copy& call) {
  copy(queue, call.size, call.x, kernels::GradOut<float>{call.y});
}
template <class Queue>
void run(Queue& queue, const Fill& call) {
  fill(queue, call.size, 1.0f, call.x);
}
template <class Queue>
void run(Queue& queue, const AdamStep& call) {
  run(queue, call.begin);
  run(queue, call.update);
}

constexpr const char* library_of(const CpuQueue&) {
  return "Eigen";
}
constexpr const char* library_of(const CudaQueue&) {
  return "cuBLASLt";
}

void library(CudaQueue& queue, const Product& call);
void library(CpuQueue& queue, const Product& call);
void library(CpuQueue& queue, const Copy& call);
void library(CpuQueue& queue, const Fill& call);
void library(CpuQueue& queue, const AdamStep& call);
void library(CpuQueue& queue, const kernels::ActivateForward<float>& call);
void library(CpuQueue& queue, const kernels::ActivateBackward<float>& call);
void library(CpuQueue& queue, const kernels::MseForward<float>& call);
void library(CpuQueue& queue, const kernels::MseBackward<float>& call);
void library(CpuQueue& queue, const kernels::SumOfSquares<float>& call);

template <class Queue>
void library(Queue& queue, const kernels::LinearForward<float>& call) {
  const auto& [rows, in, out, activation] = call.dims;
  library(queue, Product{{rows, out, in, false, true}, call.x, call.w, call.y});
}
template <class Queue>
void library(Queue& queue, const kernels::LinearBackward<float>& call) {
  const auto& [rows, in, out, activation] = call.dims;
  library(queue, Product{{rows, in, out}, call.dy, call.w, call.dx.data});
  library(queue, Product{{out, in, rows, true}, call.dy, call.x, call.dw.data});
}

}  // namespace sidechannel::bench
