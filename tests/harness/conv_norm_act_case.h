#pragma once

// Rows of layers (kernels/conv_norm_act.h) on every backend.

#include <fmt/format.h>

#include <cmath>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "engine/norm.h"
#include "kernels/conv_norm_act.h"
#include "tests/harness/backends.h"
#if SIDECHANNEL_HAS_CUDA
#include "kernels/cuda/conv_norm_act/variants.h"
#endif

namespace sidechannel::harness {

enum class Normalized { kAll, kOdd, kNone };  // which layers, counted from 0

struct RowCase {
  std::int64_t batch, length, channels, taps, padding, layers = 1;
  std::int64_t set_channels = 1, set_samples = 1;
  Normalized normalized = Normalized::kAll;
  bool centred = true, through_mean = true, through_variance = true;

  std::string text() const {
    return fmt::format(
        "{} x N={} L={} C={} k={} padding={} set_channels={} set_samples={} norm={}{} through {} "
        "{}",
        layers, batch, length, channels, taps, padding, set_channels, set_samples,
        static_cast<int>(normalized), centred ? "" : " RMS", through_mean, through_variance);
  }
  bool has_norm(std::int64_t layer) const {
    return normalized == Normalized::kAll || (normalized == Normalized::kOdd && layer % 2 == 1);
  }
  NormOptions options() const {
    return {.channels_per_set = set_channels,
            .samples_per_set = set_samples,
            .centred = centred,
            .through_mean = through_mean,
            .through_variance = through_variance};
  }
  kernels::Conv1dDims conv(std::int64_t layer) const {
    const std::int64_t grows = 2 * padding - taps + 1;
    return {batch, length + layer * grows, channels, channels, taps, padding};
  }
  kernels::NormDims norm(std::int64_t layer) const {
    const bool sets = has_norm(layer);
    return {.batch = batch,
            .length = conv(layer).length_out(),
            .channels = channels,
            .channels_per_set = sets ? set_channels : 1,
            .samples_per_set = sets ? set_samples : 1,
            .epsilon = 1e-5,
            .activation = kRelu,
            .centred = centred || !sets};
  }
};

// Rows for the kernels. Chunks of 160, 64 and 32 positions at most; on the CPU slices of 64 tiles
// of four positions. RMS is the CPU's alone.
inline std::vector<RowCase> kernel_rows() {
  using enum Normalized;
  return {
      {2, 173, 64, 5, 2},                       // instance; several chunks, the last one shorter
      {3, 37, 64, 5, 2, 3},                     // one chunk, or two
      {2, 173, 32, 5, 2, 2, 4},                 // group
      {2, 60, 32, 5, 2, 2, 32},                 // layer
      {2, 40, 64, 5, 0, 3, 64},                 // shorter from layer to layer
      {4, 50, 32, 5, 2, 2, 1, 2},               // pack
      {6, 33, 64, 5, 2, 2, 1, 3},               // batch in groups
      {4, 35, 32, 5, 2, 3, 8, 2},               // channels and samples
      {2, 173, 64, 3, 1, 1, 16},                // 3 taps
      {2, 70, 32, 3, 0, 2, 4, 2},               //
      {1, 173, 32, 3, 1, 2},                    //
      {2, 40, 64, 5, 2, 3, 1, 1, kNone},        // no normalization
      {4, 40, 32, 5, 1, 3, 1, 1, kOdd},         // here and there; uneven padding
      {4, 24, 64, 5, 2, 4, 1, 2, kOdd},         // where only some layers have sets of two samples
      {3, 1, 64, 5, 2, 2},                      // one position: no variance at all
      {4, 1, 32, 5, 2, 2, 1, 4},                // yet a batch
      {2, 5, 64, 5, 0},                         // one output position
      {1, 9, 32, 3, 1, 33},                     // more layers than a launch takes
      {8, 64, 32, 5, 2, 2},                     // the demo's; two slices
      {8, 140, 32, 5, 0, 2, 1, 2},              //
      {8, 40, 32, 5, 2, 2, 4, 1, kAll, false},  // RMS
  };
}

// The buffers of a row, its operands drawn, and its calls on them.
template <class Backend, class T>
struct RowOn {
  using Buffer = BufferOn<Backend, T>;
  using Layer = kernels::ConvNormActLayer<T>;
  using Gradients = kernels::ConvNormActGradients<T>;

  struct Buffers {
    kernels::Conv1dDims conv;
    kernels::NormDims norm;
    bool normalized;
    Buffer w, b, gamma, beta, y, mean, rest, rstd, z, dw, db, dgamma, dbeta;

    Buffers(const RowCase& c, std::int64_t layer, Draw& draw)
        : conv(c.conv(layer)),
          norm(c.norm(layer)),
          normalized(c.has_norm(layer)),
          w(draw.normals<T>(c.taps * c.channels * c.channels, 0,
                            1 / std::sqrt(static_cast<double>(c.taps * c.channels)))),
          b(draw.normals<T>(c.channels)),
          gamma(draw.normals<T>(c.channels, 1, 0.3)),
          beta(draw.normals<T>(c.channels, 0, 0.3)),
          y(norm.size()),
          mean(statistics()),
          rest(statistics()),
          rstd(statistics()),
          z(norm.size()),
          dw(c.taps * c.channels * c.channels),
          db(c.channels),
          dgamma(c.channels),
          dbeta(c.channels) {}
    std::int64_t statistics() const { return norm.groups() * norm.channels; }
    Layer call() {
      return {.conv = conv,
              .norm = norm,
              .w = w.data(),
              .b = b.data(),
              .gamma = normalized ? gamma.data() : nullptr,
              .beta = normalized ? beta.data() : nullptr,
              .y = y.data(),
              .statistics = {mean.data(), rest.data(), rstd.data()},
              .z = z.data()};
    }
    // What a pass gives; without a normalization some is left as it was.
    std::vector<Buffer*> gradients() {
      if (normalized) return {&dgamma, &dbeta, &dw, &db};
      return {&dw, &db};
    }
    std::vector<Buffer*> results() {
      if (normalized) return {&y, &z, &mean, &rest, &rstd};
      return {&y, &z};
    }
  };

  RowCase c;
  Draw draw;
  Buffer x;
  std::deque<Buffers> layers;
  Buffer dz, dx;

  explicit RowOn(const RowCase& of)
      : c(of),
        draw(7),
        x(draw.normals<T>(c.batch * c.length * c.channels)),
        layers(drawn(c, draw)),
        dz(draw.normals<T>(layers.back().norm.size())),
        dx(c.batch * c.length * c.channels) {}

  // The calls of `count` layers.
  std::vector<Layer> calls(std::size_t first = 0, std::size_t count = SIZE_MAX) {
    std::vector<Layer> all;
    for (std::size_t i = first; i < layers.size() && i - first < count; ++i) {
      all.push_back(layers[i].call());
    }
    return all;
  }
  std::vector<Gradients> gradients(kernels::Write write, std::size_t first = 0) {
    std::vector<Gradients> all;
    for (std::size_t i = first; i < layers.size(); ++i) {
      auto& l = layers[i];
      all.push_back({{l.dw.data(), write}, {l.db.data(), write}, {}, {}});
      if (!l.normalized) continue;
      all.back().dgamma = {l.dgamma.data(), write};
      all.back().dbeta = {l.dbeta.data(), write};
    }
    return all;
  }

  // Forward of some layers from what stands in x; `variant` of those of variants(), any for "".
  void forward(auto& queue, const std::string& variant, const Buffer& from,
               const std::vector<Layer>& of) {
    compute(queue, kernels::ConvNormActForward<T>{from.data(), of}, variant);
  }
  // Back from the last layer to the `first`, which reads `from`.
  void backward(auto& queue, const std::string& variant, std::size_t first, const Buffer& from,
                kernels::GradOut<T> to_x, const std::vector<Gradients>& to) {
    const std::vector<Layer> of = calls(first);
    Buffer workspace(kernels::conv_norm_act_workspace(queue, kernels::View<Layer>(of)));
    compute(queue,
            kernels::ConvNormActBackward<T>{.x = from.data(),
                                            .layers = of,
                                            .dz = dz.data(),
                                            .dx = to_x,
                                            .gradients = to,
                                            .workspace = workspace.data()},
            variant);
    EXPECT_TRUE(workspace.walls_stand());
  }

 private:
  static std::deque<Buffers> drawn(const RowCase& c, Draw& draw) {
    std::deque<Buffers> all;
    for (std::int64_t i = 0; i < c.layers; ++i) all.emplace_back(c, i, draw);
    return all;
  }
  static void compute(kernels::CpuQueue& queue, const auto& call, const std::string&) {
    run(queue, call);
  }
#if SIDECHANNEL_HAS_CUDA
  static void compute(kernels::CudaQueue& queue, const auto& call, const std::string& variant) {
    run(queue, call, variant.empty() ? nullptr : variant.c_str());
  }
#endif
};

// The kernels that there are for a row, the chosen one first; none where it is not computed so.
template <class T>
std::vector<std::string> variants(kernels::CpuQueue& queue,
                                  const std::vector<kernels::ConvNormActLayer<T>>& row) {
  if (!kernels::computes(queue, kernels::ConvNormActForward<T>{nullptr, row}, true)) return {};
  return {""};
}
#if SIDECHANNEL_HAS_CUDA
inline std::vector<std::string> variants(kernels::CudaQueue& queue,
                                         const std::vector<kernels::ConvNormActLayer<float>>& row) {
  const kernels::ConvNormActForward<float> call{nullptr, row};
  if (!kernels::computes(queue, call, true)) return {};
  return kernels::variants_of(queue.info(), queue.precision(), call);
}
#endif

// Calls f(case, variant) for all rows that the queue computes: with the kernel that is chosen (in
// fp32, whose kernels are those of TF32 with other operands, for every second row), and the others
// for two rows each, not all for the same. Emulation takes its time.
template <class Backend, class T>
void for_rows(auto& queue, const auto& f) {
  std::map<std::string, int> met;
  std::size_t index = 0;
  for (const RowCase& c : kernel_rows()) {
    RowOn<Backend, T> row(c);
    const std::vector<std::string> all = variants(queue, row.calls());
    for (std::size_t i = 0; i < all.size(); ++i) {
      const bool even = (index + i) % 2 == 0;
      const int before = met[all[i]];
      const bool chosen = i == 0 && (even || !all[i].starts_with("split"));
      if (!chosen && (c.layers > 10 || before > 1 || (before == 1 && !even))) continue;
      ++met[all[i]];
      f(c, all[i]);
    }
    ++index;
  }
}

}  // namespace sidechannel::harness
