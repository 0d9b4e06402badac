#include "experiments/run/build_info.h"

#include <fmt/format.h>

#include <fstream>
#include <thread>

#include "experiments/git_commit.h"

namespace sidechannel::experiments {

BuildInfo build_info() {
  return {SIDECHANNEL_VERSION, SIDECHANNEL_GIT_COMMIT, SIDECHANNEL_GIT_MODIFIED,
          SIDECHANNEL_COMPILER, SIDECHANNEL_FLAGS};
}

std::string missing_cpu_features() {
#if defined(__x86_64__)
  std::string missing;
  [[maybe_unused]] const auto need = [&](bool present, const char* name) {
    if (!present) missing += fmt::format("{}{}", missing.empty() ? "" : ", ", name);
  };
  __builtin_cpu_init();
#if defined(__AVX2__)
  need(__builtin_cpu_supports("avx2"), "AVX2");
#endif
#if defined(__FMA__)
  need(__builtin_cpu_supports("fma"), "FMA");
#endif
#if defined(__AVX512F__)
  need(__builtin_cpu_supports("avx512f"), "AVX-512F");
#endif
#if defined(__AVX512BW__)
  need(__builtin_cpu_supports("avx512bw"), "AVX-512BW");
#endif
#if defined(__AVX512VL__)
  need(__builtin_cpu_supports("avx512vl"), "AVX-512VL");
#endif
  return missing;
#else
  return {};
#endif
}

std::string cpu_description() {
  std::ifstream info("/proc/cpuinfo");
  std::string name = "unknown CPU";
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) {
      name = line.substr(line.find(':') + 2);
      break;
    }
  }
  return fmt::format("{}, {} cores", name, std::thread::hardware_concurrency());
}

}  // namespace sidechannel::experiments
