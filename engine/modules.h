#pragma once

#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/ops.h"
#include "engine/parameter.h"

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

// What somebody wants to see, or to hold, of the normalizations of layers in a row.
struct NormHook {
  // In the order of the layers; one without tensors takes its own statistics, as all do where there
  // are none here.
  std::vector<FixedStatistics> fixed;
  std::vector<Var> inputs = {};  // receives what each layer normalizes, [N, L, C]
};

// Normalization with an activation, [N, L, C] -> the same. Parameters NAME.weight (gamma) and
// NAME.bias (beta); with running statistics also NAME.running_mean and NAME.running_var.
class NormAct {
 public:
  NormAct(ParameterList& list, const std::string& name, std::int64_t channels, NormOptions options,
          bool track_running = false)
      : options_(options) {
    gamma_ = &list.add_filled(name + ".weight", {channels}, 1);
    beta_ = &list.add_filled(name + ".bias", {channels}, 0);
    if (track_running) {
      running_ = std::make_shared<RunningStatistics>(RunningStatistics{
          list.add_constant(name + ".running_mean", {channels}, 0).value,
          list.add_constant(name + ".running_var", {channels}, 1, Values::kNotNegative).value});
    }
  }

  Var operator()(const Var& x, const FixedStatistics& fixed) const {
    Tape& tape = x.tape();
    return norm_act_population(x, tape.parameter(*gamma_), tape.parameter(*beta_), fixed.mean,
                               fixed.variance, options_);
  }

  Var operator()(const Var& x, Statistics statistics) const {
    if (statistics == Statistics::kPopulation) {
      SC_CHECK(running_, "norm_act: population statistics were not tracked by this layer");
      return (*this)(x, FixedStatistics{running_->mean, running_->variance});
    }
    Tape& tape = x.tape();
    NormOptions options = options_;
    options.update = updated(statistics);
    return norm_act(x, tape.parameter(*gamma_), tape.parameter(*beta_), options);
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
      SC_CHECK(!hook || hook->fixed.empty() || hook->fixed.size() == norms_.size(),
               "norm_act: fixed statistics of {} layers, where there are {}", hook->fixed.size(),
               norms_.size());
      for (std::size_t i = 0; i < convs_.size(); ++i) {
        x = convs_[i](x);
        if (hook && !norms_.empty()) hook->inputs.push_back(x);
        if (norms_.empty()) {
          x = activate(x, options_.activation);
        } else if (hook && !hook->fixed.empty() && hook->fixed[i].mean) {
          x = norms_[i](x, hook->fixed[i]);
        } else {
          x = norms_[i](x, statistics);
        }
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

 private:
  NormOptions options_;
  std::vector<Conv1d> convs_;   // alike
  std::vector<NormAct> norms_;  // one for each, or none
};

}  // namespace sidechannel
