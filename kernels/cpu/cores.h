#pragma once

#include <string>

namespace sidechannel::kernels {

// Cores that this process may use, at least 1: by its affinity, and by the CPU quotas of the
// control groups that it lies in, with a half rounded up. Threads beyond a quota would make each
// other wait: they spin until the next one is given its time.
int usable_cores();

// The smallest quota, in cores, of this process's control groups (v2 and v1); infinity for none.
// `root` stands before /proc and before the mount points, for tests.
double cpu_quota(const std::string& root = "");

}  // namespace sidechannel::kernels
