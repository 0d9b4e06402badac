#include "models/temporal_unet.h"

#include "engine/io/file.h"
#include "engine/sinusoidal_table.h"

namespace sidechannel {
namespace {

const TemporalUnetConfig& checked(const TemporalUnetConfig& config) {
  config.check();
  return config;
}

std::optional<NormAct> norm_of(ParameterList& list, const std::string& name, std::int64_t channels,
                               const TemporalUnetConfig& config) {
  if (config.norm == NormKind::kNone) return {};
  return NormAct(list, name, channels, config.norm_options(channels),
                 config.has_population_statistics());
}

std::optional<Conv1d> skip_of(ParameterList& list, const std::string& name,
                              std::int64_t channels_in, std::int64_t channels_out) {
  if (channels_in == channels_out) return {};
  return Conv1d(list, name, channels_in, channels_out, 1, 0);
}

// What each residual block gives; the field of one is not asked for.
void show(const Var& z, const UnetPass& pass) {
  if (pass.hidden) pass.hidden->push_back(z);
}
void show(const ReceptiveField&, UnetField) {}

Var with_time(const Var& x, const Linear& time, const UnetPass& pass) {
  return add(x, time(pass.time));
}
ReceptiveField with_time(const ReceptiveField& x, const Linear&, UnetField) {
  return x;
}

Var joined(const Var& a, const Var& b) {
  return concat(a, b);
}
ReceptiveField joined(const ReceptiveField& a, const ReceptiveField& b) {
  return a.united(b);
}
ReceptiveField add(const ReceptiveField& a, const ReceptiveField& b) {
  return a.united(b);
}

}  // namespace

void TemporalUnetConfig::check(const Names& names) const {
  const auto at_least_1 = [](const char* what, std::int64_t value) {
    require(value >= 1, fmt::format("{} {}: expected at least 1", what, value));
  };
  at_least_1("transition", transition);
  at_least_1("steps", steps);
  require(steps <= kMostDiffusionSteps,
          fmt::format("steps {}: expected at most {}", steps, kMostDiffusionSteps));
  at_least_1("samples per set", samples_per_set);
  require(dim >= 4 && dim % 2 == 0,
          fmt::format("{} {}: expected an even number from 4 on", names.dim, dim));
  require(kernel_size >= 1 && kernel_size % 2 == 1,
          fmt::format("{} {}: expected an odd number", names.kernel_size, kernel_size));
  require(!multipliers.empty() && multipliers.size() <= 16 && multipliers[0] == 1,
          fmt::format("{} {}: expected 1 first, and at most 16 of them", names.multipliers,
                      fmt::join(multipliers, ",")));
  for (std::int64_t level = 0; level < levels(); ++level) {
    at_least_1("multiplier", multipliers[static_cast<std::size_t>(level)]);
    require(groups >= 1 && (!info_of(norm).has_groups || channels(level) % groups == 0),
            fmt::format("{} {}: expected a divisor of the {} channels of level {}", names.groups,
                        groups, channels(level), level));
  }
}

NormOptions TemporalUnetConfig::norm_options(std::int64_t channels) const {
  NormOptions options;
  options.activation = Activation::kMish;
  info_of(norm).choose_sets({channels, groups, samples_per_set}, options);
  return options;
}

UnetConvBlock::UnetConvBlock(ParameterList& list, const std::string& name, std::int64_t channels_in,
                             std::int64_t channels_out, const TemporalUnetConfig& config)
    : conv_(list, name + ".block.0", channels_in, channels_out, config.kernel_size,
            config.kernel_size / 2),
      norm_(norm_of(list, name + ".block.2", channels_out, config)),
      described_{name + ".block.2", config.norm, config.norm_options(channels_out)} {}

Var UnetConvBlock::operator()(const Var& x, const UnetPass& pass) const {
  const Var y = conv_(x);
  return norm_ ? (*norm_)(y, pass.statistics, pass.hook) : activate(y, Activation::kMish);
}

void UnetConvBlock::add_norm(std::vector<Network::Norm>& norms) const {
  if (norm_) norms.push_back(described_);
}

UnetResidualBlock::UnetResidualBlock(ParameterList& list, const std::string& name,
                                     std::int64_t channels_in, std::int64_t channels_out,
                                     const TemporalUnetConfig& config)
    : first_(list, name + ".blocks.0", channels_in, channels_out, config),
      second_(list, name + ".blocks.1", channels_out, channels_out, config),
      time_(list, name + ".time_mlp.1", config.dim, channels_out),
      skip_(skip_of(list, name + ".residual_conv", channels_in, channels_out)) {}

template <class Sequence, class Pass>
Sequence UnetResidualBlock::operator()(const Sequence& x, const Pass& pass) const {
  const Sequence y = second_(with_time(first_(x, pass), time_, pass), pass);
  Sequence z = add(y, skip_ ? (*skip_)(x) : x);
  show(z, pass);
  return z;
}

void UnetResidualBlock::add_norms(std::vector<Network::Norm>& norms) const {
  first_.add_norm(norms);
  second_.add_norm(norms);
}

TemporalUnet::TemporalUnet(const Device& device, DType dtype, const TemporalUnetConfig& config,
                           std::uint64_t seed)
    : TemporalUnet(config, std::make_unique<ParameterList>(device, dtype, seed)) {}

TemporalUnet::TemporalUnet(const Device& device, DType dtype, const TemporalUnetConfig& config,
                           const TensorMap& tensors, const std::string& source)
    : TemporalUnet(config, std::make_unique<ParameterList>(device, dtype, tensors, source)) {
  parameters_->load(tensors, source);
}

TemporalUnet::TemporalUnet(const TemporalUnetConfig& config,
                           std::unique_ptr<ParameterList> parameters)
    : config_(checked(config)),
      parameters_(std::move(parameters)),
      sinusoids_(
          sinusoidal_table(parameters_->device(), parameters_->dtype(), config.steps, config.dim)),
      time_first_(*parameters_, "time_mlp.1", config.dim, 4 * config.dim),
      time_second_(*parameters_, "time_mlp.3", 4 * config.dim, config.dim),
      downs_([&] {
        std::vector<Down> downs;
        std::int64_t before = config_.transition;
        for (std::int64_t i = 0; i < config_.levels(); ++i) {
          const std::string name = fmt::format("downs.{}", i);
          const std::int64_t channels = config_.channels(i);
          downs.push_back({{*parameters_, name + ".0", before, channels, config_},
                           {*parameters_, name + ".1", channels, channels, config_},
                           {}});
          if (i + 1 < config_.levels()) {
            downs.back().sample.emplace(*parameters_, name + ".3.conv", channels, channels, 3, 1,
                                        ConvOptions{.stride = 2});
          }
          before = channels;
        }
        return downs;
      }()),
      middle_([&] {
        std::vector<UnetResidualBlock> middle;
        const std::int64_t channels = config_.channels(config_.levels() - 1);
        for (const char* name : {"mid_block1", "mid_block2"}) {
          middle.emplace_back(*parameters_, name, channels, channels, config_);
        }
        return middle;
      }()),
      ups_([&] {
        std::vector<Up> ups;
        for (std::int64_t i = 0; i + 1 < config_.levels(); ++i) {
          const std::string name = fmt::format("ups.{}", i);
          const std::int64_t from = config_.channels(config_.levels() - 1 - i);
          const std::int64_t channels = config_.channels(config_.levels() - 2 - i);
          ups.push_back({{*parameters_, name + ".0", 2 * from, channels, config_},
                         {*parameters_, name + ".1", channels, channels, config_},
                         {*parameters_, name + ".3.conv", channels, channels, 4, 1, 2}});
        }
        return ups;
      }()),
      final_block_(*parameters_, "final_conv.0", config.dim, config.dim, config),
      final_conv_(*parameters_, "final_conv.1", config.dim, config.transition, 1, 0) {}

// One pass, of values or of what they hear.
template <class Sequence, class Pass>
Sequence TemporalUnet::pass_through(Sequence x, const Pass& pass) const {
  std::vector<Sequence> skips;  // the first level's is left where it is, as Janner et al. leave it
  for (const Down& down : downs_) {
    x = down.second(down.first(x, pass), pass);
    skips.push_back(x);
    if (down.sample) x = (*down.sample)(x);
  }
  for (const UnetResidualBlock& block : middle_) x = block(x, pass);
  for (const Up& up : ups_) {
    x = up.sample(up.second(up.first(joined(x, skips.back()), pass), pass));
    skips.pop_back();
  }
  return final_conv_(final_block_(x, pass));
}

Var TemporalUnet::operator()(const Var& x, const Var& steps, Statistics statistics,
                             std::vector<Var>* hidden, NormHook* hook) const {
  SC_CHECK(x.shape().rank() == 3 && x.shape()[2] == config_.transition,
           "temporal U-Net: expected trajectories [N, L, {}], got {}", config_.transition,
           x.shape().str());
  SC_CHECK(x.shape()[1] % config_.stride() == 0,
           "temporal U-Net: expected a length that is a multiple of {}, got {}", config_.stride(),
           x.shape()[1]);
  SC_CHECK(steps.shape() == Shape{x.shape()[0]},
           "temporal U-Net: expected a step for each of {} trajectories, got {}", x.shape()[0],
           steps.shape().str());
  const Var embedded = gather(sinusoids_, steps);
  const Var time = time_second_(time_first_(embedded, Activation::kMish));
  if (hook) hook->begin();
  Var y = pass_through(x, UnetPass{activate(time, Activation::kMish), statistics, hidden, hook});
  if (hook) hook->end();
  return y;
}

Var TemporalUnet::operator()(const Var& x, Statistics statistics, std::vector<Var>* hidden,
                             NormHook* hook) const {
  SC_CHECK(x.shape().rank() == 3, "temporal U-Net: expected trajectories [N, L, {}], got {}",
           config_.transition, x.shape().str());
  const Var steps = x.tape().make({x.shape()[0]});
  steps.value().fill(static_cast<double>(step_));
  return (*this)(x, steps, statistics, hidden, hook);
}

void TemporalUnet::set_step(std::int64_t step) {
  require(step >= 0 && step < config_.steps,
          fmt::format("step {}: expected one from 0 to {}", step, config_.steps - 1));
  step_ = step;
}

ReceptiveField TemporalUnet::receptive_field(std::int64_t length) const {
  SC_CHECK(length % config_.stride() == 0,
           "temporal U-Net: expected a length that is a multiple of {}, got {}", config_.stride(),
           length);
  return pass_through(ReceptiveField(length), UnetField{});
}

std::vector<Network::Norm> TemporalUnet::norms() const {
  std::vector<Norm> all;
  for (const Down& down : downs_) {
    down.first.add_norms(all);
    down.second.add_norms(all);
  }
  for (const UnetResidualBlock& block : middle_) block.add_norms(all);
  for (const Up& up : ups_) {
    up.first.add_norms(all);
    up.second.add_norms(all);
  }
  final_block_.add_norm(all);
  return all;
}

std::string TemporalUnet::words() const {
  return fmt::format("temporal U-Net of {} channels times {}, {} norm", config_.dim,
                     fmt::join(config_.multipliers, ", "), name_of(config_.norm));
}

}  // namespace sidechannel
