#pragma once

// Every differentiable operation, one documented line each; definitions in engine/ops/.
// All throw Error, naming the operation, for shapes that do not fit.

#include <optional>
#include <span>
#include <vector>

#include "engine/norm.h"
#include "engine/tape.h"

namespace sidechannel {

// Convolution: x [N, L, C_in], w [k, C_in, C_out], b [C_out] -> [N, (L + 2 padding - k) / stride +
// 1, C_out]. Beyond both ends of x stand zeros, or x once more, as if it were a ring.
enum class PaddingMode { kZeros, kCircular };
struct Conv1dOptions {
  PaddingMode mode = PaddingMode::kZeros;
  std::int64_t stride = 1;
};
Var conv1d(const Var& x, const Var& w, const Var& b, std::int64_t padding,
           const Conv1dOptions& options = {});

// A convolution led backwards, as from its outputs to its inputs (PyTorch's ConvTranspose1d): x [N,
// L, C_in], w [k, C_out, C_in], b [C_out] -> [N, (L - 1) stride - 2 padding + k, C_out].
Var conv_transpose1d(const Var& x, const Var& w, const Var& b, std::int64_t padding,
                     std::int64_t stride);

// x as a ring, cut open so many positions before its beginning and after its end: [N, L, C] ->
// [N, before + L + after, C], as often around as it takes.
Var circular_pad(const Var& x, std::int64_t before, std::int64_t after);

// Normalization by the batch's statistics, with an activation: x [N, L, C], gamma and beta [C] ->
// [N, L, C]. Running statistics need centred sets of all positions.
Var norm_act(const Var& x, const Var& gamma, const Var& beta, const NormOptions& options);

// The same by fixed statistics: population mean and variance [C]. RMS has none.
Var norm_act_population(const Var& x, const Var& gamma, const Var& beta, const Tensor& mean,
                        const Tensor& variance, const NormOptions& options);

// Layers in a row, norm_act(conv1d(x)) or activate(conv1d(x)) each: x [N, L, C] -> [N, L', C']. The
// same as these operations one by one, unless the device has a faster way, which also keeps less.
// `hidden`, where given, receives what every layer gives.
struct ConvNormActParameters {
  Var w, b;
  struct Norm {
    Var gamma, beta;
    RunningStatistics* update = nullptr;  // as NormOptions has it, of this layer
  };
  std::optional<Norm> norm;  // the activation alone without
};
Var conv_norm_act(const Var& x, std::span<const ConvNormActParameters> layers, std::int64_t padding,
                  const NormOptions& options, std::vector<Var>* hidden = nullptr);

// activation(x), any shape; relu is max(x, 0).
Var activate(const Var& x, Activation activation);
Var relu(const Var& x);

// activation(x w^T + b): x [rows, in], w [out, in], b [out] -> [rows, out].
Var linear(const Var& x, const Var& w, const Var& b, Activation activation = Activation::kNone);

// Perceptrons of one shape with two hidden layers of ReLU and one output, linear(linear(linear(x)))
// each, on rows of their own: x[i] [rows, in] -> [networks, rows]. One network is computed
// anywhere, several where the device computes them at once.
struct MlpParameters {
  Var w1, b1, w2, b2, w3, b3;  // [width, in], [width], [width, width], [width], [1, width], [1]
};
Var mlp(std::span<const Var> x, std::span<const MlpParameters> networks);
// How many of these, from the first on: 1 at least. x[i] of any shape with rows of `in`.
std::size_t mlps_at_once(std::span<const Var> x, std::int64_t in, std::int64_t width);

// a + b, of one shape; or b at every position of its sample: a [N, L, C], b [N, C] -> [N, L, C].
Var add(const Var& a, const Var& b);

// Side by side along the channels: a [N, L, C_a], b [N, L, C_b] -> [N, L, C_a + C_b].
Var concat(const Var& a, const Var& b);

// Samples mixed with weights of their own, one to three terms: y[n, l, c] = the sum over terms of
// w[n] x[n, l, c]. Where something is held, y[n, l, c] = held.x[n, l, c] wherever held.where[l, c]
// is not 0. That is a diffusion model's noising of x0 and a step of its sampler, whose conditioned
// positions are inpainted (Janner et al. 2022).
struct WeightedTerm {
  Var w, x;  // [N], which take no gradient, and [N, L, C]
};
struct Held {
  Tensor where = {};  // [L, C]; nothing is held without
  Var x = {};         // [N, L, C], maybe one of the terms'
};
Var weighted_sum(std::span<const WeightedTerm> terms, const Held& held = {});

// Rows of a table, x [rows, ...], index [N] -> [N, ...]. Here and below index holds whole numbers
// from 0, at most 2^24 of them in f32 and none with a gradient. One that is too large means the
// last, one that is negative or NaN the first: a device cannot refuse it.
Var gather(const Tensor& x, const Var& index);
// Windows into sequences: x [sequences, L, C] -> [N, length, C]. With S = L - length + 1 starts in
// a sequence, window i begins at position i % S of sequence i / S.
Var gather_windows(const Tensor& x, const Var& index, std::int64_t length);

// The same elements under another shape.
Var reshape(const Var& x, Shape shape);

// Windows into sequences, `stride` apart, each a sequence of its own: x [N, (count - 1) stride +
// length] -> [N count, length], those of a sequence side by side.
Var windows(const Var& x, std::int64_t count, std::int64_t length, std::int64_t stride);

// Mean squared error over all elements, one number; a target of one sequence serves the whole
// batch: its elements repeat in those of y, whatever the shapes. Weights, of a sequence too,
// multiply the squares.
Var mse(const Var& y, const Tensor& target, const Tensor& weights = {});
// The same of each y[i], [sets, ...] -> [sets].
Var mse_of_each(const Var& y, const Tensor& target);

}  // namespace sidechannel
