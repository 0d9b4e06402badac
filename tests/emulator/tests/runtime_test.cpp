// The emulated runtime behaves as CUDA's where the backend relies on it.

#include <cuda_runtime.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "fixture.h"
#include "kernels.h"

namespace sidechannel::test {
namespace {

using kernels::CudaGraph;
using kernels::Precision;
using testing::HasSubstr;

class Runtime : public QueueTest {};

std::string error_of(const std::function<void()>& f) {
  return test::error_of<std::exception>(f);
}

// --- Asynchrony ----------------------------------------------------------------------------------

TEST_F(Runtime, LaunchesWaitUntilSomebodyWaitsForThem) {
  const Device<float> x(queue, std::vector<float>(10));
  fill(queue, 10, 1.0f, x.data());
  EXPECT_EQ(emu::counters().launches, 0);
  EXPECT_EQ(cudaStreamQuery(queue.stream()), cudaErrorNotReady);
  queue.synchronize();
  EXPECT_EQ(emu::counters().launches, 1);
  EXPECT_EQ(cudaStreamQuery(queue.stream()), cudaSuccess);
}

TEST_F(Runtime, BlockingLaunchesDoNotWait) {
  emu::options().blocking = true;
  const Device<float> x(queue, std::vector<float>(10));
  fill(queue, 10, 1.0f, x.data());
  EXPECT_EQ(emu::counters().launches, 1);
}

// Ordinary host memory is read at the call, pinned memory when the copy runs.
TEST_F(Runtime, HostMemoryIsReadWhenCudaReadsIt) {
  const Device<float> x(queue, {0.0f});
  float pageable = 1;
  queue.copy_to_device(x.data(), &pageable, sizeof pageable);
  pageable = 2;
  EXPECT_EQ(x.get(), std::vector<float>{1.0f});

  float* pinned = nullptr;
  ASSERT_EQ(cudaMallocHost(&pinned, sizeof(float)), cudaSuccess);
  *pinned = 3;
  queue.copy_to_device(x.data(), pinned, sizeof(float));
  *pinned = 4;
  EXPECT_EQ(x.get(), std::vector<float>{4.0f});

  // And the other way: what was copied is there after a wait, not before.
  *pinned = 0;
  ASSERT_EQ(
      cudaMemcpyAsync(pinned, x.data(), sizeof(float), cudaMemcpyDeviceToHost, queue.stream()),
      cudaSuccess);
  EXPECT_EQ(*pinned, 0);
  queue.synchronize();
  EXPECT_EQ(*pinned, 4);
  EXPECT_EQ(cudaFreeHost(pinned), cudaSuccess);
}

TEST_F(Runtime, KernelErrorsComeWithTheNextWait) {
  const Device<float> x(queue, std::vector<float>(256));
  run_buggy(queue, "early_return", x.data());
  EXPECT_THAT(error_of([&] { queue.synchronize(); }), HasSubstr("kernel early_return, thread ("));
  queue.synchronize();  // reported once

  emu::options().blocking = true;
  EXPECT_THAT(error_of([&] { run_buggy(queue, "early_return", x.data()); }),
              HasSubstr("kernel early_return, thread ("));
}

// A destructor cannot report it: the next wait does.
TEST_F(Runtime, KernelErrorsOutliveTheirMemory) {
  {
    const Device<float> x(queue, std::vector<float>(256));
    run_buggy(queue, "early_return", x.data());
  }
  EXPECT_THAT(error_of([&] { queue.synchronize(); }), HasSubstr("kernel early_return"));
}

TEST(RuntimeDeathTest, KernelErrorsThatNobodyWaitsForFailTheProgram) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto forget = [] {
    CudaQueue queue(0, Precision::kFp32);
    const Device<float> x(queue, std::vector<float>(256, 1.0f));
    run_buggy(queue, "trap", x.data());
  };
  EXPECT_EXIT(
      {
        forget();
        std::exit(0);
      },
      testing::ExitedWithCode(1), "emulated CUDA, an error that nobody waited for: __trap");
}

// --- Memory --------------------------------------------------------------------------------------

TEST_F(Runtime, MemoryIsAlignedPoisonedAndReused) {
  const auto first = queue.allocate(100);
  const auto second = queue.allocate(1);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(first.get()) % 256, 0u);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(second.get()) % 256, 0u);
  EXPECT_EQ(emu::allocated_bytes(), 101u);
  float value = 0;
  queue.copy_to_host(&value, first.get(), sizeof value);
  EXPECT_NE(value, value);  // NaN
  void* const p = queue.allocate(100).get();
  EXPECT_EQ(queue.allocate(100).get(), p);
}

TEST_F(Runtime, CopiesStayInTheirAllocation) {
  const Device<float> x(queue, std::vector<float>(4));
  std::vector<float> host(5);
  EXPECT_THAT(error_of([&] { queue.copy_to_device(x.data(), host.data(), 20); }),
              HasSubstr("20 bytes at 0x"));
  EXPECT_THAT(error_of([&] { queue.copy_to_device(host.data(), host.data(), 4); }),
              HasSubstr("is host memory, which contradicts the kind of the copy"));
  EXPECT_THAT(error_of([&] { queue.copy_on_device(x.data(), host.data(), 4); }),
              HasSubstr("is host memory, which contradicts the kind of the copy"));
}

// --- Graphs --------------------------------------------------------------------------------------

TEST_F(Runtime, GraphsReplayLaunchesCopiesAndFillsWithTheirArguments) {
  const Device<float> x(queue, std::vector<float>(100));
  const Device<float> y(queue, std::vector<float>(100));
  queue.begin_capture();
  for (int i = 1; i <= 3; ++i) {  // each launch keeps its own value
    fill(queue, 100, static_cast<float>(i), x.data());
    add(queue, 100, x.data(), y.data());
  }
  queue.copy_on_device(x.data(), y.data(), 50 * sizeof(float));
  ASSERT_EQ(cudaMemsetAsync(x.data() + 50, 0, 50 * sizeof(float), queue.stream()), cudaSuccess);
  const CudaGraph graph = queue.end_capture();
  EXPECT_EQ(queue.counters().launches, 6);
  EXPECT_EQ(emu::counters().launches, 0);
  EXPECT_EQ(y.get(), std::vector<float>(100));  // nothing has run

  for (int replay = 1; replay <= 3; ++replay) {
    queue.launch(graph);
    EXPECT_EQ(y.get(), std::vector<float>(100, 6.0f * static_cast<float>(replay)));
  }
  std::vector<float> expected(100, 18.0f);
  std::fill(expected.begin() + 50, expected.end(), 0.0f);
  EXPECT_EQ(x.get(), expected);
  EXPECT_EQ(queue.counters().graph_launches, 3);
  EXPECT_EQ(emu::counters().graph_launches, 3);
  EXPECT_EQ(emu::counters().launches, 18);
}

TEST_F(Runtime, WhatACaptureRefuses) {
  const Device<float> x(queue, std::vector<float>(100));
  float* pageable = nullptr;
  std::vector<float> host(100);
  const auto refused = [&](const std::function<cudaError_t()>& call) {
    queue.begin_capture();
    EXPECT_EQ(call(), cudaErrorStreamCaptureUnsupported);
    EXPECT_EQ(error_of([&] { queue.end_capture(); }),
              "CUDA: a step could not be recorded: operation failed due to a previous error during "
              "capture");
    cudaGetLastError();
  };
  refused([&] { return cudaMalloc(&pageable, 4); });
  refused([&] { return cudaFree(x.data()); });
  refused([&] { return cudaStreamSynchronize(queue.stream()); });
  refused([&] { return cudaDeviceSynchronize(); });
  refused([&] { return cudaMemcpy(host.data(), x.data(), 4, cudaMemcpyDeviceToHost); });
  refused([&] {
    return cudaMemcpyAsync(host.data(), x.data(), 4, cudaMemcpyDeviceToHost, queue.stream());
  });
  refused([&] {
    return cudaMemcpyAsync(x.data(), host.data(), 4, cudaMemcpyHostToDevice, queue.stream());
  });
}

// --- Devices -------------------------------------------------------------------------------------

TEST_F(Runtime, OlderDevicesRefuseWhatTheyDoNotHave) {
  const Device<float> x(queue, std::vector<float>(256));
  const Device<float> y(queue, std::vector<float>(256));
  emu::device_model().compute_capability = 80;
  EXPECT_THAT(error_of([&] { cluster_sums(queue, 1, 2, x.data(), y.data()); }),
              HasSubstr("operation not supported"));
  emu::device_model().compute_capability = 75;
  copy_through_shared(queue, 10, x.data(), y.data());
  EXPECT_THAT(error_of([&] { queue.synchronize(); }),
              HasSubstr("needs compute capability 8.0; kernel copy_kernel"));
  matrix_product(queue, x.data(), x.data(), y.data());
  EXPECT_THAT(error_of([&] { queue.synchronize(); }),
              HasSubstr("needs compute capability 8.0; kernel product_kernel"));
  emu::device_model().shared_per_block = 64 * 1024;
  EXPECT_THAT(error_of([&] { dynamic_shared_of(queue, 64 * 1024 + 4, y.data()); }),
              HasSubstr("invalid argument"));
  dynamic_shared_of(queue, 64 * 1024, y.data());
  queue.synchronize();
}

TEST_F(Runtime, LaunchesOutsideOfTheLimits) {
  const Device<float> x(queue, std::vector<float>(64));
  const auto refusal = [&](unsigned grid, unsigned block, std::size_t shared, unsigned cluster) {
    return error_of([&] { launch_misconfigured(queue, grid, block, shared, cluster, x.data()); });
  };
  EXPECT_EQ(refusal(1, 1025, 0, 1),
            "CUDA: the launch of trap (grid 1, block 1025) was refused: invalid configuration "
            "argument");
  EXPECT_THAT(refusal(1, 0, 0, 1), HasSubstr("invalid configuration argument"));
  EXPECT_EQ(
      refusal(1, 32, 228 * 1024, 1),
      "CUDA: the launch of trap (grid 1, block 32, 233472 bytes of dynamic shared memory) was "
      "refused: invalid argument");
  EXPECT_EQ(refusal(3, 32, 0, 2),
            "CUDA: the launch of trap (grid 3, block 32, clusters of 2) was refused: cluster "
            "misconfiguration");
  EXPECT_THAT(refusal(16, 32, 0, 16), HasSubstr("cluster misconfiguration"));
}

}  // namespace
}  // namespace sidechannel::test
