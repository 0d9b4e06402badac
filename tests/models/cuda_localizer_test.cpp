// Whole networks on a GPU or its emulation, beside the CPU.

#include <gtest/gtest.h>

#include "models/localizer.h"
#include "models/probe.h"
#include "tests/harness/cuda_check.h"

namespace sidechannel {
namespace {

using harness::array_of;
using harness::Draw;
using harness::relative_difference;
using harness::values_of;

class CudaLocalizer : public harness::CudaTest {};

LocalizerConfig config_of(NormKind norm, std::int64_t depth, std::int64_t channels) {
  return {.depth = depth, .channels = channels, .norm = norm, .groups = 2, .samples_per_set = 2};
}

// Output and gradients for a random input and cotangent, and what the step left in the statistics.
struct Answers {
  std::vector<double> output;
  std::vector<double> population;
  std::map<std::string, std::vector<double>> gradients;
  std::map<std::string, std::vector<double>> running;
};

Answers answers_of(const Device& device, DType dtype, const LocalizerConfig& config,
                   std::int64_t batch, std::int64_t length) {
  Localizer net(device, dtype, config, 3);
  Draw draw(11);
  for (Parameter& parameter : net.parameters().parameters()) {
    // The same parameters in every type: a small denominator makes them exact.
    std::vector<double> values = draw.normals<double>(parameter.value.size());
    const double width = parameter.value.shape().rank() == 3
                             ? std::sqrt(static_cast<double>(parameter.value.size()) /
                                         static_cast<double>(parameter.value.shape()[2]))
                             : 4;
    for (double& value : values) value = std::round(256 * value / width) / 256;
    if (parameter.name.ends_with("norm.weight")) {
      for (double& value : values) value += 1;
    }
    parameter.value.copy_from(array_of(values, dtype, parameter.value.shape()));
  }
  const auto exact = [&](std::int64_t size) {
    std::vector<double> values = draw.normals<double>(size);
    for (double& value : values) value = std::round(256 * value) / 256;
    return values;
  };
  const Shape shape{batch, length, 1};
  const Tensor x = Tensor::from(device, array_of(exact(batch * length), dtype, shape));
  const Tensor cotangent = Tensor::from(device, array_of(exact(batch * length), dtype, shape));
  Tape tape(device, dtype);
  Answers answers;
  const Var y = net(tape.constant(x), Statistics::kTraining);
  answers.output = values_of(y.value());
  tape.backward(y, cotangent);
  for (const Parameter& parameter : net.parameters().parameters())
    answers.gradients[parameter.name] = values_of(parameter.grad);
  for (const auto& [name, array] : harness::saved(net.parameters())) {
    if (name.find("running") != std::string::npos)
      answers.running[name] = values_of(Tensor::from(harness::device(), array));
  }
  if (config.has_population_statistics()) {
    const NoGrad frozen(tape);
    answers.population = values_of(net(tape.constant(x), Statistics::kPopulation).value());
  }
  return answers;
}

// Against the CPU in double: fp32 on a GPU may be off by 4 times as much as fp32 on the CPU is.
// Both round as often, in another order.
void expect_as_near(const std::string& what, const std::vector<double>& cuda,
                    const std::vector<double>& cpu, const std::vector<double>& exact) {
  const double unit = 1.2e-7;
  EXPECT_LE(relative_difference(cuda, exact), 4 * std::max(relative_difference(cpu, exact), unit))
      << what;
}

TEST_F(CudaLocalizer, AnswersAsTheCpuDoesInFp32) {
  for (const NormKind kind :
       {NormKind::kNone, NormKind::kInstance, NormKind::kGroup, NormKind::kGroupPopulation,
        NormKind::kLayer, NormKind::kPosition, NormKind::kRms, NormKind::kBatch}) {
    for (const auto& [depth, channels, batch, length] :
         {std::tuple{5, 6, 4, 13}, {4, 32, 2, 24}, {3, 64, 2, 40}}) {
      SCOPED_TRACE(fmt::format("{} depth {} channels {}", name_of(kind), depth, channels));
      const LocalizerConfig config = config_of(kind, depth, channels);
      const Answers exact = answers_of(harness::device(), DType::kF64, config, batch, length);
      const Answers cpu = answers_of(harness::device(), DType::kF32, config, batch, length);
      const Answers cuda = answers_of(harness::cuda_device(), DType::kF32, config, batch, length);
      expect_as_near("output", cuda.output, cpu.output, exact.output);
      expect_as_near("population", cuda.population, cpu.population, exact.population);
      ASSERT_EQ(cuda.gradients.size(), exact.gradients.size());
      for (const auto& [name, gradient] : exact.gradients) {
        // The bias of a convolution before a norm has no gradient but rounding.
        if ((kind == NormKind::kInstance || kind == NormKind::kBatch) &&
            name.find(".conv.bias") != std::string::npos) {
          continue;
        }
        expect_as_near("d " + name, cuda.gradients.at(name), cpu.gradients.at(name), gradient);
      }
      ASSERT_EQ(cuda.running.size(), exact.running.size());
      for (const auto& [name, statistics] : exact.running)
        expect_as_near(name, cuda.running.at(name), cpu.running.at(name), statistics);
    }
  }
}

TEST_F(CudaLocalizer, AnswersTheSameBitsEveryTime) {
  for (const Precision precision : {Precision::kFp32, Precision::kTf32}) {
    const LocalizerConfig config = config_of(NormKind::kInstance, 4, 32);
    const Device& device = harness::cuda_device(precision);
    const Answers first = answers_of(device, DType::kF32, config, 3, 21);
    const Answers second = answers_of(device, DType::kF32, config, 3, 21);
    EXPECT_EQ(first.output, second.output);
    EXPECT_EQ(first.gradients, second.gradients);
  }
}

TEST_F(CudaLocalizer, HearsItsReceptiveFieldOnlyWithoutNorm) {
  const LocalizerConfig config = config_of(NormKind::kNone, 4, 32);
  const std::int64_t length = 40;
  for (const Precision precision : {Precision::kFp32, Precision::kTf32}) {
    const Device& device = harness::cuda_device(precision);
    const Localizer net(device, DType::kF32, config, 1);
    Tape tape(device);
    const NoGrad frozen(tape);
    Draw draw(2);
    auto values = draw.normals<float>(length);
    const auto answer = [&] {
      const HostArray x = HostArray::from<float>(values, {1, length, 1});
      return values_of(net(tape.constant(Tensor::from(device, x))).value());
    };
    const auto before = answer();
    values[20] += 1;
    const auto after = answer();
    for (std::int64_t i = 0; i < length; ++i) {
      const bool hears = std::abs(i - 20) <= config.receptive_field();
      EXPECT_EQ(before[static_cast<std::size_t>(i)] != after[static_cast<std::size_t>(i)], hears)
          << i;
    }
  }
}

TEST_F(CudaLocalizer, ProbesAnswerAsOnTheCpu) {
  const std::int64_t rows = 30;
  std::vector<std::vector<double>> answers;
  for (const auto& [device, dtype] : {std::pair{harness::device(), DType::kF64},
                                      {harness::device(), DType::kF32},
                                      {harness::cuda_device(), DType::kF32}}) {
    ParameterList list(device, dtype, 4);
    const Probe probe(list, "probe", 32, 48);
    Draw draw(6);
    std::vector<double> values = draw.normals<double>(rows * 32);
    for (double& value : values) value = std::round(256 * value) / 256;
    Tape tape(device, dtype);
    const Var z = tape.leaf(Tensor::from(device, array_of(values, dtype, {2, rows / 2, 32})));
    const Var y = probe(z);
    tape.backward(mse(y, Tensor::zeros(device, dtype, {2, rows / 2, 1})));
    std::vector<double> all = values_of(y.value());
    for (const double value : values_of(tape.gradient(z))) all.push_back(value);
    for (const Parameter& parameter : list.parameters()) {
      for (const double value : values_of(parameter.grad)) all.push_back(value);
    }
    answers.push_back(all);
  }
  // Weights differ between the types by their rounding to f32, which both f32 answers share.
  expect_as_near("probe", answers[2], answers[1], answers[0]);
}

}  // namespace
}  // namespace sidechannel
