// Layers of convolution, normalization and activation in a row, on CUDA: one launch for each layer
// and direction, of a convolution that reads and writes what lies between two of them
// (device/layer.cuh). The kernels:
//
//   rows_mma.cu     a layer, and its input gradient, on tensor cores in TF32, or as of fp32
//   rows_wgmma.cu   the same in TF32 by Hopper's products of warp groups
//   weights_mma.cu  the parameter gradients of all layers, likewise
//   ends.cu         the first and the last step of each pass
//
// Layers that have no such kernels are computed one operation after the other
// (engine/ops/conv_norm_act.cpp).

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/conv_norm_act.h"
#include "kernels/cuda/conv1d/choose.h"
#include "kernels/cuda/conv_norm_act/kernels.h"
#include "kernels/cuda/conv_norm_act/variants.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/sizes.h"

namespace sidechannel::kernels {
namespace {

using Layer = ConvNormActLayer<float>;
using Layers = View<Layer>;

// The same kernels serve all layers, which differ in length alone.
bool alike(Layers layers) {
  return std::all_of(layers.begin(), layers.end(), [&](const Layer& layer) {
    const Conv1dDims &a = layer.conv, &b = layers[0].conv;
    return a.channels_in == b.channels_in && a.channels_out == b.channels_out &&
           a.kernel_size == b.kernel_size && a.padding == b.padding && a.stride == b.stride &&
           layer.norm.activation == kLayerActivation && layer.norm.positions_per_set == 0 &&
           layer.norm.centred;
  });
}

bool fits(const Target& target, const Needs& needs, Layers layers) {
  // Each precision has its own: rows and weights are of one.
  if (needs.precision != target.precision || !target.meets(needs)) return false;
  const Conv1dDims& dims = layers[0].conv;
  return has_shape(needs, narrow(dims.channels_in), narrow(dims.channels_out),
                   narrow(dims.kernel_size), narrow(dims.stride)) &&
         std::all_of(layers.begin(), layers.end(), [](const Layer& layer) {
           return aligned({layer.w, layer.b, layer.y, layer.z});
         });
}

std::int64_t blocks_of(const LayerVariant& variant, const Conv1dDims& dims) {
  return dims.batch * ceil_div(narrow(dims.length_out()), variant.positions);
}

bool computes(const Target& target, const LayerVariant& variant, Layers layers) {
  const Conv1dDims& dims = layers[0].conv;
  return fits(target, variant.needs, layers) &&
         2 * dims.padding < dims.kernel_size &&  // each row of dy is some block's own
         std::all_of(layers.begin(), layers.end(), [&](const Layer& layer) {
           return blocks_of(variant, layer.conv) % variant.cluster == 0;
         });
}

// Whether somebody asks for it, to measure it: SIDECHANNEL_LAYERS is a part of its name.
bool asked_for(const LayerVariant& variant) {
  const char* const part = std::getenv("SIDECHANNEL_LAYERS");
  return part != nullptr && std::strstr(variant.name, part) != nullptr;
}

// All that can compute the layers, the best first: what is asked for; then the cheapest, of equal
// ones in the order of the tables; last those that no GPU has run yet.
std::vector<const LayerVariant*> candidates(const Target& target, Layers layers) {
  std::vector<const LayerVariant*> all;
  if (layers[0].norm.size() == 0 || !alike(layers)) return all;
  for (const View<LayerVariant> table :
       {View<LayerVariant>(kMmaLayers), View<LayerVariant>(kWgmmaLayers)}) {
    for (const LayerVariant& variant : table) {
      if (computes(target, variant, layers)) all.push_back(&variant);
    }
  }
  const auto rank = [&](const LayerVariant* variant) {
    const Conv1dDims& dims = layers[0].conv;
    return std::make_tuple(
        !asked_for(*variant), variant->needs.hopper,
        row_cost(target, variant->positions, narrow(dims.batch), narrow(dims.length_out())));
  };
  std::stable_sort(all.begin(), all.end(), [&](auto* x, auto* y) { return rank(x) < rank(y); });
  return all;
}

// The one of that name, or the best that may be taken unasked. Null where there is none.
const LayerVariant* choose(const Target& target, Layers layers, const char* name = nullptr) {
  for (const LayerVariant* variant : candidates(target, layers)) {
    if (name != nullptr ? std::strcmp(name, variant->name) == 0
                        : !variant->needs.hopper || asked_for(*variant)) {
      return variant;
    }
  }
  return nullptr;
}

const LayerVariant& chosen(const CudaQueue& queue, Layers layers, const char* name) {
  const LayerVariant* variant = choose(Target(queue), layers, name);
  if (variant == nullptr) {
    throw std::logic_error("conv_norm_act: no kernel \"" + std::string(name ? name : "") +
                           "\" computes this");
  }
  return *variant;
}

const LayerWeightsVariant* choose_weights(const Target& target, Layers layers) {
  const auto* found = std::find_if(
      std::begin(kMmaLayerWeights), std::end(kMmaLayerWeights),
      [&](const LayerWeightsVariant& variant) { return fits(target, variant.needs, layers); });
  return found == std::end(kMmaLayerWeights) ? nullptr : found;
}

// Most numbers that a block merges for each channel, rather than that a launch did it before.
constexpr int kMostParts = 128;

// How the blocks of a variant cut y of a layer, and where their sums go.
struct Cut {
  int chunks, chunk, last_chunk;

  Cut(const LayerVariant& variant, const Conv1dDims& dims) {
    const int length = narrow(dims.length_out());
    chunks = ceil_div(length, variant.positions);
    chunk = ceil_div(length, chunks);
    last_chunk = length - chunk * (chunks - 1);
  }
};

std::size_t parts_of(const Layer& layer, const Cut& cut) {
  return static_cast<std::size_t>(layer.conv.batch * cut.chunks * layer.conv.channels_out);
}

// Elements of a layer's g, or of its dx.
std::int64_t g_size(const Layer& layer) {
  return std::max(layer.norm.size(), layer.conv.batch * layer.conv.length * layer.conv.channels_in);
}

// The weights of all layers as the variant's products have them: where they stand, or packed into
// `memory`, so many floats of each.
std::size_t packed_size(const LayerVariant& variant, const Layer& layer) {
  if (variant.pack == nullptr) return 0;
  return static_cast<std::size_t>(layer.conv.kernel_size * layer.conv.channels_in *
                                  layer.conv.channels_out);
}
std::vector<const float*> weights_of(CudaQueue& queue, const LayerVariant& variant, Layers layers,
                                     bool flip, float* memory) {
  std::vector<const float*> weights;
  std::vector<PackWeights> packs;
  for (const Layer& layer : layers) {
    weights.push_back(variant.pack ? memory : layer.w);
    packs.push_back({layer.w, memory});
    memory += packed_size(variant, layer);
  }
  if (variant.pack) variant.pack(queue, packs, flip);
  return weights;
}

Between between(const Layer& layer, const Cut& cut) {
  const NormDims& dims = layer.norm;
  Between result = {};
  result.normalized = layer.gamma != nullptr;
  result.set_samples = narrow(dims.samples_per_set);
  result.set_channels = narrow(dims.channels_per_set);
  result.chunks = cut.chunks;
  result.chunk = cut.chunk;
  result.last_chunk = cut.last_chunk;
  result.set_size = static_cast<double>(dims.set_size());
  result.epsilon = dims.epsilon;
  result.gamma = layer.gamma;
  result.beta = layer.beta;
  result.statistics = layer.statistics;
  result.y = layer.y;
  return result;
}

}  // namespace

bool computes(const CudaQueue& queue, const ConvNormActForward<float>& call, bool /*backward*/) {
  const Layers layers = call.layers;
  if (!aligned({call.x})) return false;
  const Target target(queue);
  const LayerVariant* variant = choose(target, layers);
  return variant != nullptr && choose_weights(target, layers) != nullptr &&
         layers[0].norm.samples_per_set * Cut(*variant, layers[0].conv).chunks <= kMostParts;
}

namespace {

std::vector<std::string> names_of(const Target& target, Layers layers) {
  std::vector<std::string> names;
  for (const LayerVariant* variant : candidates(target, layers)) names.emplace_back(variant->name);
  return names;
}

}  // namespace

std::vector<std::string> variants_of(const CudaDeviceInfo& device, Precision precision,
                                     const ConvNormActForward<float>& call) {
  return names_of(Target(device, precision), call.layers);
}
std::vector<std::string> variants_of(const CudaDeviceInfo& device, Precision precision,
                                     const ConvNormActBackward<float>& call) {
  return names_of(Target(device, precision), call.layers);
}

std::int64_t conv_norm_act_workspace(const CudaQueue&, Layers layers) {
  // g of two layers, or dx of the first, and dy of all.
  std::int64_t most = 0, all = 0;
  for (const Layer& layer : layers) {
    most = std::max(most, g_size(layer));
    all += layer.norm.size();
  }
  return 2 * most + all;
}

void run(CudaQueue& queue, const ConvNormActForward<float>& call, const char* name) {
  const Layers layers = call.layers;
  const LayerVariant& variant = chosen(queue, layers, name);
  std::size_t most = 0, most_y = 0;
  for (const Layer& layer : layers) {
    most = std::max(most, parts_of(layer, Cut(variant, layer.conv)));
    most_y = std::max(most_y, static_cast<std::size_t>(layer.norm.size()));
  }
  // Moments of the layer that is read and of the one that is written, and their y where it is not
  // kept.
  const std::size_t spare_y = layers[0].y ? 0 : 2 * most_y;
  const std::size_t packed = layers.size() * packed_size(variant, layers[0]);
  auto* own_weights = static_cast<float*>(
      queue.scratch((packed + spare_y) * sizeof(float) + 2 * most * sizeof(Moments)));
  auto* moments = reinterpret_cast<Moments*>(own_weights + packed);
  auto* own_y = reinterpret_cast<float*>(moments + 2 * most);
  const std::vector<const float*> weights = weights_of(queue, variant, layers, false, own_weights);
  // A layer's launch leaves z of the one before, where it reads all of it.
  const auto leaves_z = [&](std::size_t i) {
    return i < layers.size() && layers[i].conv.length_out() >= layers[i].conv.length;
  };
  Between below = {};
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const Layer& layer = layers[i];
    Between own = between(layer, Cut(variant, layer.conv));
    own.moments = moments + i % 2 * most;
    float* y = layer.y ? layer.y : own_y + i % 2 * most_y;
    own.y = y;
    const NarrowProduct product =
        row_product(
            Conv1dForward<float>{layer.conv, i == 0 ? call.x : below.y, weights[i], layer.b, y})
            .counted_by(narrow);
    variant.forward(queue, product, i == 0 ? nullptr : &below,
                    i > 0 && leaves_z(i) ? layers[i - 1].z : nullptr, own);
    if (layer.z && !leaves_z(i + 1)) {
      finish_forward(queue, own, narrow(layer.conv.channels_out), narrow(layer.conv.batch),
                     product.length_out, layer.z);
    }
    below = own;
  }
}

void run(CudaQueue& queue, const ConvNormActBackward<float>& call, const char* name) {
  const Layers layers = call.layers;
  const Target target(queue);
  const LayerVariant& variant = chosen(queue, layers, name);
  const LayerWeightsVariant& weights = *choose_weights(target, layers);
  const int channels = narrow(layers[0].conv.channels_out);
  const std::size_t count = layers.size();

  // One round of blocks for the parameter gradients of the layers of a launch.
  const auto launches = ceil_div(count, kMostWeightLayers);
  const auto layers_of_launch = static_cast<int>(ceil_div(count, launches));
  const int splits = target.multiprocessors() / (layers_of_launch * weights.slices);

  std::vector<Between> between_layers;
  std::vector<SplitSums> sums;
  std::size_t parts = 0, partial = 0;
  std::int64_t most = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const Layer& layer = layers[i];
    const auto& [dw, db, dgamma, dbeta] = call.gradients[i];
    between_layers.push_back(between(layer, Cut(variant, layer.conv)));
    sums.push_back(
        {problem_of(Conv1dBackwardParams<float>{layer.conv, nullptr, nullptr, dw, db}), dw, db});
    split(sums[i].sums, weights.chunk, splits);
    parts += parts_of(layer, Cut(variant, layer.conv));
    partial += static_cast<std::size_t>(sums[i].sums.splits * sums[i].sums.row);
    most = std::max(most, g_size(layer));
  }
  const std::size_t packed = count * packed_size(variant, layers[0]);
  auto* own_weights = static_cast<float*>(
      queue.scratch((packed + partial) * sizeof(float) + parts * sizeof(float2)));
  auto* layer_sums = reinterpret_cast<float2*>(own_weights + packed);
  auto* splits_sums = reinterpret_cast<float*>(layer_sums + parts);
  const std::vector<const float*> layer_weights =
      weights_of(queue, variant, layers, true, own_weights);
  float* dy = call.workspace + 2 * most;  // of all layers; before it, g of two
  std::vector<LayerParams> params;
  for (std::size_t i = 0; i < count; ++i) {
    const Layer& layer = layers[i];
    const auto its_parts = static_cast<int>(layer.conv.batch * between_layers[i].chunks);
    between_layers[i].sums = layer_sums;
    layer_sums += its_parts * channels;
    if (layer.gamma) {
      params.push_back(
          {between_layers[i].sums, its_parts, call.gradients[i].dbeta, call.gradients[i].dgamma});
    }
    WeightSums& own = sums[i].sums;
    own.x = i == 0 ? call.x : layers[i - 1].y;
    own.dy = dy;
    dy += layer.norm.size();
    own.partial = splits_sums;
    splits_sums += own.splits * own.row;
  }

  const Layer& last = layers[count - 1];
  const auto g = [&](std::size_t i) {
    return call.workspace + static_cast<std::int64_t>(i % 2) * most;
  };
  begin_backward(queue, between_layers[count - 1], channels, narrow(last.conv.batch),
                 narrow(last.conv.length_out()), call.dz, g(count - 1));
  for (std::size_t i = count; i-- > 0;) {
    // Where nobody asked for dx it is computed all the same, beside dy.
    GradOut<float> dx = i == 0 ? call.dx : GradOut<float>{g(i - 1)};
    if (dx.data == nullptr) dx = {g(1)};
    const NarrowProduct product =
        row_product(Conv1dBackwardInput<float>{layers[i].conv, g(i), layer_weights[i], nullptr, dx})
            .counted_by(narrow);
    variant.backward(queue, product, between_layers[i], const_cast<float*>(sums[i].sums.dy),
                     i == 0 ? nullptr : &between_layers[i - 1]);
  }
  std::vector<LayerWeights> of_layers;
  for (std::size_t i = 0; i < count; ++i) {
    of_layers.push_back({sums[i].sums, i == 0 ? nullptr : &between_layers[i - 1]});
  }
  weights.run(queue, of_layers);
  add_splits(queue, sums);
  add_layer_params(queue, channels, params);
}

}  // namespace sidechannel::kernels
