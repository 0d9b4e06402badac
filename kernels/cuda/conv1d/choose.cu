// conv1d on CUDA, channels last: the choice of the kernel. The kernels themselves:
//
//   any_shape.cu    any shape, fp32; the second stage of the parameter gradients
//   one_channel.cu  one channel on one side: bound by memory
//   rows_ffma.cu    C_in = C_out = 32 or 64, 5 taps, in fp32
//   rows_mma.cu     the same on tensor cores, in TF32
//   weights_*.cu    the parameter gradients of these layers, likewise
//
// The forward pass and the input gradient are the same problem, RowProduct: the input gradient's
// rows are dy's, its weights are flipped in t and transposed. All results are the same bits in
// every run.

#include "kernels/conv1d.h"

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>

#include "kernels/cuda/conv1d/kernels.h"
#include "kernels/cuda/conv1d/variants.h"
#include "kernels/cuda/sizes.h"
#include "kernels/cuda_queue.h"
#include "kernels/fill.h"

namespace sidechannel::kernels {
namespace {

std::string& forced_variant() {
  static std::string name;  // empty: conv1d chooses
  return name;
}

bool aligned(std::initializer_list<const void*> pointers) {
  return std::all_of(pointers.begin(), pointers.end(),
                     [](const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; });
}

// What the choice depends on, beside the problem.
struct Target {
  const CudaDeviceInfo& device;
  Precision precision;

  explicit Target(const CudaQueue& queue) : Target(queue.info(), queue.precision()) {}
  Target(const CudaDeviceInfo& device_, Precision precision_)
      : device(device_), precision(precision_) {}

  // Tensor cores take TF32 from sm_80 on.
  bool tensor_cores() const {
    return precision == Precision::kTf32 && device.compute_capability >= 80;
  }
  int multiprocessors() const { return std::max(device.multiprocessors, 1); }
};

// --- Row products --------------------------------------------------------------------------------

// About how long a variant takes: rounds of blocks on all multiprocessors, each as long as its tile
// and what comes before and after it, which is about 32 positions' worth.
std::int64_t duration(const Target& target, const RowVariant& variant, const NarrowProduct& p) {
  constexpr std::int64_t kOverhead = 32;
  const std::int64_t blocks = std::int64_t{p.batch} * ceil_div(p.length_out, variant.positions);
  return ceil_div(blocks, target.multiprocessors()) * (variant.positions + kOverhead);
}

// What can compute the product, the best first.
std::vector<RowVariant> variants(const Target& target, const NarrowProduct& p) {
  std::vector<RowVariant> all;
  // Of those made for this layer, the ones whose tiles fit the problem best.
  const auto append = [&](const std::vector<RowVariant>& made) {
    const auto first = static_cast<std::ptrdiff_t>(all.size());
    for (const RowVariant& variant : made) {
      if (variant.channels == p.channels && variant.shared <= target.device.shared_per_block) {
        all.push_back(variant);
      }
    }
    std::stable_sort(all.begin() + first, all.end(), [&](const RowVariant& a, const RowVariant& b) {
      return duration(target, a, p) < duration(target, b, p);
    });
  };
  if (p.channels == p.columns && p.taps == 5 && aligned({p.x, p.w, p.bias, p.y})) {
    if (target.tensor_cores()) append(tf32_mma_rows());
    append(ffma_rows());
  }
  if (p.columns == 1) all.push_back(kOneChannelOut);
  if (p.channels == 1) all.push_back(kOneChannelIn);
  all.push_back(kTiledRows);
  return all;
}

template <class Call>
NarrowProduct product_of(const Call& call) {
  return row_product(call).counted_by(narrow);
}

// --- Parameter gradients -------------------------------------------------------------------------

std::vector<WeightVariant> variants(const Target& target, const WeightSums& p) {
  std::vector<WeightVariant> all;
  const auto append = [&](const std::vector<WeightVariant>& made) {
    for (const WeightVariant& variant : made) {
      if (variant.channels == p.channels_in && variant.shared <= target.device.shared_per_block) {
        all.push_back(variant);
      }
    }
  };
  if (p.channels_in == p.channels_out && p.taps == 5 && aligned({p.x, p.dy})) {
    if (target.tensor_cores()) append(tf32_mma_weights());
    append(ffma_weights());
  }
  if (p.channels_in == 1 || p.channels_out == 1) all.push_back(kOneChannelWeights);
  all.push_back(kTiledWeights);
  return all;
}

WeightSums sums_of(const Conv1dBackwardParams<float>& call) {
  const Conv1dDims& dims = call.dims;
  WeightSums p = {};
  p.batch = narrow(dims.batch);
  p.length = narrow(dims.length);
  p.length_out = narrow(dims.length_out());
  p.channels_in = narrow(dims.channels_in);
  p.channels_out = narrow(dims.channels_out);
  p.taps = narrow(dims.kernel_size);
  p.padding = narrow(dims.padding);
  p.x = call.x;
  p.dy = call.dy;
  p.weight_sums = dims.kernel_size * dims.channels_in * dims.channels_out;
  p.row = p.weight_sums + dims.channels_out;
  return p;
}

// Cuts the positions into chunks and splits, such that all multiprocessors are busy.
void split(const Target& target, const WeightVariant& variant, WeightSums& p) {
  p.chunk = variant.chunk;
  p.chunks_per_sample = ceil_div(p.length_out, p.chunk);
  p.chunks = narrow(std::int64_t{p.batch} * p.chunks_per_sample);
  const int blocks = target.multiprocessors() * variant.blocks_per_multiprocessor;
  const std::int64_t of_split = std::max<std::int64_t>(variant.blocks_per_split(p), 1);
  p.splits = static_cast<int>(std::clamp<std::int64_t>(blocks / of_split, 1, p.chunks));
}

// --- For both ------------------------------------------------------------------------------------

template <class Problem>
auto choose(const CudaQueue& queue, const Problem& problem) {
  const auto all = variants(Target(queue), problem);
  const std::string& forced = forced_variant();
  for (const auto& variant : all) {
    if (forced.empty() || forced == variant.name) return variant;
  }
  throw std::logic_error("conv1d: \"" + forced + "\" cannot compute this");
}

template <class Problem>
std::vector<std::string> names(const Target& target, const Problem& problem) {
  std::vector<std::string> all;
  for (const auto& variant : variants(target, problem)) all.emplace_back(variant.name);
  return all;
}

}  // namespace

std::vector<std::string> conv1d_variants(const CudaDeviceInfo& device, Precision precision,
                                         Conv1dPass pass, const Conv1dDims& dims) {
  const Target target(device, precision);
  switch (pass) {
    case Conv1dPass::kForward:
      return names(target, product_of(Conv1dForward<float>{dims}));
    case Conv1dPass::kBackwardInput:
      return names(target, product_of(Conv1dBackwardInput<float>{dims}));
    case Conv1dPass::kBackwardParams:
      break;
  }
  return names(target, sums_of(Conv1dBackwardParams<float>{dims}));
}

ForceConv1dVariant::ForceConv1dVariant(std::string name) {
  forced_variant() = std::move(name);
}
ForceConv1dVariant::~ForceConv1dVariant() {
  forced_variant().clear();
}

void run(CudaQueue& queue, const Conv1dForward<float>& call) {
  const NarrowProduct product = product_of(call);
  choose(queue, product).run(queue, product);
}

void run(CudaQueue& queue, const Conv1dBackwardInput<float>& call) {
  if (call.dx.data == nullptr) return;
  const NarrowProduct product = product_of(call);
  choose(queue, product).run(queue, product);
}

void run(CudaQueue& queue, const Conv1dBackwardParams<float>& call) {
  const Conv1dDims& dims = call.dims;
  WeightSums sums = sums_of(call);
  if (dims.batch * dims.length_out() == 0) {
    add_nothing(queue, sums.weight_sums, call.dw);
    add_nothing(queue, dims.channels_out, call.db);
    return;
  }
  sums.weights = call.dw.data && sums.weight_sums > 0;
  sums.bias = call.db.data && dims.channels_out > 0;
  if (!sums.weights && !sums.bias) return;
  const WeightVariant variant = choose(queue, sums);
  split(Target(queue), variant, sums);
  sums.partial = static_cast<float*>(
      queue.scratch(static_cast<std::size_t>(sums.splits * sums.row) * sizeof(float)));
  if (sums.weights) {
    variant.run(queue, sums);
  } else {
    sum_columns(queue, sums);
  }
  add_splits(queue, sums, call.dw, call.db);
}

}  // namespace sidechannel::kernels
