#pragma once

#include <cstdint>

#include "kernels/activation.h"
#include "kernels/host_device.h"
#include "kernels/queue.h"
#include "kernels/view.h"
#include "kernels/write.h"

namespace sidechannel::kernels {

// Normalization over sets of (channels, samples, positions), then an activation:
//
//   x_hat = (x - mean) / sqrt(variance + epsilon),  y = activation(gamma * x_hat + beta)
//
// (the paper's Equations 3 and 4). A set holds `channels_per_set` neighbouring channels of all
// positions, or of `positions_per_set` neighbouring ones, of `samples_per_set` neighbouring
// samples; its variance is the biased one. So one operation covers, as (channels, samples,
// positions),
//
//   - InstanceNorm: (1, 1, all)
//   - GroupNorm of G groups: (C / G, 1, all)
//   - LayerNorm over channels and space: (C, 1, all)
//   - LayerNorm of each position, as transformers have it: (C, 1, 1). It carries nothing from one
//     position to another.
//   - BatchNorm in groups of n samples: (1, n, all)
//   - PackNorm: (1, 2, all), pairs side by side
//
// Sets that are not centred have a mean of 0 by definition, and the mean of x^2 for a variance:
// RMSNorm (Zhang and Sennrich 2019), with a beta as the others have.
//
// How good the results are, and for which x, is told in docs/numerics.md: as good far from zero as
// near it, and NaN, never a wrong number, where a sum of squares of x - mean leaves T's range (or
// the mean of x^2 of a set that is not centred).
//
// Where x is empty, y and dx are, and the sums over it (dgamma, dbeta) are 0; the statistics of a
// set without values are not written, and move no averages.
struct NormDims {
  std::int64_t batch;
  std::int64_t length;
  std::int64_t channels;
  std::int64_t channels_per_set;  // divides channels
  std::int64_t samples_per_set;   // divides batch
  double epsilon;
  Activation activation;
  std::int64_t positions_per_set = 0;  // divides length, with one sample a set; 0: all
  bool centred = true;                 // a population's are, by the mean that is given

  // Kernels see x as [groups, rows, channels]: the sets of a group are side by side, each all rows
  // of its channels.
  SC_HOST_DEVICE std::int64_t rows() const {
    return samples_per_set * (positions_per_set > 0 ? positions_per_set : length);
  }
  SC_HOST_DEVICE std::int64_t groups() const {
    return batch / samples_per_set * (positions_per_set > 0 ? length / positions_per_set : 1);
  }
  // Values in a set, and in x.
  SC_HOST_DEVICE std::int64_t set_size() const { return channels_per_set * rows(); }
  std::int64_t size() const { return batch * length * channels; }
};

// Statistics of the sets, kept per channel for the backward pass: [groups(), channels] each, equal
// for all channels of a set. Of one that is not centred both parts of the mean are 0.
//
// The mean is mean + mean_rest. x - mean is what the kernels compute of each x, off by a rounding
// of its own; the rest joins the constants of a channel. So mean is the mean rounded to T, and the
// rest what rounding left; but a mean within about a deviation of zero is all rest, as x itself
// has no rounding at all.
template <class T>
struct NormStatistics {
  T* mean = nullptr;
  T* mean_rest = nullptr;
  T* rstd = nullptr;  // 1 / sqrt(variance + epsilon)
};

// With statistics of the batch, which it writes.
template <class T>
struct NormForward {
  NormDims dims;
  const T* x = nullptr;      // [batch, length, channels]
  const T* gamma = nullptr;  // [channels]
  const T* beta = nullptr;   // [channels]
  T* y = nullptr;            // as x
  NormStatistics<T> statistics = {};
};
template <class T>
void run(CpuQueue& queue, const NormForward<T>& call);
void run(CudaQueue& queue, const NormForward<float>& call);

// From x, gamma and beta (the ReLU's mask is computed again rather than stored) and the statistics.
template <class T>
struct NormBackward {
  NormDims dims;
  const T* x = nullptr;
  const T* gamma = nullptr;
  const T* beta = nullptr;
  NormStatistics<T> statistics = {};
  const T* dy = nullptr;
  GradOut<T> dx = {};
  GradOut<T> dbeta = {};
  GradOut<T> dgamma = {};
  // Whether dx takes in how the mean and the variance move with x. What it does not take in is left
  // out, not multiplied by 0: without both, dx is dy's own part, exactly 0 where dy is.
  bool through_mean = true;
  bool through_variance = true;
};
template <class T>
void run(CpuQueue& queue, const NormBackward<T>& call);
void run(CudaQueue& queue, const NormBackward<float>& call);

// With fixed population statistics instead of the batch's.
template <class T>
struct NormPopulationForward {
  NormDims dims;
  const T* x = nullptr;
  const T* gamma = nullptr;
  const T* beta = nullptr;
  const T* mean = nullptr;      // [channels]
  const T* variance = nullptr;  // [channels]
  T* y = nullptr;
};
template <class T>
void run(CpuQueue& queue, const NormPopulationForward<T>& call);
void run(CudaQueue& queue, const NormPopulationForward<float>& call);

template <class T>
struct NormPopulationBackward {
  NormDims dims;
  const T* x = nullptr;
  const T* gamma = nullptr;
  const T* beta = nullptr;
  const T* mean = nullptr;
  const T* variance = nullptr;
  const T* dy = nullptr;
  GradOut<T> dx = {};
  GradOut<T> dbeta = {};
  GradOut<T> dgamma = {};
};
template <class T>
void run(CpuQueue& queue, const NormPopulationBackward<T>& call);
void run(CudaQueue& queue, const NormPopulationBackward<float>& call);

// Moves the exponential moving averages towards the batch's statistics, as PyTorch does:
// running = (1 - momentum) * running + momentum * current, with the unbiased variance of the set's
// size. All channels of a set follow its statistics. Sets of one sample are averaged over the batch
// first (InstanceNorm, GroupNorm, LayerNorm); sets of several samples are applied one after the
// other, as the micro-batches that they stand for would be. Needs centred sets of all positions.
template <class T>
struct NormUpdateRunning {
  NormDims dims;
  double momentum = 0;
  NormStatistics<T> statistics = {};
  T* running_mean = nullptr;      // [channels]
  T* running_variance = nullptr;  // [channels]
};
template <class T>
void run(CpuQueue& queue, const NormUpdateRunning<T>& call);
void run(CudaQueue& queue, const NormUpdateRunning<float>& call);
// Those of several layers, in as few launches as their arguments fit into.
template <class T>
void run(CpuQueue& queue, View<NormUpdateRunning<T>> calls);
void run(CudaQueue& queue, View<NormUpdateRunning<float>> calls);

}  // namespace sidechannel::kernels
