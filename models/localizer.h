#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/checked.h"
#include "engine/modules.h"
#include "models/network.h"
#include "models/norm_kind.h"

namespace sidechannel {

// What convolutions find beyond the ends of a sequence.
enum class Padding {
  kNone,      // nothing: sequences get shorter
  kZeros,     // floor(k / 2) zeros at each end
  kCircular,  // the sequence once more: it has no ends
};

// Of networks of Equation (1): the names, and the padding of a name; UsageError for other ones.
std::vector<const char*> padding_names();
Padding padding_from(const std::string& name);
std::string name_of(Padding padding);

// What Equation (1) leaves free.
struct LocalizerConfig {
  std::int64_t depth = 8;        // d, all convolutions counted, C_in and C_out too
  std::int64_t channels = 32;    // h
  std::int64_t kernel_size = 5;  // k, odd
  NormKind norm = NormKind::kInstance;
  std::int64_t groups = 1;           // G, of group norms
  std::int64_t samples_per_set = 1;  // for batch norm: the samples that share their statistics
  Padding padding = Padding::kZeros;
  InitialBiases biases = InitialBiases::kUniform;  // of all convolutions

  // The network of Section 3.2: PackNorm, and no padding, so that two sequences of length() come
  // down to one position each, and hear each other through the statistics alone.
  static LocalizerConfig packed(std::int64_t depth, std::int64_t channels,
                                std::int64_t kernel_size);

  // UsageError for what cannot be built: an even k, groups that do not divide the channels, ...
  void check() const;

  // R(depth) = floor(k / 2) * depth: how far to each side a normalization-free network sees.
  std::int64_t receptive_field(std::int64_t layers) const {
    return checked_product("receptive field", kernel_size / 2, layers);
  }
  std::int64_t receptive_field() const { return receptive_field(depth); }
  // l = 1 + 2 R(d): what convolutions without padding take down to one position.
  std::int64_t length() const {
    return checked_sum("length", 1, checked_product("length", 2, receptive_field()));
  }
  // Sets of statistics, in the terms of the one normalization.
  NormOptions norm_options() const;
  // Whether there are running statistics to evaluate with.
  bool has_population_statistics() const { return info_of(norm).has_running_statistics; }
};

// The network of the paper's Equation (1):
//
//   z(1) = C_in(x),  z(i) = relu(Norm(C_i(z(i-1)))) for i = 2 .. d-1,  f(x) = C_out(z(d-1))
//
// or that of Section 3.2, whose batches are pairs, the two of a pair side by side.
// Parameters: conv_in.*, blocks.{i}.conv.*, blocks.{i}.norm.* (i from 0), conv_out.*
class Localizer : public Network {
 public:
  Localizer(const Device& device, DType dtype, const LocalizerConfig& config, std::uint64_t seed);
  // With a file's tensors, all of them. Error, before anything is made for it, where the file does
  // not hold this network.
  Localizer(const Device& device, DType dtype, const LocalizerConfig& config,
            const TensorMap& tensors, const std::string& source);

  // [N, L, 1] -> [N, L, 1]; a packed one's [2 N, length(), 1] -> [2 N, 1, 1]. `hidden`, where
  // given, receives z(1) .. z(d-1), each [N, L, h]; `hook`, where given, its normalizations.
  Var operator()(const Var& x, Statistics statistics = Statistics::kTraining,
                 std::vector<Var>* hidden = nullptr, NormHook* hook = nullptr) const override;

  ReceptiveField receptive_field(std::int64_t length) const override;
  std::vector<Norm> norms() const override;
  std::int64_t channels_in() const override { return 1; }
  std::int64_t shortest() const override {
    return config_.padding == Padding::kNone ? config_.length() : 1;
  }
  std::string words() const override;
  const ParameterList& parameters() const override { return *parameters_; }
  using Network::parameters;
  const LocalizerConfig& config() const { return config_; }

 private:
  Localizer(const LocalizerConfig& config, std::unique_ptr<ParameterList> parameters);

  // In the order in which the parameters' initial values are drawn.
  LocalizerConfig config_;
  std::unique_ptr<ParameterList> parameters_;
  Conv1d conv_in_;
  ConvNormAct blocks_;  // plain ReLU without a norm
  Conv1d conv_out_;
};

}  // namespace sidechannel
