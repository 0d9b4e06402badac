#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "models/network.h"
#include "models/norm_kind.h"

namespace sidechannel {

inline constexpr std::int64_t kMostDiffusionSteps = 65536;

// What the temporal U-Net of Janner et al. (2022, "Planning with Diffusion for Flexible Behavior
// Synthesis") leaves free; the defaults are those of its maze2d experiments.
struct TemporalUnetConfig {
  std::int64_t transition = 6;  // channels of a trajectory: actions and observations
  std::int64_t dim = 32;        // channels of the first level, and of the time's embedding
  std::vector<std::int64_t> multipliers = {1, 4, 8};  // of dim, for each level; the first is 1
  std::int64_t kernel_size = 5;                       // of the blocks' convolutions, odd
  std::int64_t steps = 256;                           // T: of the diffusion, 0 .. T - 1
  NormKind norm = NormKind::kGroup;
  std::int64_t groups = 8;
  std::int64_t samples_per_set = 1;  // for batch norm: the samples that share their statistics

  // How messages name what the caller chose, where that is not the member's own name.
  struct Names {
    const char* dim = "dim";
    const char* multipliers = "multipliers";
    const char* groups = "groups";
    const char* kernel_size = "kernel size";
  };
  // UsageError for what cannot be built: an odd dim, groups that do not divide its channels, ...
  void check(const Names& names) const;
  void check() const { check(Names()); }

  std::int64_t levels() const { return static_cast<std::int64_t>(multipliers.size()); }
  std::int64_t channels(std::int64_t level) const {
    return dim * multipliers[static_cast<std::size_t>(level)];
  }
  // Lengths of sequences are multiples of it, and the network is equivariant to shifts by it.
  std::int64_t stride() const { return std::int64_t{1} << (levels() - 1); }
  // Of a layer of so many channels.
  NormOptions norm_options(std::int64_t channels) const;
  bool has_population_statistics() const { return info_of(norm).has_running_statistics; }
};

// What the layers of the U-Net are told on one pass, beside their input.
struct UnetPass {
  Var time;  // Mish of the time's embedding, [N, dim]
  Statistics statistics;
  std::vector<Var>* hidden;
  NormHook* hook;
};
struct UnetField {};  // on the pass of a ReceptiveField: nothing

// A convolution, a normalization where there is one, and Mish. Parameters NAME.block.0.*,
// NAME.block.2.*, as in jannerm/diffuser.
class UnetConvBlock {
 public:
  UnetConvBlock(ParameterList& list, const std::string& name, std::int64_t channels_in,
                std::int64_t channels_out, const TemporalUnetConfig& config);
  Var operator()(const Var& x, const UnetPass& pass) const;
  ReceptiveField operator()(const ReceptiveField& x, UnetField) const { return conv_(x); }
  void add_norm(std::vector<Network::Norm>& norms) const;

 private:
  Conv1d conv_;
  std::optional<NormAct> norm_;
  Network::Norm described_;
};

// Two such blocks with the time's embedding added between them, around a skip (a convolution of
// kernel size 1 where the channels change). Parameters NAME.blocks.{0,1}.*, NAME.time_mlp.1.*,
// NAME.residual_conv.*
class UnetResidualBlock {
 public:
  UnetResidualBlock(ParameterList& list, const std::string& name, std::int64_t channels_in,
                    std::int64_t channels_out, const TemporalUnetConfig& config);
  template <class Sequence, class Pass>
  Sequence operator()(const Sequence& x, const Pass& pass) const;
  void add_norms(std::vector<Network::Norm>& norms) const;

 private:
  UnetConvBlock first_, second_;
  Linear time_;
  std::optional<Conv1d> skip_;
};

// The temporal U-Net: trajectories [N, L, transition] and the step of the diffusion that each
// stands at -> what each was without noise (or the noise), [N, L, transition].
//
// Parameters have the names of jannerm/diffuser (without attention): downs.{i}.{0,1}.*,
// downs.{i}.3.conv.*, mid_block{1,2}.*, ups.{i}.{0,1}.*, ups.{i}.3.conv.*, final_conv.0.*,
// final_conv.1.*, time_mlp.{1,3}.*
class TemporalUnet : public Network {
 public:
  TemporalUnet(const Device& device, DType dtype, const TemporalUnetConfig& config,
               std::uint64_t seed);
  // With a file's tensors, all of them.
  TemporalUnet(const Device& device, DType dtype, const TemporalUnetConfig& config,
               const TensorMap& tensors, const std::string& source);

  // x [N, L, transition], L a multiple of stride(); steps [N], whole numbers. `hidden` receives
  // what each residual block gives, in order.
  Var operator()(const Var& x, const Var& steps, Statistics statistics,
                 std::vector<Var>* hidden = nullptr, NormHook* hook = nullptr) const;

  // As networks are asked that know of no step: at step(), 0 unless it was set.
  Var operator()(const Var& x, Statistics statistics = Statistics::kTraining,
                 std::vector<Var>* hidden = nullptr, NormHook* hook = nullptr) const override;
  std::int64_t step() const { return step_; }
  void set_step(std::int64_t step);

  ReceptiveField receptive_field(std::int64_t length) const override;
  std::vector<Norm> norms() const override;
  std::int64_t channels_in() const override { return config_.transition; }
  std::int64_t stride() const override { return config_.stride(); }
  std::string words() const override;
  const ParameterList& parameters() const override { return *parameters_; }
  using Network::parameters;
  const TemporalUnetConfig& config() const { return config_; }

 private:
  TemporalUnet(const TemporalUnetConfig& config, std::unique_ptr<ParameterList> parameters);
  template <class Sequence, class Pass>
  Sequence pass_through(Sequence x, const Pass& pass) const;

  struct Down {
    UnetResidualBlock first, second;
    std::optional<Conv1d> sample;  // not at the last level
  };
  struct Up {
    UnetResidualBlock first, second;
    ConvTranspose1d sample;
  };

  // In the order in which the parameters' initial values are drawn.
  TemporalUnetConfig config_;
  std::unique_ptr<ParameterList> parameters_;
  Tensor sinusoids_;  // [steps, dim]
  Linear time_first_, time_second_;
  std::vector<Down> downs_;
  std::vector<UnetResidualBlock> middle_;  // two
  std::vector<Up> ups_;
  UnetConvBlock final_block_;
  Conv1d final_conv_;
  std::int64_t step_ = 0;
};

}  // namespace sidechannel
