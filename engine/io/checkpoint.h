#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "engine/io/safetensors.h"

namespace sidechannel {

// Takes a state, or throws an Error that begins with `source`, its file's name, where it is not one
// to continue from. What it took before that is taken anew from the next.
using TakeState = std::function<void(const SafetensorsFile& state, const std::string& source)>;

// Gives `take` the newest state under `path` that can be read and that it takes: the file itself,
// or the one that it replaced. False where neither exists; an Error that names both where there are
// files but none will do. `notice`, where given, is told in words when the older one had to serve.
bool load_checkpoint(const std::filesystem::path& path, const TakeState& take,
                     std::string* notice = nullptr);

// The newest state that can be read; nothing where there is none.
std::optional<SafetensorsFile> load_checkpoint(const std::filesystem::path& path);

// Replaces the state under `path` and keeps the one before. A failure leaves the old state in place
// and throws Error.
void save_checkpoint(const std::filesystem::path& path, const SafetensorsFile& state);

}  // namespace sidechannel
