// The library column on the CPU: Eigen, on the caller's core.

#include <Eigen/Core>

#include "bench/library.h"

namespace sidechannel::bench {
namespace {

using namespace kernels;

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Array = Eigen::Array<float, Eigen::Dynamic, 1>;

// `rows` x `columns` after the transposition, if there is one.
template <class F>
void with_factor(const float* data, std::int64_t rows, std::int64_t columns, bool transposed,
                 const F& f) {
  if (transposed) return f(Eigen::Map<const Matrix>(data, columns, rows).transpose());
  f(Eigen::Map<const Matrix>(data, rows, columns));
}

Eigen::Map<const Array> array(const float* data, std::int64_t size) {
  return {data, size};
}
Eigen::Map<Array> array(float* data, std::int64_t size) {
  return {data, size};
}

// Sequences, a column each.
auto sequences(const MseDims& dims, const float* data) {
  return Eigen::Map<const Eigen::ArrayXXf>(data, dims.target_size, dims.size / dims.target_size);
}

}  // namespace

void library(CpuQueue&, const Product& call) {
  const MatmulDims& dims = call.dims;
  with_factor(call.a, dims.m, dims.k, dims.transpose_a, [&](const auto& a) {
    with_factor(call.b, dims.k, dims.n, dims.transpose_b, [&](const auto& b) {
      Eigen::Map<Matrix>(call.c, dims.m, dims.n).noalias() = a * b;
    });
  });
}

void library(CpuQueue&, const Copy& call) {
  array(call.y, call.size) = array(call.x, call.size);
}

void library(CpuQueue&, const Fill& call) {
  array(call.x, call.size) = 1.0f;
}

void library(CpuQueue&, const AdamStep& call) {
  const AdamRule& rule = call.update.rule;
  const std::int64_t size = call.update.size;
  *call.begin.state = begin_step(rule, *call.begin.state, *call.begin.sum_of_squares,
                                 static_cast<double>(*call.begin.loss), FLT_MAX);
  const auto rate = static_cast<float>(call.begin.state->rate);
  const auto correction = static_cast<float>(call.begin.state->correction);
  const auto epsilon = static_cast<float>(rule.epsilon);
  const auto beta1 = static_cast<float>(rule.beta1), beta2 = static_cast<float>(rule.beta2);
  const auto g = array(call.update.g, size);
  auto p = array(call.update.p, size), m = array(call.update.m, size);
  auto v = array(call.update.v, size);
  m = beta1 * m + (1 - beta1) * g;
  v = beta2 * v + (1 - beta2) * g.square();
  p -= rate * m / (correction * v.sqrt() + epsilon);
}

void library(CpuQueue&, const ActivateForward<float>& call) {
  array(call.y, call.size) = array(call.x, call.size).max(0.0f);
}

void library(CpuQueue&, const ActivateBackward<float>& call) {
  const auto y = array(call.kept, call.size);
  array(call.dx.data, call.size) = (y > 0).select(array(call.dy, call.size), 0.0f);
}

void library(CpuQueue&, const MseForward<float>& call) {
  const auto target = array(call.target, call.dims.target_size);
  *call.loss = (sequences(call.dims, call.y).colwise() - target).square().mean();
}

void library(CpuQueue&, const MseBackward<float>& call) {
  const auto y = sequences(call.dims, call.y);
  const auto target = array(call.target, call.dims.target_size);
  const float factor = *call.dloss * 2 / static_cast<float>(call.dims.size);
  Eigen::Map<Eigen::ArrayXXf>(call.dy.data, y.rows(), y.cols()) = factor * (y.colwise() - target);
}

void library(CpuQueue&, const SumOfSquares<float>& call) {
  *call.result = array(call.x, call.size).cast<double>().square().sum();
}

}  // namespace sidechannel::bench
