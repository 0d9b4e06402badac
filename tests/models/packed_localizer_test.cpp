#include "models/localizer.h"

#include <gtest/gtest.h>

#include "tests/harness/localizer_check.h"

namespace sidechannel {
namespace {

using harness::device;
using harness::Draw;
using harness::error_of;
using harness::randomize_norms;
using harness::relative_difference;
using harness::shapes_of;
using harness::tensor_of;
using harness::values_of;

std::vector<double> predict(const Localizer& net, const Tensor& x) {
  Tape tape(device(), DType::kF64);
  return values_of(net(tape.constant(x)).value());
}

// --- Against Section 3.2, by brute force --------------------------------------------------------

using Rows = std::vector<std::vector<double>>;  // [position][channel]

struct Weights {
  std::map<std::string, std::vector<double>> values;
  explicit Weights(const Localizer& net) {
    for (const Parameter& parameter : net.parameters().parameters())
      values[parameter.name] = values_of(parameter.value);
  }
};

// Without padding; w [k, C_in, C_out].
Rows convolve(const Rows& x, const Weights& weights, const std::string& name,
              std::int64_t kernel_size) {
  const std::vector<double>& w = weights.values.at(name + ".weight");
  const std::vector<double>& b = weights.values.at(name + ".bias");
  const auto k = static_cast<std::size_t>(kernel_size);
  const std::size_t c_in = x[0].size();
  Rows y;
  for (std::size_t l = 0; l + k <= x.size(); ++l) {
    std::vector<double> row = b;
    for (std::size_t j = 0; j < k; ++j)
      for (std::size_t i = 0; i < c_in; ++i)
        for (std::size_t o = 0; o < b.size(); ++o)
          row[o] += x[l + j][i] * w[(j * c_in + i) * b.size() + o];
    y.push_back(row);
  }
  return y;
}

// Both sequences end to end, as one; then apart again. `nearest` is told how near a ReLU comes to
// its kink.
void pack_norm_act(Rows& a, Rows& b, const Weights& weights, const std::string& name,
                   double& nearest) {
  const std::vector<double>& gamma = weights.values.at(name + ".weight");
  const std::vector<double>& beta = weights.values.at(name + ".bias");
  for (std::size_t c = 0; c < gamma.size(); ++c) {
    std::vector<double*> all;
    for (Rows* rows : {&a, &b})
      for (std::vector<double>& row : *rows) all.push_back(&row[c]);
    double mean = 0;
    for (const double* value : all) mean += *value / static_cast<double>(all.size());
    double variance = 0;
    for (const double* value : all)
      variance += (*value - mean) * (*value - mean) / static_cast<double>(all.size());
    for (double* value : all) {
      const double v = gamma[c] * (*value - mean) / std::sqrt(variance + 1e-5) + beta[c];
      nearest = std::min(nearest, std::abs(v));
      *value = std::max(v, 0.0);
    }
  }
}

std::vector<double> brute_force(const Localizer& net, const std::vector<double>& x,
                                double* nearest = nullptr) {
  const Weights weights(net);
  const LocalizerConfig& config = net.config();
  const auto length = static_cast<std::size_t>(config.length());
  const std::int64_t k = config.kernel_size;
  double distance = 1e9;
  std::vector<double> out;
  for (std::size_t pair = 0; pair < x.size() / length; pair += 2) {
    Rows z[2];
    for (std::size_t s = 0; s < 2; ++s) {
      for (std::size_t i = 0; i < length; ++i) z[s].push_back({x[(pair + s) * length + i]});
      z[s] = convolve(z[s], weights, "conv_in", k);
    }
    for (std::int64_t i = 0; i < config.depth - 2; ++i) {
      const std::string block = fmt::format("blocks.{}", i);
      for (Rows& rows : z) rows = convolve(rows, weights, block + ".conv", k);
      pack_norm_act(z[0], z[1], weights, block + ".norm", distance);
    }
    for (Rows& rows : z) {
      rows = convolve(rows, weights, "conv_out", k);
      EXPECT_EQ(rows.size(), 1u);  // one position is left
      out.push_back(rows[0][0]);
    }
  }
  if (nearest) *nearest = distance;
  return out;
}

TEST(PackedLocalizer, IsTheNetworkOfSection32) {
  for (const auto& [depth, channels, kernel_size, pairs] :
       {std::tuple{2, 3, 3, 2}, {3, 1, 5, 1}, {5, 6, 3, 3}, {4, 8, 5, 2}, {6, 4, 1, 2}}) {
    Localizer net(device(), DType::kF64, LocalizerConfig::packed(depth, channels, kernel_size), 1);
    Draw draw(2);
    randomize_norms(net, draw);
    const Tensor x = draw.tensor({2 * pairs, net.config().length(), 1});
    EXPECT_LE(relative_difference(predict(net, x), brute_force(net, values_of(x))), 1e-12)
        << depth << " " << channels << " " << kernel_size;
  }
}

TEST(PackedLocalizer, TheLengthIsOnePlusTwoReceptiveFields) {
  EXPECT_EQ(LocalizerConfig::packed(32, 64, 5).receptive_field(), 64);
  EXPECT_EQ(LocalizerConfig::packed(32, 64, 5).length(), 129);  // the paper's
  EXPECT_EQ(LocalizerConfig::packed(8, 32, 5).length(), 33);
}

TEST(PackedLocalizer, NamesItsTensorsAsTheLocalizerDoes) {
  const LocalizerConfig same{.depth = 5, .channels = 6};
  EXPECT_EQ(shapes_of(Localizer(device(), DType::kF32, LocalizerConfig::packed(5, 6, 5), 1)),
            shapes_of(Localizer(device(), DType::kF32, same, 1)));
}

// A pair's predictions are the same, to the bit, whatever stands beside it; those of the two
// sequences of a pair depend on each other.
TEST(PackedLocalizer, PairsDoNotHearEachOtherButTheirTwoSequencesDo) {
  const Localizer net(device(), DType::kF64, LocalizerConfig::packed(5, 4, 3), 3);
  const std::int64_t length = net.config().length();
  const Tensor x = Draw(4).tensor({6, length, 1});
  const auto before = predict(net, x);
  const std::int64_t moved = 2 * length + 5;  // in the first sequence of the second pair
  x.data<double>()[moved] += 1;
  const auto after = predict(net, x);
  for (std::size_t i = 0; i < 6; ++i) EXPECT_EQ(before[i] != after[i], i == 2 || i == 3) << i;
  const Tensor alone = x.slice(2 * length, 2 * length).reshape({2, length, 1});
  EXPECT_EQ(predict(net, alone), (std::vector<double>{after[2], after[3]}));
}

// Without a norm, of two convolutions: nothing couples the two sequences.
TEST(PackedLocalizer, PackNormIsTheOnlyCoupling) {
  const Localizer net(device(), DType::kF64, LocalizerConfig::packed(2, 4, 3), 3);
  const Tensor x = Draw(4).tensor({2, net.config().length(), 1});
  const auto before = predict(net, x);
  x.data<double>()[1] += 1;
  const auto after = predict(net, x);
  EXPECT_NE(before[0], after[0]);
  EXPECT_EQ(before[1], after[1]);
}

// Exchanging the sequences exchanges the predictions: at zero overlap the best answer is 0 for
// both, and for identical sequences the two answers are the same.
TEST(PackedLocalizer, IsEquivariantToExchangingTheSequences) {
  Localizer net(device(), DType::kF64, LocalizerConfig::packed(5, 4, 3), 3);
  Draw draw(5);
  randomize_norms(net, draw);
  const std::int64_t length = net.config().length();
  const auto a = draw.normals<double>(length);
  const auto b = draw.normals<double>(length);
  const auto answer = [&](std::vector<double> first, const std::vector<double>& second) {
    first.insert(first.end(), second.begin(), second.end());
    return predict(net, tensor_of(first, {2, length, 1}));
  };
  const auto one_way = answer(a, b);
  const auto other_way = answer(b, a);
  EXPECT_NEAR(one_way[0], other_way[1], 1e-12);
  EXPECT_NEAR(one_way[1], other_way[0], 1e-12);
  EXPECT_GT(std::abs(one_way[0] - one_way[1]), 1e-3);
  const auto twins = answer(a, a);
  EXPECT_EQ(twins[0], twins[1]);
}

TEST(PackedLocalizer, Gradients) {
  Draw draw(6);
  for (std::uint64_t i = 0; i < 40; ++i) {
    const LocalizerConfig config =
        LocalizerConfig::packed(draw.integer(2, 5), draw.pick({1, 2, 3, 6}), draw.pick({1, 3, 5}));
    const Shape shape{2 * draw.integer(1, 2), config.length(), 1};
    std::unique_ptr<Localizer> net;
    Tensor x;
    double nearest = 0;
    while (nearest < 1e-3) {  // until no ReLU stands at its kink
      net = std::make_unique<Localizer>(device(), DType::kF64, config,
                                        static_cast<std::uint64_t>(draw.integer(0, 1 << 30)));
      randomize_norms(*net, draw);
      x = draw.tensor(shape);
      brute_force(*net, values_of(x), &nearest);
    }
    harness::check_network_gradients(*net, x, i, Statistics::kTraining, shape.str());
  }
}

TEST(PackedLocalizer, RefusesWhatDoesNotFit) {
  const Localizer net(device(), DType::kF64, LocalizerConfig::packed(4, 4, 3), 0);
  Tape tape(device(), DType::kF64);
  EXPECT_EQ(error_of([&] {
              net(tape.make({3, 9, 1}));
            }),
            "packed localizer: expected pairs of sequences, [2 N, 9, 1], got [3, 9, 1]");
  EXPECT_EQ(error_of([&] {
              net(tape.make({2, 10, 1}));
            }),
            "packed localizer: expected pairs of sequences, [2 N, 9, 1], got [2, 10, 1]");
  EXPECT_EQ(
      error_of([&] { Localizer(device(), DType::kF64, LocalizerConfig::packed(4, 4, 4), 0); }),
      "kernel size 4: expected an odd number");
}

}  // namespace
}  // namespace sidechannel
