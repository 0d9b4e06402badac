#include "engine/say.h"

#include <fcntl.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace sidechannel {
namespace {

unsigned char byte_at(std::string_view text, std::size_t at) {
  return static_cast<unsigned char>(text[at]);
}

// The bytes of the character that `text` begins with, and its number; no bytes where it is not
// UTF-8 (cut short, longer than need be, a surrogate, beyond U+10FFFF).
struct Character {
  explicit Character(std::string_view text) {
    const unsigned char first = byte_at(text, 0);
    const std::size_t size = first < 0x80 ? 1 : first >> 5 == 6 ? 2 : first >> 4 == 14 ? 3 : 4;
    if (size > text.size() || (size == 4 && first >> 3 != 30)) return;
    static constexpr std::uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
    std::uint32_t code = size == 1 ? first : first & (0x7fu >> size);
    for (std::size_t i = 1; i < size; ++i) {
      if (byte_at(text, i) >> 6 != 2) return;
      code = code << 6 | (byte_at(text, i) & 0x3fu);
    }
    if (code < kLeast[size] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return;
    bytes = size;
    number = code;
  }

  bool plain() const {
    const bool control = number < 0x20 || (number >= 0x7f && number < 0xa0);
    const bool separator = number == 0x2028 || number == 0x2029;
    // Embeddings, overrides and isolates of the text's direction: what follows one may be shown
    // backwards, and so as another name.
    const bool direction =
        (number >= 0x202a && number <= 0x202e) || (number >= 0x2066 && number <= 0x2069);
    return bytes > 0 && !control && !separator && !direction;
  }

  std::size_t bytes = 0;
  std::uint32_t number = 0;
};

thread_local std::FILE* spoken_into = nullptr;

}  // namespace

SpeaksInto::SpeaksInto(const std::filesystem::path& file) : before_(spoken_into) {
  const int descriptor =
      ::open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK, 0666);
  std::FILE* const opened = descriptor < 0 ? nullptr : ::fdopen(descriptor, "a");
  if (opened == nullptr) return;
  std::setvbuf(opened, nullptr, _IONBF, 0);  // a line is one write
  spoken_into = opened;
}

SpeaksInto::~SpeaksInto() {
  if (spoken_into != before_) std::fclose(spoken_into);
  spoken_into = before_;
}

void tell(std::FILE* stream, const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), spoken_into != nullptr ? spoken_into : stream);
}

std::string one_line(std::string_view text) {
  std::string line;
  while (!text.empty()) {
    const Character character(text);
    const std::string_view bytes = text.substr(0, std::max<std::size_t>(character.bytes, 1));
    if (character.plain()) {
      line += bytes;
    } else {
      for (std::size_t i = 0; i < bytes.size(); ++i) {
        line += fmt::format("\\x{:02x}", byte_at(bytes, i));
      }
    }
    text.remove_prefix(bytes.size());
  }
  return line;
}

}  // namespace sidechannel
