#pragma once

#include <fmt/format.h>

#include <cstdio>
#include <string>

namespace sidechannel {

// What programs tell people. Neither throws: a full disk, a closed descriptor or a reader that has
// gone costs the words, never the work. What stdout did not take, run_main notices at the end; what
// stderr did not take, nobody can be told.

template <class... T>
void say(fmt::format_string<T...> format, T&&... values) {
  const std::string text = fmt::format(format, std::forward<T>(values)...);
  std::fwrite(text.data(), 1, text.size(), stdout);
}

// To stderr, in one write.
template <class... T>
void note(fmt::format_string<T...> format, T&&... values) {
  const std::string text = fmt::format(format, std::forward<T>(values)...);
  std::fwrite(text.data(), 1, text.size(), stderr);
}

}  // namespace sidechannel
