#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "models/localizer.h"

namespace sidechannel {

// The network in a file that PyTorch's safetensors reads, with what it takes to rebuild it here.
void save_model(const std::filesystem::path& path, const Network& network);

// Reads such a file of a localizer of Equation (1); Error for a weight that is NaN or infinite.
// Without our metadata (a file from PyTorch) the shapes tell the depth, channels and kernel size;
// the normalization must then be given, and the padding where it is not of zeros.
Localizer load_model(const std::filesystem::path& path, const Device& device,
                     const std::string& norm = "", std::int64_t groups = 1,
                     std::int64_t samples_per_set = 1, Padding padding = Padding::kZeros);

// What the file of a network does not say of it, if it is from PyTorch.
struct ModelHints {
  std::string norm = "";    // empty: as load_model and unet_config_of have it
  std::int64_t groups = 0;  // 0: 1, or 8 of a temporal U-Net
  std::int64_t samples_per_set = 1;
  Padding padding = Padding::kZeros;
};
// A network of any kind that there is in models/, by what the file holds; in the given type.
std::unique_ptr<Network> load_network(const std::filesystem::path& path, const Device& device,
                                      DType dtype, const ModelHints& hints = {});

}  // namespace sidechannel
