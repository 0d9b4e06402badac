#include "models/unet_file.h"

#include <array>
#include <regex>
#include <utility>

#include "engine/io/json.h"

namespace sidechannel {
namespace {

constexpr const char* kNetwork = "sidechannel.temporal_unet";
constexpr const char* kDiffusersFirst = "down_blocks.0.resnets.0.conv_in.conv1d.weight";

// From names of diffusers, and of the first version of jannerm/diffuser, to the names here.
struct Renaming {
  std::regex from;
  const char* to;
};
const std::array<Renaming, 17>& renamings() {
  const auto from = [](const char* text) { return std::regex(text, std::regex::optimize); };
  static const std::array<Renaming, 17> all = {{
      {from(R"(^down_blocks\.(\d+)\.resnets\.)"), "downs.$1."},
      {from(R"(^down_blocks\.(\d+)\.downsample\.)"), "downs.$1.3."},
      {from(R"(^up_blocks\.(\d+)\.resnets\.)"), "ups.$1."},
      {from(R"(^up_blocks\.(\d+)\.upsample\.)"), "ups.$1.3."},
      {from(R"(^mid_block\.resnets\.0\.)"), "mid_block1."},
      {from(R"(^mid_block\.resnets\.1\.)"), "mid_block2."},
      {from(R"(\.conv_in\.conv1d\.)"), ".blocks.0.block.0."},
      {from(R"(\.conv_in\.group_norm\.)"), ".blocks.0.block.2."},
      {from(R"(\.conv_out\.conv1d\.)"), ".blocks.1.block.0."},
      {from(R"(\.conv_out\.group_norm\.)"), ".blocks.1.block.2."},
      {from(R"(\.time_emb\.)"), ".time_mlp.1."},
      {from(R"(^time_mlp\.linear_1\.)"), "time_mlp.1."},
      {from(R"(^time_mlp\.linear_2\.)"), "time_mlp.3."},
      {from(R"(^out_block\.final_conv1d_1\.)"), "final_conv.0.block.0."},
      {from(R"(^out_block\.final_conv1d_gn\.)"), "final_conv.0.block.2."},
      {from(R"(^out_block\.final_conv1d_2\.)"), "final_conv.1."},
      {from(R"(^(downs|ups)\.(\d+)\.2\.conv\.)"), "$1.$2.3.conv."},
  }};
  return all;
}

std::string name_here(std::string name) {
  for (const auto& [from, to] : renamings()) name = std::regex_replace(name, from, to);
  return name;
}

Shape shape_in(const SafetensorsFile& file, const std::string& source, const std::string& name) {
  const auto found = file.tensors.find(name);
  SC_CHECK(found != file.tensors.end() && found->second.shape.rank() == 3,
           "{}: has no {} of three axes, so it is no temporal U-Net", source, name);
  return found->second.shape;
}

// By the tensors' shapes.
TemporalUnetConfig config_from_shapes(const SafetensorsFile& file, const std::string& source) {
  TemporalUnetConfig config;
  const Shape first = shape_in(file, source, kUnetFirst);
  config.dim = first[0];
  config.transition = first[1];
  config.kernel_size = first[2];
  config.multipliers.clear();
  const auto name = [&] {
    return fmt::format("downs.{}.0.blocks.0.block.0.weight", config.multipliers.size());
  };
  while (file.tensors.contains(name())) {
    const std::int64_t channels = shape_in(file, source, name())[0];
    SC_CHECK(config.dim >= 1 && channels % config.dim == 0,
             "{}: {} has {} channels, no multiple of the first level's {}", source, name(),
             channels, config.dim);
    config.multipliers.push_back(channels / config.dim);
  }
  return config;
}

}  // namespace

SafetensorsFile unet_file(const TemporalUnet& network) {
  const TemporalUnetConfig& config = network.config();
  const Json json = {{"transition", config.transition},
                     {"dim", config.dim},
                     {"multipliers", config.multipliers},
                     {"kernel_size", config.kernel_size},
                     {"steps", config.steps},
                     {"norm", name_of(config.norm)},
                     {"groups", config.groups},
                     {"samples_per_set", config.samples_per_set}};
  SafetensorsFile file;
  network.parameters().save(file.tensors);
  file.metadata = {{"format", "pt"}, {kNetwork, json_text(json)}};
  return file;
}

bool is_unet(const std::map<std::string, Shape>& shapes) {
  return shapes.contains(kUnetFirst) || shapes.contains(kDiffusersFirst);
}

SafetensorsFile with_unet_names(SafetensorsFile file) {
  TensorMap renamed;
  for (auto& [name, array] : file.tensors) renamed.emplace(name_here(name), std::move(array));
  SC_CHECK(renamed.size() == file.tensors.size(), "two tensors of a temporal U-Net have one name");
  file.tensors = std::move(renamed);
  return file;
}

TemporalUnetConfig unet_config_of(const SafetensorsFile& file, const std::string& source,
                                  const std::string& norm, std::int64_t groups) {
  TemporalUnetConfig config = config_from_shapes(file, source);
  const auto described = file.metadata.find(kNetwork);
  if (described == file.metadata.end()) {
    const bool normalized = file.tensors.contains("final_conv.0.block.2.weight");
    config.norm = !norm.empty() ? norm_kind_from(norm)
                  : normalized  ? NormKind::kGroup
                                : NormKind::kNone;
    if (groups > 0) config.groups = groups;
  } else {
    const std::string where = fmt::format("{}: metadata {}", source, kNetwork);
    const Json json = parse_json_object(described->second, where);
    for (const auto& [what, there] : {std::pair{"transition", config.transition},
                                      {"dim", config.dim},
                                      {"kernel_size", config.kernel_size}}) {
      SC_CHECK((field<std::int64_t>(json, what, where, 1) == there),
               "{} says {} {}, its tensors are of {}", where, what, in_words(json[what]), there);
    }
    SC_CHECK(json.contains("multipliers") && json["multipliers"] == Json(config.multipliers),
             "{}: its multipliers are not those of its tensors, {}", where,
             fmt::join(config.multipliers, ", "));
    config.steps = field<std::int64_t>(json, "steps", where, 1);
    config.groups = field<std::int64_t>(json, "groups", where, 1);
    config.samples_per_set = field<std::int64_t>(json, "samples_per_set", where, 1);
    const auto kind = field<std::string>(json, "norm", where);
    in_context(where, [&] { config.norm = norm_kind_from(kind); });
  }
  in_context(source, [&] { config.check(); });
  return config;
}

}  // namespace sidechannel
