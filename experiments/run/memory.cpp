#include "experiments/run/memory.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <sstream>

#include "engine/io/file.h"
#include "experiments/run/domain.h"
#include "kernels/cpu/control_groups.h"

namespace sidechannel::experiments {
namespace {

namespace fs = std::filesystem;

constexpr double kFloat = 4;
constexpr double kPool = 1 << 20;      // the smallest block of an arena
constexpr double kProgram = 32 << 20;  // code, libraries, threads' stacks

// The number that follows `name` at the beginning of a line; of the whole text for "".
std::optional<double> number_in(const std::string& text, const std::string& name) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(name)) continue;
    std::istringstream words(line.substr(name.size()));
    std::string word;
    words >> word;
    if (const auto number = real_number(word)) return *number;
  }
  return std::nullopt;
}

// What a control group may still take; nothing where it has no limit.
std::optional<MemoryLimit> limit_of(const kernels::ControlGroup& group) {
  const auto read = [&](const char* file, const char* name) {
    return number_in(text_at(fs::path(group.folder) / file), name);
  };
  // "max" is no number.
  const auto limit = read(group.v2 ? "memory.max" : "memory.limit_in_bytes", "");
  const auto used = read(group.v2 ? "memory.current" : "memory.usage_in_bytes", "");
  if (!limit || !used) return std::nullopt;
  // What the kernel gives back before it refuses anything.
  const auto cache = read("memory.stat", group.v2 ? "inactive_file " : "total_inactive_file ");
  return MemoryLimit{std::max(0.0, *limit - *used + cache.value_or(0)), "its control group has",
                     false};
}

double size_of(const MemoryPart& part) {
  return part.device + part.reserve + part.host;
}

thread_local std::string hint = "close other programs";

// What `at_once` of a need come to, held against what there is.
class Demand {
 public:
  Demand(const MemoryNeed& need, std::int64_t at_once) : peak_(peak_of(need)) {
    for (double* bytes : {&peak_.device, &peak_.reserved, &peak_.host}) {
      *bytes *= static_cast<double>(at_once);
    }
    hint = fmt::format("lower {}{}", at_once > 1 ? "--jobs, " : "", peak_.largest->lower);
  }

  void require_on_gpu(double there, const std::string& gpu) const {
    if (peak_.reserved > there) refuse(peak_.reserved, gpu + " has", there);
  }

  void require_on_host(bool on_gpu) const {
    for (const MemoryLimit& limit : memory_limits()) {
      const double device = limit.counts_reserved ? peak_.reserved : peak_.device;
      const double needed = kProgram + peak_.host + (on_gpu ? 0 : device);
      if (needed > limit.bytes) refuse(needed, limit.whose, limit.bytes);
    }
  }

  CheckedMemory checked(bool on_gpu) const {
    const double host = kProgram + peak_.host + (on_gpu ? 0 : peak_.device);
    const double gpu = on_gpu ? peak_.reserved : 0;
    const auto whole = [](double bytes) {  // what is beyond 64 bits is no machine's
      return static_cast<std::int64_t>(std::min(bytes, 9e18));
    };
    return {fmt::format("the settings make sense; about {} of memory{}", bytes_text(host),
                        on_gpu ? fmt::format(", and {} on the GPU", bytes_text(gpu)) : ""),
            {{"host", whole(host)}, {"gpu", whole(gpu)}}};
  }

 private:
  [[noreturn]] void refuse(double needed, const std::string& whose, double there) const {
    throw OutOfMemory(fmt::format("this needs about {} of memory, most of it for {}, and {} {}",
                                  bytes_text(needed), peak_.largest->what, whose,
                                  bytes_text(there)));
  }

  MemoryPeak peak_;
};

}  // namespace

UnetSize unet_size(const TemporalUnetConfig& config, double l) {
  UnetSize size;
  const double k = d(config.kernel_size), dim = d(config.dim);
  const auto conv = [&](double in, double out, double taps, double length) {
    size.parameters += in * out * taps + out;
    size.activations += length * out;
  };
  // A convolution, a norm where there is one, and Mish.
  const auto conv_block = [&](std::int64_t in, std::int64_t out, double length) {
    conv(d(in), d(out), k, length);
    size.activations += length * d(out);
    if (config.norm == NormKind::kNone) return;
    size.parameters += (config.has_population_statistics() ? 4 : 2) * d(out);
    const bool by_position = config.norm_options(out).positions_per_set != 0;
    size.activations += 3 * d(out) * (by_position ? length : 1);
  };
  const auto residual_block = [&](std::int64_t in, std::int64_t out, double length) {
    conv_block(in, out, length);
    conv_block(out, out, length);
    conv(dim, d(out), 1, 1);                  // the time
    size.activations += 2 * length * d(out);  // two sums
    if (in != out) conv(d(in), d(out), 1, length);
  };
  conv(dim, 4 * dim, 1, 1);
  conv(4 * dim, dim, 1, 1);
  std::int64_t before = config.transition;
  double length = l;
  for (std::int64_t level = 0; level < config.levels(); ++level) {
    const std::int64_t channels = config.channels(level);
    residual_block(before, channels, length);
    residual_block(channels, channels, length);
    before = channels;
    if (level + 1 == config.levels()) continue;
    length /= 2;
    conv(d(channels), d(channels), 3, length);
  }
  for (int i = 0; i < 2; ++i) residual_block(before, before, length);
  for (std::int64_t level = config.levels() - 2; level >= 0; --level) {
    const std::int64_t channels = config.channels(level);
    size.activations += 2 * length * d(before);  // both, side by side
    residual_block(2 * before, channels, length);
    residual_block(channels, channels, length);
    length *= 2;
    conv(d(channels), d(channels), 4, length);
    before = channels;
  }
  conv_block(config.dim, config.dim, length);
  conv(dim, d(config.transition), 1, length);
  return size;
}

// What convolutions and norms make, three statistics of each set; of gradients, three of a layer's.
double activations(const LocalizerConfig& network, double batch, double l, bool gradients) {
  const double h = d(network.channels), layers = d(network.depth) - 2;
  const std::int64_t positions = network.norm_options().positions_per_set;
  const double sets = positions == 0 ? 1 : l / d(positions);
  // What circular convolutions read lies there once more, and is longer.
  const bool circular = network.padding == Padding::kCircular && network.kernel_size > 1;
  const double padded = circular ? batch * (l + 2 * d(network.kernel_size / 2)) : 0;
  return batch * l * (2 + h * (1 + 2 * layers) + (gradients ? 3 * h : 0)) +
         padded * (1 + h * (1 + layers) + (gradients ? h : 0)) + 3 * batch * sets * h * layers;
}

// Gradients lie beside all activations, as the skips wait for theirs.
double activations(const TemporalUnetConfig& network, double batch, double l, bool gradients) {
  const double of_one = unet_size(network, l).activations;
  return batch * (2 * l * d(network.transition) + of_one * (gradients ? 2 : 1));
}

double parameters_of(const LocalizerConfig& network) {
  const double norm = network.norm == NormKind::kNone       ? 0
                      : network.has_population_statistics() ? 4
                                                            : 2;
  return stack_parameters(d(network.depth), d(network.channels), d(network.kernel_size), norm);
}

double stack_parameters(double depth, double h, double k, double norm) {
  return (k * h + h) + (depth - 2) * (k * h * h + h + norm * h) + (k * h + 1);
}

MemoryPart trained_parameters(const char* what, const char* lower, double count) {
  return {what, lower, 4 * kFloat * count, 0, 3 * 3 * kFloat * count};
}

MemoryPart kept_parameters(const char* what, const char* lower, double count) {
  return {what, lower, 2 * kFloat * count, 0, 3 * kFloat * count};
}

MemoryPart arena_memory(const char* what, const char* lower, double floats) {
  return {what, lower, kFloat * floats, kFloat * floats + kPool, 0};
}

MemoryPeak peak_of(const MemoryNeed& need) {
  MemoryPeak peak;
  double most = -1;
  for (const MemoryPhase& phase : need) {
    MemoryPeak sum;
    const MemoryPart* largest = nullptr;
    for (const MemoryPart& part : phase) {
      sum.device += part.device;
      sum.reserved += part.device + part.reserve;
      sum.host += part.host;
      if (largest == nullptr || size_of(part) > size_of(*largest)) largest = &part;
    }
    peak.device = std::max(peak.device, sum.device);
    peak.reserved = std::max(peak.reserved, sum.reserved);
    peak.host = std::max(peak.host, sum.host);
    if (sum.reserved + sum.host > most) {
      most = sum.reserved + sum.host;
      peak.largest = largest;
    }
  }
  return peak;
}

std::vector<MemoryLimit> memory_limits(const fs::path& root) {
  std::vector<MemoryLimit> limits;
  if (const auto kib = number_in(text_at(root / "proc/meminfo"), "MemAvailable:")) {
    limits.push_back({*kib * 1024, "this machine has", false});
  }
  const std::string before = root == "/" ? "" : root.string();
  for (const kernels::ControlGroup& group : kernels::control_groups("memory", before)) {
    if (const auto limit = limit_of(group)) limits.push_back(*limit);
  }
  rlimit address_space = {};
  if (getrlimit(RLIMIT_AS, &address_space) == 0 && address_space.rlim_cur != RLIM_INFINITY) {
    const double used = number_in(text_at(root / "proc/self/statm"), "").value_or(0) *
                        static_cast<double>(sysconf(_SC_PAGESIZE));
    limits.push_back({std::max(0.0, static_cast<double>(address_space.rlim_cur) - used),
                      "the limit on address space (ulimit -v) leaves", true});
  }
  return limits;
}

CheckedMemory checked_memory(const MemoryNeed& need, bool on_gpu, std::int64_t at_once) {
  const Demand demand(need, at_once);
  demand.require_on_host(on_gpu);
  return demand.checked(on_gpu);
}

void require_memory(const MemoryNeed& need, const Device& device, std::int64_t at_once) {
  const Demand demand(need, at_once);
  const auto on_gpu = device.free_memory();
  if (on_gpu) demand.require_on_gpu(static_cast<double>(*on_gpu), device.description());
  demand.require_on_host(on_gpu.has_value());
}

std::string memory_hint() {
  return hint;
}

}  // namespace sidechannel::experiments
