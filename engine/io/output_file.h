#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace sidechannel {

// Writes a whole file to a name that a user gave, respecting what stands there:
//
// - "-", /dev/stdout, /dev/fd/N: into that descriptor, wherever it stands. Devices and pipes:
//   into them.
// - Symbolic links are followed, those that lead nowhere yet too.
// - A file is replaced in one step (write, fsync, rename), so that the old or the new content
// stands
//   there whole through a kill or a power cut, and keeps its mode, owner, access list and extended
//   attributes. Writers of one name at the same time do not disturb each other: the last one wins.
// - Where a new file cannot take the old one's place (it has other hard links, an owner that only
//   root could give it again, a folder that may not be written, something mounted on it), the old
//   one is overwritten, and stderr says so: that is not one step.
// - A file that may not be written is not replaced.
//
// Folders on the way are made. Throws FileError, "cannot write NAME: reason".
void write_output(const std::filesystem::path& name, std::span<const std::byte> bytes);

}  // namespace sidechannel
