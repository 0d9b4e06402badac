// What a network of the paper's Equation (1) cannot know, to the bit: without statistics over
// positions it answers a shifted input with a shifted output (Proposition C.1) and hears nothing
// from beyond its receptive field; and where its padding closes sequences to rings, there is no
// place that could be told from another.

#include <gtest/gtest.h>

#include "models/localizer.h"
#include "tests/harness/backends.h"

namespace sidechannel {
namespace {

using harness::Draw;
using harness::values_of;

// The demo's size, and odd ones: few channels, one more than whole vectors, kernels of one, of
// three and of seven taps, no hidden layer, 64 channels; then a ring shorter than the kernel.
struct Size {
  std::int64_t length, depth, channels, kernel_size;
};
const std::vector<Size> kSizes = {{64, 8, 32, 5}, {61, 5, 7, 3},  {37, 4, 3, 5}, {53, 4, 33, 7},
                                  {31, 2, 6, 5},  {29, 3, 16, 1}, {75, 3, 64, 5}};
constexpr Size kShortRing{3, 4, 8, 7};

// The kinds whose statistics, if any, are those of one position.
constexpr NormKind kApart[] = {NormKind::kNone, NormKind::kPosition, NormKind::kRms};

LocalizerConfig config_of(const Size& size, NormKind norm, Padding padding) {
  return {.depth = size.depth,
          .channels = size.channels,
          .kernel_size = size.kernel_size,
          .norm = norm,
          .padding = padding};
}

std::string text(const Device& device, DType dtype, const LocalizerConfig& config) {
  return fmt::format("{} {} norm {} padding {} depth {} channels {} k {}", device.name(),
                     name_of(dtype), name_of(config.norm), name_of(config.padding), config.depth,
                     config.channels, config.kernel_size);
}

// `rows` sequences on end, [rows, length, 1], of what stands from `first` on.
Tensor window(const Device& device, DType dtype, const std::vector<std::vector<double>>& sequences,
              std::int64_t first, std::int64_t length) {
  std::vector<double> values;
  for (const auto& sequence : sequences) {
    values.insert(values.end(), sequence.begin() + first, sequence.begin() + first + length);
  }
  return Tensor::from(
      device,
      harness::array_of(values, dtype, {static_cast<std::int64_t>(sequences.size()), length, 1}));
}

// The longest shift that is tried; two sequences that are longer by as much.
constexpr std::int64_t kMostShift = 7;
std::vector<std::vector<double>> two_sequences(std::int64_t length) {
  Draw draw(1);
  return {draw.normals<double>(length + kMostShift), draw.normals<double>(length + kMostShift)};
}

// Of how many indices beyond R from both ends, before and after, the answer to a shifted input is
// not the shifted answer; and how many were looked at.
struct Broken {
  std::int64_t count = 0, of = 0;
};
Broken broken_by_shifts(const Localizer& net, const Device& device, DType dtype,
                        std::int64_t length) {
  const auto sequences = two_sequences(length);
  const auto answers = [&](std::int64_t first) {
    Tape tape(device, dtype);
    return values_of(
        net(tape.constant(window(device, dtype, sequences, first, length)), Statistics::kMinibatch)
            .value());
  };
  const std::int64_t reach = net.config().receptive_field();
  const std::vector<double> before = answers(0);
  Broken broken;
  for (const std::int64_t shift : {1, 2, 3, 4, 5, 7}) {
    const std::vector<double> after = answers(shift);
    for (std::int64_t n = 0; n < 2; ++n) {
      for (std::int64_t i = reach; i + shift < length - reach; ++i, ++broken.of) {
        broken.count += before[static_cast<std::size_t>(n * length + i + shift)] !=
                        after[static_cast<std::size_t>(n * length + i)];
      }
    }
  }
  return broken;
}

BACKEND_TEST(Locality, ShiftedInputsShiftTheInteriorToTheBit) {
  Backend::for_devices([](const Device& device, DType dtype) {
    for (const Size& size : kSizes) {
      for (const NormKind norm : kApart) {
        const LocalizerConfig config = config_of(size, norm, Padding::kZeros);
        SCOPED_TRACE(text(device, dtype, config));
        const Localizer net(device, dtype, config, 3);
        const Broken broken = broken_by_shifts(net, device, dtype, size.length);
        EXPECT_EQ(broken.count, 0);
        EXPECT_GT(broken.of, 100);
      }
    }
    // The test would notice: a mean over positions knows what has moved out of sight.
    const Localizer net(device, dtype, config_of(kSizes[0], NormKind::kInstance, Padding::kZeros),
                        3);
    const Broken broken = broken_by_shifts(net, device, dtype, kSizes[0].length);
    EXPECT_GT(broken.count, broken.of * 9 / 10);
  });
}

// A ring of two sequences, turned; [2, length, 1].
std::vector<double> turned(const std::vector<double>& values, std::int64_t length,
                           std::int64_t shift) {
  std::vector<double> all;
  for (std::int64_t n = 0; n < 2; ++n) {
    for (std::int64_t i = 0; i < length; ++i) {
      all.push_back(values[static_cast<std::size_t>(n * length + (i + shift) % length)]);
    }
  }
  return all;
}

// The largest difference between the answer to turned rings and the turned answer, of the largest
// answer.
double worst_by_turning(const Localizer& net, const Device& device, DType dtype,
                        std::int64_t length) {
  const std::vector<double> x = Draw(1).normals<double>(2 * length);
  const auto answers = [&](std::int64_t shift) {
    Tape tape(device, dtype);
    const HostArray array = harness::array_of(turned(x, length, shift), dtype, {2, length, 1});
    return values_of(
        net(tape.constant(Tensor::from(device, array)), Statistics::kMinibatch).value());
  };
  const std::vector<double> before = answers(0);
  double worst = 0, largest = 0;
  for (const std::int64_t shift :
       {std::int64_t{1}, std::int64_t{2}, std::int64_t{3}, length / 2, length - 1}) {
    const std::vector<double> after = answers(shift), expected = turned(before, length, shift);
    for (std::size_t i = 0; i < after.size(); ++i) {
      worst = std::max(worst, std::abs(after[i] - expected[i]));
      largest = std::max(largest, std::abs(after[i]));
    }
  }
  return worst / largest;
}

// Every output is a sum over its taps in one order, wherever it stands: the forward pass turns to
// the bit. Statistics over positions are sums that a turn reorders, so those turn but for
// roundings.
BACKEND_TEST(Locality, TurnedRingsTurnTheWholeOutput) {
  Backend::for_devices([](const Device& device, DType dtype) {
    std::vector<Size> sizes = kSizes;
    sizes.push_back(kShortRing);
    for (const Size& size : sizes) {
      for (const NormKind norm : kApart) {
        const LocalizerConfig config = config_of(size, norm, Padding::kCircular);
        SCOPED_TRACE(text(device, dtype, config));
        const Localizer net(device, dtype, config, 3);
        EXPECT_EQ(worst_by_turning(net, device, dtype, size.length), 0);
      }
    }
    const double rounding =
        device.is_cuda() && device.cuda_queue().precision() == kernels::Precision::kTf32 ? 1e-2
        : dtype == DType::kF32                                                           ? 1e-4
                                                                                         : 1e-12;
    for (const NormKind norm : {NormKind::kInstance, NormKind::kLayer}) {
      const LocalizerConfig config = config_of(kSizes[0], norm, Padding::kCircular);
      SCOPED_TRACE(text(device, dtype, config));
      const Localizer net(device, dtype, config, 3);
      EXPECT_LE(worst_by_turning(net, device, dtype, kSizes[0].length), rounding);
    }
    // The test would notice: zeros beyond the ends are a place to be told by.
    const Localizer net(device, dtype, config_of(kSizes[0], NormKind::kNone, Padding::kZeros), 3);
    EXPECT_GT(worst_by_turning(net, device, dtype, kSizes[0].length), 0.1);
  });
}

// --- Input gradients ----------------------------------------------------------------------------

// The gradient of one output of the second of two sequences, [2, length].
std::vector<double> gradient_of(const Localizer& net, const Device& device, DType dtype,
                                std::int64_t length, std::int64_t index) {
  Tape tape(device, dtype);
  const Var x = tape.leaf(window(device, dtype, two_sequences(length), 0, length));
  const Var y = net(x, Statistics::kMinibatch);
  std::vector<double> one(static_cast<std::size_t>(2 * length));
  one[static_cast<std::size_t>(length + index)] = 1;
  tape.backward(y, Tensor::from(device, harness::array_of(one, dtype, {2, length, 1})));
  return values_of(tape.gradient(x));
}

// What of it lies further than `reach` from the index: how much is not 0, and the largest of it, in
// terms of the largest gradient. Sequences other than its own are as far away as can be.
struct Outside {
  std::int64_t count = 0;
  double share = 0;
};
Outside outside(const std::vector<double>& gradient, const Localizer& net, std::int64_t length,
                std::int64_t index, std::int64_t reach) {
  double largest = 0;
  Outside result;
  for (std::int64_t i = 0; i < 2 * length; ++i) {
    const double value = std::abs(gradient[static_cast<std::size_t>(i)]);
    largest = std::max(largest, value);
    std::int64_t distance = std::abs(i - length - index);
    if (net.config().padding == Padding::kCircular)
      distance = std::min(distance, length - distance);
    if (i >= length && distance <= reach) continue;
    result.count += value != 0;
    result.share = std::max(result.share, value);
  }
  result.share /= largest;
  return result;
}

// Whether the CPU takes the faster way to the input gradients of hidden layers, which leaks
// roundings beyond the taps (kernels/cpu/conv1d_winograd.h): of convolutions in f32, of layers that
// it computes together in f64, too.
bool filters(const Device& device, DType dtype, const LocalizerConfig& config) {
  const bool together = config.norm == NormKind::kNone && config.padding == Padding::kZeros;
  return !device.is_cuda() && (dtype == DType::kF32 || together) && config.kernel_size == 5 &&
         config.depth > 2 && config.channels % 32 == 0;
}

BACKEND_TEST(Locality, NothingIsHeardFromBeyondTheReceptiveField) {
  Backend::for_devices([](const Device& device, DType dtype) {
    for (const Size& size : kSizes) {
      for (const NormKind norm : kApart) {
        for (const Padding padding : {Padding::kZeros, Padding::kCircular}) {
          const LocalizerConfig config = config_of(size, norm, padding);
          SCOPED_TRACE(text(device, dtype, config));
          const Localizer net(device, dtype, config, 3);
          const std::int64_t reach = config.receptive_field();
          for (const std::int64_t index : {std::int64_t{0}, size.length / 2}) {
            const auto gradient = gradient_of(net, device, dtype, size.length, index);
            // Something within is heard.
            EXPECT_NE(outside(gradient, net, size.length, index, -1).count, 0);
            const Outside beyond = outside(gradient, net, size.length, index, reach);
            if (!filters(device, dtype, config)) {
              EXPECT_EQ(beyond.count, 0);
              continue;
            }
            // Four outputs share their eight inputs: three positions further at each hidden layer,
            // and no more than roundings.
            EXPECT_LE(beyond.share, 1e-5);
            EXPECT_EQ(
                outside(gradient, net, size.length, index, reach + 3 * (size.depth - 2)).count, 0);
          }
        }
      }
    }
    // The test would notice: statistics over positions are heard everywhere.
    const Size& size = kSizes[0];
    const Localizer net(device, dtype, config_of(size, NormKind::kInstance, Padding::kZeros), 3);
    const std::int64_t index = size.length / 2, reach = net.config().receptive_field();
    const Outside beyond = outside(gradient_of(net, device, dtype, size.length, index), net,
                                   size.length, index, reach);
    EXPECT_GT(beyond.count, 20);
    EXPECT_GT(beyond.share, 1e-3);
  });
}

// That it does leak, so that the exception above is one: this is why those who measure what is
// heard from outside ask the CPU for gradients by the definition.
TEST(LocalityInF32, InputGradientsOfFiveTapsLeakRoundings) {
  const Device& device = harness::device();
  const Size size = kSizes[0];
  std::int64_t leaked = 0;
  for (const Padding padding : {Padding::kZeros, Padding::kCircular}) {
    const Localizer net(device, DType::kF32, config_of(size, NormKind::kPosition, padding), 3);
    for (std::int64_t index = 20; index < 40; ++index) {
      const auto gradient = gradient_of(net, device, DType::kF32, size.length, index);
      leaked += outside(gradient, net, size.length, index, net.config().receptive_field()).count;
    }
  }
  EXPECT_GT(leaked, 0);
}

TEST(DirectGradients, NothingIsHeardFromBeyondTheReceptiveField) {
  const Device device = Device::cpu(2, ConvGradients::kDirect);
  const Size size = kSizes[0];
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    for (const NormKind norm : kApart) {
      for (const Padding padding : {Padding::kZeros, Padding::kCircular}) {
        const LocalizerConfig config = config_of(size, norm, padding);
        SCOPED_TRACE(text(device, dtype, config));
        const Localizer net(device, dtype, config, 3);
        for (std::int64_t index = 20; index < 40; ++index) {
          const auto gradient = gradient_of(net, device, dtype, size.length, index);
          EXPECT_NE(outside(gradient, net, size.length, index, -1).count, 0);
          EXPECT_EQ(outside(gradient, net, size.length, index, config.receptive_field()).count, 0);
        }
      }
    }
  }
}

}  // namespace
}  // namespace sidechannel
