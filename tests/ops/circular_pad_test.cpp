#include "kernels/circular_pad.h"

#include <gtest/gtest.h>

#include "tests/harness/backends.h"

// Sequences as rings, and the convolution of rings.

namespace sidechannel {
namespace {

using harness::Draw;
using harness::error_of;
using harness::Reference;
using harness::values_of;
using kernels::CircularPadDims;
using kernels::GradOut;

TEST(CircularPad, GoesOnAtTheOtherEnd) {
  Tape tape(harness::device(), DType::kF64);
  const Var x = tape.constant(harness::tensor_of({1, 2, 3, 4, 5, 6}, {2, 3, 1}));
  const auto padded = [&](std::int64_t before, std::int64_t after) {
    return values_of(circular_pad(x, before, after).value());
  };
  EXPECT_EQ(padded(0, 0), (std::vector<double>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(padded(1, 1), (std::vector<double>{3, 1, 2, 3, 1, 6, 4, 5, 6, 4}));
  EXPECT_EQ(padded(0, 2), (std::vector<double>{1, 2, 3, 1, 2, 4, 5, 6, 4, 5}));
  EXPECT_EQ(padded(2, 0), (std::vector<double>{2, 3, 1, 2, 3, 5, 6, 4, 5, 6}));
  // More than once around.
  EXPECT_EQ(padded(4, 5), (std::vector<double>{3, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2,  //
                                               6, 4, 5, 6, 4, 5, 6, 4, 5, 6, 4, 5}));
}

// Each is here for a reason; generated ones follow.
std::vector<CircularPadDims> all_dims(int count) {
  std::vector<CircularPadDims> all = {
      {1, 1, 1, 0, 0},    // the smallest
      {2, 1, 3, 2, 2},    // one position, five times
      {2, 3, 4, 3, 3},    // once around to each side
      {1, 2, 5, 7, 6},    // several times, and a part
      {3, 64, 1, 2, 2},   // the first layer's
      {2, 64, 32, 2, 2},  // the demo's layers
      {2, 13, 7, 3, 0},   // primes, one end alone
      {2, 13, 7, 0, 3},   //
  };
  Draw draw(7);
  while (static_cast<int>(all.size()) < count) {
    all.push_back({draw.integer(1, 3), draw.integer(1, 9), draw.integer(1, 5), draw.integer(0, 20),
                   draw.integer(0, 20)});
  }
  return all;
}

// By the definition, element by element and from the other side: what stands in y is scattered.
template <class F>
void for_copies(const CircularPadDims& d, const F& f) {
  for (std::int64_t n = 0; n < d.batch; ++n) {
    const std::int64_t length = d.before + d.length + d.after;
    for (std::int64_t j = 0; j < length; ++j) {
      std::int64_t i = j - d.before;
      while (i < 0) i += d.length;
      while (i >= d.length) i -= d.length;
      for (std::int64_t c = 0; c < d.channels; ++c) {
        f((n * d.length + i) * d.channels + c, (n * length + j) * d.channels + c);
      }
    }
  }
}

BACKEND_TEST(CircularPad, AgreesWithTheDefinition) {
  for (const CircularPadDims& dims : all_dims(60)) {
    using Buffer = harness::BufferOn<Backend, float>;
    Backend::for_alignments([&] {
      const auto x = Draw(2).normals<float>(dims.batch * dims.length * dims.channels);
      const std::int64_t size = dims.batch * dims.length_out() * dims.channels;
      const auto dy = Draw(3).normals<float>(size);
      const Buffer in(x), cotangent(dy);
      Backend::expect_same_bits("circular_pad", [&](auto& queue) {
        Buffer y(size);
        run(queue, kernels::CircularPadForward<float>{.dims = dims, .x = in.data(), .y = y.data()});
        EXPECT_TRUE(y.walls_stand());
        const std::vector<float> values = harness::values_of_all({&y});
        Reference sums(static_cast<std::int64_t>(x.size()));
        for_copies(dims, [&](std::int64_t from, std::int64_t to) {
          EXPECT_EQ(values[static_cast<std::size_t>(to)], x[static_cast<std::size_t>(from)]);
          sums.add(from, static_cast<double>(dy[static_cast<std::size_t>(to)]));
        });
        kernels::CircularPadBackward<float> call{.dims = dims, .dy = cotangent.data()};
        run(queue, call);  // nobody asked
        harness::expect_gradient<Buffer>("dx", sums, dims.length_out() / dims.length + 1,
                                         [&](GradOut<float> dx) {
                                           call.dx = dx;
                                           run(queue, call);
                                         });
        Buffer dx(static_cast<std::int64_t>(x.size()));
        call.dx = {dx.data()};
        run(queue, call);
        return harness::values_of_all({&y, &dx});
      });
    });
  }
}

TEST(CircularPad, Gradients) {
  std::uint64_t seed = 0;
  for (const CircularPadDims& d : all_dims(110)) {
    harness::expect_gradients(
        [&](Tape&, std::span<const Var> in) { return circular_pad(in[0], d.before, d.after); },
        std::vector{Draw(seed).tensor({d.batch, d.length, d.channels})}, {.seed = seed});
    ++seed;
  }
}

TEST(CircularPad, RefusesWhatIsNoRing) {
  Tape tape(harness::device(), DType::kF64);
  const auto pad = [&](Shape x, std::int64_t before, std::int64_t after) {
    return error_of([&] { circular_pad(tape.make(x), before, after); });
  };
  EXPECT_EQ(pad({2, 5}, 1, 1), "circular_pad: expected x of shape [N, L, C], got [2, 5]");
  EXPECT_EQ(pad({2, 5, 1}, -1, 0),
            "circular_pad: expected 0 or more positions at each end, got -1 and 0");
  EXPECT_EQ(pad({2, 5, 1}, 0, -1),
            "circular_pad: expected 0 or more positions at each end, got 0 and -1");
  EXPECT_EQ(pad({2, 0, 1}, 1, 1), "circular_pad: nothing to go on with in a sequence of 0");
  EXPECT_NE(pad({2, 5, 1}, INT64_MAX, 1), "no error");
}

// --- Convolutions of rings ----------------------------------------------------------------------

struct RingDims {
  std::int64_t batch, length, channels_in, channels_out, kernel_size, padding;
  std::int64_t stride = 1;

  std::int64_t length_out() const { return (length + 2 * padding - kernel_size + stride) / stride; }
  std::string text() const {
    return fmt::format("N={} L={} C_in={} C_out={} k={} padding={} stride={}", batch, length,
                       channels_in, channels_out, kernel_size, padding, stride);
  }
};

// No channels for which gradients come by minimal filtering or from split operands: such rounding
// is the plain convolution's matter (Conv1d.AgreesWithTheDefinition).
std::vector<RingDims> ring_dims(int count) {
  std::vector<RingDims> all = {
      {1, 1, 1, 1, 1, 0},   // the smallest
      {2, 1, 3, 2, 5, 2},   // one position, seen by every tap
      {1, 2, 2, 3, 7, 3},   // kernels longer than the sequence
      {3, 3, 1, 5, 5, 2},   // one input channel
      {2, 4, 5, 1, 9, 4},   // one output channel
      {2, 12, 3, 6, 4, 1},  // an even kernel: one output fewer
      {2, 12, 3, 6, 4, 3},  // more outputs than inputs
      {2, 11, 3, 6, 5, 0},  // no padding: no ring
      {2, 64, 1, 6, 5, 2}, {2, 64, 6, 1, 5, 2}, {2, 70, 9, 7, 5, 2}, {2, 70, 9, 7, 5, 2, 2},
  };
  Draw draw(5);
  while (static_cast<int>(all.size()) < count) {
    const std::int64_t k = draw.integer(1, 7);
    RingDims dims{draw.integer(1, 3),
                  draw.integer(1, 9),
                  draw.pick({1, 2, 3, 5, 7}),
                  draw.pick({1, 2, 3, 5, 7}),
                  k,
                  draw.integer(0, k - 1),
                  draw.pick({1, 1, 2, 3})};
    if (dims.length_out() >= 1) all.push_back(dims);
  }
  return all;
}

// y and the three gradients, by the definition in double.
struct RingReferences {
  Reference y, dx, dw, db;
};
RingReferences references_of(const RingDims& d, const std::vector<Tensor>& in, const Tensor& dy) {
  const auto x = values_of(in[0]), w = values_of(in[1]), b = values_of(in[2]), g = values_of(dy);
  RingReferences r{Reference(dy.size()), Reference(in[0].size()), Reference(in[1].size()),
                   Reference(d.channels_out)};
  const auto at = [](const std::vector<double>& v, std::int64_t i) {
    return v[static_cast<std::size_t>(i)];
  };
  for (std::int64_t out = 0; out < dy.size(); ++out) {
    const std::int64_t co = out % d.channels_out, l = out / d.channels_out % d.length_out(),
                       n = out / d.channels_out / d.length_out();
    r.y.add(out, at(b, co));
    r.db.add(co, at(g, out));
    for (std::int64_t t = 0; t < d.kernel_size; ++t) {
      for (std::int64_t ci = 0; ci < d.channels_in; ++ci) {
        const std::int64_t position = (l * d.stride + t - d.padding + 100 * d.length) % d.length;
        const std::int64_t from = (n * d.length + position) * d.channels_in + ci;
        const std::int64_t tap = (t * d.channels_in + ci) * d.channels_out + co;
        r.y.add(out, at(x, from) * at(w, tap));
        r.dx.add(from, at(g, out) * at(w, tap));
        r.dw.add(tap, at(g, out) * at(x, from));
      }
    }
  }
  return r;
}

std::vector<Tensor> drawn(const RingDims& d, const Device& device, DType dtype) {
  Draw draw(9);
  std::vector<Tensor> all;
  for (const Shape& shape :
       {Shape{d.batch, d.length, d.channels_in},
        Shape{d.kernel_size, d.channels_in, d.channels_out}, Shape{d.channels_out},
        Shape{d.batch, d.length_out(), d.channels_out}}) {
    std::vector<double> values = values_of(draw.tensor(shape));
    for (double& value : values) value = std::round(256 * value) / 256;  // exact in every type
    all.push_back(Tensor::from(device, harness::array_of(values, dtype, shape)));
  }
  return all;
}

// The bound of Conv1d.AgreesWithTheDefinition, for one rounding more of each copy of dx.
template <class T>
void expect_references(const RingDims& d, const std::vector<Tensor>& in, PaddingMode mode,
                       const RingReferences& r) {
  Tape tape(in[0].device(), in[0].dtype());
  const std::vector<Var> leaves = {tape.leaf(in[0]), tape.leaf(in[1]), tape.leaf(in[2])};
  const Var y = conv1d(leaves[0], leaves[1], leaves[2], d.padding, {mode, d.stride});
  tape.backward(y, in[3]);
  const auto near = [&](const char* what, const Tensor& actual, const Reference& expected,
                        std::int64_t roundings) {
    const HostArray values = actual.to_host();
    harness::expect_near<T>(what, values.as<T>(), expected, roundings);
  };
  const std::int64_t taps = d.kernel_size, rows = d.batch * d.length_out();
  near("y", y.value(), r.y, taps * d.channels_in + 1);
  near("dx", tape.gradient(leaves[0]), r.dx,
       taps * d.channels_out + (d.length + 2 * d.padding) / d.length + 2);
  near("dw", tape.gradient(leaves[1]), r.dw, rows);
  near("db", tape.gradient(leaves[2]), r.db, rows);
}

void check_rings(const Device& device, DType dtype) {
  const auto expect = [&](const RingDims& d, PaddingMode mode, const RingReferences& r,
                          const std::vector<Tensor>& in) {
    SCOPED_TRACE(d.text());
    if (dtype == DType::kF32) {
      expect_references<float>(d, in, mode, r);
    } else {
      expect_references<double>(d, in, mode, r);
    }
  };
  for (const RingDims& d : ring_dims(60)) {
    const std::vector<Tensor> in = drawn(d, device, dtype);
    expect(d, PaddingMode::kCircular, references_of(d, in, in[3]), in);
  }
  // Known-wrong variants: zeros beyond the ends, and a ring that is turned by one.
  const RingDims d = {2, 12, 3, 6, 5, 2};
  const std::vector<Tensor> in = drawn(d, device, dtype);
  const RingReferences r = references_of(d, in, in[3]);
  EXPECT_EQ(harness::failures_of([&] { expect(d, PaddingMode::kCircular, r, in); }), 0);
  EXPECT_GE(harness::failures_of([&] { expect(d, PaddingMode::kZeros, r, in); }), 3);
  std::vector<double> turned = values_of(in[0]);
  std::rotate(turned.begin(), turned.begin() + d.channels_in, turned.end());
  std::vector<Tensor> others = in;
  others[0] = Tensor::from(device, harness::array_of(turned, dtype, in[0].shape()));
  EXPECT_GE(harness::failures_of([&] { expect(d, PaddingMode::kCircular, r, others); }), 2);
}

BACKEND_TEST(CircularConv1d, AgreesWithTheDefinition) {
  Backend::for_devices(check_rings);
}

TEST(CircularConv1d, Gradients) {
  Draw draw(1);
  std::uint64_t seed = 0;
  for (const RingDims& d : ring_dims(110)) {
    const std::vector<Tensor> inputs = {draw.tensor({d.batch, d.length, d.channels_in}),
                                        draw.tensor({d.kernel_size, d.channels_in, d.channels_out}),
                                        draw.tensor({d.channels_out})};
    harness::expect_gradients(
        [&](Tape&, std::span<const Var> in) {
          return conv1d(in[0], in[1], in[2], d.padding, {PaddingMode::kCircular, d.stride});
        },
        inputs, {.seed = ++seed, .max_elements = 48}, d.text());
  }
}

// x as a ring whose rule forgets the copies at the ends: the gradient of the middle alone.
Var pad_without_copies(const Var& x, std::int64_t padding) {
  const Var padded = circular_pad(x, padding, padding);
  Var y = x.tape().make(padded.shape());
  std::copy_n(padded.data<double>(), padded.size(), y.data<double>());
  x.tape().record(y, {x}, [=](Grads& g) {
    const GradOut<double> dx = g.into<double>(x);
    if (!dx.data) return;
    for (std::int64_t i = 0; i < x.size(); ++i) {
      const double dy = g.output<double>()[padding + i];
      dx.data[i] = dx.write == kernels::Write::kAccumulate ? dx.data[i] + dy : dy;
    }
  });
  return y;
}

TEST(CircularPad, ARuleThatForgetsTheCopiesIsFound) {
  const std::vector<Tensor> x = {Draw(1).tensor({1, 9, 1})};
  const auto check = [&](std::int64_t padding) {
    return check_gradients(
        [=](Tape&, std::span<const Var> in) { return pad_without_copies(in[0], padding); }, x);
  };
  EXPECT_TRUE(check(0).passed());
  EXPECT_FALSE(check(1).passed());
}

TEST(CircularConv1d, RefusesAsTheOtherDoes) {
  Tape tape(harness::device(), DType::kF64);
  const auto conv = [&](Shape x, std::int64_t padding) {
    return error_of([&] {
      conv1d(tape.make(x), tape.make({5, 3, 4}), tape.make({4}), padding, {PaddingMode::kCircular});
    });
  };
  EXPECT_EQ(conv({2, 1, 3}, 2), "no error");
  EXPECT_EQ(conv({2, 0, 3}, 2), "no error");  // nothing in, nothing out
  EXPECT_EQ(conv({2, 9}, 2), "conv1d: expected x of shape [N, L, C], got [2, 9]");
  EXPECT_EQ(conv({2, 9, 3}, 5), "conv1d: expected a padding from 0 to k - 1 = 4, got 5");
  EXPECT_EQ(conv({2, 3, 3}, 0),
            "conv1d: a kernel of 5 with padding 0 does not fit into a sequence of 3");
}

}  // namespace
}  // namespace sidechannel
