// The overlap experiment on a GPU or its emulation, beside the CPU.

#include <gtest/gtest.h>

#include "engine/io/npy.h"
#include "experiments/overlap/distinguish.h"
#include "experiments/run/interrupt.h"
#include "tests/harness/cuda_check.h"
#include "tests/harness/program.h"

namespace sidechannel::experiments {
namespace {

using harness::run_program;
using harness::TemporaryFolder;
using harness::words;

class CudaOverlap : public harness::CudaTest {};

TEST_F(CudaOverlap, AStepIsOneLaunchAndGivesWhatTheCpuGives) {
  const LocalizerConfig config = LocalizerConfig::packed(4, 8, 5);
  const Device device = Device::cuda(0, Precision::kFp32);
  const kernels::CudaQueue& queue = device.cuda_queue();
  Localizer on_cuda(device, DType::kF32, config, 1);
  Localizer on_cpu(harness::device(), DType::kF32, config, 1);
  DistinguishStep cuda(on_cuda, LearningRate{1e-3}, 4, 11, 1);
  DistinguishStep cpu(on_cpu, LearningRate{1e-3}, 4, 11, 1);
  for (int i = 0; i < 20; ++i) {
    const auto before = queue.counters();
    cuda();
    const auto after = queue.counters();
    if (i >= 3 && !queue.blocking()) {
      EXPECT_EQ(after.graph_launches - before.graph_launches, 1) << i;
      EXPECT_EQ(after.launches, before.launches) << i;
      EXPECT_EQ(after.allocations, before.allocations) << i;
      EXPECT_EQ(after.synchronizations, before.synchronizations) << i;
    }
    cpu();
    ASSERT_NEAR(cuda.loss(), cpu.loss(), 1e-4 * cpu.loss()) << i;
    cuda.clear_measures();
    cpu.clear_measures();
  }
}

harness::Words on(const std::string& device, const std::string& out, const std::string& more = "") {
  return words(
      "run --depth 4 --channels 8 --kernel-size 3 --batch 4 --iterations 40 --test-pairs 50 "
      "--log-every 7 --overlaps 0,6,9 --threads 1 --precision fp32 --device " +
          device + " " + more,
      {"--out", out});
}

TEST_F(CudaOverlap, ARunGivesWhatTheCpuGivesAndIsRepeatedToTheByte) {
  const TemporaryFolder folder;
  for (const char* device : {"cpu", "cuda"}) {
    const auto result = run_program("overlap", on(device, folder / device));
    ASSERT_EQ(result.code, 0) << result.err;
  }
  const HostArray cpu = read_npy(folder / "cpu/overlap.npy");
  const HostArray cuda = read_npy(folder / "cuda/overlap.npy");
  ASSERT_EQ(cpu.shape, cuda.shape);
  for (std::size_t i = 0; i < cpu.as<double>().size(); ++i)
    EXPECT_NEAR(cpu.as<double>()[i], cuda.as<double>()[i], 1e-3) << i;

  EXPECT_GT(harness::runs_until_done("overlap", on("cuda", folder / "pieces", "--stop-after 17")),
            2);
  // Two share the GPU.
  ASSERT_EQ(run_program("overlap", on("cuda", folder / "together", "--jobs 2")).code, 0);
  for (const char* out : {"pieces", "together"}) {
    harness::expect_same_files(folder / "cuda", folder / out,
                               {"overlap.npy", "overlap-006/model.safetensors"});
  }
}

}  // namespace
}  // namespace sidechannel::experiments
