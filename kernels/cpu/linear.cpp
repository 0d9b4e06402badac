// Dense layers by Eigen's matrix product. Threads split the output in blocks of fixed size, each
// one a product of its own, so that the result does not depend on the number of threads.

#include "kernels/linear.h"

#include <Eigen/Core>
#include <algorithm>

#include "kernels/relu.h"

namespace sidechannel::kernels {
namespace {

constexpr std::int64_t kRowBlock = 128;  // rows of x in one product
constexpr std::int64_t kOutBlock = 64;   // rows of dw in one product

template <class T>
using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T>
using ConstMap = Eigen::Map<const Matrix<T>>;
template <class T>
using Map = Eigen::Map<Matrix<T>>;
template <class T>
using RowMap = Eigen::Map<const Eigen::Matrix<T, 1, Eigen::Dynamic>>;

// Calls body(first, count) for blocks of `block` out of `total`.
template <class Body>
void for_blocks(CpuQueue& queue, std::int64_t total, std::int64_t block, const Body& body) {
  queue.parallel_for((total + block - 1) / block, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      body(i * block, std::min(block, total - i * block));
    }
  });
}

template <class Target, class Value>
void store(Write write, Target&& target, const Value& value) {
  if (write == Write::kAccumulate) {
    target.noalias() += value;
  } else {
    target.noalias() = value;
  }
}

}  // namespace

template <class T>
void linear_forward(CpuQueue& queue, const LinearDims& dims, const T* x, const T* w, const T* b,
                    T* y) {
  const ConstMap<T> weight(w, dims.out, dims.in);
  const RowMap<T> bias(b, dims.out);
  for_blocks(queue, dims.rows, kRowBlock, [&](std::int64_t first, std::int64_t rows) {
    const ConstMap<T> in(x + first * dims.in, rows, dims.in);
    Map<T> out(y + first * dims.out, rows, dims.out);
    out.noalias() = in * weight.transpose();
    if (dims.relu) {
      out = (out.rowwise() + bias).cwiseMax(T(0));
    } else {
      out.rowwise() += bias;
    }
  });
}

template <class T>
void linear_backward(CpuQueue& queue, const LinearDims& dims, const T* x, const T* w, const T* y,
                     const T* dy, GradOut<T> dx, GradOut<T> dw, GradOut<T> db) {
  const ConstMap<T> weight(w, dims.out, dims.in);
  const ConstMap<T> in(x, dims.rows, dims.in);
  const T* g = dy;
  if (dims.relu) {
    T* masked =
        static_cast<T*>(queue.scratch(static_cast<std::size_t>(dims.rows * dims.out) * sizeof(T)));
    relu_backward(queue, dims.rows * dims.out, y, dy, GradOut<T>{masked});
    g = masked;
  }
  const ConstMap<T> gradient(g, dims.rows, dims.out);
  if (dx.data) {
    for_blocks(queue, dims.rows, kRowBlock, [&](std::int64_t first, std::int64_t rows) {
      Map<T> out(dx.data + first * dims.in, rows, dims.in);
      store(dx.write, out, gradient.middleRows(first, rows) * weight);
    });
  }
  if (!dw.data && !db.data) return;
  for_blocks(queue, dims.out, kOutBlock, [&](std::int64_t first, std::int64_t count) {
    const auto columns = gradient.middleCols(first, count);
    if (dw.data) {
      Map<T> out(dw.data + first * dims.in, count, dims.in);
      store(dw.write, out, columns.transpose() * in);
    }
    if (db.data) {
      // Row by row: the order of Eigen's own column sums depends on the address of the result.
      Eigen::Matrix<T, 1, Eigen::Dynamic> sum = Eigen::Matrix<T, 1, Eigen::Dynamic>::Zero(count);
      for (std::int64_t row = 0; row < dims.rows; ++row) sum += columns.row(row);
      Eigen::Map<Eigen::Matrix<T, 1, Eigen::Dynamic>> out(db.data + first, count);
      store(db.write, out, sum);
    }
  });
}

#define SIDECHANNEL_INSTANTIATE(T)                                                              \
  template void linear_forward(CpuQueue&, const LinearDims&, const T*, const T*, const T*, T*); \
  template void linear_backward(CpuQueue&, const LinearDims&, const T*, const T*, const T*,     \
                                const T*, GradOut<T>, GradOut<T>, GradOut<T>);
SIDECHANNEL_INSTANTIATE(float)
SIDECHANNEL_INSTANTIATE(double)
#undef SIDECHANNEL_INSTANTIATE

}  // namespace sidechannel::kernels
