#pragma once

#include <cstdint>

#include "kernels/conv1d.h"
#include "kernels/norm_act.h"
#include "kernels/queue.h"
#include "kernels/view.h"
#include "kernels/write.h"

namespace sidechannel::kernels {

// Layers in a row, each a convolution, a normalization over sets of its output, and an activation:
//
//   y(i) = conv1d(z(i - 1); w, b),  z(i) = activation(norm(y(i); gamma, beta)),  z(0) = x
//
// (the hidden layers of the paper's Equation 1). That is Conv1dForward and NormForward of each
// layer in turn, and on the way back NormBackward, Conv1dBackwardInput and Conv1dBackwardParams, in
// fewer passes through memory and fewer launches. Of a layer only y and its statistics are kept; z
// is computed again from them. A layer without gamma is not normalized: z(i) = activation(y(i)).
template <class T>
struct ConvNormActLayer {
  Conv1dDims conv;
  NormDims norm;  // of y
  const T* w = nullptr;
  const T* b = nullptr;
  const T* gamma = nullptr;  // null for none
  const T* beta = nullptr;
  T* y = nullptr;  // kept for the way back; null where there is none
  NormStatistics<T> statistics = {};
  T* z = nullptr;  // where it is asked for, as of the last layer
};

template <class T>
struct ConvNormActForward {
  const T* x = nullptr;  // [batch, length, channels_in] of the first layer
  View<ConvNormActLayer<T>> layers;
};

template <class T>
struct ConvNormActGradients {
  GradOut<T> dw, db, dgamma, dbeta;
};

template <class T>
struct ConvNormActBackward {
  const T* x = nullptr;
  View<ConvNormActLayer<T>> layers;
  const T* dz = nullptr;  // of the last layer
  GradOut<T> dx = {};
  View<ConvNormActGradients<T>> gradients;  // of each layer, all different tensors
  T* workspace = nullptr;                   // [conv_norm_act_workspace()]
};

// Whether a device computes the layers of a call so (with a way back, where `backward`); otherwise
// they are calls of conv1d.h and norm_act.h. Of the buffers only the alignment counts.
template <class T>
bool computes(const CpuQueue& queue, const ConvNormActForward<T>& call, bool backward);
bool computes(const CudaQueue& queue, const ConvNormActForward<float>& call, bool backward);
// Elements of ConvNormActBackward::workspace.
template <class T>
std::int64_t conv_norm_act_workspace(const CpuQueue& queue, View<ConvNormActLayer<T>> layers);
std::int64_t conv_norm_act_workspace(const CudaQueue& queue, View<ConvNormActLayer<float>> layers);

template <class T>
void run(CpuQueue& queue, const ConvNormActForward<T>& call);
// `variant` names a kernel of cuda/conv_norm_act/variants.h (std::logic_error where it cannot
// compute this); null takes the best. So too below.
void run(CudaQueue& queue, const ConvNormActForward<float>& call, const char* variant = nullptr);
template <class T>
void run(CpuQueue& queue, const ConvNormActBackward<T>& call);
void run(CudaQueue& queue, const ConvNormActBackward<float>& call, const char* variant = nullptr);

}  // namespace sidechannel::kernels
