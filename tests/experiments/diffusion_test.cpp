#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "engine/io/npy.h"
#include "engine/io/safetensors.h"
#include "experiments/diffusion/evaluate.h"
#include "experiments/run/training_loop.h"
#include "tests/harness/backends.h"
#include "tests/harness/program.h"

namespace sidechannel::experiments {
namespace {

using harness::Draw;
using harness::error_of;
using harness::TemporaryFolder;
using harness::values_of;

// --- The schedule -------------------------------------------------------------------------------

TEST(NoiseSchedule, IsTheCosineSchedule) {
  const NoiseSchedule schedule(64);
  ASSERT_EQ(schedule.steps(), 64);
  for (std::size_t t = 0; t < 64; ++t) {
    EXPECT_NEAR(schedule.signal[t] * schedule.signal[t] + schedule.noise[t] * schedule.noise[t], 1,
                1e-12);
    if (t + 1 < 63) {  // but for the last step, whose beta is cut
      const double at = (static_cast<double>(t) + 1) / 64;
      const double c = std::cos((at + 0.008) / 1.008 * M_PI / 2),
                   c0 = std::cos(0.008 / 1.008 * M_PI / 2);
      EXPECT_NEAR(schedule.signal[t], c / c0, 1e-12) << t;
    }
  }
  EXPECT_LT(schedule.signal[63], 0.01);  // hardly anything is left
}

// q(x_{t-1} | x_t, x_0), by Bayes' rule for Gaussians, from q(x_t | x_{t-1}) and q(x_{t-1} | x_0).
TEST(NoiseSchedule, TheSamplersStepIsThePosterior) {
  const NoiseSchedule schedule(20);
  for (std::size_t t = 1; t < 20; ++t) {
    const double a = schedule.signal[t] / schedule.signal[t - 1];  // x_t = a x_{t-1} + sqrt(b) e
    const double b = 1 - a * a, before = schedule.noise[t - 1] * schedule.noise[t - 1];
    const double precision = 1 / before + a * a / b;
    EXPECT_NEAR(schedule.deviation[t], std::sqrt(1 / precision), 1e-9);
    EXPECT_NEAR(schedule.of_start[t], schedule.signal[t - 1] / before / precision, 1e-9);
    EXPECT_NEAR(schedule.of_sample[t], a / b / precision, 1e-9);
  }
  EXPECT_EQ(schedule.deviation[0], 0);
  EXPECT_NEAR(schedule.of_start[0], 1, 1e-12);
  EXPECT_NEAR(schedule.of_sample[0], 0, 1e-12);
}

// --- The corridors ------------------------------------------------------------------------------

CorridorsConfig tiny_world() {
  return {.side = 3,
          .corridors = 5,
          .steps_per_corridor = 3,
          .walks = 6,
          .walk_corridors = 12,
          .held_out = 0.25};
}

TEST(Corridors, RefusesWhatThereCannotBe) {
  const auto error = [](const std::function<void(CorridorsConfig&)>& change) {
    CorridorsConfig config = tiny_world();
    change(config);
    return error_of([&] { Corridors(config, 0); });
  };
  EXPECT_EQ(error([](auto& c) { c.side = 1; }), "--side 1: expected at least 2 junctions");
  EXPECT_EQ(error([](auto& c) { c.walk_corridors = 5; }),
            "--walk-corridors 5: expected more than --corridors 5");
  EXPECT_EQ(error([](auto& c) { c.held_out = 1; }), "--held-out: expected a share below 1");
}

// --- Training and planning ----------------------------------------------------------------------

DiffusionSettings tiny() {
  DiffusionSettings settings;
  settings.side = 3;
  settings.corridors = 5;
  settings.steps_per_corridor = 3;
  settings.walks = 6;
  settings.walk_corridors = 12;
  settings.dim = 8;
  settings.multipliers = "1,2";
  settings.groups = 2;
  settings.steps = 5;
  settings.batch = 4;
  settings.iterations = 30;
  settings.ema_every = 2;
  settings.ema_from = 4;
  settings.pairs = 3;
  settings.plans = 2;
  settings.leak_outputs = 2;
  settings.leak_inputs = 1;
  settings.check();
  return settings;
}

// What is noised is a window that may be seen, but for its ends, which stay.
BACKEND_TEST(Diffusion, NoisesAllButTheEnds) {
  Backend::for_devices([](const Device& device, DType dtype) {
    if (dtype != DType::kF32) return;
    const NoiseSchedule schedule(5);
    const NoiseTables tables(device, schedule);
    Tape tape(device);
    const std::vector<double> start = values_of(Draw(1).tensor({3, 8, 2}));
    const std::vector<double> noise = values_of(Draw(2).tensor({3, 8, 2}));
    const auto on_device = [&](const std::vector<double>& values, Shape shape) {
      return tape.constant(Tensor::from(device, harness::array_of(values, DType::kF32, shape)));
    };
    const Var x = tables.noised(on_device(start, {3, 8, 2}), on_device(noise, {3, 8, 2}),
                                on_device({0, 4, 2}, {3}), Tensor::from(device, held_positions(8)));
    const std::vector<double> noised = values_of(x.value());
    const std::size_t steps[] = {0, 4, 2};
    for (std::size_t i = 0; i < noised.size(); ++i) {
      const std::size_t position = i / 2 % 8, t = steps[i / 16];
      const bool end = position == 0 || position == 7;
      const double expected =
          end ? start[i] : schedule.signal[t] * start[i] + schedule.noise[t] * noise[i];
      EXPECT_NEAR(noised[i], expected, 1e-6) << i;
    }
  });
}

TEST(Diffusion, TheLossIsThatOfWhatWasNoised) {
  const DiffusionSettings settings = tiny();
  const Corridors town(settings.world(), 0);
  TemporalUnet network(harness::device(), DType::kF32, settings.network(), 0);
  DiffusionStep step(settings, network, town);
  for (int i = 0; i < 3; ++i) step();
  // At initialization the answer is near 0: the loss is near the mean square of positions.
  EXPECT_GT(step.measures()[0], 0.1);
  EXPECT_LT(step.measures()[0], 1.5);
}

// The average of the weights: a copy until it begins, then a recurrence, every so many steps.
TEST(Diffusion, AveragesItsWeights) {
  const DiffusionSettings settings = tiny();
  const Corridors town(settings.world(), 0);
  TemporalUnet network(harness::device(), DType::kF32, settings.network(), 0);
  DiffusionStep step(settings, network, town);
  const auto flat = [&] {
    std::vector<double> all;
    for (const Parameter& p : network.parameters().parameters()) {
      const std::vector<double> values = values_of(p.value);
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  };
  std::vector<double> expected;
  for (std::int64_t done = 1; done <= 9; ++done) {
    step();
    step.average(done);
    const std::vector<double> now = flat();
    if (done == 4) expected = now;
    if (done > 4 && done % 2 == 0) {
      for (std::size_t i = 0; i < now.size(); ++i) {
        expected[i] = settings.ema_decay * expected[i] + (1 - settings.ema_decay) * now[i];
      }
    }
  }
  EXPECT_LE(harness::relative_difference(values_of(step.ema().average()), expected), 1e-6);
  EXPECT_GT(harness::relative_difference(values_of(step.ema().average()), flat()), 1e-4);
}

TEST(Diffusion, PlansBeginAndEndWhereTheyAreTold) {
  const DiffusionSettings settings = tiny();
  const TemporalUnet network(harness::device(), DType::kF32, settings.network(), 0);
  const std::vector<float> ends = {-1, -1, 1, 0, 0, 1, -1, 0};
  const auto plans = [&](std::uint64_t seed) {
    return sample_plans(network, NoiseSchedule(settings.steps),
                        HostArray::from<float>(ends, {2, 4}), 16, Statistics::kMinibatch, seed);
  };
  const HostArray first = plans(1);
  ASSERT_EQ(first.shape, (Shape{2, 16, 2}));
  for (std::size_t i = 0; i < 2; ++i) {
    for (std::size_t c = 0; c < 2; ++c) {
      EXPECT_EQ(first.as<float>()[i * 32 + c], ends[i * 4 + c]);
      EXPECT_EQ(first.as<float>()[i * 32 + 30 + c], ends[i * 4 + 2 + c]);
    }
  }
  EXPECT_EQ(plans(1).bytes, first.bytes);
  EXPECT_NE(plans(2).bytes, first.bytes);
}

// --- The program --------------------------------------------------------------------------------

const char* kTiny =
    "run --preset demo --device cpu --threads 1 --side 3 --corridors 5 --steps-per-corridor 3 "
    "--walks 6 --walk-corridors 12 --dim 8 --multipliers 1,2 --groups 2 --steps 5 --batch 4 "
    "--iterations 30 --ema-every 2 --ema-from 4 --pairs 3 --plans 2 --leak-outputs 2 "
    "--leak-inputs 1 --out ";

TEST(DiffusionProgram, IsTheSameAfterAnInterruption) {
  const TemporaryFolder folder;
  const auto run = [&](const std::string& name, const std::string& more) {
    return harness::run_program("diffusion", harness::words(kTiny + (folder / name) + more));
  };
  EXPECT_EQ(run("whole", "").code, 0);
  EXPECT_EQ(run("cut", " --stop-after 11").code, 75);
  EXPECT_EQ(run("cut", "").code, 0);
  for (const char* file : {"metrics.jsonl", "model.safetensors", "model-0000009.safetensors",
                           "plans.npy", "pairs.npy", "leak.json"}) {
    EXPECT_EQ(read_file(folder / (std::string("whole/") + file)),
              read_file(folder / (std::string("cut/") + file)))
        << file;
  }
  const Json summary = read_json(folder / "whole/summary.json");
  for (const char* kind : {"held_out", "trained"}) {
    EXPECT_EQ(summary[kind]["plans"], 6);
    EXPECT_LE(summary[kind]["valid"].get<double>(), summary[kind]["solved"].get<double>());
  }
  const Json lines = read_json(folder / "whole/leak.json")["lines"];
  EXPECT_EQ(lines[0]["step"], 0);
  EXPECT_EQ(lines.back()["step"], 30);
  EXPECT_EQ(lines.back()["horizon"], 32);
  // Done already.
  EXPECT_NE(run("whole", "").out.find("done already"), std::string::npos);
}

TEST(DiffusionProgram, RefusesWhatMakesNoSense) {
  const TemporaryFolder folder;
  const auto error = [&](const std::string& more) {
    const auto result =
        harness::run_program("diffusion", harness::words(kTiny + (folder / "x") + more));
    EXPECT_EQ(result.code, 2);
    return result.err;
  };
  EXPECT_EQ(error(" --multipliers 2,4"),
            "diffusion: --multipliers 2,4: expected 1 first, and at most 16 of them\n");
  EXPECT_EQ(error(" --dim 7"), "diffusion: --dim 7: expected an even number from 4 on\n");
  EXPECT_EQ(error(" --groups 3"),
            "diffusion: --groups 3: expected a divisor of the 8 channels of level 0\n");
  EXPECT_EQ(error(" --multipliers 1,x"),
            "diffusion: --multipliers 1,x: expected whole numbers from 1 to 16384 with commas "
            "between, such as 1,4,8\n");
}

}  // namespace
}  // namespace sidechannel::experiments
