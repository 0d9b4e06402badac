#pragma once

#include <map>
#include <string>

#include "engine/io/safetensors.h"
#include "models/temporal_unet.h"

namespace sidechannel {

// The temporal U-Net in files: our own, which say all of it, and those of PyTorch with the names of
// jannerm/diffuser (also those of its first version, whose levels have no place for attention) or
// of diffusers' UNet1DModel, of which shapes tell the levels.

// As the networks of models/ are saved (see save_model).
SafetensorsFile unet_file(const TemporalUnet& network);

// Its first convolution, [dim, transition, k].
inline constexpr const char* kUnetFirst = "downs.0.0.blocks.0.block.0.weight";

// Whether tensors of these names are one's.
bool is_unet(const std::map<std::string, Shape>& shapes);

// The names of jannerm/diffuser for those of the file, where it has other ones.
SafetensorsFile with_unet_names(SafetensorsFile file);

// What a file says of the network. `norm` and `groups` are for one that does not say them: group
// norm of eight groups where they are empty and 0. Error where the file contradicts itself;
// UsageError where it is of no such network.
TemporalUnetConfig unet_config_of(const SafetensorsFile& file, const std::string& source,
                                  const std::string& norm, std::int64_t groups);

}  // namespace sidechannel
