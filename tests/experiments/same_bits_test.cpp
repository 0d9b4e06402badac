// The same bits on every processor: digests of what kernels and programs compute, against those of
// tests/golden/same_bits.txt, which every build must meet, whatever its compiler, its instruction
// set and the width of its vectors. How to write that file anew: tests/golden/README.md.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <limits>
#include <map>
#include <span>
#include <sstream>

#include "engine/io/json.h"
#include "engine/io/npy.h"
#include "engine/io/safetensors.h"
#include "experiments/localization/welch.h"
#include "experiments/run/settings.h"
#include "kernels/adam.h"
#include "kernels/add.h"
#include "kernels/conv1d.h"
#include "kernels/ema.h"
#include "kernels/linear.h"
#include "kernels/moments.h"
#include "kernels/mse.h"
#include "kernels/norm_act.h"
#include "kernels/random.h"
#include "kernels/reduce.h"
#include "kernels/weighted_sum.h"
#include "tests/harness/norm_check.h"
#include "tests/harness/program.h"

namespace sidechannel {
namespace {

using harness::content_of;
using harness::run_program;
using harness::TemporaryFolder;
using harness::test_data;
using harness::Words;
using harness::words;
using kernels::Write;
using enum kernels::Activation;

const char* const kFile = "golden/same_bits.txt";

// FNV-1a, 64 bits.
class Digest {
 public:
  template <class T>
  Digest& add(std::span<const T> values) {
    for (const std::byte byte : std::as_bytes(values)) {
      state_ = (state_ ^ std::to_integer<std::uint64_t>(byte)) * 0x100000001b3u;
    }
    return *this;
  }
  template <class T>
  Digest& add(const std::vector<T>& values) {
    return add(std::span<const T>(values));
  }
  Digest& add(double value) { return add(std::span<const double>(&value, 1)); }
  std::string text() const { return fmt::format("{:016x}", state_); }

 private:
  std::uint64_t state_ = 0xcbf29ce484222325u;
};

std::map<std::string, std::string> read_digests() {
  std::ifstream file(test_data(kFile));
  std::map<std::string, std::string> digests;
  std::string name, digest;
  while (file >> name >> digest) digests[name] = digest;
  return digests;
}

void expect_digest(const std::string& name, const Digest& digest) {
  if (const char* file = std::getenv("SIDECHANNEL_WRITE_DIGESTS")) {
    std::ofstream(file, std::ios::app) << name << ' ' << digest.text() << '\n';
    return;
  }
  static const std::map<std::string, std::string> digests = read_digests();
  const auto known = digests.find(name);
  ASSERT_NE(known, digests.end()) << name << " is not in tests/" << kFile;
  EXPECT_EQ(digest.text(), known->second) << name;
}

// Numbers between -1 and 1, of integers alone: SplitMix64 (Steele, Lea & Flood 2014).
class Numbers {
 public:
  template <class T>
  std::vector<T> draw(std::int64_t count) {
    std::vector<T> values(static_cast<std::size_t>(count));
    for (T& value : values) {
      std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
      z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
      z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
      constexpr int bits = sizeof(T) == 4 ? 24 : 53;
      const auto whole = static_cast<std::int64_t>((z ^ (z >> 31)) >> (64 - bits));
      value = std::ldexp(static_cast<T>(whole), 1 - bits) - T(1);
    }
    return values;
  }

 private:
  std::uint64_t state_ = 0;
};

// Calls check(T(), "f32") and the same for f64.
template <class Check>
void for_types(const Check& check) {
  check.template operator()<float>("f32");
  check.template operator()<double>("f64");
}

TEST(SameBits, Conv1d) {
  using kernels::Conv1dDims;
  for_types([]<class T>(const char* type) {
    for (const Conv1dDims& d : std::vector<Conv1dDims>{
             // Channels of every width of a vector, and of none; single ones; sequences that are
             // shorter than the kernel or end within a tile; the shapes of the minimal filtering;
             // strides.
             {2, 19, 1, 32, 5, 2},
             {2, 19, 32, 1, 5, 2},
             {2, 70, 3, 1, 5, 2},
             {3, 13, 7, 5, 3, 1},
             {2, 16, 4, 4, 5, 2},
             {2, 11, 8, 8, 5, 2},
             {2, 17, 16, 16, 5, 2},
             {2, 17, 16, 32, 5, 2},
             {2, 17, 32, 16, 5, 2},
             {2, 21, 24, 40, 5, 2},
             {3, 23, 32, 32, 5, 2},
             {2, 66, 32, 64, 5, 2},
             {1, 130, 64, 64, 5, 2},
             {2, 3, 33, 31, 5, 2},
             {1, 7, 17, 63, 1, 0},
             {2, 9, 70, 2, 7, 3},
             {2, 66, 24, 40, 3, 1, 2},
             {2, 33, 40, 1, 4, 1, 2},
             {2, 21, 1, 24, 5, 2, 3}}) {
      Numbers numbers;
      const auto x = numbers.draw<T>(d.batch * d.length * d.channels_in);
      const auto w = numbers.draw<T>(d.kernel_size * d.channels_in * d.channels_out);
      const auto b = numbers.draw<T>(d.channels_out);
      const auto dy = numbers.draw<T>(d.batch * d.length_out() * d.channels_out);
      auto y = dy, dx = x, dw = w, db = b;
      kernels::CpuQueue& queue = harness::queue(2);
      run(queue, kernels::Conv1dForward<T>{
                     .dims = d, .x = x.data(), .w = w.data(), .b = b.data(), .y = y.data()});
      run(queue,
          kernels::Conv1dBackwardInput<T>{
              .dims = d, .dy = dy.data(), .w = w.data(), .dx = {dx.data(), Write::kAccumulate}});
      run(queue,
          kernels::Conv1dBackwardParams<T>{
              .dims = d, .x = x.data(), .dy = dy.data(), .dw = {dw.data()}, .db = {db.data()}});
      const auto name = [&](const char* what) {
        return fmt::format("conv1d/{}/{}/{}x{}x{}x{}/k{}{}", what, type, d.batch, d.length,
                           d.channels_in, d.channels_out, d.kernel_size,
                           d.stride == 1 ? "" : fmt::format("/stride{}", d.stride));
      };
      expect_digest(name("y"), Digest().add(y));
      expect_digest(name("dx"), Digest().add(dx));
      expect_digest(name("dw,db"), Digest().add(dw).add(db));
    }
  });
}

TEST(SameBits, Linear) {
  using kernels::LinearDims;
  for_types([]<class T>(const char* type) {
    for (const LinearDims& d : std::vector<LinearDims>{{70, 32, 64, kRelu},
                                                       {13, 7, 17, kRelu},
                                                       {67, 100, 1, kNone},
                                                       {9, 1, 24, kNone},
                                                       {130, 48, 40, kRelu}}) {
      Numbers numbers;
      const auto x = numbers.draw<T>(d.rows * d.in);
      const auto w = numbers.draw<T>(d.out * d.in);
      const auto b = numbers.draw<T>(d.out);
      const auto dy = numbers.draw<T>(d.rows * d.out);
      auto y = dy, dx = x, dw = w, db = b;
      kernels::CpuQueue& queue = harness::queue(2);
      run(queue, kernels::LinearForward<T>{
                     .dims = d, .x = x.data(), .w = w.data(), .b = b.data(), .y = y.data()});
      run(queue, kernels::LinearBackward<T>{.dims = d,
                                            .x = x.data(),
                                            .w = w.data(),
                                            .y = y.data(),
                                            .dy = dy.data(),
                                            .dx = {dx.data()},
                                            .dw = {dw.data(), Write::kAccumulate},
                                            .db = {db.data()}});
      const auto name = [&](const char* what) {
        return fmt::format("linear/{}/{}/{}x{}x{}", what, type, d.rows, d.in, d.out);
      };
      expect_digest(name("y"), Digest().add(y));
      expect_digest(name("dx"), Digest().add(dx));
      expect_digest(name("dw,db"), Digest().add(dw).add(db));
    }
  });
}

TEST(SameBits, Normalization) {
  using kernels::NormDims;
  for_types([]<class T>(const char* type) {
    for (const NormDims& d : std::vector<NormDims>{{2, 33, 32, 1, 1, 1e-5, kRelu},
                                                   {3, 16, 5, 1, 1, 1e-5, kRelu},
                                                   {2, 19, 24, 6, 1, 1e-5, kRelu},
                                                   {2, 17, 40, 40, 1, 1e-5, kNone},
                                                   {4, 15, 64, 1, 2, 1e-5, kRelu},
                                                   {4, 9, 3, 1, 4, 1e-5, kRelu},
                                                   {2, 21, 20, 5, 1, 1e-5, kMish},
                                                   {2, 33, 24, 6, 1, 1e-5, kRelu, 0, false},
                                                   {3, 16, 40, 40, 1, 1e-5, kRelu, 1, false}}) {
      Numbers numbers;
      const auto x = numbers.draw<T>(d.batch * d.length * d.channels);
      const auto gamma = numbers.draw<T>(d.channels), beta = numbers.draw<T>(d.channels);
      const auto dy = numbers.draw<T>(d.batch * d.length * d.channels);
      auto variance = numbers.draw<T>(d.channels);
      for (T& value : variance) value = value * value;
      using harness::widened;
      harness::NormBuffers<harness::OnCpu, T> b({d, widened(x), widened(gamma), widened(beta),
                                                 widened(dy), widened(beta), widened(variance)});
      kernels::CpuQueue& queue = harness::queue(2);
      run(queue, b.forward());
      run(queue, b.backward());
      const auto name = [&](const char* what) {
        return fmt::format("norm_act/{}/{}/{}x{}x{}/{},{}{}", what, type, d.batch, d.length,
                           d.channels, d.channels_per_set, d.samples_per_set,
                           d.centred ? "" : "/rms");
      };
      const auto digest = [](auto... buffers) {
        return Digest().add(harness::values_of_all({buffers...}));
      };
      expect_digest(name("y"), digest(&b.y, &b.mean, &b.rest, &b.rstd));
      expect_digest(name("gradients"), digest(&b.dx, &b.dgamma, &b.dbeta));
      run(queue, b.population_forward());
      run(queue, b.population_backward());
      expect_digest(name("population"), digest(&b.y, &b.dx, &b.dgamma, &b.dbeta));
      if (d.channels_per_set > 1) continue;
      auto running_mean = beta;
      run(queue, kernels::NormUpdateRunning<T>{.dims = d,
                                               .momentum = 0.1,
                                               .statistics = b.statistics(),
                                               .running_mean = running_mean.data(),
                                               .running_variance = variance.data()});
      expect_digest(name("running"), Digest().add(running_mean).add(variance));
    }
  });
}

TEST(SameBits, SumsAndAdam) {
  for_types([]<class T>(const char* type) {
    const std::int64_t size = 9001;
    Numbers numbers;
    const auto x = numbers.draw<T>(size), target = numbers.draw<T>(size), g = numbers.draw<T>(size);
    auto dx = x, p = x, m = target, v = g;
    for (T& value : v) value = value * value;
    kernels::CpuQueue& queue = harness::queue(2);
    double squares = 0;
    T loss = 0;
    run(queue, kernels::SumOfSquares<T>{.size = size, .x = x.data(), .result = &squares});
    run(queue, kernels::MseForward<T>{
                   .dims = {size, size}, .y = x.data(), .target = target.data(), .loss = &loss});
    run(queue, kernels::MseBackward<T>{.dims = {size, size},
                                       .y = x.data(),
                                       .target = target.data(),
                                       .dloss = &loss,
                                       .dy = {dx.data()}});
    expect_digest(fmt::format("sums/{}", type), Digest().add(squares).add(loss).add(dx));

    std::int64_t count = 40;
    std::vector<double> mean(size / 3 + 1), m2 = mean;
    run(queue, kernels::MomentsUpdate<T>{.samples = 3,
                                         .length = size / 3,
                                         .x = x.data(),
                                         .count = &count,
                                         .mean = mean.data(),
                                         .m2 = m2.data()});
    expect_digest(fmt::format("moments/{}", type), Digest().add(mean).add(m2));

    kernels::AdamState state;
    Digest rates;
    for (const std::int64_t steps : {0, 1, 6, 99, 1234, 100000}) {
      state.steps = steps;
      state = begin_step({}, state, squares, 1, std::numeric_limits<T>::max());
      run(queue, kernels::AdamUpdate<T>{.rule = {},
                                        .state = &state,
                                        .size = size,
                                        .g = g.data(),
                                        .p = p.data(),
                                        .m = m.data(),
                                        .v = v.data()});
      rates.add(state.rate).add(state.correction);
    }
    expect_digest(fmt::format("adam/{}", type), rates.add(p).add(m).add(v));

    const kernels::RandomPosition at{3, 5};
    auto noise = x, weights = x;
    run(queue, kernels::NormalFill<T>{
                   .random = {7, 1}, .at = &at, .samples = 1, .length = size, .out = noise.data()});
    run(queue,
        kernels::UniformFill<T>{
            .random = {7, 2}, .step = 0, .bound = 0.25, .size = size, .out = weights.data()});
    expect_digest(fmt::format("random/{}", type), Digest().add(noise).add(weights));
  });
}

TEST(SameBits, PartsOfADiffusionModel) {
  for_types([]<class T>(const char* type) {
    const std::int64_t batch = 3, length = 37, channels = 19, size = batch * length * channels;
    Numbers numbers;
    const auto x = numbers.draw<T>(size), noise = numbers.draw<T>(size),
               rows = numbers.draw<T>(batch * channels), w = numbers.draw<T>(batch),
               of_sequence = numbers.draw<T>(length * channels);
    kernels::CpuQueue& queue = harness::queue(2);
    auto y = x, dx = x, dhold = x;
    auto db = rows;
    const kernels::AddDims add{batch, length, channels};
    run(queue, kernels::AddForward<T>{.dims = add, .a = x.data(), .b = rows.data(), .y = y.data()});
    run(queue,
        kernels::AddBackward<T>{.dims = add, .dy = x.data(), .da = {dx.data()}, .db = {db.data()}});
    expect_digest(fmt::format("add/{}", type), Digest().add(y).add(dx).add(db));

    auto held = of_sequence;
    for (T& value : held) value = value > T(0.5) ? T(1) : T(0);
    const kernels::WeightedSumDims mixed{batch, length * channels, 2};
    run(queue, kernels::WeightedSumForward<T>{.dims = mixed,
                                              .w = {w.data(), rows.data()},
                                              .x = {x.data(), noise.data()},
                                              .held = held.data(),
                                              .hold = noise.data(),
                                              .y = y.data()});
    run(queue, kernels::WeightedSumBackward<T>{.dims = mixed,
                                               .w = {w.data(), rows.data()},
                                               .held = held.data(),
                                               .dy = x.data(),
                                               .dx = {{dx.data(), Write::kAccumulate}},
                                               .dhold = {dhold.data()}});
    expect_digest(fmt::format("weighted_sum/{}", type), Digest().add(y).add(dx).add(dhold));

    const kernels::MseDims mse{
        .size = size, .target_size = size, .weights_size = length * channels};
    T loss = 0;
    run(queue, kernels::MseForward<T>{.dims = mse,
                                      .y = x.data(),
                                      .target = noise.data(),
                                      .weights = of_sequence.data(),
                                      .loss = &loss});
    run(queue, kernels::MseBackward<T>{.dims = mse,
                                       .y = x.data(),
                                       .target = noise.data(),
                                       .weights = of_sequence.data(),
                                       .dloss = &loss,
                                       .dy = {dx.data()}});
    expect_digest(fmt::format("mse_weighted/{}", type), Digest().add(loss).add(dx));

    run(queue, kernels::EmaUpdate<T>{
                   .decay = 0.995, .size = size, .value = x.data(), .average = y.data()});
    const kernels::RandomPosition at{3, 5};
    run(queue, kernels::IntegerFill<T>{
                   .random = {7, 3}, .at = &at, .samples = size, .count = 99991, .out = dx.data()});
    expect_digest(fmt::format("ema_and_integers/{}", type), Digest().add(y).add(dx));
  });
}

TEST(SameBits, WelchsTest) {
  Numbers numbers;
  Digest digest;
  for (const double scale : {1.0, 0.1, 0.01}) {
    const auto draws = numbers.draw<double>(60);
    std::vector<experiments::SampleMoments> moments;
    for (std::size_t i = 0; i < draws.size(); i += 2) {
      moments.push_back({scale * draws[i], draws[i + 1] * draws[i + 1], 100});
    }
    digest.add(experiments::largest_p_values(moments));
  }
  expect_digest("welch", digest);
}

// Of everything that a run keeps but times and where it was made.
Digest digest_of_run(const TemporaryFolder& folder, const std::string& run,
                     const std::vector<std::string>& tensors,
                     const std::vector<std::string>& arrays) {
  Digest digest;
  const std::filesystem::path path = folder / run;
  for (const std::string& file : tensors) {
    for (const auto& [name, tensor] : read_safetensors(path / file).tensors) {
      digest.add(tensor.bytes);
    }
  }
  for (const std::string& file : arrays) digest.add(read_npy(path / file).bytes);
  std::istringstream metrics(content_of(path / "metrics.jsonl"));
  for (std::string line; std::getline(metrics, line);) {
    const Json json = Json::parse(line);
    for (const char* key : {"loss", "gradient_norm", "interior_slope", "output_std"}) {
      if (json.contains(key)) digest.add(json[key].get<double>());
    }
  }
  return digest;
}

void run(const std::string& program, const std::string& line, const std::string& out) {
  const auto result =
      run_program(program, words(line + " --device cpu --threads 2 --log-every 5", {"--out", out}));
  ASSERT_EQ(result.code, 0) << result.err;
}

TEST(SameBits, LocalizationRuns) {
  for (const std::string kind :
       {"none", "instance", "layer", "group --groups 4", "batch --batch 4 --samples-per-set 2"}) {
    for (const std::string channels : {"32", "12"}) {
      const TemporaryFolder folder;
      run("localization",
          fmt::format("run --length 20 --depth 4 --iterations 15 --probe-width 24 "
                      "--probe-iterations 5 --map-samples 70 --channels {} --norm {}",
                      channels, kind),
          folder / "run");
      expect_digest(
          fmt::format("localization/{}/h{}", words(kind)[0], channels),
          digest_of_run(folder, "run", {"model.safetensors", "probes.safetensors"},
                        {"layer_mean.npy", "layer_variance.npy", "p_max.npy", "localized.npy",
                         "predictions_mean.npy", "predictions_sample.npy"}));
    }
  }
}

TEST(SameBits, OverlapRuns) {
  const TemporaryFolder folder;
  run("overlap",
      "run --depth 4 --channels 12 --kernel-size 3 --batch 4 --iterations 15 --test-pairs 70 "
      "--overlaps 0:9:3",
      folder / "run");
  for (const char* overlap : {"000", "003", "006", "009"}) {
    expect_digest(
        fmt::format("overlap/{}", overlap),
        digest_of_run(folder, fmt::format("run/overlap-{}", overlap), {"model.safetensors"}, {}));
  }
  expect_digest("overlap/all", digest_of_run(folder, "run", {}, {"overlap.npy"}));
}

}  // namespace
}  // namespace sidechannel
