#pragma once

// Every differentiable operation, one documented line each; definitions in engine/ops/.
// All throw Error, naming the operation, for shapes that do not fit.

#include <optional>
#include <span>
#include <vector>

#include "engine/norm.h"
#include "engine/tape.h"

namespace sidechannel {

// Convolution of stride 1: x [N, L, C_in], w [k, C_in, C_out], b [C_out] -> [N, L + 2 padding - k +
// 1, C_out]. Beyond both ends of x stand zeros, or x once more, as if it were a ring.
enum class PaddingMode { kZeros, kCircular };
Var conv1d(const Var& x, const Var& w, const Var& b, std::int64_t padding,
           PaddingMode mode = PaddingMode::kZeros);

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

// The same elements under another shape.
Var reshape(const Var& x, Shape shape);

// Windows into sequences, `stride` apart, each a sequence of its own: x [N, (count - 1) stride +
// length] -> [N count, length], those of a sequence side by side.
Var windows(const Var& x, std::int64_t count, std::int64_t length, std::int64_t stride);

// Mean squared error over all elements, one number; a target of one sequence serves the whole
// batch.
Var mse(const Var& y, const Tensor& target);
// The same of each y[i], [sets, ...] -> [sets].
Var mse_of_each(const Var& y, const Tensor& target);

}  // namespace sidechannel
