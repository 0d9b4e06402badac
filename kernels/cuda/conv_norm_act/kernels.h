#pragma once

// What the CUDA files of conv_norm_act share: the kernels of a layer, each a row of a table, and of
// the two ends of a row of layers. choose.cu chooses among them.

#include <cuda_runtime.h>

#include "kernels/cuda/conv1d/kernels.h"
#include "kernels/cuda/norm/statistics.cuh"
#include "kernels/norm_act.h"

namespace sidechannel::kernels {

// What lies between two convolutions: a layer's normalization, if it has one, and the activation. A
// kernel's argument.
struct Between {
  bool normalized;  // otherwise only chunks and chunk count of what follows
  int set_samples, set_channels;
  int chunks, chunk, last_chunk;  // of a sample of y: how many, positions in each and in the last
  double set_size;
  double epsilon;
  const float *gamma, *beta;
  NormStatistics<float> statistics;
  const float* y;    // of the layer
  Moments* moments;  // [samples, chunks, channels]
  float2* sums;  // likewise: of the gradients that the activation lets through (g), of g * x_hat
};

// The activation that these kernels are compiled with.
inline constexpr Activation kLayerActivation = Activation::kRelu;

// A layer's weights, and where they go in the order in which a kernel multiplies them.
struct PackWeights {
  const float* w;
  float* packed;
};

struct LayerVariant {
  const char* name;
  Needs needs;
  int positions;  // of y that a block computes: a chunk at most
  int cluster;    // blocks, whose number it divides
  // The product is the layer's convolution of what stands in x or, with `below`, of the layer
  // below's activation, whose rows [0, length_out) it leaves in z, unless that is null.
  void (*forward)(CudaQueue& queue, const NarrowProduct& product, const Between* below, float* z,
                  const Between& layer);
  // The product is the input gradient, of g in place of dy, which it writes. With `below`, it
  // leaves that layer's g and its sums in place of dx.
  void (*backward)(CudaQueue& queue, const NarrowProduct& product, const Between& layer, float* dy,
                   const Between* below);
  // Where there is one, it was run before on the weights of all layers, flipped or not, and the
  // products' are what it packed.
  void (*pack)(CudaQueue& queue, View<PackWeights> layers, bool flip);
};
extern const LayerVariant kMmaLayers[18];
extern const LayerVariant kWgmmaLayers[5];

// The parameter gradients of one layer, first stage. With `below`, x is the activation of that
// layer's y.
struct LayerWeights {
  WeightSums sums;
  const Between* below;
};
struct LayerWeightsVariant {
  const char* name;
  Needs needs;
  int chunk;
  int slices;  // blocks of a split
  // Those of all layers, about as many in each launch, which takes kMostWeightLayers.
  void (*run)(CudaQueue& queue, View<LayerWeights> layers);
};
extern const LayerWeightsVariant kMmaLayerWeights[8];
inline constexpr std::size_t kMostWeightLayers = 16;  // whose arguments are 4 KB at most

// The ends. z of the last layer, from its y, whose statistics are merged and kept:
void finish_forward(CudaQueue& queue, const Between& layer, int channels, int samples, int length,
                    float* z);
// g of the last layer and its sums, from dz.
void begin_backward(CudaQueue& queue, const Between& layer, int channels, int samples, int length,
                    const float* dz, float* g);
// dgamma and dbeta of all layers, from their sums.
struct LayerParams {
  const float2* sums;
  int parts;  // samples * chunks
  GradOut<float> dbeta, dgamma;
};
void add_layer_params(CudaQueue& queue, int channels, View<LayerParams> layers);

}  // namespace sidechannel::kernels
