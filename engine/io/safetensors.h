#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/io/file.h"
#include "engine/io/tensor_map.h"

namespace sidechannel {

// The format of https://github.com/huggingface/safetensors: the header's length (8 bytes, little-
// endian), a JSON header, the tensors' bytes. Files written here load in Python's safetensors.
//
// Types: F32 F64 I32 I64 U8 BOOL. The writer adds the CRC-32 of the tensors' bytes as the metadata
// entry "sidechannel.crc32" (8 hex digits); the reader verifies it where there is one and drops it.
struct SafetensorsFile {
  TensorMap tensors;
  std::map<std::string, std::string> metadata;
};

// What the header says, before the tensors are read.
struct SafetensorsHeader {
  std::map<std::string, Shape> shapes;
  std::map<std::string, std::string> metadata;
};

// Throws Error, one line that begins with the file's name, on anything but a well-formed file. The
// header is refused before anything else is read, by `look`, too, where it throws; and never more
// is allocated than a small multiple of the file's own size.
SafetensorsFile read_safetensors(const std::filesystem::path& path,
                                 const std::function<void(const SafetensorsHeader&)>& look = {});
SafetensorsFile parse_safetensors(std::span<const std::byte> bytes, std::string_view name);

// The same content always gives the same bytes. Throws Error on an array whose bytes do not fill
// its shape, on the reserved name "__metadata__", and on text that is not UTF-8.
std::vector<std::byte> serialize_safetensors(const SafetensorsFile& file);
void write_safetensors(const std::filesystem::path& path, const SafetensorsFile& file,
                       KeepPrevious keep = KeepPrevious::kNo);

}  // namespace sidechannel
