#include "kernels/cpu/cores.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <thread>

#include "kernels/cpu/control_groups.h"

namespace sidechannel::kernels {
namespace {

constexpr double kNoQuota = std::numeric_limits<double>::infinity();

int cores_by_affinity() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

// "max" and -1 are no numbers of cores, nor is what is missing.
double quota_of(const ControlGroup& group) {
  double quota = -1;
  double period = -1;
  if (group.v2) {
    std::ifstream(group.folder + "/cpu.max") >> quota >> period;
  } else {
    std::ifstream(group.folder + "/cpu.cfs_quota_us") >> quota;
    std::ifstream(group.folder + "/cpu.cfs_period_us") >> period;
  }
  return quota > 0 && period > 0 ? quota / period : kNoQuota;
}

}  // namespace

double cpu_quota(const std::string& root) {
  double quota = kNoQuota;
  for (const ControlGroup& group : control_groups("cpu", root)) {
    quota = std::min(quota, quota_of(group));
  }
  return quota;
}

int usable_cores() {
  const auto cores = static_cast<double>(cores_by_affinity());
  return static_cast<int>(std::max(1.0, std::min(cores, std::floor(cpu_quota() + 0.5))));
}

}  // namespace sidechannel::kernels
