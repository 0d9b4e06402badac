// Devices, tensors and memory of the engine on a GPU or its emulation.

#include <gtest/gtest.h>

#include <numeric>

#include "engine/arena.h"
#include "engine/device_value.h"
#include "engine/replay.h"
#include "engine/tape.h"
#include "tests/harness/cuda_check.h"

namespace sidechannel {
namespace {

using harness::error_of;
using harness::values_of;

class CudaDevice : public harness::CudaTest {
 protected:
  const Device& device() { return harness::cuda_device(); }
  HostArray counted(std::int64_t size) {
    HostArray array(DType::kF32, {size});
    const auto values = array.as<float>();
    std::iota(values.begin(), values.end(), 1.0f);
    return array;
  }
};

TEST_F(CudaDevice, IsNamed) {
  EXPECT_EQ(device().name(), "cuda:0");
  EXPECT_EQ(Device::from_name("cuda", 0, Precision::kFp32).name(), "cuda:0");
  EXPECT_EQ(Device::from_name("cuda:0").cuda_queue().precision(), Precision::kTf32);
  EXPECT_EQ(device().description(), device().cuda_queue().info().name);
  EXPECT_EQ(error_of([&] { device().cpu_queue(); }), "device: cuda:0 is not a CPU");
  EXPECT_EQ(error_of([] { Device::cpu(1).cuda_queue(); }), "device: cpu is not a GPU");
}

TEST_F(CudaDevice, AutoTakesItUnlessItIsEmulated) {
  std::string why;
  const Device taken = Device::from_name("auto", 1, Precision::kFp32, &why);
  if (device().cuda_queue().info().emulated) {
    EXPECT_FALSE(taken.is_cuda());
    EXPECT_EQ(why, "cpu (the GPU of this build is emulated, and only taken when asked for)");
  } else {
    EXPECT_TRUE(taken.is_cuda());
    EXPECT_EQ(why, "cuda:0 (" + taken.description() + ")");
  }
}

TEST_F(CudaDevice, ThatIsNotThereIsNamed) {
  EXPECT_EQ(error_of([] { Device::cuda(99); }).substr(0, 30), "CUDA: there is no device 99; t");
}

TEST_F(CudaDevice, TensorsTravel) {
  const HostArray values = counted(1000);
  const Tensor there = Tensor::from(device(), values);
  EXPECT_EQ(there.to_host().bytes, values.bytes);
  // From device to device, through the host, and back.
  const Tensor here = Tensor(harness::device(), DType::kF32, {1000});
  here.copy_from(there);
  EXPECT_EQ(here.to_host().bytes, values.bytes);
  const Tensor again(device(), DType::kF32, {1000});
  again.copy_from(here);
  const Tensor copy(device(), DType::kF32, {1000});
  copy.copy_from(again);
  EXPECT_EQ(copy.to_host().bytes, values.bytes);
  EXPECT_EQ(copy.slice(41, 1).item(), 42);
  EXPECT_EQ(values_of(copy.slice(10, 3)), (std::vector<double>{11, 12, 13}));
  EXPECT_EQ(Tensor(device(), DType::kF32, {0}).to_host().shape.size(), 0);
}

TEST_F(CudaDevice, TensorsFill) {
  const Tensor x(device(), DType::kF32, {77});
  x.fill(1.5);
  x.slice(10, 5).fill(-2);
  for (std::int64_t i = 0; i < 77; ++i)
    EXPECT_EQ(x.slice(i, 1).item(), i >= 10 && i < 15 ? -2 : 1.5) << i;
  EXPECT_EQ(values_of(Tensor::zeros(device(), DType::kF64, {3})), (std::vector<double>{0, 0, 0}));
}

TEST_F(CudaDevice, ComputesInF32) {
  EXPECT_EQ(error_of([&] { on(device(), DType::kF64, []<class T>(auto&) {}); }),
            "cuda:0: computes in f32, not in f64");
}

TEST_F(CudaDevice, ValuesAreReadAndSet) {
  struct Pair {
    std::int64_t a;
    double b;
  };
  const DeviceValue<Pair> value(device(), {3, 0.5});
  EXPECT_EQ(value.get().a, 3);
  value.set({4, 0.25});
  EXPECT_EQ(value.get().b, 0.25);
}

TEST_F(CudaDevice, AnArenaSettlesInOneBlock) {
  Arena arena(device());
  std::vector<void*> first;
  for (int round = 0; round < 3; ++round) {
    arena.reset();
    const std::int64_t before = device().cuda_queue().counters().allocations;
    std::vector<void*> places;
    for (int i = 0; i < 40; ++i)
      places.push_back(arena.allocate(DType::kF32, {100'000 + i}).data<float>());
    if (round == 1) first = places;
    if (round == 2) {
      EXPECT_EQ(places, first);
      EXPECT_EQ(device().cuda_queue().counters().allocations, before);
    }
  }
}

// The same numbers as on the CPU, to the bit, wherever in the sequence they stand.
TEST_F(CudaDevice, NoiseHasTheBitsOfTheCpu) {
  for (const std::int64_t length : {1, 2, 3, 4, 5, 63, 64, 600}) {
    std::vector<HostArray> drawn;
    for (const Device& where : {harness::device(), device()}) {
      Random random(where, 0x1234567890abcdef);
      random.seek(17, 4'000'000'000u);
      random.advance(3, 500'000'000u);  // past the end of the counter
      Tape tape(where);
      drawn.push_back(tape.normal({5, length, 1}, Stream{3}, random).value().to_host());
    }
    EXPECT_EQ(drawn[0].bytes, drawn[1].bytes) << length;
  }
}

TEST_F(CudaDevice, InitialWeightsHaveTheBitsOfTheCpu) {
  ParameterList here(harness::device(), DType::kF32, 5);
  ParameterList there(device(), DType::kF32, 5);
  const Parameter& a = here.add_uniform("w", {5, 7, 3}, 0.3);
  const Parameter& b = there.add_uniform("w", {5, 7, 3}, 0.3);
  EXPECT_EQ(a.value.to_host().bytes, b.value.to_host().bytes);
}

TEST_F(CudaDevice, AReplayRecordsTheThirdRun) {
  const kernels::CudaQueue& queue = device().cuda_queue();
  if (queue.blocking()) GTEST_SKIP() << "CUDA_LAUNCH_BLOCKING=1: nothing is recorded";
  Random random(device(), 1);
  Tape tape(device());
  Replay replay(device());
  int runs = 0;
  Tensor noise;
  std::vector<HostArray> drawn;
  const auto start = queue.counters();
  for (int step = 0; step < 6; ++step) {
    replay([&] {
      ++runs;
      tape.reset();
      noise = tape.normal({2, 8, 1}, Stream::kNoise, random).value();
      random.advance(1);
    });
    drawn.push_back(noise.to_host());
  }
  EXPECT_EQ(runs, 3);
  EXPECT_EQ(queue.counters().graph_launches - start.graph_launches, 4);
  // Each step drew what it draws when it is asked for alone.
  for (std::uint32_t step = 0; step < 6; ++step) {
    random.seek(step);
    Tape fresh(device());
    EXPECT_EQ(fresh.normal({2, 8, 1}, Stream::kNoise, random).value().to_host().bytes,
              drawn[step].bytes)
        << step;
  }
}

TEST_F(CudaDevice, AStepThatCannotBeRecordedSaysWhyAndLeavesTheQueueUsable) {
  if (device().cuda_queue().blocking())
    GTEST_SKIP() << "CUDA_LAUNCH_BLOCKING=1: nothing is recorded";
  const Tensor x = Tensor::zeros(device(), DType::kF32, {4});
  Replay reads(device());
  const Tensor one = x.slice(0, 1);
  const auto reading = [&] { one.item(); };
  reads(reading);
  reads(reading);
  EXPECT_EQ(error_of([&] { reads(reading); }), "CUDA: a copy to the host cannot be recorded");
  Replay allocates(device());
  const auto allocating = [&] { Tensor(device(), DType::kF32, {1000}); };
  allocates(allocating);
  allocates(allocating);
  EXPECT_NE(error_of([&] { allocates(allocating); }).find("while a step is recorded"),
            std::string::npos);
  x.fill(3);
  EXPECT_EQ(values_of(x), (std::vector<double>{3, 3, 3, 3}));
}

}  // namespace
}  // namespace sidechannel
