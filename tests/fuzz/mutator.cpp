#include "tests/fuzz/mutator.h"

#include <algorithm>
#include <iterator>
#include <sstream>

namespace sidechannel::fuzz {

Mutator::Mutator(std::uint32_t seed, std::string_view words, std::string_view runs)
    : random_(seed), runs_(runs) {
  std::istringstream text{std::string(words)};
  words_.assign(std::istream_iterator<std::string>(text), {});
}

void Mutator::edit(Bytes& bytes) {
  for (std::size_t edits = 1 + below(3); edits > 0; --edits) edit_once(bytes);
}

void Mutator::edit_once(Bytes& bytes) {
  const auto at = bytes.begin() + static_cast<std::ptrdiff_t>(below(bytes.size() + 1));
  const auto some = std::min(static_cast<std::ptrdiff_t>(below(16)), bytes.end() - at);
  switch (below(8)) {
    case 0:
      if (at != bytes.end()) *at ^= std::byte(1 << below(8));
      break;
    case 1:
      if (at != bytes.end()) *at = std::byte(below(256));
      break;
    case 2:
      bytes.erase(at, at + some);
      break;
    case 3: {
      const Bytes copy(at, at + some);
      const auto place = static_cast<std::ptrdiff_t>(below(bytes.size() + 1));
      bytes.insert(bytes.begin() + place, copy.begin(), copy.end());
      break;
    }
    case 4:
      bytes.insert(at, 1 + below(1000), static_cast<std::byte>(runs_[below(runs_.size())]));
      break;
    default: {
      const std::string& word = words_[below(words_.size())];
      const auto digit = std::find_if(
          at, bytes.end(), [](std::byte b) { return b >= std::byte{'0'} && b <= std::byte{'9'}; });
      const bool replace = digit != bytes.end() && below(2) == 0;
      const auto place = replace ? bytes.erase(digit) : at;
      const auto* const begin = reinterpret_cast<const std::byte*>(word.data());
      bytes.insert(place, begin, begin + word.size());
    }
  }
}

}  // namespace sidechannel::fuzz
