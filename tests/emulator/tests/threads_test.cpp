// Several threads, each with a queue of its own.

#include <cuda_runtime.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "fixture.h"
#include "kernels.h"

namespace sidechannel::test {
namespace {

using kernels::CudaError;
using kernels::CudaGraph;
using kernels::Precision;
using testing::HasSubstr;

class Threads : public MachineTest {};

// Runs work(i) in threads that begin at the same time.
void at_once(int threads, const std::function<void(int)>& work) {
  std::atomic<int> waiting = threads;
  std::vector<std::thread> running;
  for (int i = 0; i < threads; ++i) {
    running.emplace_back([&, i] {
      --waiting;
      while (waiting > 0) std::this_thread::yield();
      work(i);
    });
  }
  for (std::thread& thread : running) thread.join();
}

// What a step does in its life: memory, eager runs, a recording, replays; all with barriers, which
// fibers wait in. Returns where it ends.
std::vector<float> life_of_a_step(int number) {
  CudaQueue queue(0, Precision::kFp32);
  const Device<float> x(queue, counting(256, static_cast<float>(number)));
  const Device<float> y(queue, std::vector<float>(256));
  const auto step = [&] {
    reverse_in_block(queue, 256, x.data());
    auto* const scratch = static_cast<float*>(queue.scratch(1024));
    fill(queue, 256, static_cast<float>(number), scratch);
    add(queue, 256, scratch, x.data());
    add(queue, 256, x.data(), y.data());
  };
  for (int i = 0; i < 3; ++i) step();
  queue.synchronize();
  queue.begin_capture();
  step();
  const CudaGraph graph = queue.end_capture();
  for (int i = 0; i < 20; ++i) {
    const Device<float> other(queue, {1.0f});  // memory comes and goes while others record
    queue.launch(graph);
    if (i % 3 == 0) y.get();
  }
  return y.get();
}

TEST_F(Threads, EachQueueGivesWhatItGivesAlone) {
  constexpr int kThreads = 4;
  std::vector<std::vector<float>> alone, together(kThreads);
  for (int i = 0; i < kThreads; ++i) alone.push_back(life_of_a_step(i));
  for (int round = 0; round < 5; ++round) {
    at_once(kThreads, [&](int i) { together[static_cast<std::size_t>(i)] = life_of_a_step(i); });
    EXPECT_EQ(together, alone);
  }
  EXPECT_NE(alone[0], alone[1]);
}

TEST_F(Threads, WhatOneRecordsForbidsTheOthersNothing) {
  CudaQueue queue(0, Precision::kFp32);
  const Device<float> x(queue, {1.0f});
  queue.begin_capture();
  fill(queue, 1, 5.0f, x.data());
  std::thread([&] {
    CudaQueue other(0, Precision::kFp32);
    EXPECT_EQ(Device<float>(other, {2.0f}).get(), std::vector<float>{2.0f});
    cudaGraph_t graph = nullptr;
    EXPECT_EQ(cudaStreamEndCapture(queue.stream(), &graph), cudaErrorStreamCaptureWrongThread);
    EXPECT_EQ(cudaGetLastError(), cudaErrorStreamCaptureWrongThread);
  }).join();
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);  // the error was the other's
  queue.launch(queue.end_capture());
  EXPECT_EQ(x.get(), std::vector<float>{5.0f});
}

// Looking for what would fit, one queue takes for a moment all that is free.
TEST_F(Threads, OneThatAsksForTooMuchTakesNothingFromTheOthers) {
  emu::device_model().memory = 1 << 20;
  std::atomic<int> refused = 0;
  at_once(2, [&](int i) {
    CudaQueue queue(0, Precision::kFp32);
    for (int n = 0; n < 300; ++n) {
      const std::string error =
          test::error_of<CudaError>([&] { queue.allocate(i == 0 ? 2 << 20 : 1000); });
      if (i == 0) {
        EXPECT_THAT(error, HasSubstr("out of memory on emulated GPU: 2.0 MiB"));
      } else if (error != "no error") {
        ++refused;
      }
      for (int wait = 0; wait < n % 3; ++wait) queue.memory_free();  // they meet at any place
    }
  });
  EXPECT_EQ(refused, 0);
}

// How much shared memory a kernel may have is the process's, not the queue's: another queue may be
// about to launch it with more.
TEST_F(Threads, ALaunchTakesNoSharedMemoryFromAnother) {
  CudaQueue queue(0, Precision::kFp32);
  const Device<float> y(queue, {0.0f});
  for (const auto& [asked, allowed] : {std::pair{60, 60}, {200, 200}, {60, 200}, {100, 200}}) {
    dynamic_shared_of(queue, static_cast<std::size_t>(asked) * 1024, y.data());
    EXPECT_EQ(dynamic_shared_allowed(), allowed * 1024);
  }
}

TEST_F(Threads, AFaultOfOneIsKnownToAll) {
  EXPECT_FALSE(kernels::cuda_has_faulted());
  CudaQueue queue(0, Precision::kFp32);
  const Device<float> x(queue, {1.0f});
  queue.synchronize();
  emu::faults().fail_launch = 1;
  std::thread([&] {
    CudaQueue other(0, Precision::kFp32);
    const Device<float> y(other, {1.0f});
    fill(other, 1, 5.0f, y.data());
    EXPECT_THAT(test::error_of<CudaError>([&] { other.synchronize(); }),
                HasSubstr("an illegal memory access was encountered, in fill"));
  }).join();
  EXPECT_TRUE(kernels::cuda_has_faulted());
  EXPECT_EQ(test::error_of<CudaError>([&] { queue.synchronize(); }),
            "CUDA: an illegal memory access was encountered, in no launch of this queue");
}

}  // namespace
}  // namespace sidechannel::test
