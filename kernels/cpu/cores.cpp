#include "kernels/cpu/cores.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <sstream>
#include <thread>

namespace sidechannel::kernels {
namespace {

constexpr double kNoQuota = std::numeric_limits<double>::infinity();

int cores_by_affinity() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

// Whether a list "a,b,c" has the word.
bool lists(const std::string& list, const std::string& word) {
  return ("," + list + ",").find("," + word + ",") != std::string::npos;
}

// Of one group. "max" and -1 are no numbers of cores, nor is what is missing.
double quota_of(const std::string& folder, bool v2) {
  double quota = -1;
  double period = -1;
  if (v2) {
    std::ifstream(folder + "/cpu.max") >> quota >> period;
  } else {
    std::ifstream(folder + "/cpu.cfs_quota_us") >> quota;
    std::ifstream(folder + "/cpu.cfs_period_us") >> period;
  }
  return quota > 0 && period > 0 ? quota / period : kNoQuota;
}

// The group of this process in the hierarchy of v2, or of v1's controller "cpu"; empty for none.
std::string group_of(const std::string& root, bool v2) {
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {  // HIERARCHY:CONTROLLERS:PATH
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (v2 ? controllers.empty() : lists(controllers, "cpu")) return line.substr(second + 1);
  }
  return {};
}

double quota_in(const std::string& root, bool v2) {
  const std::string group = group_of(root, v2);
  if (group.empty()) return kNoQuota;
  std::ifstream mounts(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    // ID PARENT DEVICE ROOT PLACE OPTIONS [FIELDS] - TYPE SOURCE OPTIONS
    std::istringstream words(line);
    std::string skipped, top, place, word, type, options;
    words >> skipped >> skipped >> skipped >> top >> place;
    while (words >> word && word != "-") continue;
    words >> type >> skipped >> options;
    if (v2 ? type != "cgroup2" : type != "cgroup" || !lists(options, "cpu")) continue;
    // Of a container that sees only its own part, `top` is that part; where the process lies
    // outside of it, what is mounted is all that can be seen.
    std::string path = group;
    if (top != "/") {
      const bool within = path == top || path.starts_with(std::string(top).append("/"));
      path = within ? path.substr(top.size()) : "";
    }
    if (path.find("/..") != std::string::npos) path.clear();
    double quota = kNoQuota;
    for (;;) {
      while (path.ends_with('/')) path.pop_back();
      quota = std::min(quota, quota_of(std::string(root).append(place).append(path), v2));
      if (path.empty()) return quota;
      path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
    }
  }
  return kNoQuota;
}

}  // namespace

double cpu_quota(const std::string& root) {
  return std::min(quota_in(root, true), quota_in(root, false));
}

int usable_cores() {
  const auto cores = static_cast<double>(cores_by_affinity());
  return static_cast<int>(std::max(1.0, std::min(cores, std::floor(cpu_quota() + 0.5))));
}

}  // namespace sidechannel::kernels
