#include "kernels/conv_norm_act.h"

#include <gtest/gtest.h>

#include "engine/gradcheck.h"
#include "engine/ops.h"
#include "tests/harness/backends.h"

namespace sidechannel {
namespace {

using harness::Draw;
using enum kernels::Activation;

struct Case {
  std::int64_t batch, length, channels, taps, padding, layers;
  NormOptions options;
  bool normalized = true;
};

// Tensors of a case on a device.
struct Tensors {
  Tensor x, dz;
  std::vector<Tensor> parameters;  // w, b, and gamma, beta, of each layer

  Tensors(const Device& device, DType type, const Case& c, std::uint64_t seed) {
    Draw draw(seed);
    const auto tensor = [&](Shape shape, double mean, double deviation) {
      Tensor t(device, type, shape);
      if (type == DType::kF32) {
        t.copy_from(HostArray::from<float>(draw.normals<float>(shape.size(), mean, deviation), shape));
      } else {
        t.copy_from(HostArray::from<double>(draw.normals<double>(shape.size(), mean, deviation), shape));
      }
      return t;
    };
    x = tensor({c.batch, c.length, c.channels}, 0, 1);
    const double scale = 1 / std::sqrt(static_cast<double>(c.taps * c.channels));
    for (std::int64_t i = 0; i < c.layers; ++i) {
      parameters.push_back(tensor({c.taps, c.channels, c.channels}, 0, scale));
      parameters.push_back(tensor({c.channels}, 0, 1));
      if (!c.normalized) continue;
      parameters.push_back(tensor({c.channels}, 1, 0.3));
      parameters.push_back(tensor({c.channels}, 0, 0.3));
    }
    const std::int64_t length = c.length + c.layers * (2 * c.padding - c.taps + 1);
    dz = tensor({c.batch, length, c.channels}, 0, 1);
  }
};

TEST(Smoke, Compare) {
  const Case c{4, 200, 64, 5, 2, 3, {}};
  for (int v = 0; v < 5; ++v) {
    Case k = c;
    if (v == 1) k.options.channels_per_set = 8;
    if (v == 2) k.options.samples_per_set = 2;
    if (v == 3) k.padding = 0;
    if (v == 4) k.normalized = false;
    const Device& device = harness::cuda_device(Precision::kTf32);
    const Tensors t(device, DType::kF32, k, 1);
    std::vector<std::vector<double>> results[2];
    for (int way = 0; way < 2; ++way) {
      Tape tape(device, DType::kF32);
      const Var x = tape.leaf(t.x);
      std::vector<Var> p;
      for (const Tensor& one : t.parameters) p.push_back(tape.leaf(one));
      std::vector<ConvNormActParameters> layers;
      const int per = k.normalized ? 4 : 2;
      for (std::int64_t i = 0; i < k.layers; ++i) {
        layers.push_back({p[per * i], p[per * i + 1], {}});
        if (k.normalized) layers.back().norm = {p[per * i + 2], p[per * i + 3], nullptr};
      }
      if (way == 1) tape.set_watch([](const Var&, std::span<const Var>) {});
      const Var z = conv_norm_act(x, layers, k.padding, k.options);
      tape.backward(z, t.dz);
      const auto keep = [&](const Tensor& tensor) {
        const HostArray array = tensor.to_host();
        std::vector<double> values;
        for (std::int64_t i = 0; i < tensor.size(); ++i) values.push_back(array.as<float>()[static_cast<std::size_t>(i)]);
        results[way].push_back(values);
      };
      keep(z.value());
      keep(tape.gradient(x));
      for (const Var& one : p) keep(tape.gradient(one));
    }
    for (std::size_t i = 0; i < results[0].size(); ++i) {
      double d = 0, n = 0;
      for (std::size_t j = 0; j < results[0][i].size(); ++j) {
        d += std::pow(results[0][i][j] - results[1][i][j], 2);
        n += std::pow(results[1][i][j], 2);
      }
      std::printf("%d %zu: %.3g of %.3g\n", v, i, std::sqrt(d / n), std::sqrt(n));
    }
  }
}

}  // namespace
}  // namespace sidechannel
