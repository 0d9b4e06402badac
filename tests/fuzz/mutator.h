#pragma once

#include <cstddef>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace sidechannel::fuzz {

using Bytes = std::vector<std::byte>;

// Edits of the kinds that find bugs in parsers: flips, cuts, repeats, long runs, and words of a
// format (numbers at the limits among them) in odd places, or in the place of a digit. The same
// seed makes the same edits.
class Mutator {
 public:
  // `words` are separated by spaces; a byte of `runs` is what runs are made of.
  Mutator(std::uint32_t seed, std::string_view words, std::string_view runs);

  // One to three edits.
  void edit(Bytes& bytes);

  std::size_t below(std::size_t limit) { return random_() % (limit > 0 ? limit : 1); }

 private:
  void edit_once(Bytes& bytes);

  std::mt19937 random_;
  std::vector<std::string> words_;
  std::string runs_;
};

}  // namespace sidechannel::fuzz
