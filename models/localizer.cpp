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

std::int64_t padding_of(const LocalizerConfig& config) {
  return config.padded ? config.kernel_size / 2 : 0;
}

}  // namespace

LocalizerConfig LocalizerConfig::packed(std::int64_t depth, std::int64_t channels,
                                        std::int64_t kernel_size) {
  LocalizerConfig config;
  config.depth = depth;
  config.channels = channels;
  config.kernel_size = kernel_size;
  config.norm = NormKind::kPack;
  config.padded = false;
  return config;
}

void LocalizerConfig::check() const {
  require(kernel_size >= 1 && kernel_size % 2 == 1,
          fmt::format("kernel size {}: expected an odd number", kernel_size));
  require(depth >= 2, fmt::format("depth {}: expected at least 2 convolutions", depth));
  require(channels >= 1, fmt::format("channels {}: expected at least 1", channels));
  if (norm == NormKind::kGroup) {
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
      conv_in_(*parameters_, "conv_in", 1, config.channels, config.kernel_size, padding_of(config)),
      blocks_(blocks_of(config, *parameters_)),
      conv_out_(*parameters_, "conv_out", config.channels, 1, config.kernel_size,
                padding_of(config)) {}

std::vector<Localizer::Block> Localizer::blocks_of(const LocalizerConfig& config,
                                                   ParameterList& list) {
  const std::int64_t h = config.channels;
  std::vector<Block> blocks;
  for (std::int64_t i = 0; i < config.depth - 2; ++i) {
    const std::string name = fmt::format("blocks.{}", i);
    Block block{Conv1d(list, name + ".conv", h, h, config.kernel_size, padding_of(config)), {}};
    if (config.norm != NormKind::kNone) {
      block.norm.emplace(list, name + ".norm", h, config.norm_options(),
                         config.has_population_statistics());
    }
    blocks.push_back(std::move(block));
  }
  return blocks;
}

Var Localizer::operator()(const Var& x, Statistics statistics, std::vector<Var>* hidden) const {
  SC_CHECK(
      config_.norm != NormKind::kPack || (x.shape().rank() == 3 && x.shape()[0] % 2 == 0 &&
                                          (config_.padded || x.shape()[1] == config_.length())),
      "packed localizer: expected pairs of sequences, [2 N, {}, 1], got {}", config_.length(),
      x.shape().str());
  Var z = conv_in_(x);
  if (hidden) hidden->push_back(z);
  for (const Block& block : blocks_) {
    z = block.norm ? (*block.norm)(block.conv(z), statistics) : relu(block.conv(z));
    if (hidden) hidden->push_back(z);
  }
  return conv_out_(z);
}

}  // namespace sidechannel
