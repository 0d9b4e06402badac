#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

#include "engine/io/host_array.h"

namespace sidechannel {

// NumPy's .npy format (numpy.lib.format): reads versions 1.0, 2.0 and 3.0, writes 1.0, which
// np.load reads.
//
// Reads what np.save makes of numbers, in C and in Fortran order, of both byte orders: f4, f8, i4,
// i8, u1 and b1 as they are; i1, i2 and u2 as i32, u4 as i64, f2 as f32, and u8 as f64 (exact up to
// 2^53, rounded beyond). Arrays come in C order and have at most Shape::kMaxRank axes. Writes <f4
// <f8 <i4 <i8 |u1 |b1 in C order.

// What read_npy will return.
struct NpyHeader {
  DType dtype;
  Shape shape;
};

// These throw Error, one line that begins with the file's name, on anything but a well-formed file
// of exactly the announced length. The header is refused before anything else is read.
NpyHeader npy_header(const std::filesystem::path& path);  // reads no more than that
HostArray read_npy(const std::filesystem::path& path);
HostArray parse_npy(std::span<const std::byte> bytes, std::string_view name);

// The same values as f32 or f64, rounded; what is beyond f32 becomes infinite.
HostArray converted(const HostArray& array, DType to);

// The same array always gives the same bytes. Throws Error when its bytes do not fill its shape.
std::vector<std::byte> serialize_npy(const HostArray& array);
void write_npy(const std::filesystem::path& path, const HostArray& array);

}  // namespace sidechannel
