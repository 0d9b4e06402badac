#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/queue.h"
#include "kernels/view.h"
#include "kernels/write.h"

namespace sidechannel::kernels {

// Multi-layer perceptrons with two hidden layers and one output, side by side: networks of one
// shape, each on rows of its own (the probes of the paper's Section 2.1):
//
//   h1 = relu(x w1^T + b1),  h2 = relu(h1 w2^T + b2),  y = h2 w3^T + b3
//
// That is three LinearForward for each network, and three LinearBackward, in a few launches for all
// of them. CUDA has kernels for this, for networks whose x asks for no gradient; elsewhere they are
// computed layer by layer (engine/ops/mlp.cpp).
struct MlpDims {
  std::int64_t rows;
  std::int64_t in;
  std::int64_t width;
};

template <class T>
struct MlpNetwork {
  const T* x = nullptr;   // [rows, in]
  const T* w1 = nullptr;  // [width, in]
  const T* b1 = nullptr;  // [width]
  const T* w2 = nullptr;  // [width, width]
  const T* b2 = nullptr;  // [width]
  const T* w3 = nullptr;  // [1, width]
  const T* b3 = nullptr;  // [1]
};

template <class T>
struct MlpForward {
  MlpDims dims;
  View<MlpNetwork<T>> networks;
  T* y = nullptr;     // [networks, rows]
  T* kept = nullptr;  // [mlp_kept()], for the way back; null where there is none
};

template <class T>
struct MlpGradients {
  GradOut<T> dw1, db1, dw2, db2, dw3, db3;
};

template <class T>
struct MlpBackward {
  MlpDims dims;
  View<MlpNetwork<T>> networks;
  const T* kept = nullptr;
  const T* dy = nullptr;            // [networks, rows]
  View<MlpGradients<T>> gradients;  // of each network, all different tensors
};

// How many of a call's networks, from the first on, the device computes at once: none where it has
// no kernels for their shape. Of the buffers only the alignment counts.
std::size_t mlps_at_once(const CudaQueue& queue, const MlpForward<float>& call);
// Elements of MlpForward::kept.
std::int64_t mlp_kept(const MlpDims& dims, std::size_t networks);

void run(CudaQueue& queue, const MlpForward<float>& call);
void run(CudaQueue& queue, const MlpBackward<float>& call);

}  // namespace sidechannel::kernels
