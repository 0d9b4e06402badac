#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "engine/safetensors.h"

namespace sidechannel {

// The newest readable state under `path`: the file itself, or the one that it replaced when it does
// not read; nothing where neither exists. Error when there are files but none reads.
// `notice`, where given, is told in words when the older one had to serve.
std::optional<SafetensorsFile> load_checkpoint(const std::filesystem::path& path,
                                               std::string* notice = nullptr);

// Replaces the state under `path` and keeps the one before. A failure leaves the old state in place
// and throws Error.
void save_checkpoint(const std::filesystem::path& path, const SafetensorsFile& state);

}  // namespace sidechannel
