#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "engine/device.h"
#include "engine/io/json.h"
#include "models/localizer.h"
#include "models/temporal_unet.h"

namespace sidechannel::experiments {

// What takes memory in a phase of a run, in bytes.
struct MemoryPart {
  const char* what;    // "the activations of a training step"
  const char* lower;   // the flags that make it smaller
  double device = 0;   // written to
  double reserve = 0;  // set aside on the device beyond that, and not touched
  double host = 0;
};

// The memory of a run, known before it begins: its phases follow each other, each needs its parts
// at once. Counted are arrays; a program and its libraries come on top. The tests hold it to what
// runs really take: never less than they write, and at most kSlack times that.
using MemoryPhase = std::vector<MemoryPart>;
using MemoryNeed = std::vector<MemoryPhase>;

// A setting as a factor: what is multiplied here may be more than 64 bits hold.
inline double d(std::int64_t setting) {
  return static_cast<double>(setting);
}

// A temporal U-Net's parameters, and the numbers that a pass over a sequence of length l makes.
struct UnetSize {
  double parameters = 0;
  double activations = 0;
};
UnetSize unet_size(const TemporalUnetConfig& config, double l);

// What a network's pass over `batch` sequences of length l makes: its activations, its input
// counted, and where `gradients` come, those that lie beside them at a time.
double activations(const LocalizerConfig& network, double batch, double l, bool gradients);
double activations(const TemporalUnetConfig& network, double batch, double l, bool gradients);

double parameters_of(const LocalizerConfig& network);
// Parameters of a stack of `depth` convolutions from one channel over h to one, with kernels of k
// and `norm` parameters a channel between them.
double stack_parameters(double depth, double h, double k, double norm);

// Parts that many needs have, of numbers in f32.
//
// Parameters that Adam trains: values, gradients, both moments. A checkpoint holds all but the
// gradients on the host: as arrays, as a file's data, and as the file.
MemoryPart trained_parameters(const char* what, const char* lower, double count);
// Parameters that stay as they are; their gradients lie beside them all the same.
MemoryPart kept_parameters(const char* what, const char* lower, double count);
// Arenas double: what a step uses is written to, up to as much again set aside.
MemoryPart arena_memory(const char* what, const char* lower, double floats);

// What `at_once` of these need at their peak: device and host memory that is written to, and that
// is set aside.
struct MemoryPeak {
  double device = 0;
  double reserved = 0;  // device, with what is only set aside
  double host = 0;
  const MemoryPart* largest = nullptr;  // of the phase that needs most
};
MemoryPeak peak_of(const MemoryNeed& need);

// A bound on the memory that this process may still take.
struct MemoryLimit {
  double bytes;
  std::string whose;     // "this machine has"
  bool counts_reserved;  // whether it counts memory that is not touched
};
// Of the machine (MemAvailable), the control groups that this process lies in (v1 and v2) and
// `ulimit -v`. `root` is where /proc and /sys are found.
std::vector<MemoryLimit> memory_limits(const std::filesystem::path& root = "/");

// Error in one line where the memory of `need`, `at_once` of them, is not there: what is needed,
// what there is, and which flags to lower. Keeps the flags for memory_hint().
void require_memory(const MemoryNeed& need, const Device& device, std::int64_t at_once = 1);

// What --check says: about how much memory is needed, in words and in bytes ("host", "gpu").
// OutOfMemory where this machine, a GPU apart, has not got it.
struct CheckedMemory {
  std::string words;
  Json bytes;
};
CheckedMemory checked_memory(const MemoryNeed& need, bool on_gpu, std::int64_t at_once = 1);

// What to say when memory runs out all the same.
std::string memory_hint();

}  // namespace sidechannel::experiments
