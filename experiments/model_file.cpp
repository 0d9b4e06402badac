// Reading and writing model.safetensors.

#include "engine/finite.h"
#include "engine/safetensors.h"
#include "experiments/training.h"

namespace sidechannel::experiments {
namespace {

constexpr const char* kNetwork = "sidechannel.network";
constexpr const char* kPackedNetwork = "sidechannel.packed_network";  // distinguish.cpp's

LocalizerConfig config_from_metadata(const std::string& text, const std::string& source) {
  const Json json = Json::parse(text, nullptr, false);
  SC_CHECK(json.is_object(), "{}: metadata {} is not a JSON object", source, kNetwork);
  try {
    LocalizerConfig config;
    config.depth = json.at("depth");
    config.channels = json.at("channels");
    config.kernel_size = json.at("kernel_size");
    config.norm = norm_kind_from(json.at("norm"));
    config.groups = json.at("groups");
    config.samples_per_set = json.at("samples_per_set");
    return config;
  } catch (const Json::exception& error) {
    throw Error(fmt::format("{}: metadata {}: {}", source, kNetwork, error.what()));
  }
}

// Depth, channels and kernel size by the tensors' shapes.
LocalizerConfig config_from_shapes(const SafetensorsFile& file, const std::string& source) {
  const auto first = file.tensors.find("conv_in.weight");
  SC_CHECK(first != file.tensors.end() && first->second.shape.rank() == 3,
           "{}: has no conv_in.weight of shape [h, 1, k], so it is no localizer", source);
  LocalizerConfig config;
  config.channels = first->second.shape[0];
  config.kernel_size = first->second.shape[2];
  config.depth = 2;
  while (file.tensors.contains(fmt::format("blocks.{}.conv.weight", config.depth - 2))) {
    ++config.depth;
  }
  return config;
}

}  // namespace

void save_model(const std::filesystem::path& path, const Localizer& network) {
  const LocalizerConfig& config = network.config();
  Json json;
  json["depth"] = config.depth;
  json["channels"] = config.channels;
  json["kernel_size"] = config.kernel_size;
  json["norm"] = name_of(config.norm);
  json["groups"] = config.groups;
  json["samples_per_set"] = config.samples_per_set;
  SafetensorsFile file;
  network.parameters().save(file.tensors);
  file.metadata = {{"format", "pt"}, {kNetwork, json.dump()}};
  write_safetensors(path, file);
}

Localizer load_model(const std::filesystem::path& path, const Device& device,
                     const std::string& norm, std::int64_t groups, std::int64_t samples_per_set) {
  const SafetensorsFile file = read_safetensors(path);
  const std::string source = path.string();
  require(
      !file.metadata.contains(kPackedNetwork),
      fmt::format("{}: a network of the program overlap (norm pack), not of localization", source));
  LocalizerConfig config;
  const auto described = file.metadata.find(kNetwork);
  if (described != file.metadata.end()) {
    config = config_from_metadata(described->second, source);
  } else {
    config = config_from_shapes(file, source);
    if (!norm.empty()) {
      config.norm = norm_kind_from(norm);
    } else if (file.tensors.contains("blocks.0.norm.weight")) {
      throw UsageError(fmt::format("{}: does not say which normalization; give --norm", source));
    } else {
      config.norm = NormKind::kNone;
    }
    config.groups = groups;
    config.samples_per_set = samples_per_set;
  }
  Localizer network(device, DType::kF32, config, 0);
  network.parameters().load(file.tensors, source);
  check_finite(file.tensors, source);
  return network;
}

}  // namespace sidechannel::experiments
