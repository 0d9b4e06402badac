#include "experiments/run/beginning.h"

#include <boost/crc.hpp>
#include <cstdint>

#include "experiments/run/flags.h"
#include "models/model_file.h"

namespace sidechannel::experiments {

void add_from_flag(CLI::App& app, std::string& from) {
  add_text_flag(app, "--from", from, "FILE",
                "begin training with the weights of a model, .safetensors");
}

Json beginning_with(const std::string& from, Json settings) {
  if (from.empty()) return settings;
  const std::vector<std::byte> bytes = read_file(from, UINT64_MAX);
  boost::crc_32_type crc;
  crc.process_bytes(bytes.data(), bytes.size());
  settings[kFrom] = fmt::format("crc32 {:08x}", crc.checksum());
  return settings;
}

Json origin_of(const std::string& from) {
  return from.empty() ? Json::object() : Json::object({{kFrom, from}});
}

bool begins_with_a_file(const RunFolder& folder) {
  return folder.config().at("settings").contains(kFrom);
}

void begin(Network& network, const RunFolder& folder, const char* kept, const Network* given) {
  const std::filesystem::path path = folder.file(kept);
  if (begins_with_a_file(folder)) {
    SC_CHECK(given || folder.has(kept), "{} has no {} yet; run with --from once more",
             folder.path().string(), kept);
    SafetensorsFile file;
    if (folder.has(kept)) {
      file = read_safetensors(path);
    } else {
      given->parameters().save(file.tensors);
    }
    network.parameters().load(file.tensors, path.string());
  }
  if (!folder.has(kept)) save_model(path, network);
}

}  // namespace sidechannel::experiments
