#include "models/model_file.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "engine/finite.h"
#include "engine/io/json.h"
#include "engine/io/npy.h"
#include "engine/io/safetensors.h"
#include "models/unet_file.h"

namespace sidechannel {
namespace {

constexpr const char* kNetwork = "sidechannel.network";
constexpr const char* kPackedNetwork = "sidechannel.packed_network";  // Section 3.2's
constexpr const char* kFirst = "conv_in.weight";

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
  const auto first = shapes.find(kFirst);
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

SafetensorsFile localizer_file(const Localizer& network) {
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
  return file;
}

}  // namespace

void save_model(const std::filesystem::path& path, const Network& network) {
  const auto* unet = dynamic_cast<const TemporalUnet*>(&network);
  write_safetensors(
      path, unet ? unet_file(*unet) : localizer_file(dynamic_cast<const Localizer&>(network)));
}

namespace {

// Of a localizer's file, `found` by its shapes.
LocalizerConfig config_of(const SafetensorsFile& file, const std::string& source,
                          const LocalizerConfig& found, const ModelHints& hints) {
  LocalizerConfig config = found;
  const auto described = file.metadata.find(kNetwork);
  if (const auto packed = file.metadata.find(kPackedNetwork); packed != file.metadata.end()) {
    config = LocalizerConfig::packed(found.depth, found.channels, found.kernel_size);
    in_context(source, [&] { config.check(); });
  } else if (described != file.metadata.end()) {
    config = config_from_metadata(described->second, source);
    for (const auto& [what, said, there] :
         {std::tuple{"depth", config.depth, found.depth},
          {"channels", config.channels, found.channels},
          {"kernel_size", config.kernel_size, found.kernel_size}}) {
      SC_CHECK(said == there, "{}: metadata {} says {} {}, its tensors are of {}", source, kNetwork,
               what, said, there);
    }
  } else {
    if (!hints.norm.empty()) {
      config.norm = norm_kind_from(hints.norm);
    } else if (file.tensors.contains("blocks.0.norm.weight")) {
      throw UsageError(fmt::format("{}: does not say which normalization; give --norm", source));
    } else {
      config.norm = NormKind::kNone;
    }
    config.groups = std::max<std::int64_t>(hints.groups, 1);
    config.samples_per_set = hints.samples_per_set;
    config.padding = hints.padding;
    in_context(source, [&] { config.check(); });
  }
  check_finite(file.tensors, source);
  return config;
}

}  // namespace

Localizer load_model(const std::filesystem::path& path, const Device& device,
                     const std::string& norm, std::int64_t groups, std::int64_t samples_per_set,
                     Padding padding) {
  const std::string source = path.string();
  LocalizerConfig found;
  const SafetensorsFile file = read_safetensors(
      path, [&](const SafetensorsHeader& header) { found = config_from_shapes(header.shapes); });
  require(
      !file.metadata.contains(kPackedNetwork),
      fmt::format("{}: a network of the program overlap (norm pack), not of localization", source));
  const LocalizerConfig config =
      config_of(file, source, found, {norm, groups, samples_per_set, padding});
  return {device, DType::kF32, config, file.tensors, source};
}

std::unique_ptr<Network> load_network(const std::filesystem::path& path, const Device& device,
                                      DType dtype, const ModelHints& hints) {
  const std::string source = path.string();
  bool unet = false;
  LocalizerConfig found;
  SafetensorsFile file = read_safetensors(path, [&](const SafetensorsHeader& header) {
    unet = is_unet(header.shapes);
    SC_CHECK(unet || header.shapes.contains(kFirst),
             "has no {} of a localizer, and no {} of a temporal U-Net", kFirst, kUnetFirst);
    if (!unet) found = config_from_shapes(header.shapes);
  });
  const auto in_type = [&] {
    for (auto& [name, array] : file.tensors) {
      if (array.dtype == DType::kF32 || array.dtype == DType::kF64) array = converted(array, dtype);
    }
  };
  if (unet) {
    in_context(source, [&] { file = with_unet_names(std::move(file)); });
    const TemporalUnetConfig config = unet_config_of(file, source, hints.norm, hints.groups);
    check_finite(file.tensors, source);
    in_type();
    return std::make_unique<TemporalUnet>(device, dtype, config, file.tensors, source);
  }
  const LocalizerConfig config = config_of(file, source, found, hints);
  in_type();
  return std::make_unique<Localizer>(device, dtype, config, file.tensors, source);
}

}  // namespace sidechannel
