#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

#include "engine/host_array.h"

namespace sidechannel {

// NumPy's .npy format (numpy.lib.format): reads versions 1.0, 2.0 and 3.0, writes 1.0, which
// np.load reads. Types: <f4 <f8 <i4 <i8 |u1 |b1, in C order.

// Throws Error, one line that begins with the file's name, on anything but a well-formed file of
// exactly the announced length.
HostArray read_npy(const std::filesystem::path& path);
HostArray parse_npy(std::span<const std::byte> bytes, std::string_view name);

// The same array always gives the same bytes. Throws Error when its bytes do not fill its shape.
std::vector<std::byte> serialize_npy(const HostArray& array);
void write_npy(const std::filesystem::path& path, const HostArray& array);

}  // namespace sidechannel
