// The programs' own ways through a command line, in one process, up to where a run would begin:
// settings_fuzz COUNT [SEED]. Nothing may crash, take more than two seconds or allocate more than a
// gigabyte; what is refused is refused in one line.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <thread>

#include "tests/fuzz/settings_cases.h"

int localization_main(int argc, char** argv);
int overlap_main(int argc, char** argv);
int sweep_main(int argc, char** argv);
int leak_main(int argc, char** argv);
int diffusion_main(int argc, char** argv);

namespace sidechannel::fuzz {
namespace {

constexpr double kMostSeconds = 2;

using Clock = std::chrono::steady_clock;

// What goes to a descriptor while this lives.
class Captured {
 public:
  explicit Captured(int descriptor)
      : descriptor_(descriptor), saved_(dup(descriptor)), file_(memfd_create("captured", 0)) {
    dup2(file_, descriptor);
  }
  ~Captured() { restore(); }
  Captured(const Captured&) = delete;
  Captured& operator=(const Captured&) = delete;

  std::string text() {
    std::fflush(descriptor_ == STDOUT_FILENO ? stdout : stderr);
    std::string text(static_cast<std::size_t>(lseek(file_, 0, SEEK_END)), '\0');
    if (pread(file_, text.data(), text.size(), 0) < 0) text = "?";
    restore();
    return text;
  }

 private:
  void restore() {
    if (saved_ < 0) return;
    dup2(saved_, descriptor_);
    close(saved_);
    close(file_);
    saved_ = -1;
  }
  int descriptor_;
  int saved_;
  int file_;
};

// Why this is not how a program may answer; empty where it is.
std::string objection(const std::string& program, int code, const std::string& out,
                      const std::string& err, double seconds) {
  if (seconds > kMostSeconds) return "it took too long";
  if (code != 0 && code != 1 && code != 2) return "exit code " + std::to_string(code);
  if (code == 0) return out.empty() ? "no word" : err.empty() ? "" : "a word on stderr: " + err;
  if (!out.empty()) return "output beside an error";
  const bool one_line = err.starts_with(program + ": ") && err.find('\n') == err.size() - 1;
  return one_line ? "" : "not one line: " + err;
}

int run(std::int64_t count, std::uint64_t seed) {
  const std::map<std::string, int (*)(int, char**)> mains = {{"localization", localization_main},
                                                             {"overlap", overlap_main},
                                                             {"sweep", sweep_main},
                                                             {"leak", leak_main},
                                                             {"diffusion", diffusion_main}};
  const harness::TemporaryFolder folder;
  Cases cases(seed, folder / "preset.json");
  std::map<int, std::int64_t> codes;
  std::int64_t bad = 0;
  double slowest = 0;

  // A hang would never come back to be timed.
  std::atomic<std::int64_t> at = 0;
  std::atomic<bool> done = false;
  const int terminal = dup(STDERR_FILENO);
  std::thread watchdog([&] {
    constexpr int kPeriod = 20;  // seconds
    for (std::int64_t last = -1; !done;) {
      for (int i = 0; i < 10 * kPeriod && !done; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
      }
      if (!done && at == last) {
        dprintf(terminal, "case %ld hangs\n", static_cast<long>(last));
        std::abort();
      }
      last = at;
    }
  });
  for (std::int64_t i = 0; i < count; ++i) {
    at = i;
    const Case next = cases.next();
    std::vector<std::string> words = next.arguments;
    words.insert(words.begin(), next.program);
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    Captured out(STDOUT_FILENO);
    Captured err(STDERR_FILENO);
    const Clock::time_point start = Clock::now();
    const int code = mains.at(next.program)(static_cast<int>(words.size()), argv.data());
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    const std::string err_text = err.text();
    const std::string why = objection(next.program, code, out.text(), err_text, seconds);
    slowest = std::max(slowest, seconds);
    ++codes[code];
    if (!why.empty() && ++bad <= 20) {
      std::fprintf(stderr, "case %ld: %s: %s\n", static_cast<long>(i), next.str().c_str(),
                   why.c_str());
    }
  }
  done = true;
  watchdog.join();
  std::printf(
      "settings fuzz: %ld command lines, seed %lu: %ld bad; exit 0: %ld, 1: %ld, 2: %ld; the "
      "slowest took %.3f s\n",
      static_cast<long>(count), static_cast<unsigned long>(seed), static_cast<long>(bad),
      static_cast<long>(codes[0]), static_cast<long>(codes[1]), static_cast<long>(codes[2]),
      slowest);
  return bad == 0 ? 0 : 1;
}

}  // namespace
}  // namespace sidechannel::fuzz

int main(int argc, char** argv) {
  const auto number = [&](int i, const char* otherwise) {
    return std::stoll(argc > i ? argv[i] : otherwise);
  };
  return sidechannel::fuzz::run(number(1, "3000"), static_cast<std::uint64_t>(number(2, "1")));
}
