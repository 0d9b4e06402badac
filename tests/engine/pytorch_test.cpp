#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <tuple>

#include "engine/io/npy.h"
#include "engine/io/safetensors.h"
#include "engine/optim/adam.h"
#include "engine/sinusoidal_table.h"
#include "models/localizer.h"
#include "models/model_file.h"
#include "models/temporal_unet.h"
#include "tests/harness/op_check.h"
#include "tests/harness/program.h"

// Against PyTorch, by the fixtures in tests/golden (see the README there). Equal up to the order of
// sums: f64 sums of some dozens of terms agree to 1e-14 or so, far below the bounds here.

namespace sidechannel {
namespace {

using harness::relative_difference;
using harness::values_of;
using enum kernels::Activation;
using Tensors = std::map<std::string, HostArray>;

constexpr double kSame = 1e-12;  // in f64, relative

const Device& device() {
  return harness::device(2);
}

std::filesystem::path golden(const std::string& name) {
  return harness::test_data("golden/" + name);
}

Tensors read(const std::string& name) {
  return read_safetensors(golden(name)).tensors;
}

std::vector<double> values_of(const HostArray& array) {
  return harness::values_of(Tensor::from(device(), array));
}

std::int64_t number(const HostArray& array, std::size_t i = 0) {
  return array.as<std::int64_t>()[i];
}

// The tensors whose names begin with `prefix`, without it.
Tensors part(const Tensors& all, const std::string& prefix) {
  Tensors found;
  for (const auto& [name, array] : all) {
    if (name.starts_with(prefix)) found[name.substr(prefix.size())] = array;
  }
  EXPECT_FALSE(found.empty()) << prefix;
  return found;
}

// Between PyTorch's [N, C, L] and our [N, L, C]: the last two axes change places.
HostArray transposed(const HostArray& array) {
  const std::int64_t n = array.shape[0], rows = array.shape[1], columns = array.shape[2];
  std::vector<double> out;
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t c = 0; c < columns; ++c) {
      for (std::int64_t r = 0; r < rows; ++r) {
        out.push_back(array.as<double>()[static_cast<std::size_t>((i * rows + r) * columns + c)]);
      }
    }
  }
  return HostArray::from<double>(out, {n, columns, rows});
}

HostArray same(const HostArray& array) {
  return array;
}

using Convert = HostArray (*)(const HostArray&);

// Runs f on the inputs of one fixture, backward with its cotangent, and compares output and
// gradients. `converts`: the arrangement of each input in PyTorch, and of the output.
void compare(const Tensors& c, const std::vector<std::pair<std::string, Convert>>& inputs,
             Convert output, const std::function<Var(std::span<const Var>)>& f) {
  Tape tape(device(), DType::kF64);
  std::vector<Var> in;
  for (const auto& [name, convert] : inputs) {
    in.push_back(tape.leaf(Tensor::from(device(), convert(c.at(name)))));
  }
  const Var y = f(in);
  const HostArray expected = output(c.at("y"));
  ASSERT_EQ(y.size(), expected.shape.size());
  EXPECT_LE(relative_difference(values_of(y.value()), values_of(expected)), kSame);
  tape.backward(y, Tensor::from(device(), output(c.at("dy"))).reshape(y.shape()));
  for (std::size_t i = 0; i < in.size(); ++i) {
    const HostArray gradient = inputs[i].second(c.at("d" + inputs[i].first));
    EXPECT_LE(relative_difference(values_of(tape.gradient(in[i])), values_of(gradient)), kSame)
        << "d" << inputs[i].first;
  }
}

TEST(PyTorch, Conv1d) {
  const Tensors all = read("operations.safetensors");
  for (const char* name : {"same", "valid", "even", "short", "first", "last"}) {
    SCOPED_TRACE(name);
    const Tensors c = part(all, fmt::format("conv1d.{}.", name));
    compare(c, {{"x", transposed}, {"w", reverse_axes}, {"b", same}}, transposed,
            [&](std::span<const Var> in) {
              return conv1d(in[0], in[1], in[2], number(c.at("padding")));
            });
  }
}

TEST(PyTorch, CircularConv1d) {
  const Tensors all = read("operations.safetensors");
  for (const char* name : {"same", "even", "around", "first", "last"}) {
    SCOPED_TRACE(name);
    const Tensors c = part(all, fmt::format("ring.{}.", name));
    compare(c, {{"x", transposed}, {"w", reverse_axes}, {"b", same}}, transposed,
            [&](std::span<const Var> in) {
              return conv1d(in[0], in[1], in[2], number(c.at("padding")), {PaddingMode::kCircular});
            });
  }
}

TEST(PyTorch, StridedConv1d) {
  const Tensors all = read("more_operations.safetensors");
  for (const char* name : {"half", "odd", "gaps"}) {
    SCOPED_TRACE(name);
    const Tensors c = part(all, fmt::format("strided.{}.", name));
    const HostArray& geometry = c.at("geometry");
    compare(c, {{"x", transposed}, {"w", reverse_axes}, {"b", same}}, transposed,
            [&](std::span<const Var> in) {
              return conv1d(in[0], in[1], in[2], number(geometry, 0),
                            {.stride = number(geometry, 1)});
            });
  }
}

// PyTorch's weight is [C_in, C_out, k], ours [k, C_out, C_in].
TEST(PyTorch, ConvTranspose1d) {
  const Tensors all = read("more_operations.safetensors");
  for (const char* name : {"double", "odd", "plain"}) {
    SCOPED_TRACE(name);
    const Tensors c = part(all, fmt::format("transposed.{}.", name));
    const HostArray& geometry = c.at("geometry");
    compare(c, {{"x", transposed}, {"w", reverse_axes}, {"b", same}}, transposed,
            [&](std::span<const Var> in) {
              return conv_transpose1d(in[0], in[1], in[2], number(geometry, 0),
                                      number(geometry, 1));
            });
  }
}

TEST(PyTorch, RmsNorm) {
  const NormOptions options{
      .channels_per_set = 6, .activation = kMish, .positions_per_set = 1, .centred = false};
  compare(part(read("more_operations.safetensors"), "rms."),
          {{"x", transposed}, {"gamma", same}, {"beta", same}}, transposed,
          [&](std::span<const Var> in) { return norm_act(in[0], in[1], in[2], options); });
}

// Its detach(), of a mean, of a variance, of both.
TEST(PyTorch, StatisticsThatAreHeld) {
  const Tensors all = read("more_operations.safetensors");
  for (const auto& [name, mean, variance] :
       {std::tuple{"mean", true, false}, {"variance", false, true}, {"both", true, true}}) {
    SCOPED_TRACE(name);
    NormOptions options{.channels_per_set = 2, .activation = kNone};
    options.through_mean = !mean;
    options.through_variance = !variance;
    compare(part(all, fmt::format("held.{}.", name)),
            {{"x", transposed}, {"gamma", same}, {"beta", same}}, transposed,
            [&](std::span<const Var> in) { return norm_act(in[0], in[1], in[2], options); });
  }
}

TEST(PyTorch, Sinusoids) {
  const Tensor table = sinusoidal_table(device(), DType::kF64, 50, 8);
  const auto expected = values_of(read("more_operations.safetensors").at("sinusoids"));
  EXPECT_LE(relative_difference(values_of(table), expected), kSame);
}

TEST(PyTorch, Norms) {
  const Tensors all = read("operations.safetensors");
  for (const char* name : {"instance", "group", "layer", "batch", "batch_groups"}) {
    NormOptions options;
    const HostArray& sets = all.at(fmt::format("norm.{}.sets", name));
    options.channels_per_set = number(sets, 0);
    options.samples_per_set = number(sets, 1);
    for (const char* kind : {"plain", "relu"}) {
      SCOPED_TRACE(fmt::format("{} {}", name, kind));
      options.activation = kind == std::string("relu") ? kRelu : kNone;
      compare(part(all, fmt::format("norm.{}.{}.", name, kind)),
              {{"x", transposed}, {"gamma", same}, {"beta", same}}, transposed,
              [&](std::span<const Var> in) { return norm_act(in[0], in[1], in[2], options); });
    }
  }
}

TEST(PyTorch, BatchNormByPopulationStatistics) {
  const Tensors c = part(read("operations.safetensors"), "population.");
  const Tensor mean = Tensor::from(device(), c.at("mean"));
  const Tensor variance = Tensor::from(device(), c.at("variance"));
  compare(c, {{"x", transposed}, {"gamma", same}, {"beta", same}}, transposed,
          [&](std::span<const Var> in) {
            return norm_act_population(in[0], in[1], in[2], mean, variance, {});
          });
}

TEST(PyTorch, RunningStatistics) {
  const Tensors all = read("operations.safetensors");
  for (const auto& [name, samples] :
       std::map<std::string, std::int64_t>{{"instance", 1}, {"batch", 4}, {"batch_groups", 2}}) {
    Tape tape(device(), DType::kF64);
    RunningStatistics running{Tensor::zeros(device(), DType::kF64, {5}),
                              Tensor(device(), DType::kF64, {5})};
    running.variance.fill(1);
    NormOptions options;
    options.samples_per_set = samples;
    options.update = &running;
    const Var gamma = tape.make({5});
    for (int i = 0; i < 3; ++i) {
      const Tensors c = part(all, fmt::format("running.{}.{}.", name, i));
      norm_act(tape.constant(Tensor::from(device(), transposed(c.at("x")))), gamma, gamma, options);
      EXPECT_LE(relative_difference(values_of(running.mean), values_of(c.at("mean"))), kSame)
          << name;
      EXPECT_LE(relative_difference(values_of(running.variance), values_of(c.at("variance"))),
                kSame)
          << name;
    }
  }
}

TEST(PyTorch, Linear) {
  const Tensors all = read("operations.safetensors");
  for (const char* kind : {"plain", "relu"}) {
    SCOPED_TRACE(kind);
    compare(part(all, fmt::format("linear.{}.", kind)), {{"x", same}, {"w", same}, {"b", same}},
            same, [&](std::span<const Var> in) {
              return linear(in[0], in[1], in[2], kind == std::string("relu") ? kRelu : kNone);
            });
  }
}

TEST(PyTorch, Mse) {
  const Tensors c = part(read("operations.safetensors"), "mse.");
  const Tensor target = Tensor::from(device(), c.at("target"));
  compare(c, {{"x", same}}, same, [&](std::span<const Var> in) { return mse(in[0], target); });
}

TEST(PyTorch, Mish) {
  compare(part(read("operations.safetensors"), "mish."), {{"x", same}}, same,
          [&](std::span<const Var> in) { return activate(in[0], kMish); });
}

// --- Training -----------------------------------------------------------------------------------

constexpr int kSteps = 20;
constexpr double kRate = 2e-3;

// The same run as in the fixture: its losses, final tensors and last evaluation.
struct Training {
  std::vector<double> losses;
  Tensors final;
  std::vector<double> evaluated;
};

Training train(const Tensors& fixture, NormKind norm) {
  const DType dtype = fixture.at("losses").dtype;
  const LocalizerConfig config{.depth = 4, .channels = 6, .norm = norm, .samples_per_set = 2};
  Localizer net(device(), dtype, config, 0);
  net.parameters().load(part(fixture, "initial."), "initial");
  Adam adam(net.parameters(), {LearningRate{kRate}});
  Tape tape(device(), dtype);
  const Tensor target = Tensor::from(device(), fixture.at("target"));
  Training run;
  Tensor x;
  for (int step = 0; step < kSteps; ++step) {
    tape.reset();
    x = Tensor::from(device(), fixture.at(fmt::format("x.{:02}", step)));
    const Var loss = mse(net(tape.constant(x)), target);
    run.losses.push_back(loss.value().item());
    tape.backward(loss);
    adam.step(loss.value());
  }
  net.parameters().save(run.final);
  const auto statistics =
      norm == NormKind::kBatch ? Statistics::kPopulation : Statistics::kMinibatch;
  run.evaluated = values_of(net(tape.constant(x), statistics).value());
  return run;
}

// A bias that the norm behind it takes away again, and the running mean that takes it in: the
// bias's gradient is zero but for rounding.
bool is_without_effect(const std::string& name) {
  return name.starts_with("blocks.") &&
         (name.ends_with(".conv.bias") || name.ends_with(".running_mean"));
}

// How far rounding errors can carry such a bias in double: Adam divides them, some 1e-16, by their
// own size plus epsilon = 1e-8.
constexpr double kDrift = 1e-16 / 1e-8 * kRate * kSteps;

TEST(PyTorch, TrainingInDouble) {
  for (NormKind norm : {NormKind::kInstance, NormKind::kBatch}) {
    SCOPED_TRACE(name_of(norm));
    const Tensors fixture = read(fmt::format("training_{}_f64.safetensors", name_of(norm)));
    const Training run = train(fixture, norm);
    EXPECT_LE(relative_difference(run.losses, values_of(fixture.at("losses"))), 1e-10);
    // The running mean lags behind its bias; layers behind magnify their difference a few times.
    EXPECT_LE(relative_difference(run.evaluated, values_of(fixture.at("evaluated"))),
              norm == NormKind::kBatch ? 10 * kDrift : 1e-10);
    const Tensors expected = part(fixture, "final.");
    ASSERT_EQ(run.final.size(), expected.size());
    for (const auto& [name, array] : expected) {
      const auto ours = values_of(run.final.at(name));
      const auto theirs = values_of(array);
      if (!is_without_effect(name)) {
        EXPECT_LE(relative_difference(ours, theirs), 1e-10) << name;
        continue;
      }
      for (std::size_t i = 0; i < ours.size(); ++i) {
        EXPECT_LE(std::abs(ours[i] - theirs[i]), kDrift) << name;
      }
    }
    EXPECT_LT(run.losses.back(), run.losses.front());  // it did train
  }
}

// How far 20 steps in f32 may be from 20 other steps in f32: PyTorch's own two runs tell. They
// begin with the same weights and see the same inputs, so their distance is what rounding to f32
// does to this problem. Another order of sums rounds otherwise, but not more: the factor 4 leaves
// room for luck. Adam divides each gradient by its own size, which turns the rounding errors in the
// gradient of a bias without effect into steps of full length: such a bias, and the running mean
// that takes it in, is only held to the length of all steps together, on both sides.
TEST(PyTorch, TrainingInSingle) {
  for (NormKind norm : {NormKind::kInstance, NormKind::kBatch}) {
    SCOPED_TRACE(name_of(norm));
    const Tensors fixture = read(fmt::format("training_{}_f32.safetensors", name_of(norm)));
    const Tensors exact = read(fmt::format("training_{}_f64.safetensors", name_of(norm)));
    const Training run = train(fixture, norm);
    const auto losses = values_of(fixture.at("losses"));
    EXPECT_LE(relative_difference(run.losses, losses),
              4 * relative_difference(losses, values_of(exact.at("losses"))));

    std::vector<double> ours, theirs, theirs_in_double;
    for (const auto& [name, array] : part(fixture, "final.")) {
      const auto a = values_of(run.final.at(name));
      const auto b = values_of(array);
      if (is_without_effect(name)) {
        for (std::size_t i = 0; i < a.size(); ++i) {
          EXPECT_LE(std::abs(a[i] - b[i]), 2 * kSteps * kRate) << name;
        }
        continue;
      }
      const auto c = values_of(exact.at("final." + name));
      ours.insert(ours.end(), a.begin(), a.end());
      theirs.insert(theirs.end(), b.begin(), b.end());
      theirs_in_double.insert(theirs_in_double.end(), c.begin(), c.end());
    }
    EXPECT_LE(relative_difference(ours, theirs), 4 * relative_difference(theirs, theirs_in_double));
  }
}

// --- Weights go both ways -----------------------------------------------------------------------

LocalizerConfig config_of(const std::string& norm, const HostArray& numbers) {
  return {.depth = number(numbers, 0),
          .channels = number(numbers, 1),
          .kernel_size = number(numbers, 2),
          .norm = norm_kind_from(norm),
          .groups = number(numbers, 3),
          .samples_per_set = number(numbers, 4)};
}

// In f32, against PyTorch's prediction in double from the same f32 weights: a network of four
// layers with sums of up to 30 terms in each rounds to about 1e-6.
constexpr double kSinglePrecision = 1e-5;

TEST(PyTorch, LoadsItsModels) {
  Tensors answers = read("localizer_answers.safetensors");
  answers.merge(read("more_localizer_answers.safetensors"));
  int populations = 0;
  for (const std::string norm : norm_names()) {
    SCOPED_TRACE(norm);
    const Tensors answer = part(answers, norm + ".");
    Localizer net(device(), DType::kF32, config_of(norm, answer.at("config")), 0);
    net.parameters().load(read(fmt::format("localizer_{}.safetensors", norm)), norm);
    Tape tape(device(), DType::kF32);
    const Var x = tape.constant(Tensor::from(device(), answer.at("x")));
    const auto y = values_of(net(x, Statistics::kMinibatch).value());
    EXPECT_LE(relative_difference(y, values_of(answer.at("y"))), kSinglePrecision);
    if (answer.contains("population")) {
      const auto population = values_of(net(x, Statistics::kPopulation).value());
      EXPECT_LE(relative_difference(population, values_of(answer.at("population"))),
                kSinglePrecision);
      EXPECT_GT(relative_difference(population, y), 0.01);
      ++populations;
    }
    if (norm != "group_population") continue;
    net(x, Statistics::kTraining);
    const TensorMap now = harness::saved(net.parameters());
    const Tensors moved = part(answer, "moved.");
    EXPECT_EQ(moved.size(), 4u);
    for (const auto& [name, array] : moved) {
      EXPECT_LE(relative_difference(values_of(now.at(name)), values_of(array)), kSinglePrecision)
          << name;
    }
  }
  EXPECT_EQ(populations, 2);
}

// A file of PyTorch's does not say that its network is one of rings; who loads it must.
TEST(PyTorch, LoadsItsRings) {
  const Tensors answer = part(read("localizer_answers.safetensors"), "circular.");
  Tape tape(device(), DType::kF32);
  const Var x = tape.constant(Tensor::from(device(), answer.at("x")));
  const auto difference = [&](Padding padding) {
    const Localizer net =
        load_model(golden("localizer_circular.safetensors"), device(), "instance", 1, 1, padding);
    return relative_difference(values_of(net(x).value()), values_of(answer.at("y")));
  };
  EXPECT_LE(difference(Padding::kCircular), kSinglePrecision);
  EXPECT_GT(difference(Padding::kZeros), 0.01);
}

// Section 3.2's network in double: the pairs that an overlap makes, predictions and gradients.
TEST(PyTorch, PackedLocalizer) {
  const Tensors fixture = read("packed_localizer.safetensors");
  const HostArray& numbers = fixture.at("config");
  const LocalizerConfig config =
      LocalizerConfig::packed(number(numbers, 0), number(numbers, 1), number(numbers, 2));
  const std::int64_t overlap = number(numbers, 3);
  Localizer net(device(), DType::kF64, config, 0);
  net.parameters().load(part(fixture, "net."), "packed localizer");
  Tape tape(device(), DType::kF64);
  const std::int64_t length = config.length();
  const Var pairs = windows(tape.constant(Tensor::from(device(), fixture.at("noise"))), 2, length,
                            length - overlap);
  EXPECT_EQ(values_of(pairs.value()), values_of(fixture.at("x")));
  const Var y = net(reshape(pairs, {pairs.shape()[0], length, 1}));
  EXPECT_LE(relative_difference(values_of(y.value()), values_of(fixture.at("y"))), kSame);
  tape.backward(mse(y, harness::tensor_of({-1, 1}, {2})));
  const Tensors gradients = part(fixture, "grad.");
  ASSERT_EQ(gradients.size(), net.parameters().parameters().size());
  for (const Parameter& parameter : net.parameters().parameters()) {
    // Without padding the first bias, too, is the same at all positions and taken away by a norm.
    if (is_without_effect(parameter.name) || parameter.name == "conv_in.bias") continue;
    HostArray ours = parameter.grad.to_host();
    if (parameter.layout == Layout::kConv1dWeight) ours = reverse_axes(ours);
    EXPECT_LE(relative_difference(values_of(ours), values_of(gradients.at(parameter.name))), kSame)
        << parameter.name;
  }
}

// The temporal U-Net: what it predicts, the gradients of all parameters, and 20 steps of Adam with
// a weighted loss and a target for each trajectory.
TEST(PyTorch, TemporalUnet) {
  for (const char* name : {"group", "position", "none"}) {
    SCOPED_TRACE(name);
    const Tensors fixture = read(fmt::format("unet_{}.safetensors", name));
    const HostArray& numbers = fixture.at("config");
    TemporalUnetConfig config{.transition = number(numbers, 0),
                              .dim = number(numbers, 1),
                              .multipliers = {},
                              .kernel_size = number(numbers, 2),
                              .steps = 50,
                              .norm = norm_kind_from(name),
                              .groups = number(numbers, 3)};
    const auto multipliers = fixture.at("multipliers").as<std::int64_t>();
    config.multipliers.assign(multipliers.begin(), multipliers.end());
    TemporalUnet net(device(), DType::kF64, config, 0);
    net.parameters().load(part(fixture, "initial."), name);
    const Tensor weights = Tensor::from(device(), fixture.at("weights"));
    Adam adam(net.parameters(), {LearningRate{2e-4}});
    Tape tape(device(), DType::kF64);
    std::vector<double> losses;
    for (int step = 0; step < kSteps; ++step) {
      tape.reset();
      const auto tensor = [&](const char* what) {
        return Tensor::from(device(), fixture.at(fmt::format("{}.{:02}", what, step)));
      };
      const Var y =
          net(tape.constant(tensor("x")), tape.constant(tensor("steps")), Statistics::kTraining);
      const Var loss = mse(y, tensor("target"), weights);
      losses.push_back(loss.value().item());
      tape.backward(loss);
      if (step == 0) {
        EXPECT_LE(relative_difference(values_of(y.value()), values_of(fixture.at("y"))), kSame);
        for (const Parameter& parameter : net.parameters().parameters()) {
          HostArray ours = parameter.grad.to_host();
          if (parameter.layout == Layout::kConv1dWeight) ours = reverse_axes(ours);
          EXPECT_LE(
              relative_difference(values_of(ours), values_of(fixture.at("grad." + parameter.name))),
              1e-11)
              << parameter.name;
        }
      }
      adam.step(loss.value());
    }
    EXPECT_LE(relative_difference(losses, values_of(fixture.at("losses"))), 1e-10);
    EXPECT_LT(losses.back(), losses.front());
    for (const auto& [tensor, array] : harness::saved(net.parameters())) {
      EXPECT_LE(relative_difference(values_of(array), values_of(fixture.at("final." + tensor))),
                1e-9)
          << tensor;
    }
  }
}

// Runs check_model.py on a folder's model.safetensors, x.npy and y.npy: its exit code; 77 where
// there is no Python with PyTorch. PYTHON names the one to take.
int check_model(const harness::TemporaryFolder& folder, const std::string& options) {
  const char* chosen = std::getenv("PYTHON");
  std::vector<std::string> pythons = {"python3", "/usr/bin/python3"};
  if (chosen) pythons = {chosen};
  int code = 77;
  for (const std::string& python : pythons) {
    const std::string command =
        fmt::format("PYTHONDONTWRITEBYTECODE=1 '{}' '{}' '{}' '{}' '{}' {} >'{}' 2>&1", python,
                    golden("check_model.py").string(), folder / "model.safetensors",
                    folder / "x.npy", folder / "y.npy", options, folder / "log");
    const int status = std::system(command.c_str());
    code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    if (code == 127) code = 77;  // not there at all
    if (code != 77) break;
  }
  return code;
}

TEST(PyTorch, LoadsOurModels) {
  const harness::TemporaryFolder folder;
  for (const auto& [norm, flags] :
       {std::pair{NormKind::kBatch, "--norm batch --samples-per-set 2"},
        {NormKind::kGroupPopulation, "--norm group_population --groups 2"},
        {NormKind::kRms, "--norm rms"}}) {
    SCOPED_TRACE(flags);
    const LocalizerConfig config{
        .depth = 5, .channels = 8, .norm = norm, .groups = 2, .samples_per_set = 2};
    Localizer net(device(), DType::kF32, config, 1);
    Tape tape(device(), DType::kF32);
    const Var x = tape.normal({6, 40, 1}, Stream{4}, Random(device(), 1));
    net(x, Statistics::kTraining);  // so that the running statistics are something
    SafetensorsFile file;
    net.parameters().save(file.tensors);
    write_safetensors(folder / "model.safetensors", file);
    write_npy(folder / "x.npy", x.value().to_host());

    const auto check = [&, flags = flags](Statistics predicted, const std::string& more) {
      write_npy(folder / "y.npy", net(x, predicted).value().to_host());
      return check_model(folder, flags + more);
    };
    const int code = check(Statistics::kMinibatch, "");
    if (code == 77) GTEST_SKIP() << "not run: no Python with PyTorch (PYTHON may name one)";
    EXPECT_EQ(code, 0) << harness::content_of(folder / "log");
    if (!config.has_population_statistics()) continue;
    EXPECT_EQ(check(Statistics::kPopulation, " --statistics population"), 0)
        << harness::content_of(folder / "log");
    // Wrong predictions are told from right ones.
    EXPECT_EQ(check(Statistics::kMinibatch, " --statistics population"), 1);
  }
}

}  // namespace
}  // namespace sidechannel
