#pragma once

#include <fmt/format.h>

#include <atomic>
#include <cstdio>
#include <filesystem>
#include <string>
#include <string_view>
#include <type_traits>

namespace sidechannel {

// `text` as it may stand in a line: control characters, line separators, controls of the text's
// direction and bytes that are not UTF-8 become \xNN, byte by byte. For names, which come from
// files and from the command line: a newline in one does not make two lines of a message, and none
// of them moves a terminal's cursor or turns what follows around.
std::string one_line(std::string_view text);

template <class T>
decltype(auto) as_shown(const T& value) {
  if constexpr (std::is_convertible_v<const T&, std::string_view>) {
    return one_line(value);
  } else {
    return (value);
  }
}

// The format with its values, texts among them through one_line.
template <class... T>
std::string in_lines(fmt::format_string<T...> format, const T&... values) {
  const auto vformat = [&](const auto&... shown) {
    return fmt::vformat(fmt::string_view(format), fmt::make_format_args(shown...));
  };
  return vformat(as_shown(values)...);
}

// While one lives, what its thread says and notes is added to a file instead: for threads that each
// work on something else. Where it cannot be opened, the words go where they went before.
class SpeaksInto {
 public:
  explicit SpeaksInto(const std::filesystem::path& file);
  ~SpeaksInto();
  SpeaksInto(const SpeaksInto&) = delete;
  SpeaksInto& operator=(const SpeaksInto&) = delete;

 private:
  std::FILE* before_;
};

// Writes to the thread's file, or else to `stream`.
void tell(std::FILE* stream, const std::string& text);

// What programs tell people. None of these throws: a full disk, a closed descriptor or a reader
// that has gone costs the words, never the work. What stdout did not take, run_main notices at the
// end; what stderr did not take, nobody can be told.

template <class... T>
void say(fmt::format_string<T...> format, T&&... values) {
  tell(stdout, in_lines<T...>(format, values...));
}

// What went wrong: to stderr, in one write.
template <class... T>
void complain(fmt::format_string<T...> format, T&&... values) {
  tell(stderr, in_lines<T...>(format, values...));
}

// Progress and notices: to stderr, too, but where nobody wants to hear them (--quiet).
inline std::atomic<bool> notes_are_heard = true;
template <class... T>
void note(fmt::format_string<T...> format, T&&... values) {
  if (notes_are_heard) tell(stderr, in_lines<T...>(format, values...));
}

}  // namespace sidechannel
