// Dense layers on the CPU: a convolution of one tap, by the products of row_product.h.

#include "kernels/linear.h"

#include <algorithm>

#include "kernels/activate.h"
#include "kernels/cpu/activation.h"
#include "kernels/cpu/row_product.h"

namespace sidechannel::kernels {
namespace {

constexpr std::int64_t kOutBlock = 8;  // rows of dw that are worth a thread

// out [rows, columns] = x [rows, in] * w + bias.
template <class T>
RowProduct<T> product(std::int64_t rows, std::int64_t in, std::int64_t columns, const T* x,
                      const T* w, bool flip, const T* bias, GradOut<T> out) {
  return {.length = rows,
          .channels = in,
          .length_out = rows,
          .columns = columns,
          .x = x,
          .w = w,
          .flip = flip,
          .bias = bias,
          .y = out.data,
          .write = out.write};
}

}  // namespace

template <class T>
void run(CpuQueue& queue, const LinearForward<T>& call) {
  const LinearDims& dims = call.dims;
  const auto p =
      product(dims.rows, dims.in, dims.out, call.x, call.w, true, call.b, GradOut<T>{call.y});
  if (dims.activation == Activation::kNone) return multiply(queue, p);
  simd::with_activation(dims.activation, [&](auto activation) {
    multiply(queue, p, [=](T* values, std::int64_t count) {
      simd::for_vectors<T>(0, count, [&](auto d, std::int64_t i) {
        hn::StoreU(simd::activate(d, activation, hn::LoadU(d, values + i)), d, values + i);
      });
    });
  });
}

template <class T>
void run(CpuQueue& queue, const LinearBackward<T>& call) {
  const LinearDims& dims = call.dims;
  const GradOut<T> dx = call.dx, dw = call.dw, db = call.db;
  const T* g = call.dy;
  if (dims.activation != Activation::kNone) {
    const std::int64_t size = dims.rows * dims.out;
    T* masked = static_cast<T*>(queue.scratch(static_cast<std::size_t>(size) * sizeof(T)));
    run(queue, ActivateBackward<T>{.size = size,
                                   .activation = dims.activation,
                                   .kept = call.y,
                                   .dy = call.dy,
                                   .dx = {masked}});
    g = masked;
  }
  if (dx.data) {
    multiply(queue, product<T>(dims.rows, dims.out, dims.in, g, call.w, false, nullptr, dx));
  }
  if (!dw.data && !db.data) return;
  clear_unless_accumulating(dw, dims.out * dims.in);
  clear_unless_accumulating(db, dims.out);
  const std::int64_t blocks = (dims.out + kOutBlock - 1) / kOutBlock;
  queue.parallel_for(blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t first = begin * kOutBlock;
    const std::int64_t count = std::min(end * kOutBlock, dims.out) - first;
    for (std::int64_t row = 0; row < dims.rows; row += kChunk) {
      const std::int64_t rows = std::min(kChunk, dims.rows - row);
      const T* gradient = g + row * dims.out + first;
      if (dw.data) {
        accumulate_block(gradient, dims.out, count, call.x + row * dims.in, dims.in, dims.in, rows,
                         dw.data + first * dims.in, dims.in);
      }
      if (db.data) accumulate_rows(gradient, dims.out, count, rows, db.data + first);
    }
  });
}

template void run(CpuQueue&, const LinearForward<float>&);
template void run(CpuQueue&, const LinearForward<double>&);
template void run(CpuQueue&, const LinearBackward<float>&);
template void run(CpuQueue&, const LinearBackward<double>&);

}  // namespace sidechannel::kernels
