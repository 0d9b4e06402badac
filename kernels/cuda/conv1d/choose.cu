// conv1d on CUDA, channels last: the choice of the kernel. The kernels themselves:
//
//   any_shape.cu    any shape and stride, fp32; the second stage of the parameter gradients
//   one_channel.cu  one channel on one side: bound by memory
//   rows_ffma.cu    C_in = C_out = 32 or 64, 3 or 5 taps, in fp32
//   rows_mma.cu     the same on tensor cores, in TF32
//   weights_*.cu    the parameter gradients of these layers, likewise
//
// The forward pass and the input gradient are the same problem, RowProduct: the input gradient's
// rows are dy's, its weights are flipped in t and transposed. All results are the same bits in
// every run.

#include "kernels/conv1d.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "kernels/cuda/conv1d/choose.h"
#include "kernels/cuda/conv1d/kernels.h"
#include "kernels/cuda/conv1d/variants.h"
#include "kernels/cuda/sizes.h"
#include "kernels/cuda_queue.h"
#include "kernels/fill.h"

namespace sidechannel::kernels {
namespace {

// --- Row products --------------------------------------------------------------------------------

template <class F>
void for_each_variant(const NarrowProduct&, const F& f) {
  for (const RowVariant& variant : kMmaRows) f(variant);
  for (const RowVariant& variant : kFfmaRows) f(variant);
  for (const RowVariant& variant : kOneChannelRows) f(variant);
  f(kTiledRows);
}

bool fits(const Needs& needs, const NarrowProduct& p) {
  return has_shape(needs, p.channels, p.columns, p.taps, p.stride * p.spread) &&
         (!needs.aligned || aligned({p.x, p.w, p.bias, p.y}));
}

std::int64_t cost(const Target& target, const RowVariant& variant, const NarrowProduct& p) {
  return row_cost(target, variant.positions, p.batch, p.length_out) * variant.cost;
}

template <class Call>
NarrowProduct problem_of(const Call& call) {
  return row_product(call).counted_by(narrow);
}

// --- Parameter gradients -------------------------------------------------------------------------

template <class F>
void for_each_variant(const WeightSums&, const F& f) {
  for (const WeightVariant& variant : kMmaWeights) f(variant);
  for (const WeightVariant& variant : kFfmaWeights) f(variant);
  for (const WeightVariant& variant : kOneChannelWeights) f(variant);
  f(kTiledWeights);
}

bool fits(const Needs& needs, const WeightSums& p) {
  return has_shape(needs, p.channels_in, p.channels_out, p.taps, p.stride) &&
         (!needs.aligned || aligned({p.x, p.dy}));
}

std::int64_t cost(const Target&, const WeightVariant& variant, const WeightSums&) {
  return variant.cost;
}

// Cut such that all multiprocessors are busy.
void split(const Target& target, const WeightVariant& variant, WeightSums& p) {
  const int blocks = target.multiprocessors() * variant.blocks_per_multiprocessor;
  const std::int64_t of_split = std::max<std::int64_t>(variant.blocks_per_split(p), 1);
  split(p, variant.chunk, blocks / of_split);
}

// --- For both ------------------------------------------------------------------------------------

// Calls f(variant, its cost) for all that can compute the problem.
template <class Problem, class F>
void for_each_that_fits(const Target& target, const Problem& problem, const F& f) {
  for_each_variant(problem, [&](const auto& variant) {
    if (target.meets(variant.needs) && fits(variant.needs, problem)) {
      f(variant, cost(target, variant, problem));
    }
  });
}

// The cheapest, of equal ones the first; the one of that name where there is a name.
template <class Variant, class Problem>
const Variant& choose(const CudaQueue& queue, const Problem& problem, const char* name) {
  const Variant* best = nullptr;
  std::int64_t least = 0;
  for_each_that_fits(Target(queue), problem, [&](const Variant& variant, std::int64_t costs) {
    if (name != nullptr && std::strcmp(name, variant.name) != 0) return;
    if (best != nullptr && costs >= least) return;
    best = &variant;
    least = costs;
  });
  if (best == nullptr) {
    throw std::logic_error("conv1d: no kernel \"" + std::string(name) + "\" computes this");
  }
  return *best;
}

}  // namespace

template <class Call>
std::vector<std::string> variants_of(const CudaDeviceInfo& device, Precision precision,
                                     const Call& call) {
  std::vector<std::pair<std::int64_t, std::string>> all;
  for_each_that_fits(
      Target(device, precision), problem_of(call),
      [&](const auto& variant, std::int64_t costs) { all.emplace_back(costs, variant.name); });
  std::stable_sort(all.begin(), all.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<std::string> names;
  for (auto& [costs, name] : all) names.push_back(std::move(name));
  return names;
}

template std::vector<std::string> variants_of(const CudaDeviceInfo&, Precision,
                                              const Conv1dForward<float>&);
template std::vector<std::string> variants_of(const CudaDeviceInfo&, Precision,
                                              const Conv1dBackwardInput<float>&);
template std::vector<std::string> variants_of(const CudaDeviceInfo&, Precision,
                                              const Conv1dBackwardParams<float>&);

void run(CudaQueue& queue, const Conv1dForward<float>& call, const char* variant) {
  const NarrowProduct product = problem_of(call);
  choose<RowVariant>(queue, product, variant).run(queue, product);
}

void run(CudaQueue& queue, const Conv1dBackwardInput<float>& call, const char* variant) {
  if (call.dx.data == nullptr) return;
  const NarrowProduct product = problem_of(call);
  choose<RowVariant>(queue, product, variant).run(queue, product);
}

void run(CudaQueue& queue, const Conv1dBackwardParams<float>& call, const char* variant) {
  const Conv1dDims& dims = call.dims;
  WeightSums sums = problem_of(call);
  if (dims.batch * dims.length_out() == 0) {
    add_nothing(queue, sums.weight_sums, call.dw);
    add_nothing(queue, dims.channels_out, call.db);
    return;
  }
  if (!sums.weights && !sums.bias) return;
  const WeightVariant& chosen = choose<WeightVariant>(queue, sums, variant);
  split(Target(queue), chosen, sums);
  sums.partial = static_cast<float*>(
      queue.scratch(static_cast<std::size_t>(sums.splits * sums.row) * sizeof(float)));
  if (sums.weights) {
    chosen.run(queue, sums);
  } else {
    sum_columns(queue, sums);
  }
  const SplitSums only = {sums, call.dw, call.db};
  add_splits(queue, {&only, 1});
}

}  // namespace sidechannel::kernels
