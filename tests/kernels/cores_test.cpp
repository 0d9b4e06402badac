#include "kernels/cpu/cores.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <string>

#include "tests/harness/program.h"

namespace sidechannel::kernels {
namespace {

// A machine's files, below a folder.
class CpuQuota : public testing::Test {
 protected:
  void put(const std::string& path, const std::string& text) {
    const std::filesystem::path file = root_.path().string() + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  double quota() const { return cpu_quota(root_.path()); }

  harness::TemporaryFolder root_;
};

constexpr const char* kV2 =
    "22 1 0:20 / /proc rw - proc proc rw\n"
    "30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

TEST_F(CpuQuota, NoneWithoutControlGroups) {
  EXPECT_TRUE(std::isinf(quota()));
  put("/proc/self/mountinfo", "22 1 0:20 / /proc rw - proc proc rw\n");
  put("/proc/self/cgroup", "0::/user.slice\n");
  EXPECT_TRUE(std::isinf(quota()));
}

TEST_F(CpuQuota, TheSmallestOnTheWholePathCounts) {
  put("/proc/self/mountinfo", kV2);
  put("/proc/self/cgroup", "0::/user.slice/job/step\n");
  EXPECT_TRUE(std::isinf(quota()));
  put("/sys/fs/cgroup/user.slice/job/step/cpu.max", "max 100000\n");
  EXPECT_TRUE(std::isinf(quota()));
  put("/sys/fs/cgroup/user.slice/cpu.max", "300000 100000\n");
  EXPECT_EQ(quota(), 3);
  put("/sys/fs/cgroup/user.slice/job/cpu.max", "50000 100000\n");
  EXPECT_EQ(quota(), 0.5);
  put("/sys/fs/cgroup/user.slice/job/step/cpu.max", "400000 100000\n");
  EXPECT_EQ(quota(), 0.5);
}

TEST_F(CpuQuota, OfAContainerThatSeesItsOwnGroupAsTheRoot) {
  put("/proc/self/mountinfo", kV2);
  put("/proc/self/cgroup", "0::/\n");
  put("/sys/fs/cgroup/cpu.max", "150000 100000\n");
  EXPECT_EQ(quota(), 1.5);
  put("/proc/self/cgroup", "0::/../other\n");  // outside of what is mounted
  EXPECT_EQ(quota(), 1.5);
}

TEST_F(CpuQuota, OfVersion1BesideVersion2) {
  put("/proc/self/mountinfo",
      "31 22 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
      "32 22 0:28 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
      "33 22 0:29 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro master:9 - cgroup cgroup "
      "rw,cpu,cpuacct\n");
  put("/proc/self/cgroup", "5:cpuset:/docker/abc\n4:cpu,cpuacct:/docker/abc/in\n0::/docker/abc\n");
  put("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
  put("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  EXPECT_TRUE(std::isinf(quota()));
  put("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "200000\n");
  EXPECT_EQ(quota(), 2);
  put("/sys/fs/cgroup/cpu,cpuacct/in/cpu.cfs_quota_us", "120000\n");
  put("/sys/fs/cgroup/cpu,cpuacct/in/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(quota(), 1.2);
}

TEST(UsableCores, AreAtLeastOne) {
  EXPECT_GE(usable_cores(), 1);
  EXPECT_LE(usable_cores(), 4096);
}

}  // namespace
}  // namespace sidechannel::kernels
