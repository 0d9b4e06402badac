#include "models/localizer.h"

#include <utility>

#include "engine/io/file.h"

namespace sidechannel {
namespace {

// A config that can be built.
const LocalizerConfig& checked(const LocalizerConfig& config) {
  config.check();
  return config;
}

// How many positions at each end.
std::int64_t padding_of(const LocalizerConfig& config) {
  return config.padding == Padding::kNone ? 0 : config.kernel_size / 2;
}

ConvOptions options_of(const LocalizerConfig& config) {
  const bool circular = config.padding == Padding::kCircular;
  return {circular ? PaddingMode::kCircular : PaddingMode::kZeros, config.biases};
}

// Those of networks of Equation (1) have a name.
constexpr std::pair<Padding, const char*> kPaddings[] = {{Padding::kZeros, "zeros"},
                                                         {Padding::kCircular, "circular"}};

std::optional<NormOptions> norm_of(const LocalizerConfig& config) {
  if (config.norm == NormKind::kNone) return {};
  return config.norm_options();
}

}  // namespace

std::vector<const char*> padding_names() {
  std::vector<const char*> names;
  for (const auto& [padding, name] : kPaddings) names.push_back(name);
  return names;
}

Padding padding_from(const std::string& name) {
  for (const auto& [padding, known] : kPaddings) {
    if (name == known) return padding;
  }
  throw UsageError(fmt::format("padding {}: expected {}", shown(name), listed(padding_names())));
}

std::string name_of(Padding padding) {
  for (const auto& [known, name] : kPaddings) {
    if (padding == known) return name;
  }
  return "none";
}

LocalizerConfig LocalizerConfig::packed(std::int64_t depth, std::int64_t channels,
                                        std::int64_t kernel_size) {
  LocalizerConfig config;
  config.depth = depth;
  config.channels = channels;
  config.kernel_size = kernel_size;
  config.norm = NormKind::kPack;
  config.padding = Padding::kNone;
  return config;
}

void LocalizerConfig::check() const {
  require(kernel_size >= 1 && kernel_size % 2 == 1,
          fmt::format("kernel size {}: expected an odd number", kernel_size));
  require(depth >= 2, fmt::format("depth {}: expected at least 2 convolutions", depth));
  require(channels >= 1, fmt::format("channels {}: expected at least 1", channels));
  if (info_of(norm).has_groups) {
    require(groups >= 1 && channels % groups == 0,
            fmt::format("groups {}: expected a divisor of the {} channels", groups, channels));
  }
  if (norm == NormKind::kBatch) {
    require(samples_per_set >= 1,
            fmt::format("samples per set {}: expected at least 1", samples_per_set));
  }
}

NormOptions LocalizerConfig::norm_options() const {
  NormOptions options;
  info_of(norm).choose_sets({channels, groups, samples_per_set}, options);
  return options;
}

Localizer::Localizer(const Device& device, DType dtype, const LocalizerConfig& config,
                     std::uint64_t seed)
    : Localizer(config, std::make_unique<ParameterList>(device, dtype, seed)) {}

Localizer::Localizer(const Device& device, DType dtype, const LocalizerConfig& config,
                     const TensorMap& tensors, const std::string& source)
    : Localizer(config, std::make_unique<ParameterList>(device, dtype, tensors, source)) {
  parameters_->load(tensors, source);
}

Localizer::Localizer(const LocalizerConfig& config, std::unique_ptr<ParameterList> parameters)
    : config_(checked(config)),
      parameters_(std::move(parameters)),
      conv_in_(*parameters_, "conv_in", 1, config.channels, config.kernel_size, padding_of(config),
               options_of(config)),
      blocks_(*parameters_, "blocks", config.depth - 2, config.channels, config.kernel_size,
              padding_of(config), norm_of(config), config.has_population_statistics(),
              options_of(config)),
      conv_out_(*parameters_, "conv_out", config.channels, 1, config.kernel_size,
                padding_of(config), options_of(config)) {}

Var Localizer::operator()(const Var& x, Statistics statistics, std::vector<Var>* hidden,
                          NormHook* hook) const {
  SC_CHECK(config_.norm != NormKind::kPack ||
               (x.shape().rank() == 3 && x.shape()[0] % 2 == 0 &&
                (config_.padding != Padding::kNone || x.shape()[1] == config_.length())),
           "packed localizer: expected pairs of sequences, [2 N, {}, 1], got {}", config_.length(),
           x.shape().str());
  if (hook) hook->begin();
  const Var z = conv_in_(x);
  if (hidden) hidden->push_back(z);
  Var y = conv_out_(blocks_(z, statistics, hidden, hook));
  if (hook) hook->end();
  return y;
}

ReceptiveField Localizer::receptive_field(std::int64_t length) const {
  return conv_out_(blocks_(conv_in_(ReceptiveField(length))));
}

std::vector<Network::Norm> Localizer::norms() const {
  std::vector<Norm> all;
  if (config_.norm == NormKind::kNone) return all;
  for (std::int64_t i = 0; i < config_.depth - 2; ++i) {
    all.push_back({fmt::format("blocks.{}.norm", i), config_.norm, config_.norm_options()});
  }
  return all;
}

std::string Localizer::words() const {
  return fmt::format("localizer of depth {}, {} channels, {} norm", config_.depth, config_.channels,
                     name_of(config_.norm));
}

}  // namespace sidechannel
