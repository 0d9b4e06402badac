#include "models/localizer.h"

#include <array>
#include <utility>

#include "engine/file.h"

namespace sidechannel {
namespace {

constexpr std::array<std::pair<NormKind, const char*>, 5> kNames{{{NormKind::kNone, "none"},
                                                                  {NormKind::kInstance, "instance"},
                                                                  {NormKind::kGroup, "group"},
                                                                  {NormKind::kLayer, "layer"},
                                                                  {NormKind::kBatch, "batch"}}};

void require(bool condition, const std::string& message) {
  if (!condition) throw UsageError(message);
}

}  // namespace

NormKind norm_kind_from(const std::string& name) {
  for (const auto& [kind, known] : kNames) {
    if (name == known) return kind;
  }
  throw UsageError(
      fmt::format("norm {}: expected none, instance, group, layer or batch", shown(name)));
}

std::string name_of(NormKind kind) {
  for (const auto& [known, name] : kNames) {
    if (kind == known) return name;
  }
  return "?";
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
  if (norm == NormKind::kGroup) options.channels_per_set = channels / groups;
  if (norm == NormKind::kLayer) options.channels_per_set = channels;
  if (norm == NormKind::kBatch) options.samples_per_set = samples_per_set;
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
    : config_(config), parameters_(std::move(parameters)) {
  config.check();
  ParameterList& list = *parameters_;
  const std::int64_t h = config.channels;
  const std::int64_t k = config.kernel_size;
  conv_in_.emplace(list, "conv_in", 1, h, k, k / 2);
  for (std::int64_t i = 0; i < config.depth - 2; ++i) {
    const std::string name = fmt::format("blocks.{}", i);
    Block block{Conv1d(list, name + ".conv", h, h, k, k / 2), {}};
    if (config.norm != NormKind::kNone) {
      block.norm.emplace(list, name + ".norm", h, config.norm_options(),
                         config.has_population_statistics());
    }
    blocks_.push_back(std::move(block));
  }
  conv_out_.emplace(list, "conv_out", h, 1, k, k / 2);
}

Var Localizer::operator()(const Var& x, Statistics statistics, std::vector<Var>* hidden) const {
  Var z = (*conv_in_)(x);
  if (hidden) hidden->push_back(z);
  for (const Block& block : blocks_) {
    z = block.norm ? (*block.norm)(block.conv(z), statistics) : relu(block.conv(z));
    if (hidden) hidden->push_back(z);
  }
  return (*conv_out_)(z);
}

}  // namespace sidechannel
