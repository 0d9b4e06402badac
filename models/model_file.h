#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "models/localizer.h"

namespace sidechannel {

// The network in a file that PyTorch's safetensors reads, with what it takes to rebuild it here.
void save_model(const std::filesystem::path& path, const Localizer& network);

// Reads such a file of a localizer of Equation (1); Error for a weight that is NaN or infinite.
// Without our metadata (a file from PyTorch) the shapes tell the depth, channels and kernel size;
// the normalization must then be given, and the padding where it is not of zeros.
Localizer load_model(const std::filesystem::path& path, const Device& device,
                     const std::string& norm = "", std::int64_t groups = 1,
                     std::int64_t samples_per_set = 1, Padding padding = Padding::kZeros);

}  // namespace sidechannel
