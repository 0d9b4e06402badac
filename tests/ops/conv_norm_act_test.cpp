#include "kernels/conv_norm_act.h"

#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include <cmath>
#include <deque>

#include "engine/gradcheck.h"
#include "engine/ops.h"
#include "tests/harness/backends.h"

namespace sidechannel {
namespace {

using harness::Draw;

// Layers in a row, all alike.
struct Case {
  std::int64_t batch, length, channels, taps, padding, layers;
  std::int64_t set_channels = 1, set_samples = 1;
  bool normalized = true;

  std::string text() const {
    return fmt::format("{} x [{}, {}, {}], {} taps, padding {}, sets of {} channels, {} samples{}",
                       layers, batch, length, channels, taps, padding, set_channels, set_samples,
                       normalized ? "" : ", no normalization");
  }
  NormOptions options() const {
    return {.channels_per_set = set_channels, .samples_per_set = set_samples};
  }
};

// --- The operation -------------------------------------------------------------------------------

// What a pass through the layers on a tape gives: z, and the gradients of x and all parameters.
struct Pass {
  std::vector<HostArray> results;
  std::vector<HostArray> hidden;
};

enum class Way { kTogether, kOneByOne };

Pass pass_through(const Device& device, DType type, const Case& c, Way way,
                  bool with_gradients = true) {
  Draw draw(7);
  const auto tensor = [&](const Shape& shape, double mean, double deviation) {
    const auto values = draw.normals<double>(shape.size(), mean, deviation);
    const Tensor t(device, type, shape);
    t.copy_from(type == DType::kF64
                    ? HostArray::from<double>(values, shape)
                    : HostArray::from<float>(harness::narrowed<float>(values), shape));
    return t;
  };
  Tape tape(device, type);
  tape.set_recording(with_gradients);
  // Whoever looks at each operation sees each.
  if (way == Way::kOneByOne) tape.set_watch([](const Var&, std::span<const Var>) {});
  std::vector<Var> leaves{tape.leaf(tensor({c.batch, c.length, c.channels}, 0, 1))};
  const auto leaf = [&](const Shape& shape, double mean, double deviation) {
    leaves.push_back(tape.leaf(tensor(shape, mean, deviation)));
    return leaves.back();
  };
  std::vector<ConvNormActParameters> layers;
  for (std::int64_t i = 0; i < c.layers; ++i) {
    const double scale = 1 / std::sqrt(static_cast<double>(c.taps * c.channels));
    const Var w = leaf({c.taps, c.channels, c.channels}, 0, scale);
    const Var b = leaf({c.channels}, 0, 1);
    layers.push_back({w, b, {}});
    if (!c.normalized) continue;
    const Var gamma = leaf({c.channels}, 1, 0.3);
    layers.back().norm = {gamma, leaf({c.channels}, 0, 0.3), nullptr};
  }
  std::vector<Var> hidden;
  const Var z =
      conv_norm_act(leaves[0], layers, c.padding, c.options(), with_gradients ? nullptr : &hidden);
  Pass pass{{z.value().to_host()}, {}};
  for (const Var& one : hidden) pass.hidden.push_back(one.value().to_host());
  if (!with_gradients) return pass;
  tape.backward(z, tensor(z.shape(), 0, 1));
  for (const Var& one : leaves) pass.results.push_back(tape.gradient(one).to_host());
  return pass;
}

void expect_same_bits(const std::vector<HostArray>& a, const std::vector<HostArray>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].shape, b[i].shape);
    EXPECT_EQ(a[i].bytes, b[i].bytes) << "result " << i;
  }
}

// Those that the CPU's threads compute together, and what they do not.
const Case kCases[] = {
    {8, 64, 32, 5, 2, 3},
    {8, 64, 32, 5, 2, 2, 8},
    {8, 64, 32, 5, 2, 2, 32},
    {8, 64, 32, 5, 2, 3, 1, 2},
    {8, 64, 32, 5, 2, 3, 1, 1, false},
    {8, 70, 32, 5, 0, 3},
    {32, 40, 64, 5, 2, 2, 1, 4},
    {3, 20, 16, 3, 1, 2},
    {6, 64, 32, 5, 2, 1},
};

// In float the same bits, whatever the number of threads: the layers together, where they are, make
// the sums of the operations one by one.
TEST(ConvNormAct, GivesTheBitsOfTheOperations) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.text());
    const Pass expected = pass_through(harness::device(1), DType::kF32, c, Way::kOneByOne);
    for (const int threads : {1, 2, 3}) {
      SCOPED_TRACE(threads);
      const Device& device = harness::device(threads);
      expect_same_bits(pass_through(device, DType::kF32, c, Way::kTogether).results,
                       expected.results);
    }
  }
}

TEST(ConvNormAct, ShowsWhatIsHidden) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.text());
    const Pass together = pass_through(harness::device(2), DType::kF32, c, Way::kTogether, false);
    const Pass one_by_one = pass_through(harness::device(2), DType::kF32, c, Way::kOneByOne, false);
    ASSERT_EQ(together.hidden.size(), static_cast<std::size_t>(c.layers));
    expect_same_bits(together.hidden, one_by_one.hidden);
    expect_same_bits(together.results, one_by_one.results);
  }
}

// Which of the cases the CPU computes together: none of these tests must be about nothing.
TEST(ConvNormAct, IsComputedTogether) {
  const auto computes = [](const Case& c, int threads) {
    kernels::ConvNormActLayer<float> layer;
    layer.conv = {c.batch, c.length, c.channels, c.channels, c.taps, c.padding};
    layer.norm = {c.batch, layer.conv.length_out(),   c.channels, c.set_channels, c.set_samples,
                  1e-5,    kernels::Activation::kRelu};
    const std::vector layers(1, layer);
    return kernels::computes(harness::queue(threads),
                             kernels::View<kernels::ConvNormActLayer<float>>(layers), true);
  };
  for (std::size_t i = 0; i < 7; ++i) EXPECT_TRUE(computes(kCases[i], 2)) << kCases[i].text();
  EXPECT_FALSE(computes(kCases[7], 2));
  EXPECT_FALSE(computes(kCases[0], 3));
}

TEST(ConvNormAct, GradientsAreRight) {
  for (const Case& c : {Case{4, 64, 32, 5, 2, 2}, Case{4, 66, 32, 5, 0, 1, 4, 2}}) {
    SCOPED_TRACE(c.text());
    Draw draw(3);
    const auto tensor = [&](const Shape& shape, double mean, double deviation) {
      const Tensor t(harness::device(1), DType::kF64, shape);
      t.copy_from(
          HostArray::from<double>(draw.normals<double>(shape.size(), mean, deviation), shape));
      return t;
    };
    std::vector<Tensor> inputs{tensor({c.batch, c.length, c.channels}, 0, 1)};
    for (std::int64_t i = 0; i < c.layers; ++i) {
      inputs.push_back(tensor({c.taps, c.channels, c.channels}, 0, 0.1));
      inputs.push_back(tensor({c.channels}, 0, 1));
      inputs.push_back(tensor({c.channels}, 1, 0.3));
      inputs.push_back(tensor({c.channels}, 0, 0.3));
    }
    harness::expect_gradients(
        [&](Tape&, std::span<const Var> in) {
          std::vector<ConvNormActParameters> layers;
          for (std::size_t i = 1; i < in.size(); i += 4) {
            layers.push_back({in[i], in[i + 1], {{in[i + 2], in[i + 3], nullptr}}});
          }
          return conv_norm_act(in[0], layers, c.padding, c.options());
        },
        inputs, {.seed = 5}, c.text());
  }
}

// --- The kernels of CUDA, in TF32 ----------------------------------------------------------------

#if SIDECHANNEL_HAS_CUDA
class CudaConvNormAct : public harness::CudaTest {};

using Buffer = harness::DeviceBuffer<float>;
using Floats = std::vector<float>;

// Roundings (of fp32) that the two operands of a product in TF32 are off by: 2^-11 each.
constexpr std::int64_t kTf32 = 1 << 14;

// The layers' tensors on the device, and their calls.
struct Layers {
  Case c;
  std::vector<double> x, dz;
  std::vector<std::vector<double>> w, b, gamma, beta;
  std::deque<Buffer> memory;
  std::vector<kernels::ConvNormActLayer<float>> calls;
  std::vector<kernels::ConvNormActGradients<float>> gradients;
  std::vector<std::array<Buffer*, 4>> statistics_and_y;  // mean, rest, rstd, y
  std::vector<std::array<Buffer*, 4>> gradient_buffers;  // dw, db, dgamma, dbeta
  Buffer *of_x, *of_z, *of_dz, *of_dx;

  Buffer& buffer(const std::vector<double>& values) {
    return memory.emplace_back(harness::narrowed<float>(values));
  }
  Buffer& empty(std::int64_t size) { return memory.emplace_back(size); }

  explicit Layers(const Case& what) : c(what) {
    Draw draw(11);
    std::int64_t length = c.length;
    x = draw.normals<double>(c.batch * length * c.channels);
    of_x = &buffer(x);
    for (std::int64_t i = 0; i < c.layers; ++i) {
      const double scale = 1 / std::sqrt(static_cast<double>(c.taps * c.channels));
      w.push_back(draw.normals<double>(c.taps * c.channels * c.channels, 0, scale));
      b.push_back(draw.normals<double>(c.channels));
      gamma.push_back(draw.normals<double>(c.channels, 1, 0.3));
      beta.push_back(draw.normals<double>(c.channels, 0, 0.3));
      kernels::ConvNormActLayer<float> call;
      call.conv = {c.batch, length, c.channels, c.channels, c.taps, c.padding};
      length = call.conv.length_out();
      call.norm = {c.batch,
                   length,
                   c.channels,
                   c.set_channels,
                   c.set_samples,
                   1e-5,
                   kernels::Activation::kRelu};
      const std::int64_t groups = c.batch / c.set_samples * c.channels;
      statistics_and_y.push_back(
          {&empty(groups), &empty(groups), &empty(groups), &empty(call.norm.size())});
      const auto& [mean, rest, rstd, y] = statistics_and_y.back();
      call.statistics = {mean->data(), rest->data(), rstd->data()};
      call.y = y->data();
      call.w = buffer(w.back()).data();
      call.b = buffer(b.back()).data();
      if (c.normalized) {
        call.gamma = buffer(gamma.back()).data();
        call.beta = buffer(beta.back()).data();
      }
      calls.push_back(call);
      gradient_buffers.push_back({&empty(c.taps * c.channels * c.channels), &empty(c.channels),
                                  &empty(c.channels), &empty(c.channels)});
      const auto& [dw, db, dgamma, dbeta] = gradient_buffers.back();
      gradients.push_back({{dw->data()}, {db->data()}, {dgamma->data()}, {dbeta->data()}});
    }
    of_z = &empty(calls.back().norm.size());
    calls.back().z = of_z->data();
    dz = draw.normals<double>(calls.back().norm.size());
    of_dz = &buffer(dz);
    of_dx = &empty(static_cast<std::int64_t>(x.size()));
  }

  void run_all() {
    kernels::CudaQueue& queue = harness::cuda_queue(Precision::kTf32);
    ASSERT_TRUE(kernels::computes(queue, calls, true));
    run(queue, kernels::ConvNormActForward<float>{of_x->data(), calls});
    back(queue, calls, of_x->data(), of_dz->data(), of_dx->data(), gradients);
  }
  void back(kernels::CudaQueue& queue, const std::vector<kernels::ConvNormActLayer<float>>& of,
            const float* from, const float* dz_of_last, float* dx,
            const std::vector<kernels::ConvNormActGradients<float>>& to) {
    Buffer& workspace = empty(kernels::conv_norm_act_workspace(queue, of));
    run(queue,
        kernels::ConvNormActBackward<float>{from, of, dz_of_last, {dx}, to, workspace.data()});
  }
};

std::vector<double> values_of(const Buffer& buffer) {
  return harness::widened(buffer.values());
}

// One layer of what has run: its y from its x, its statistics from its y, and its gradients from
// these and from dz, by the definition in fp64.
struct LayerCheck {
  const kernels::ConvNormActLayer<float>& call;
  std::vector<double> x, w, b, gamma, beta, y, mean, rest, rstd, dz;
  bool normalized;
  bool wrong = false;  // leaves out what the statistics' own gradients are

  std::size_t at(std::int64_t n, std::int64_t l, std::int64_t channel, std::int64_t length) const {
    return static_cast<std::size_t>((n * length + l) * call.conv.channels_in + channel);
  }
  std::size_t statistic(std::int64_t n, std::int64_t channel) const {
    return static_cast<std::size_t>(n / call.norm.samples_per_set * call.norm.channels + channel);
  }
  // What stands before the activation, in the kernels' own arithmetic.
  float before(std::int64_t n, std::size_t i, std::int64_t channel) const {
    const auto value = static_cast<float>(y[i]);
    if (!normalized) return value;
    const auto k = statistic(n, channel);
    const auto c = static_cast<std::size_t>(channel);
    const float scale = static_cast<float>(rstd[k]) * static_cast<float>(gamma[c]);
    const float shift = std::fmaf(-static_cast<float>(rest[k]), scale, static_cast<float>(beta[c]));
    return std::fmaf(value - static_cast<float>(mean[k]), scale, shift);
  }
  template <class F>  // f(n, l, channel, place)
  void for_each(const F& f) const {
    for (std::int64_t n = 0; n < call.norm.batch; ++n) {
      for (std::int64_t l = 0; l < call.norm.length; ++l) {
        for (std::int64_t channel = 0; channel < call.norm.channels; ++channel) {
          f(n, l, channel, at(n, l, channel, call.norm.length));
        }
      }
    }
  }
  template <class F>  // f(n, place of x, place of y, place of w) of each product of the convolution
  void for_products(const F& f) const {
    const kernels::Conv1dDims& d = call.conv;
    for_each([&](std::int64_t n, std::int64_t l, std::int64_t out, std::size_t i) {
      for (std::int64_t t = 0; t < d.kernel_size; ++t) {
        const std::int64_t position = l + t - d.padding;
        if (position < 0 || position >= d.length) continue;
        for (std::int64_t in = 0; in < d.channels_in; ++in) {
          f(at(n, position, in, d.length), i,
            static_cast<std::size_t>((t * d.channels_in + in) * d.channels_out + out));
        }
      }
    });
  }

  std::vector<double> z() const {
    std::vector<double> result(y.size());
    for_each([&](std::int64_t n, std::int64_t, std::int64_t channel, std::size_t i) {
      const float value = before(n, i, channel);
      result[i] = value < 0 ? 0 : value;
    });
    return result;
  }

  void check_forward() const {
    harness::Reference expected(static_cast<std::int64_t>(y.size()));
    for_each([&](std::int64_t, std::int64_t, std::int64_t channel, std::size_t i) {
      expected.add(static_cast<std::int64_t>(i), b[static_cast<std::size_t>(channel)]);
    });
    for_products([&](std::size_t in, std::size_t out, std::size_t weight) {
      expected.add(static_cast<std::int64_t>(out), x[in] * w[weight]);
    });
    const Floats actual = harness::narrowed<float>(y);
    harness::expect_near<float>("y", std::span<const float>(actual), expected,
                                kTf32 + call.conv.kernel_size * call.conv.channels_in + 1);
    if (!normalized) return;
    // Of each set. A sum of a chunk passes at most kSum roundings.
    constexpr double kSum = 200;
    const double u = harness::kUnitRoundoff<float>;
    const auto size = static_cast<double>(call.norm.set_size());
    const auto sets = static_cast<std::int64_t>(mean.size()) / call.norm.channels_per_set;
    std::vector<double> sum(static_cast<std::size_t>(sets)), deviation = sum, squares = sum;
    const auto set_of = [&](std::int64_t n, std::int64_t channel) {
      return statistic(n, channel) / static_cast<std::size_t>(call.norm.channels_per_set);
    };
    for_each([&](std::int64_t n, std::int64_t, std::int64_t channel, std::size_t i) {
      sum[set_of(n, channel)] += y[i] / size;
    });
    for_each([&](std::int64_t n, std::int64_t, std::int64_t channel, std::size_t i) {
      const double d = y[i] - sum[set_of(n, channel)];
      deviation[set_of(n, channel)] += std::abs(d) / size;
      squares[set_of(n, channel)] += d * d / size;
    });
    for (std::size_t k = 0; k < mean.size(); ++k) {
      const std::size_t set = k / static_cast<std::size_t>(call.norm.channels_per_set);
      EXPECT_NEAR(mean[k] + rest[k], sum[set], kSum * u * (deviation[set] + std::abs(sum[set])));
      const double right = 1 / std::sqrt(squares[set] + call.norm.epsilon);
      EXPECT_NEAR(rstd[k], right, kSum * u * right * (1 + std::abs(sum[set]) * right));
    }
  }

  // dx, and the gradients, of the order of ConvNormActGradients.
  void check_backward(const std::vector<double>& dx,
                      const std::vector<std::vector<double>>& gradients) const {
    const auto channels = static_cast<std::size_t>(call.norm.channels);
    const auto size = static_cast<double>(call.norm.set_size());
    std::vector<double> g(y.size()), x_hat(y.size());
    harness::Reference dbeta(call.norm.channels), dgamma(call.norm.channels);
    // Over each set: means of gamma g and gamma g x_hat, and of their absolute values.
    std::vector<std::array<double, 4>> means(mean.size());
    for_each([&](std::int64_t n, std::int64_t, std::int64_t channel, std::size_t i) {
      g[i] = before(n, i, channel) > 0 ? dz[i] : 0;
      if (!normalized) return;
      const std::size_t k = statistic(n, channel);
      x_hat[i] = (y[i] - mean[k] - rest[k]) * rstd[k];
      dbeta.add(channel, g[i]);
      dgamma.add(channel, g[i] * x_hat[i], std::abs(g[i]) * (std::abs(x_hat[i]) + 1));
      const double share = gamma[static_cast<std::size_t>(channel)] * g[i] / size;
      const auto set = k - k % static_cast<std::size_t>(call.norm.channels_per_set);
      means[set][0] += share;
      means[set][1] += share * x_hat[i];
      means[set][2] += std::abs(share);
      means[set][3] += std::abs(share) * (std::abs(x_hat[i]) + 1);
    });
    // dy, and what its roundings are relative to.
    std::vector<double> dy(y.size()), magnitude(y.size());
    harness::Reference db(call.norm.channels);
    for_each([&](std::int64_t n, std::int64_t, std::int64_t channel, std::size_t i) {
      dy[i] = g[i];
      magnitude[i] = std::abs(g[i]);
      if (normalized) {
        const std::size_t k = statistic(n, channel);
        const auto& of = means[k - k % static_cast<std::size_t>(call.norm.channels_per_set)];
        const double scaled = gamma[static_cast<std::size_t>(channel)] * g[i];
        dy[i] = rstd[k] * (scaled - of[0] - (wrong ? 0 : x_hat[i] * of[1]));
        magnitude[i] = rstd[k] * (std::abs(scaled) + of[2] + (std::abs(x_hat[i]) + 1) * of[3]);
      }
      db.add(channel, dy[i], magnitude[i]);
    });
    harness::Reference dw(static_cast<std::int64_t>(w.size())),
        to_x(static_cast<std::int64_t>(x.size()));
    for_products([&](std::size_t in, std::size_t out, std::size_t weight) {
      dw.add(static_cast<std::int64_t>(weight), x[in] * dy[out], std::abs(x[in]) * magnitude[out]);
      to_x.add(static_cast<std::int64_t>(in), w[weight] * dy[out],
               std::abs(w[weight]) * magnitude[out]);
    });
    // Roundings of a, b, and dy; of sums over all positions, in parts.
    constexpr std::int64_t kOfDy = 400;
    const std::int64_t sums = call.norm.batch * call.norm.length;
    const auto near = [](const char* name, const std::vector<double>& actual,
                         const harness::Reference& expected, std::int64_t roundings) {
      const Floats values = harness::narrowed<float>(actual);
      harness::expect_near<float>(name, std::span<const float>(values), expected, roundings);
    };
    near("dx", dx, to_x, kTf32 + kOfDy + call.conv.kernel_size * call.conv.channels_in);
    near("dw", gradients[0], dw, kTf32 + kOfDy + sums);
    near("db", gradients[1], db, kOfDy + sums);
    if (!normalized) return;
    near("dgamma", gradients[2], dgamma, kOfDy + sums);
    near("dbeta", gradients[3], dbeta, sums);
    ASSERT_EQ(gradients[3].size(), channels);
  }
};

const Case kCudaCases[] = {
    {2, 330, 64, 5, 2, 2},       // 160 positions, three chunks of two sizes
    {3, 37, 64, 5, 2, 3},        // 64
    {2, 20, 64, 5, 2, 2, 8},     // 32
    {2, 150, 64, 5, 0, 2, 64},   // shorter from layer to layer
    {4, 50, 32, 5, 2, 2, 1, 2},  // several samples a set
    {2, 200, 32, 5, 2, 2, 4},   {2, 33, 64, 3, 1, 2, 1, 1},  {2, 170, 64, 3, 1, 1, 16},
    {2, 70, 32, 3, 0, 2, 1, 2}, {2, 170, 32, 3, 1, 1, 1, 1}, {2, 60, 64, 5, 2, 3, 1, 1, false},
};

LayerCheck check_of(const Layers& layers, std::size_t i, const std::vector<double>& x,
                    const std::vector<double>& dz) {
  const auto& [mean, rest, rstd, y] = layers.statistics_and_y[i];
  const bool normalized = layers.c.normalized;
  const std::vector<double> none(static_cast<std::size_t>(layers.c.batch * layers.c.channels));
  return {layers.calls[i],
          x,
          layers.w[i],
          layers.b[i],
          layers.gamma[i],
          layers.beta[i],
          values_of(*y),
          normalized ? values_of(*mean) : none,
          normalized ? values_of(*rest) : none,
          normalized ? values_of(*rstd) : none,
          dz,
          normalized};
}

// Layer by layer by the definition. What a layer's dz is, in a row of them, the same kernels say of
// the layer above alone: of dz they make the same bits there.
TEST_F(CudaConvNormAct, AgreesWithTheDefinition) {
  for (const Case& c : kCudaCases) {
    SCOPED_TRACE(c.text());
    Layers layers(c);
    layers.run_all();
    std::vector<std::vector<double>> inputs{layers.x};
    for (std::size_t i = 0; i < layers.calls.size(); ++i) {
      SCOPED_TRACE(testing::Message() << "layer " << i);
      const LayerCheck check = check_of(layers, i, inputs.back(), {});
      check.check_forward();
      inputs.push_back(check.z());
    }
    EXPECT_EQ(inputs.back(), values_of(*layers.of_z));
    std::vector<double> dz = layers.dz;
    for (std::size_t i = layers.calls.size(); i-- > 0;) {
      SCOPED_TRACE(testing::Message() << "layer " << i);
      std::vector<std::vector<double>> gradients;
      for (const Buffer* buffer : layers.gradient_buffers[i]) {
        gradients.push_back(values_of(*buffer));
        EXPECT_TRUE(buffer->walls_stand());
      }
      // The layer alone, for its dx.
      Layers alone(c);
      Buffer& input = alone.buffer(inputs[i]);
      Buffer& its_dz = alone.buffer(dz);
      Buffer& dx = alone.empty(static_cast<std::int64_t>(inputs[i].size()));
      kernels::CudaQueue& queue = harness::cuda_queue(Precision::kTf32);
      alone.back(queue, {layers.calls[i]}, input.data(), its_dz.data(), dx.data(),
                 {alone.gradients[i]});
      const LayerCheck check = check_of(layers, i, inputs[i], dz);
      check.check_backward(i == 0 ? values_of(*layers.of_dx) : values_of(dx), gradients);
      dz = values_of(dx);
    }
    EXPECT_TRUE(layers.of_dx->walls_stand());
  }
}

// Without the gradient of a set's deviation, the same bounds do not hold.
TEST_F(CudaConvNormAct, AWrongGradientIsFound) {
  Layers layers({2, 40, 32, 5, 2, 1});
  layers.run_all();
  LayerCheck check = check_of(layers, 0, layers.x, layers.dz);
  check.wrong = true;
  std::vector<std::vector<double>> gradients;
  for (const Buffer* buffer : layers.gradient_buffers[0]) gradients.push_back(values_of(*buffer));
  testing::TestPartResultArray failures;
  {
    const testing::ScopedFakeTestPartResultReporter reporter(
        testing::ScopedFakeTestPartResultReporter::INTERCEPT_ONLY_CURRENT_THREAD, &failures);
    check.check_backward(values_of(*layers.of_dx), gradients);
  }
  EXPECT_GT(failures.size(), 0);
}

TEST_F(CudaConvNormAct, SameBitsEveryTime) {
  std::vector<double> first;
  for (int i = 0; i < 3; ++i) {
    Layers layers({2, 330, 64, 5, 2, 3});
    layers.run_all();
    std::vector<double> all = values_of(*layers.of_dx);
    for (const auto& buffers : layers.gradient_buffers) {
      for (const Buffer* buffer : buffers) {
        const std::vector<double> more = values_of(*buffer);
        all.insert(all.end(), more.begin(), more.end());
      }
    }
    if (i == 0) first = all;
    EXPECT_EQ(all, first);
  }
}

// Gradients are added to what is there, and those that nobody asked for are left out.
TEST_F(CudaConvNormAct, AccumulatesWhatIsAskedFor) {
  const Case c{2, 40, 32, 5, 2, 2};
  Layers plain(c), added(c);
  plain.run_all();
  for (auto& [dw, db, dgamma, dbeta] : added.gradients) {
    dw.write = kernels::Write::kAccumulate;
    dgamma.write = kernels::Write::kAccumulate;
    db = {};
  }
  for (const auto& [dw, db, dgamma, dbeta] : added.gradient_buffers) {
    dw->set(Floats(dw->values().size(), 1));
    dgamma->set(Floats(dgamma->values().size(), 1));
  }
  added.run_all();
  for (std::size_t i = 0; i < plain.calls.size(); ++i) {
    for (const std::size_t k : {0, 2}) {
      const auto without = plain.gradient_buffers[i][k]->values();
      const Floats before(without.begin(), without.end());
      const auto with = added.gradient_buffers[i][k]->values();
      for (std::size_t j = 0; j < before.size(); ++j) ASSERT_EQ(with[j], 1.0f + before[j]);
    }
    EXPECT_TRUE(std::isnan(added.gradient_buffers[i][1]->values()[0]));
  }
}
#endif

}  // namespace
}  // namespace sidechannel
