#include "models/packed_localizer.h"

#include "models/localizer.h"

namespace sidechannel {

void PackedLocalizerConfig::check() const {
  LocalizerConfig same;  // what the two have in common
  same.depth = depth;
  same.channels = channels;
  same.kernel_size = kernel_size;
  same.check();
}

PackedLocalizer::PackedLocalizer(const Device& device, DType dtype,
                                 const PackedLocalizerConfig& config, std::uint64_t seed)
    : config_(config), parameters_(std::make_unique<ParameterList>(device, dtype, seed)) {
  config.check();
  ParameterList& list = *parameters_;
  const std::int64_t h = config.channels;
  const std::int64_t k = config.kernel_size;
  constexpr std::int64_t kNoPadding = 0;
  NormOptions pack_norm;
  pack_norm.samples_per_set = 2;
  conv_in_.emplace(list, "conv_in", 1, h, k, kNoPadding);
  for (std::int64_t i = 0; i < config.depth - 2; ++i) {
    const std::string name = fmt::format("blocks.{}", i);
    blocks_.push_back({Conv1d(list, name + ".conv", h, h, k, kNoPadding),
                       NormRelu(list, name + ".norm", h, pack_norm)});
  }
  conv_out_.emplace(list, "conv_out", h, 1, k, kNoPadding);
}

Var PackedLocalizer::operator()(const Var& x) const {
  SC_CHECK(x.shape().rank() == 3 && x.shape()[0] % 2 == 0 && x.shape()[1] == config_.length(),
           "packed localizer: expected pairs of sequences, [2 N, {}, 1], got {}", config_.length(),
           x.shape().str());
  Var z = (*conv_in_)(x);
  for (const Block& block : blocks_) z = block.norm(block.conv(z), Statistics::kTraining);
  return (*conv_out_)(z);
}

}  // namespace sidechannel
