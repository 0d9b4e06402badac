// The queue: what it counts, what it keeps, and the exact words in which it says what went wrong.

#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "fixture.h"
#include "kernels.h"

namespace sidechannel::test {
namespace {

using kernels::cuda_devices;
using kernels::CudaError;
using kernels::CudaGraph;
using kernels::Precision;

class Queue : public QueueTest {};
class NewQueue : public MachineTest {};

std::string error_of(const std::function<void()>& f) {
  return test::error_of<CudaError>(f);
}

std::string error_of_a_queue(int device = 0) {
  return error_of([&] { CudaQueue(device, Precision::kFp32); });
}

// --- Devices -------------------------------------------------------------------------------------

TEST_F(NewQueue, DescribesItsDevice) {
  const CudaQueue queue(0, Precision::kTf32);
  EXPECT_EQ(queue.info().name, "emulated GPU");
  EXPECT_TRUE(queue.info().emulated);
  EXPECT_EQ(queue.info().compute_capability, 90);
  EXPECT_EQ(queue.info().multiprocessors, 132);
  EXPECT_EQ(queue.info().shared_per_block, 227u * 1024);
  EXPECT_EQ(queue.precision(), Precision::kTf32);
  std::string why = "?";
  ASSERT_EQ(cuda_devices(&why).size(), 1u);
  EXPECT_EQ(why, "");
  EXPECT_EQ(cuda_devices(nullptr).front().name, "emulated GPU");
}

TEST_F(NewQueue, WithoutADeviceSaysWhy) {
  const std::pair<emu::Faults, std::string> cases[] = {
      {{/*no_driver=*/true}, "there is no NVIDIA driver"},
      {{false, /*driver_version=*/11040},
       "the NVIDIA driver is too old: it supports CUDA 11.4, and this program needs 13.0"},
      {{false, 0, /*no_device=*/true}, "the driver finds no GPU"}};
  for (const auto& [faults, reason] : cases) {
    emu::faults() = faults;
    EXPECT_EQ(error_of_a_queue(), "CUDA: " + reason);
    std::string why;
    EXPECT_TRUE(cuda_devices(&why).empty()) << reason;
    EXPECT_EQ(why, reason);
  }
}

TEST_F(NewQueue, WithADeviceThatIsNotThere) {
  EXPECT_EQ(error_of_a_queue(1), "CUDA: there is no device 1; this machine has 1, counted from 0");
  EXPECT_EQ(error_of_a_queue(-1),
            "CUDA: there is no device -1; this machine has 1, counted from 0");
}

TEST_F(NewQueue, WithADeviceThatTheProgramHasNoCodeFor) {
  emu::faults().no_code = true;
  emu::device_model().name = "Tesla P100";
  emu::device_model().compute_capability = 60;
  EXPECT_EQ(error_of_a_queue(),
            "CUDA: this program has no code for Tesla P100 (compute capability 6.0); it was built "
            "for emulated");
}

// --- Memory --------------------------------------------------------------------------------------

TEST_F(Queue, CountsWhatItGaveOut) {
  EXPECT_EQ(queue.allocate(0), nullptr);
  std::shared_ptr<void> a = queue.allocate(1000);
  std::shared_ptr<void> b = queue.allocate(500);
  EXPECT_EQ(queue.memory_held(), 1500u);
  a.reset();
  EXPECT_EQ(queue.memory_held(), 500u);
  EXPECT_EQ(queue.memory_peak(), 1500u);
  EXPECT_EQ(queue.counters().allocations, 2);
}

TEST_F(NewQueue, MemoryOutlivesIt) {
  std::shared_ptr<void> memory;
  {
    CudaQueue queue(0, Precision::kFp32);
    memory = queue.allocate(1000);
  }
  EXPECT_EQ(emu::allocated_bytes(), 1000u);
  memory.reset();
  EXPECT_EQ(emu::allocated_bytes(), 0u);
}

TEST_F(NewQueue, OutOfMemory) {
  constexpr std::size_t kKiB = 1024;
  emu::device_model().memory = 100 * kKiB;
  CudaQueue queue(0, Precision::kFp32);
  queue.allocate(30 * kKiB);
  const std::shared_ptr<void> held = queue.allocate(20 * kKiB);
  EXPECT_EQ(
      error_of([&] { queue.allocate(90 * kKiB); }),
      "CUDA: out of memory on emulated GPU: 90.0 KiB are asked for, 80.0 KiB of 100.0 KiB are "
      "free, this queue holds 20.0 KiB (at most 30.0 KiB so far); up to 80.0 KiB would fit");
  queue.allocate(80 * kKiB);  // nothing was lost
}

TEST_F(Queue, OutOfMemoryAtTheNthAllocation) {
  emu::faults().fail_allocation = 2;
  queue.allocate(1);
  EXPECT_EQ(error_of([&] { queue.allocate(2048); }),
            "CUDA: out of memory on emulated GPU: 2.0 KiB are asked for, 4.0 GiB of 4.0 GiB are "
            "free, this queue holds 0 bytes (at most 1 bytes so far); up to 2.0 KiB would fit");
  queue.allocate(2048);
}

TEST_F(Queue, ScratchGrowsAndStays) {
  void* const small = queue.scratch(100);
  EXPECT_EQ(queue.scratch(1 << 20), small);
  EXPECT_NE(queue.scratch((1 << 20) + 1), nullptr);
  EXPECT_EQ(queue.counters().allocations, 2);
  EXPECT_EQ(queue.memory_held(), std::size_t{2} << 20);
}

// --- Capture -------------------------------------------------------------------------------------

TEST_F(Queue, CaptureTakesNoMemoryAndDoesNotWait) {
  const Device<float> x(queue, {1.0f});
  std::vector<float> host(1);
  queue.begin_capture();
  EXPECT_TRUE(queue.capturing());
  EXPECT_EQ(error_of([&] { queue.allocate(4096); }),
            "CUDA: 4.0 KiB of device memory are asked for while a step is recorded; a step that is "
            "to be recorded has all its memory from the runs before");
  EXPECT_EQ(error_of([&] { queue.synchronize(); }),
            "CUDA: nothing can be waited for while a step is recorded");
  EXPECT_EQ(error_of([&] { queue.copy_to_host(host.data(), x.data(), 4); }),
            "CUDA: a copy to the host cannot be recorded");
  EXPECT_EQ(error_of([&] { queue.copy_to_device(x.data(), host.data(), 4); }),
            "CUDA: a copy from the host cannot be recorded");
  // Refused by the queue itself, so the capture is still good.
  fill(queue, 1, 5.0f, x.data());
  const CudaGraph graph = queue.end_capture();
  EXPECT_FALSE(queue.capturing());
  queue.launch(graph);
  EXPECT_EQ(x.get(), std::vector<float>{5.0f});
}

TEST_F(Queue, MemoryThatIsReleasedDuringACaptureIsFreedAfterIt) {
  std::shared_ptr<void> memory = queue.allocate(100);
  queue.begin_capture();
  memory.reset();
  EXPECT_EQ(emu::allocated_bytes(), 100u);
  queue.end_capture();
  EXPECT_EQ(emu::allocated_bytes(), 0u);
}

TEST_F(Queue, AbandonedCaptureLeavesNothingBehind) {
  const Device<float> x(queue, {1.0f});
  queue.begin_capture();
  fill(queue, 1, 5.0f, x.data());
  queue.abandon_capture();
  EXPECT_FALSE(queue.capturing());
  EXPECT_EQ(x.get(), std::vector<float>{1.0f});
}

// A larger operation between two replays must not take the graph's scratch memory away.
TEST_F(Queue, GraphKeepsTheScratchMemoryThatItUses) {
  const Device<float> y(queue, {0.0f});
  queue.scratch(sizeof(float));
  queue.begin_capture();
  auto* const scratch = static_cast<float*>(queue.scratch(sizeof(float)));
  fill(queue, 1, 2.0f, scratch);
  add(queue, 1, scratch, y.data());
  const CudaGraph graph = queue.end_capture();
  queue.scratch(std::size_t{8} << 20);
  queue.launch(graph);
  EXPECT_EQ(y.get(), std::vector<float>{2.0f});
}

TEST_F(Queue, Counts) {
  const Device<float> x(queue, std::vector<float>(10));
  fill(queue, 10, 1.0f, x.data());
  fill(queue, 10, 2.0f, x.data());
  x.get();
  queue.synchronize();
  queue.begin_capture();
  fill(queue, 10, 3.0f, x.data());
  const CudaGraph graph = queue.end_capture();
  queue.launch(graph);
  queue.launch(graph);
  EXPECT_EQ(queue.counters().launches, 3);
  EXPECT_EQ(queue.counters().graph_launches, 2);
  EXPECT_EQ(queue.counters().synchronizations, 2);
  EXPECT_EQ(queue.counters().allocations, 1);
}

// --- Faults --------------------------------------------------------------------------------------

TEST_F(Queue, FaultNamesTheLaunchesSinceTheLastWait) {
  const Device<float> x(queue, std::vector<float>(10));
  fill(queue, 10, 1.0f, x.data());
  queue.synchronize();
  emu::faults().fail_launch = 2;
  fill(queue, 10, 1.0f, x.data());
  add(queue, 10, x.data(), x.data());
  reverse_in_block(queue, 10, x.data());
  EXPECT_EQ(error_of([&] { queue.synchronize(); }),
            "CUDA: an illegal memory access was encountered, in one of the 3 launches since the "
            "last wait: fill, add, reverse (CUDA_LAUNCH_BLOCKING=1 tells which)");
}

TEST_F(Queue, FaultOfTheOnlyLaunch) {
  const Device<float> x(queue, std::vector<float>(300));
  queue.synchronize();
  emu::faults().fail_launch = 1;
  fill(queue, 300, 1.0f, x.data());
  EXPECT_EQ(error_of([&] { x.get(); }),
            "CUDA: an illegal memory access was encountered, in fill (grid 3, block 128)");
  // It sticks.
  EXPECT_EQ(error_of([&] { fill(queue, 300, 1.0f, x.data()); }),
            "CUDA: an illegal memory access was encountered, in fill (grid 3, block 128)");
}

TEST_F(Queue, FaultAfterManyLaunches) {
  const Device<float> x(queue, std::vector<float>(10));
  emu::faults().fail_launch = 99;
  for (int i = 0; i < 99; ++i) fill(queue, 10, 1.0f, x.data());
  reverse_in_block(queue, 10, x.data());
  EXPECT_EQ(error_of([&] { queue.synchronize(); }),
            "CUDA: an illegal memory access was encountered, in one of the 100 launches since the "
            "last wait, of which the last 8 are: fill, fill, fill, fill, fill, fill, fill, reverse "
            "(CUDA_LAUNCH_BLOCKING=1 tells which)");
}

TEST_F(Queue, FaultInARecordedStep) {
  const Device<float> x(queue, std::vector<float>(10));
  queue.begin_capture();
  fill(queue, 10, 1.0f, x.data());
  add(queue, 10, x.data(), x.data());
  const CudaGraph graph = queue.end_capture();
  emu::faults().fail_launch = 3;
  queue.launch(graph);
  queue.synchronize();
  queue.launch(graph);
  EXPECT_EQ(error_of([&] { queue.synchronize(); }),
            "CUDA: an illegal memory access was encountered, in a recorded step of 2 launches");
}

TEST_F(NewQueue, BlockingLaunchesNameTheOneThatFailed) {
  setenv("CUDA_LAUNCH_BLOCKING", "1", 1);
  emu::reset();
  CudaQueue queue(0, Precision::kFp32);
  unsetenv("CUDA_LAUNCH_BLOCKING");
  const Device<float> x(queue, std::vector<float>(64));
  emu::faults().fail_launch = 2;
  fill(queue, 10, 1.0f, x.data());
  EXPECT_EQ(error_of([&] { dynamic_shared_of(queue, 4096, x.data()); }),
            "CUDA: an illegal memory access was encountered, in last_float (grid 1, block 1, 4096 "
            "bytes of dynamic shared memory)");
}

}  // namespace
}  // namespace sidechannel::test
