#pragma once

#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/ops.h"
#include "engine/parameter.h"
#include "engine/receptive_field.h"

namespace sidechannel {

// Modules own no memory: they add their parameters to a list under a name and refer to them.
// Initial values are PyTorch's: uniform within 1 / sqrt(inputs of one output; of a transposed
// convolution, outputs of one input), biases too, unless a convolution is asked to begin with
// biases of zero.

enum class InitialBiases : bool { kUniform, kZero };

// The weight and the bias of a convolution of either kind. PyTorch's bound goes by a weight's
// second axis, in memory as in files.
struct ConvParameters {
  ConvParameters(ParameterList& list, const std::string& name, const Shape& shape,
                 std::int64_t channels_out, InitialBiases biases) {
    const double bound =
        1 / std::sqrt(static_cast<double>(shape[1]) * static_cast<double>(shape[0]));
    weight = &list.add_uniform(name + ".weight", shape, bound, Layout::kConv1dWeight);
    bias = biases == InitialBiases::kZero
               ? &list.add_filled(name + ".bias", {channels_out}, 0)
               : &list.add_uniform(name + ".bias", {channels_out}, bound);
  }

  Parameter* weight;
  Parameter* bias;
};

struct ConvOptions {
  PaddingMode mode = PaddingMode::kZeros;
  InitialBiases biases = InitialBiases::kUniform;
  std::int64_t stride = 1;
};

// [N, L, C_in] -> [N, (L + 2 padding - k) / stride + 1, C_out]. Parameters NAME.weight and
// NAME.bias.
class Conv1d {
 public:
  Conv1d(ParameterList& list, const std::string& name, std::int64_t channels_in,
         std::int64_t channels_out, std::int64_t kernel_size, std::int64_t padding,
         ConvOptions options = {})
      : padding_(padding),
        options_{options.mode, options.stride},
        parameters_(list, name, {kernel_size, channels_in, channels_out}, channels_out,
                    options.biases) {}

  Var operator()(const Var& x) const {
    return conv1d(x, weight(x.tape()), bias(x.tape()), padding_, options_);
  }
  ReceptiveField operator()(const ReceptiveField& x) const {
    return x.conv1d(parameters_.weight->value.shape()[0], padding_, options_.stride,
                    options_.mode == PaddingMode::kCircular);
  }
  Var weight(Tape& tape) const { return tape.parameter(*parameters_.weight); }
  Var bias(Tape& tape) const { return tape.parameter(*parameters_.bias); }

 private:
  friend class ConvNormAct;
  std::int64_t padding_;
  Conv1dOptions options_;
  ConvParameters parameters_;
};

// [N, L, C_in] -> [N, (L - 1) stride - 2 padding + k, C_out]. Parameters NAME.weight and NAME.bias.
class ConvTranspose1d {
 public:
  ConvTranspose1d(ParameterList& list, const std::string& name, std::int64_t channels_in,
                  std::int64_t channels_out, std::int64_t kernel_size, std::int64_t padding,
                  std::int64_t stride, InitialBiases biases = InitialBiases::kUniform)
      : padding_(padding),
        stride_(stride),
        parameters_(list, name, {kernel_size, channels_out, channels_in}, channels_out, biases) {}

  Var operator()(const Var& x) const {
    return conv_transpose1d(x, x.tape().parameter(*parameters_.weight),
                            x.tape().parameter(*parameters_.bias), padding_, stride_);
  }
  ReceptiveField operator()(const ReceptiveField& x) const {
    return x.conv_transpose1d(parameters_.weight->value.shape()[0], padding_, stride_);
  }

 private:
  std::int64_t padding_, stride_;
  ConvParameters parameters_;
};

// [rows, in] -> [rows, out]. Parameters NAME.weight and NAME.bias.
class Linear {
 public:
  Linear(ParameterList& list, const std::string& name, std::int64_t in, std::int64_t out) {
    const double bound = 1 / std::sqrt(static_cast<double>(in));
    weight_ = &list.add_uniform(name + ".weight", {out, in}, bound);
    bias_ = &list.add_uniform(name + ".bias", {out}, bound);
  }

  Var operator()(const Var& x, Activation activation = Activation::kNone) const {
    return linear(x, weight(x.tape()), bias(x.tape()), activation);
  }
  Var weight(Tape& tape) const { return tape.parameter(*weight_); }
  Var bias(Tape& tape) const { return tape.parameter(*bias_); }

 private:
  Parameter* weight_;
  Parameter* bias_;
};

// Where a normalization takes its mean and variance from.
enum class Statistics {
  kTraining,    // the batch; running statistics, where there are any, follow
  kMinibatch,   // the batch; nothing changes
  kPopulation,  // the running statistics
};

// What somebody holds of a network's normalizations, and sees of them, in the order in which they
// run.
struct NormHook {
  struct Layer {
    FixedStatistics fixed = {};  // instead of its own, where given
    // On the way back; with `fixed` nothing passes in any case.
    bool through_mean = true;
    bool through_variance = true;
  };
  std::vector<Layer> layers = {};  // beyond its end: as without a hook
  // Receive what each layer normalizes, [N, L, C], and over which sets.
  std::vector<Var> inputs = {};
  std::vector<NormOptions> sets = {};

  // For networks, before their first layer and behind their last one. Error where more is held than
  // there is.
  void begin() {
    inputs.clear();
    sets.clear();
  }
  void end() const {
    SC_CHECK(layers.size() <= inputs.size(), "norm_act: {} layers are held, where there are {}",
             layers.size(), inputs.size());
  }
  // For a layer, whose turn it is.
  Layer next(const Var& x, const NormOptions& options) {
    inputs.push_back(x);
    sets.push_back(options);
    return inputs.size() <= layers.size() ? layers[inputs.size() - 1] : Layer();
  }
};

// Normalization with an activation, [N, L, C] -> the same. Parameters NAME.weight (gamma) and
// NAME.bias (beta); with running statistics also NAME.running_mean and NAME.running_var.
class NormAct {
 public:
  NormAct(ParameterList& list, const std::string& name, std::int64_t channels, NormOptions options,
          bool track_running = false)
      : options_(options) {
    SC_CHECK(options.centred || !track_running,
             "norm_act: RMS statistics have no mean for running statistics to follow");
    gamma_ = &list.add_filled(name + ".weight", {channels}, 1);
    beta_ = &list.add_filled(name + ".bias", {channels}, 0);
    if (track_running) {
      running_ = std::make_shared<RunningStatistics>(RunningStatistics{
          list.add_constant(name + ".running_mean", {channels}, 0).value,
          list.add_constant(name + ".running_var", {channels}, 1, Values::kNotNegative).value});
    }
  }

  Var operator()(const Var& x, Statistics statistics, NormHook* hook = nullptr) const {
    const NormHook::Layer held = hook ? hook->next(x, options_) : NormHook::Layer();
    const Var gamma = x.tape().parameter(*gamma_), beta = x.tape().parameter(*beta_);
    NormOptions options = options_;
    FixedStatistics fixed = held.fixed;
    if (!fixed.mean && statistics == Statistics::kPopulation) {
      SC_CHECK(running_, "norm_act: population statistics were not tracked by this layer");
      fixed = {running_->mean, running_->variance};
    }
    if (fixed.mean) {
      options.centred = true;  // by the mean that is given, which is 0 for RMS
      return norm_act_population(x, gamma, beta, fixed.mean, fixed.variance, options);
    }
    options.update = updated(statistics);
    options.through_mean = options.through_mean && held.through_mean;
    options.through_variance = options.through_variance && held.through_variance;
    return norm_act(x, gamma, beta, options);
  }

 private:
  friend class ConvNormAct;
  RunningStatistics* updated(Statistics statistics) const {
    return statistics == Statistics::kTraining ? running_.get() : nullptr;
  }

  NormOptions options_;
  Parameter* gamma_;
  Parameter* beta_;
  std::shared_ptr<RunningStatistics> running_;  // null without
};

// Layers in a row, [N, L, C] -> [N, L', C]: a convolution each, a normalization where there are
// options for it, and a ReLU. Parameters NAME.{i}.conv.* and NAME.{i}.norm.*, i from 0.
class ConvNormAct {
 public:
  ConvNormAct(ParameterList& list, const std::string& name, std::int64_t layers,
              std::int64_t channels, std::int64_t kernel_size, std::int64_t padding,
              const std::optional<NormOptions>& norm, bool track_running = false,
              ConvOptions options = {})
      : options_(norm.value_or(NormOptions())) {
    for (std::int64_t i = 0; i < layers; ++i) {
      const std::string layer = fmt::format("{}.{}", name, i);
      convs_.emplace_back(list, layer + ".conv", channels, channels, kernel_size, padding, options);
      if (norm) norms_.emplace_back(list, layer + ".norm", channels, *norm, track_running);
    }
  }

  // `hidden`, where given, receives what every layer gives.
  Var operator()(Var x, Statistics statistics, std::vector<Var>* hidden = nullptr,
                 NormHook* hook = nullptr) const {
    if (convs_.empty()) return x;
    const bool population = !norms_.empty() && statistics == Statistics::kPopulation;
    const Conv1dOptions& own = convs_.front().options_;
    if (population || own.mode == PaddingMode::kCircular || own.stride != 1 || hook) {
      for (std::size_t i = 0; i < convs_.size(); ++i) {
        x = convs_[i](x);
        x = norms_.empty() ? activate(x, options_.activation) : norms_[i](x, statistics, hook);
        if (hidden) hidden->push_back(x);
      }
      return x;
    }
    Tape& tape = x.tape();
    std::vector<ConvNormActParameters> layers;
    for (const Conv1d& conv : convs_) {
      layers.push_back({conv.weight(tape), conv.bias(tape), {}});
      if (norms_.empty()) continue;
      const NormAct& norm = norms_[layers.size() - 1];
      layers.back().norm = {tape.parameter(*norm.gamma_), tape.parameter(*norm.beta_),
                            norm.updated(statistics)};
    }
    return conv_norm_act(x, layers, convs_.front().padding_, options_, hidden);
  }
  ReceptiveField operator()(ReceptiveField x) const {
    for (const Conv1d& conv : convs_) x = conv(x);
    return x;
  }

 private:
  NormOptions options_;
  std::vector<Conv1d> convs_;   // alike
  std::vector<NormAct> norms_;  // one for each, or none
};

}  // namespace sidechannel
