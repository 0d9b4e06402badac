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
// 1, C_out].
Var conv1d(const Var& x, const Var& w, const Var& b, std::int64_t padding);

// Normalization by the batch's statistics, with an activation: x [N, L, C], gamma and beta [C] ->
// [N, L, C].
Var norm_act(const Var& x, const Var& gamma, const Var& beta, const NormOptions& options);

// The same by fixed statistics: population mean and variance [C].
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

// The same elements under another shape.
Var reshape(const Var& x, Shape shape);

// Windows into sequences, `stride` apart, each a sequence of its own: x [N, (count - 1) stride +
// length] -> [N count, length], those of a sequence side by side.
Var windows(const Var& x, std::int64_t count, std::int64_t length, std::int64_t stride);

// Mean squared error over all elements, one number; a target of one sequence serves the whole
// batch.
Var mse(const Var& y, const Tensor& target);

}  // namespace sidechannel
