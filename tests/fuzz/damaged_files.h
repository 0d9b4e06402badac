#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sidechannel::fuzz {

// What became of damaged files.
struct Outcome {
  std::int64_t refused = 0;
  std::int64_t taken = 0;           // damage that says nothing wrong, or another file served
  double slowest = 0;               // seconds of processor time for one file
  std::vector<std::string> faults;  // whatever else happened than a refusal in one line in 2 s
};

// Damages files that the programs have written (checkpoints, models, probes, maps, configurations,
// presets, plans, summaries, results, arrays) and has the programs' readers read them, `count`
// times: bytes changed at random, and, so that damage gets past a checksum and a parser, fields
// changed in what was read, the rest written as it was. The same seed damages the same way.
Outcome damage_files(std::int64_t count, std::uint32_t seed);

}  // namespace sidechannel::fuzz
