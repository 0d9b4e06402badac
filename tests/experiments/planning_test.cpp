// Plans by diffusion: sampled as the definition says, between the ends that were given; and runs of
// the program that are refused, stopped, killed and resumed.

#include "experiments/diffusion/planning.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <fstream>

#include "engine/io/checkpoint.h"
#include "engine/io/npy.h"
#include "engine/io/safetensors.h"
#include "experiments/run/interrupt.h"
#include "tests/harness/backends.h"
#include "tests/harness/program.h"

namespace sidechannel::experiments {
namespace {

using harness::FolderTest;
using harness::ProgramResult;
using harness::values_of;
using harness::Words;
using harness::words;

// --- Sampling -----------------------------------------------------------------------------------

constexpr std::int64_t kHorizon = 16, kSteps = 6;
constexpr std::uint64_t kSeed = 5;

TemporalUnetConfig planner_of(NormKind norm) {
  return {.transition = 2,
          .dim = 8,
          .multipliers = {1, 2},
          .kernel_size = 3,
          .steps = kSteps,
          .norm = norm,
          .groups = 2};
}

// Awkward numbers, which no arithmetic would leave as they are.
HostArray awkward_ends() {
  const std::vector<float> ends = {0.1F,       -1.0F / 3, 1e-8F, -0.99999994F, 1,     -1,
                                   3.1415927F, 0,         -0.7F, 0.3F,         1e30F, -1e-38F};
  return HostArray::from<float>(ends, {3, 4});
}

// Whether plans begin and end where they are told, to the bit.
bool ends_are_kept(const HostArray& plans, const HostArray& ends) {
  const std::int64_t count = plans.shape[0], horizon = plans.shape[1];
  for (std::int64_t i = 0; i < count; ++i) {
    for (std::int64_t c = 0; c < 2; ++c) {
      const auto at = [&](std::int64_t position) {
        return plans.as<float>()[static_cast<std::size_t>((i * horizon + position) * 2 + c)];
      };
      const auto given = [&](std::int64_t which) {
        return ends.as<float>()[static_cast<std::size_t>(i * 4 + which)];
      };
      if (at(0) != given(c) || at(horizon - 1) != given(2 + c)) return false;
    }
  }
  return true;
}

TEST(SamplePlans, BeginAndEndExactlyWhereTheyAreTold) {
  const HostArray ends = awkward_ends();
  for (const auto& [norm, statistics] : {std::pair{NormKind::kNone, Statistics::kMinibatch},
                                         {NormKind::kGroup, Statistics::kMinibatch},
                                         {NormKind::kPosition, Statistics::kMinibatch},
                                         {NormKind::kBatch, Statistics::kPopulation},
                                         {NormKind::kGroupPopulation, Statistics::kPopulation}}) {
    const TemporalUnet network(harness::device(), DType::kF32, planner_of(norm), 1);
    for (const std::int64_t steps : {std::int64_t{1}, kSteps}) {
      const HostArray plans =
          sample_plans(network, NoiseSchedule(steps), ends, kHorizon, statistics, kSeed);
      ASSERT_EQ(plans.shape, (Shape{3, kHorizon, 2}));
      EXPECT_TRUE(ends_are_kept(plans, ends)) << name_of(norm) << " " << steps;
    }
  }
}

// What a sampler may get wrong.
enum class Mistake {
  kNone,
  kEndsAreNotGivenToTheNetwork,  // but put there at the end
  kEndsAreNotPutBack,            // after the last answer
  kNoiseOfTheStepBefore,
  kStepOfTheStepBefore,
  kNoNoise,
  kStartAlone,  // the network's answer is the next sample
};

// Janner et al.'s loop, its arithmetic in double.
HostArray sampled(const TemporalUnet& network, const NoiseSchedule& schedule, const HostArray& ends,
                  Mistake mistake) {
  constexpr Stream kPlanNoise{9};
  const Device& device = network.parameters().device();
  const std::int64_t count = ends.shape[0], steps = schedule.steps();
  const Shape shape{count, kHorizon, 2};
  Random random(device, kSeed);
  const auto noise_of = [&](std::int64_t t) {
    Tape tape(device);
    random.seek(static_cast<std::uint32_t>(t));
    return values_of(tape.normal({count, kHorizon * 2}, kPlanNoise, random).value());
  };
  const auto hold_ends = [&](std::vector<double>& x) {
    for (std::int64_t i = 0; i < count; ++i) {
      for (std::int64_t c = 0; c < 2; ++c) {
        const auto put = [&](std::int64_t position, std::int64_t which) {
          x[static_cast<std::size_t>((i * kHorizon + position) * 2 + c)] =
              static_cast<double>(ends.as<float>()[static_cast<std::size_t>(i * 4 + which)]);
        };
        put(0, c);
        put(kHorizon - 1, 2 + c);
      }
    }
  };
  const bool holds = mistake != Mistake::kEndsAreNotGivenToTheNetwork;
  std::vector<double> x = noise_of(steps);
  if (holds) hold_ends(x);
  for (std::int64_t t = steps - 1; t >= 0; --t) {
    const std::int64_t before = std::min(t + 1, steps - 1);
    Tape tape(device);
    const NoGrad no_grad(tape);
    const Var step = tape.make({count});
    step.value().fill(static_cast<double>(mistake == Mistake::kStepOfTheStepBefore ? before : t));
    const Var given = tape.constant(Tensor::from(device, harness::array_of(x, DType::kF32, shape)));
    const std::vector<double> start =
        values_of(network(given, step, Statistics::kMinibatch).value());
    const std::vector<double> e = noise_of(t);
    const auto at = static_cast<std::size_t>(t);
    const double deviation = mistake == Mistake::kNoNoise ? 0
                             : mistake == Mistake::kNoiseOfTheStepBefore
                                 ? schedule.deviation[static_cast<std::size_t>(before)]
                                 : schedule.deviation[at];
    for (std::size_t i = 0; i < x.size(); ++i) {
      x[i] = mistake == Mistake::kStartAlone ? start[i]
                                             : schedule.of_start[at] * start[i] +
                                                   schedule.of_sample[at] * x[i] + deviation * e[i];
    }
    if (holds && !(t == 0 && mistake == Mistake::kEndsAreNotPutBack)) hold_ends(x);
  }
  if (mistake == Mistake::kEndsAreNotGivenToTheNetwork) hold_ends(x);
  return harness::array_of(x, DType::kF32, shape);
}

TEST(SamplePlans, AreSampledAsTheDefinitionSays) {
  const std::vector<float> some = {-1, -1, 1, 0, 0, 1, -1, 0.5F};
  const HostArray ends = HostArray::from<float>(some, {2, 4});
  const NoiseSchedule schedule(kSteps);
  const TemporalUnet network(harness::device(), DType::kF32, planner_of(NormKind::kGroup), 1);
  const HostArray plans =
      sample_plans(network, schedule, ends, kHorizon, Statistics::kMinibatch, kSeed);
  const auto difference = [&](Mistake mistake) {
    const HostArray theirs = sampled(network, schedule, ends, mistake);
    EXPECT_EQ(ends_are_kept(theirs, ends), mistake != Mistake::kEndsAreNotPutBack);
    return harness::relative_difference(values_of(Tensor::from(harness::device(), plans)),
                                        values_of(Tensor::from(harness::device(), theirs)));
  };
  EXPECT_LE(difference(Mistake::kNone), 1e-5);
  for (const Mistake mistake : {Mistake::kEndsAreNotGivenToTheNetwork, Mistake::kEndsAreNotPutBack,
                                Mistake::kNoiseOfTheStepBefore, Mistake::kStepOfTheStepBefore,
                                Mistake::kNoNoise, Mistake::kStartAlone}) {
    EXPECT_GT(difference(mistake), 1e-4) << static_cast<int>(mistake);
  }
}

// --- The program --------------------------------------------------------------------------------

const char* kTiny =
    "run --preset demo --device cpu --threads 1 --side 3 --corridors 5 --steps-per-corridor 3 "
    "--walks 6 --walk-corridors 12 --dim 8 --multipliers 1,2 --groups 2 --steps 3 --batch 4 "
    "--iterations 12 --ema-every 2 --ema-from 4 --log-every 5 --pairs 1 --plans 2 --leak-outputs 1 "
    "--leak-inputs 1 --out ";

class DiffusionRuns : public FolderTest {
 protected:
  std::string path(const std::string& name) const { return folder_ / name; }
  ProgramResult run(const std::string& name, const std::string& more = "") const {
    return harness::run_program("diffusion", words(kTiny + path(name) + " " + more));
  }
  void refused(const std::string& more, int code, const std::string& message) const {
    harness::expect_refusal(run("run", more), "diffusion", code, message);
  }
  // What must be equal, byte by byte, however often a run was stopped.
  void expect_same(const std::string& a, const std::string& b) const {
    harness::expect_same_files(path(a), path(b),
                               words("metrics.jsonl model-0000000.safetensors "
                                     "model-0000012.safetensors model.safetensors plans.npy "
                                     "pairs.npy leak.json"));
    const auto state = [&](const std::string& name) {
      return read_safetensors(path(name) + "/checkpoint.safetensors").tensors;
    };
    const TensorMap mine = state(a), theirs = state(b);
    EXPECT_TRUE(mine.contains("ema.average"));
    ASSERT_EQ(mine.size(), theirs.size());
    for (const auto& [tensor, array] : mine) {
      EXPECT_EQ(array.bytes, theirs.at(tensor).bytes) << tensor;
    }
  }
};

TEST_F(DiffusionRuns, StoppedAtEveryStepGiveTheSameBytes) {
  ASSERT_EQ(run("whole").code, 0);
  for (int stop = 1; stop < 12; ++stop) {
    SCOPED_TRACE(stop);
    const std::string name = std::to_string(stop);
    ASSERT_EQ(run(name, "--stop-after " + name).code, kExitInterrupted);
    EXPECT_FALSE(std::filesystem::exists(path(name + "/model.safetensors")));
    const ProgramResult resumed = run(name);
    ASSERT_EQ(resumed.code, 0) << resumed.err;
    expect_same("whole", name);
  }
  EXPECT_TRUE(harness::has(run("whole").out, ": done already, see summary.json\n"));
}

TEST_F(DiffusionRuns, KilledGiveTheSameBytes) {
  ASSERT_EQ(run("whole").code, 0);
  const Words arguments = words(kTiny + path("killed") + " --checkpoint-every 1");
  harness::kill_repeatedly("diffusion", arguments, 15);
  ASSERT_EQ(harness::run_program("diffusion", arguments).code, 0);
  expect_same("whole", "killed");
}

// The average that plans is that of the state: another one there is another planner. A resume that
// began the average anew would not notice.
TEST_F(DiffusionRuns, TheAverageOfAStateIsTheOneThatGoesOn) {
  ASSERT_EQ(run("whole").code, 0);
  const auto stopped = [&](const std::string& name, const auto& change) {
    EXPECT_EQ(run(name, "--stop-after 8").code, kExitInterrupted);
    const std::filesystem::path state = path(name) + "/checkpoint.safetensors";
    SafetensorsFile file = read_safetensors(state);
    change(file.tensors);
    save_checkpoint(state, file);
    std::filesystem::remove(previous_of(state));
    return run(name);
  };
  EXPECT_EQ(stopped("same", [](TensorMap&) {}).code, 0);
  expect_same("whole", "same");
  const auto moved = [](TensorMap& tensors) { tensors.at("ema.average").as<float>()[0] += 1; };
  EXPECT_EQ(stopped("other", moved).code, 0);
  EXPECT_EQ(harness::content_of(path("other/metrics.jsonl")),
            harness::content_of(path("whole/metrics.jsonl")));
  EXPECT_NE(harness::content_of(path("other/model.safetensors")),
            harness::content_of(path("whole/model.safetensors")));
  const ProgramResult without =
      stopped("without", [](TensorMap& tensors) { tensors.erase("ema.average"); });
  harness::expect_refusal(without, "diffusion", 1,
                          path("without/checkpoint.safetensors") + ": has no tensor ema.average");
}

TEST_F(DiffusionRuns, BadUsageIsOneLineAndExitCode2) {
  harness::expect_refusal(harness::run_program("diffusion", {}), "diffusion", 2,
                          "expected a command: run, settings or completion (see --help)");
  for (const auto& [flags, message] : std::vector<std::pair<const char*, std::string>>{
           {"--model x", "there is no flag --model (see --help)"},
           {"--steps 0", "--steps 0: expected a whole number from 1 to 65536"},
           {"--held-out 1", "--held-out 1: expected a number of at least 0 and below 1"},
           {"--ema-decay 2", "--ema-decay 2: expected a number of at least 0 and at most 1"},
           {"--kernel-size 4", "--kernel-size 4: expected an odd number from 1 to 999"},
           {"--corridors 3 --steps-per-corridor 2",
            "--corridors 3, --steps-per-corridor 2: plans of 7 positions, expected a multiple of 2 "
            "for --multipliers 1,2"},
           {"--resume only", path("run") + " holds no run to resume"},
           {"--precision tf32", "precision tf32: the CPU computes in fp32"}}) {
    refused(flags, 2, message);
  }
  EXPECT_FALSE(std::filesystem::exists(path("run")));  // nothing of this leaves a trace
  ASSERT_EQ(run("run", "--stop-after 1").code, kExitInterrupted);
  refused("--resume never", 2, path("run") + " already holds a run; choose another --out");
  refused("--seed 1", 2,
          path("run") +
              " holds a run with other settings (seed is 0 there, 1 here); choose another --out");
  std::filesystem::create_directory(path("notes"));
  std::ofstream(path("notes/mine")) << "x";
  harness::expect_refusal(run("notes"), "diffusion", 2,
                          path("notes") + " holds no run but mine; choose another --out");
}

TEST_F(DiffusionRuns, WhatCannotBeWrittenIsOneLineAndExitCode1) {
  const auto in = [](const std::string& out) {
    return harness::run_program("diffusion", words(kTiny + out));
  };
  harness::expect_refusal(in("/dev/full"), "diffusion", 1,
                          "cannot create folder /dev/full: Not a directory");
  harness::expect_refusal(in("/proc/run"), "diffusion", 1,
                          "cannot create folder /proc/run: No such file or directory");
  // A full disk, by the limit on the size of a file: nothing of the weights can be kept.
  struct rlimit before {};
  getrlimit(RLIMIT_FSIZE, &before);
  struct rlimit small = before;
  small.rlim_cur = 8000;
  setrlimit(RLIMIT_FSIZE, &small);
  signal(SIGXFSZ, SIG_IGN);
  const ProgramResult full = run("full");
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_EQ(full.code, 1);
  EXPECT_TRUE(harness::begins(full.err, "diffusion: cannot write " + path("full") + "/"));
  EXPECT_TRUE(harness::ends(full.err, ": File too large\n"));
  EXPECT_EQ(std::count(full.err.begin(), full.err.end(), '\n'), 1) << full.err;
  ASSERT_EQ(run("full").code, 0);
  ASSERT_EQ(run("whole").code, 0);
  expect_same("whole", "full");
}

TEST_F(DiffusionRuns, NumbersThatAreNotFiniteStopTheRunBeforeTheUpdate) {
  const ProgramResult result = run("run", "--learning-rate 1e30 --schedule constant");
  EXPECT_EQ(result.code, 1);
  EXPECT_TRUE(harness::begins(result.err, "diffusion: step "));
  EXPECT_TRUE(harness::has(result.err, "; stopped before the update, the state is kept in " +
                                           path("run/failure.safetensors")));
  EXPECT_FALSE(std::filesystem::exists(path("run/summary.json")));
  for (const auto& [name, array] : read_safetensors(path("run/failure.safetensors")).tensors) {
    if (array.dtype != DType::kF32) continue;
    for (const float value : array.as<float>()) ASSERT_TRUE(std::isfinite(value)) << name;
  }
}

}  // namespace
}  // namespace sidechannel::experiments
