#include "kernels/queue.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <numeric>
#include <thread>
#include <vector>

namespace sidechannel::kernels {
namespace {

struct Range {
  std::int64_t begin, end;
  std::thread::id thread;
};

std::vector<Range> ranges_of(CpuQueue& queue, std::int64_t count, std::int64_t grain) {
  std::mutex mutex;
  std::vector<Range> ranges;
  queue.parallel_for(count, grain, [&](std::int64_t begin, std::int64_t end) {
    const std::lock_guard lock(mutex);
    ranges.push_back({begin, end, std::this_thread::get_id()});
  });
  return ranges;
}

TEST(CpuQueue, CoversEveryIndexOnce) {
  for (int threads : {1, 2, 3, 5}) {
    CpuQueue queue(threads);
    EXPECT_EQ(queue.threads(), threads);
    for (std::int64_t count : {1, 2, 3, 4, 5, 7, 64, 1001}) {
      for (std::int64_t grain : {0, 1, 2, 10, 5000}) {
        std::vector<int> visits(static_cast<std::size_t>(count));
        queue.parallel_for(count, grain, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t i = begin; i < end; ++i) ++visits[static_cast<std::size_t>(i)];
        });
        EXPECT_EQ(visits, std::vector<int>(visits.size(), 1)) << threads << " " << count;
      }
    }
  }
}

TEST(CpuQueue, DoesNothingForNothing) {
  CpuQueue queue(2);
  EXPECT_TRUE(ranges_of(queue, 0, 1).empty());
  EXPECT_TRUE(ranges_of(queue, -3, 1).empty());
}

TEST(CpuQueue, KeepsRangesAtLeastAsLargeAsTheGrain) {
  CpuQueue queue(4);
  for (const Range& range : ranges_of(queue, 100, 30)) EXPECT_GE(range.end - range.begin, 30);
  EXPECT_EQ(ranges_of(queue, 100, 30).size(), 3u);
  // Work that is not worth splitting stays with the caller.
  const auto whole = ranges_of(queue, 59, 30);
  ASSERT_EQ(whole.size(), 1u);
  EXPECT_EQ(whole[0].thread, std::this_thread::get_id());
}

// So that neighbouring kernels find their data in the same core's cache.
TEST(CpuQueue, SplitsTheSameWorkTheSameWay) {
  CpuQueue queue(3);
  for (int round = 0; round < 50; ++round) {
    std::map<std::int64_t, std::int64_t> ranges;
    for (const Range& range : ranges_of(queue, 301, 1)) ranges[range.begin] = range.end;
    EXPECT_EQ(ranges, (std::map<std::int64_t, std::int64_t>{{0, 100}, {100, 200}, {200, 301}}));
  }
}

// More threads than cores, and workers that sleep: the caller takes their part of the work.
TEST(CpuQueue, GetsEveryPartDoneByWhoeverIsThere) {
  CpuQueue queue(16);
  for (int round = 0; round < 300; ++round) {
    std::vector<int> visits(16);
    queue.parallel_for(16, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) ++visits[static_cast<std::size_t>(i)];
    });
    ASSERT_EQ(visits, std::vector<int>(16, 1));
  }
}

// What one kernel writes, the next one reads, on whatever thread.
TEST(CpuQueue, RunsOneKernelAfterTheOther) {
  CpuQueue queue(3);
  std::vector<std::int64_t> a(999), b(999);
  std::iota(a.begin(), a.end(), 0);
  constexpr int kRounds = 5000;
  for (int round = 0; round < kRounds; ++round) {
    queue.parallel_for(999, 1 + round % 400, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        b[static_cast<std::size_t>(i)] = a[static_cast<std::size_t>(998 - i)] + 1;
      }
    });
    a.swap(b);
  }
  for (std::int64_t i = 0; i < 999; ++i) EXPECT_EQ(a[static_cast<std::size_t>(i)], i + kRounds);
}

TEST(CpuQueue, WakesThreadsThatSleep) {
  CpuQueue queue(2);
  for (int round = 0; round < 3; ++round) {
    EXPECT_EQ(ranges_of(queue, 100, 1).size(), 2u);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // longer than they spin
  }
}

TEST(CpuQueue, TakesTheCoresItMayUse) {
  const CpuQueue queue;
  EXPECT_GE(queue.threads(), 1);
  EXPECT_LE(queue.threads(), 4096);
}

TEST(CpuQueue, KernelsReadTheirConstants) {
  CpuQueue queue(2);
  std::atomic<std::int64_t> sum = 0;
  const auto body = [&sum](std::int64_t begin, std::int64_t end) { sum += end - begin; };
  queue.parallel_for(1000, 1, body);  // a const callable is fine too
  EXPECT_EQ(sum, 1000);
}

TEST(CpuQueue, ScratchIsAlignedAndGrows) {
  CpuQueue queue(1);
  for (std::size_t bytes : {1u, 64u, 100u, 5000u, 4096u, 1000000u, 8u}) {
    void* scratch = queue.scratch(bytes);
    ASSERT_NE(scratch, nullptr);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(scratch) % 64, 0u);
    std::memset(scratch, 0x5a, bytes);  // a sanitizer sees it when this is too much
  }
  void* const large = queue.scratch(1000000);
  EXPECT_EQ(queue.scratch(10), large);  // what is there already serves smaller kernels
}

}  // namespace
}  // namespace sidechannel::kernels
