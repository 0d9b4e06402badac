#include "engine/jacobian.h"

#include <algorithm>
#include <vector>

#include "engine/io/npy.h"

namespace sidechannel {
namespace {

Tensor copies_of(const Tensor& x, std::int64_t count) {
  const Shape& shape = x.shape();
  Tensor all(x.device(), x.dtype(), {count * shape[0], shape[1], shape[2]});
  for (std::int64_t i = 0; i < count; ++i) {
    all.slice(i * x.size(), x.size()).copy_from(x.reshape({x.size()}));
  }
  return all;
}

}  // namespace

void jacobian_rows(const Tensor& x, const std::function<Var(const Var&)>& f,
                   std::span<const std::int64_t> outputs,
                   const std::function<void(std::size_t row, std::span<const double>)>& visit) {
  SC_CHECK(x.shape().rank() == 3, "jacobian: expected x of shape [S, L, C], got {}",
           x.shape().str());
  if (outputs.empty()) return;
  const std::size_t count = std::min<std::size_t>(kJacobianRowsAtOnce, outputs.size());
  Tape tape(x.device(), x.dtype());
  const HoldParameters hold(tape);
  const Var copies = tape.leaf(copies_of(x, static_cast<std::int64_t>(count)));
  const Var y = f(copies);
  const std::int64_t size = y.size() / static_cast<std::int64_t>(count);  // of one copy's answer
  for (const std::int64_t output : outputs) {
    SC_CHECK(output >= 0 && output < size, "jacobian: no output {} among {}", output, size);
  }
  const Tape::Mark mark = tape.mark();
  for (std::size_t first = 0; first < outputs.size(); first += count) {
    const std::size_t rows = std::min(count, outputs.size() - first);
    HostArray cotangent(DType::kF64, y.shape());
    for (std::size_t i = 0; i < rows; ++i) {
      const std::int64_t at = static_cast<std::int64_t>(i) * size + outputs[first + i];
      cotangent.as<double>()[static_cast<std::size_t>(at)] = 1;
    }
    tape.backward(y, Tensor::from(x.device(), converted(cotangent, x.dtype())));
    const HostArray gradient = converted(tape.gradient(copies).to_host(), DType::kF64);
    const auto all = gradient.as<double>();
    for (std::size_t i = 0; i < rows; ++i) {
      const auto row_size = static_cast<std::size_t>(x.size());
      visit(first + i, all.subspan(i * row_size, row_size));
    }
    tape.rewind(mark);
  }
}

}  // namespace sidechannel
