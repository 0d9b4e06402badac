#include "kernels/gather.h"

#include <limits>
#include <vector>

#include "engine/ops.h"

namespace sidechannel {
namespace {

// [N, tail...], where x is [sequences, ...].
Var gathered(const char* name, const Tensor& x, const Var& index, kernels::GatherDims dims,
             std::span<const std::int64_t> tail) {
  SC_CHECK(index.shape().rank() == 1, "{}: expected an index of shape [N], got {}", name,
           index.shape().str());
  SC_CHECK(x.dtype() == index.dtype() && x.device() == index.device(),
           "{}: expected what it takes from in {} on {}, as the index is; got {} on {}", name,
           name_of(index.dtype()), index.device().name(), name_of(x.dtype()), x.device().name());
  SC_CHECK(!index.requires_grad(), "{}: no gradient goes through an index", name);
  SC_CHECK(dims.places() > 0, "{}: there is nothing to take in {}", name, x.shape().str());
  dims.rows = index.size();
  std::vector<std::int64_t> shape{dims.rows};
  shape.insert(shape.end(), tail.begin(), tail.end());
  Var y = index.tape().make(Shape(std::span(shape)));
  on(index.device(), index.dtype(), [&]<class T>(auto& queue) {
    constexpr int kDigits = std::numeric_limits<T>::digits;
    SC_CHECK(dims.places() <= std::int64_t{1} << kDigits,
             "{}: {} places are more than the 2^{} that {} can tell apart", name, dims.places(),
             kDigits, name_of(index.dtype()));
    run(queue, kernels::Gather<T>{
                   .dims = dims, .x = x.data<T>(), .index = index.data<T>(), .y = y.data<T>()});
  });
  index.tape().record(y, {index}, {});
  return y;
}

}  // namespace

Var gather(const Tensor& x, const Var& index) {
  SC_CHECK(x && x.shape().rank() >= 1, "gather: expected a table [rows, ...], got {}",
           x.shape().str());
  const std::span tail(x.shape().begin() + 1, x.shape().end());
  const std::int64_t width = Shape(tail).size();
  return gathered("gather", x, index,
                  {.rows = 0, .width = width, .sequences = x.shape()[0], .extent = width}, tail);
}

Var gather_windows(const Tensor& x, const Var& index, std::int64_t length) {
  SC_CHECK(x && x.shape().rank() == 3,
           "gather_windows: expected sequences [sequences, L, C], got {}", x.shape().str());
  const std::int64_t extent = x.shape()[1], channels = x.shape()[2];
  SC_CHECK(length >= 1 && length <= extent,
           "gather_windows: expected a window of 1 to {} positions, got {}", extent, length);
  const std::int64_t tail[] = {length, channels};
  return gathered("gather_windows", x, index,
                  {.rows = 0,
                   .width = length * channels,
                   .sequences = x.shape()[0],
                   .extent = extent * channels,
                   .starts = extent - length + 1,
                   .step = channels},
                  tail);
}

}  // namespace sidechannel
