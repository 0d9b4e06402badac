#include "models/model_file.h"

#include <tuple>

#include "engine/finite.h"
#include "engine/io/json.h"
#include "engine/io/safetensors.h"

namespace sidechannel {
namespace {

constexpr const char* kNetwork = "sidechannel.network";
constexpr const char* kPackedNetwork = "sidechannel.packed_network";  // Section 3.2's

LocalizerConfig config_from_metadata(const std::string& text, const std::string& source) {
  const std::string where = fmt::format("{}: metadata {}", source, kNetwork);
  const Json json = parse_json_object(text, where);
  LocalizerConfig config;
  config.depth = field<std::int64_t>(json, "depth", where, 2);
  config.channels = field<std::int64_t>(json, "channels", where, 1);
  config.kernel_size = field<std::int64_t>(json, "kernel_size", where, 1);
  config.groups = field<std::int64_t>(json, "groups", where, 1);
  config.samples_per_set = field<std::int64_t>(json, "samples_per_set", where, 1);
  const auto norm = field<std::string>(json, "norm", where);
  // Files from before there was a choice do not say.
  const auto padding = json.contains("padding") ? field<std::string>(json, "padding", where)
                                                : name_of(config.padding);
  in_context(where, [&] {
    config.norm = norm_kind_from(norm);
    config.padding = padding_from(padding);
    config.check();
  });
  return config;
}

// Depth, channels and kernel size by the tensors' shapes.
LocalizerConfig config_from_shapes(const std::map<std::string, Shape>& shapes) {
  const auto first = shapes.find("conv_in.weight");
  SC_CHECK(first != shapes.end() && first->second.rank() == 3,
           "has no conv_in.weight of shape [h, 1, k], so it is no localizer");
  LocalizerConfig config;
  config.channels = first->second[0];
  config.kernel_size = first->second[2];
  config.depth = 2;
  while (shapes.contains(fmt::format("blocks.{}.conv.weight", config.depth - 2))) {
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
  const bool packed = config.norm == NormKind::kPack;
  if (!packed) {
    json["groups"] = config.groups;
    json["samples_per_set"] = config.samples_per_set;
    json["padding"] = name_of(config.padding);
  }
  SafetensorsFile file;
  network.parameters().save(file.tensors);
  file.metadata = {{"format", "pt"}, {packed ? kPackedNetwork : kNetwork, json_text(json)}};
  write_safetensors(path, file);
}

Localizer load_model(const std::filesystem::path& path, const Device& device,
                     const std::string& norm, std::int64_t groups, std::int64_t samples_per_set,
                     Padding padding) {
  const std::string source = path.string();
  LocalizerConfig config, found;
  const SafetensorsFile file = read_safetensors(
      path, [&](const SafetensorsHeader& header) { found = config_from_shapes(header.shapes); });
  require(
      !file.metadata.contains(kPackedNetwork),
      fmt::format("{}: a network of the program overlap (norm pack), not of localization", source));
  const auto described = file.metadata.find(kNetwork);
  if (described != file.metadata.end()) {
    config = config_from_metadata(described->second, source);
    for (const auto& [what, said, there] :
         {std::tuple{"depth", config.depth, found.depth},
          {"channels", config.channels, found.channels},
          {"kernel_size", config.kernel_size, found.kernel_size}}) {
      SC_CHECK(said == there, "{}: metadata {} says {} {}, its tensors are of {}", source, kNetwork,
               what, said, there);
    }
  } else {
    config = found;
    if (!norm.empty()) {
      config.norm = norm_kind_from(norm);
    } else if (file.tensors.contains("blocks.0.norm.weight")) {
      throw UsageError(fmt::format("{}: does not say which normalization; give --norm", source));
    } else {
      config.norm = NormKind::kNone;
    }
    config.groups = groups;
    config.samples_per_set = samples_per_set;
    config.padding = padding;
    in_context(source, [&] { config.check(); });
  }
  check_finite(file.tensors, source);
  return {device, DType::kF32, config, file.tensors, source};
}

}  // namespace sidechannel
