// fuzz_files COUNT [SEED]: damages that many files and has the programs' readers read them; exit
// code 1 where one did anything else than refuse in a line and in time.

#include <fmt/format.h>

#include <cstdlib>
#include <string>

#include "tests/fuzz/damaged_files.h"

int main(int argc, char** argv) {
  const std::int64_t count = argc > 1 ? std::atoll(argv[1]) : 50'000;
  const auto seed = static_cast<std::uint32_t>(argc > 2 ? std::atoll(argv[2]) : 1);
  const sidechannel::fuzz::Outcome outcome = sidechannel::fuzz::damage_files(count, seed);
  fmt::print("{} files: {} refused, {} taken, {} faults; the slowest took {:.3f} s\n", count,
             outcome.refused, outcome.taken, outcome.faults.size(), outcome.slowest);
  for (const std::string& fault : outcome.faults) fmt::print("  {}\n", fault);
  return outcome.faults.empty() ? 0 : 1;
}
