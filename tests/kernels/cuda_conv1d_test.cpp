#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/conv1d.h"
#include "kernels/cuda/conv1d/variants.h"
#include "tests/harness/conv1d_case.h"
#include "tests/harness/cuda_check.h"

namespace sidechannel {
namespace {

using harness::brute_force;
using harness::Conv1dReferences;
using harness::cuda_queue;
using harness::DeviceBuffer;
using harness::Draw;
using harness::text;
using kernels::Conv1dBackwardInput;
using kernels::Conv1dBackwardParams;
using kernels::Conv1dDims;
using kernels::Conv1dForward;
using kernels::GradOut;
using kernels::Precision;

class CudaConv1d : public harness::CudaTest {};

// For the tiles of the kernels that take any shape: 64 positions x 32 columns, steps of 8 channels
// and 8 taps; weight gradients of 32 x 32 channels and chunks of 64 positions; one channel on a
// side: runs of 4 positions, 8 lanes, groups of 5 taps, chunks of 128 positions.
const std::vector<Conv1dDims> kAnyShape = {
    {1, 64, 8, 32, 8, 3},    // whole tiles everywhere, an even kernel
    {2, 65, 9, 33, 9, 4},    // one more everywhere
    {2, 63, 7, 31, 7, 3},    // one fewer
    {1, 130, 33, 65, 3, 1},  // several tiles of each kind
    {1, 20, 5, 6, 17, 9},    // three steps of taps, nearly as many as positions
    {3, 2, 4, 4, 21, 20},    // far more taps than positions
    {1, 129, 1, 64, 5, 2},   // first layer, 16-byte accesses, one more than a chunk
    {2, 130, 64, 1, 5, 2},   // last layer
    {2, 9, 1, 6, 11, 5},     // one channel in: three groups of taps, no 16-byte accesses
    {2, 12, 6, 1, 11, 0},    // one channel out, valid: two outputs
    {2, 11, 1, 1, 5, 2},     // one channel on both sides
    {1, 3, 1, 40, 5, 4},     // l < k, more channels than a warp
    {1, 3, 40, 1, 5, 4},     //
    {70, 4, 2, 3, 3, 1},     // more samples than splits have room for
};

// For the kernels made for h = 32 and h = 64, and 5 or 3 taps: tiles of 32, 64 and 160 positions, chunks
// of 64, products of 8.
const std::vector<Conv1dDims> kHidden = {
    {1, 160, 64, 64, 5, 2},  // one whole tile
    {2, 64, 32, 32, 5, 2},   // the demo's layers
    {1, 161, 64, 64, 5, 2},  // one position more: two tiles of half the size
    {1, 161, 32, 32, 5, 2},  //
    {2, 77, 64, 64, 5, 0},   // valid; no multiple of 4 or 8
    {2, 77, 32, 32, 5, 0},   //
    {3, 1, 64, 64, 5, 2},    // one position
    {3, 1, 32, 32, 5, 2},    //
    {2, 3, 64, 64, 5, 4},    // l < k, the widest padding: more outputs than inputs
    {2, 3, 32, 32, 5, 4},    //
    {2, 5, 64, 64, 5, 0},    // valid, one output position
    {1, 130, 64, 64, 5, 1},  // uneven padding: one output fewer than 129 positions
    {1, 130, 32, 32, 5, 3},  //
    {70, 9, 64, 64, 5, 2},   // more chunks than splits: several chunks of different samples in one
    {140, 9, 32, 32, 5, 2},  //
    {1, 161, 64, 64, 3, 1},  // 3 taps: two tiles
    {1, 161, 32, 32, 3, 1},  //
    {2, 77, 64, 64, 3, 0},   // valid
    {2, 77, 32, 32, 3, 0},   //
    {2, 3, 64, 64, 3, 2},    // the widest padding
    {2, 3, 32, 32, 3, 2},    //
    {70, 9, 64, 64, 3, 1},   // more chunks than splits
    {140, 9, 32, 32, 3, 1},  //
};

float to_tf32(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits = (bits + 0x1000u) & ~0x1fffu;
  std::memcpy(&x, &bits, sizeof bits);
  return x;
}

// The operands of a case, and what comes out of them: exactly, and from operands rounded to TF32.
struct Case {
  Conv1dDims dims;
  std::vector<float> x, w, b, dy;

  explicit Case(const Conv1dDims& d) : dims(d) {
    Draw draw(7);
    x = draw.normals<float>(d.batch * d.length * d.channels_in);
    w = draw.normals<float>(d.kernel_size * d.channels_in * d.channels_out);
    b = draw.normals<float>(d.channels_out);
    dy = draw.normals<float>(d.batch * d.length_out() * d.channels_out);
  }

  Conv1dReferences references(bool tf32) const {
    const auto wide = [](const std::vector<float>& v, bool round) {
      std::vector<double> values;
      for (const float value : v) values.push_back(round ? to_tf32(value) : value);
      return values;
    };
    Conv1dReferences r =
        brute_force(dims, wide(x, tf32), wide(w, tf32), wide(b, false), wide(dy, tf32));
    if (tf32) {  // the bias gradient takes dy as it is
      r.db = harness::Reference(dims.channels_out);
      for (std::size_t i = 0; i < dy.size(); ++i) {
        r.db.add(static_cast<std::int64_t>(i) % dims.channels_out, dy[i]);
      }
    }
    return r;
  }
};

bool takes_tf32(const std::string& variant) {
  return variant.rfind("TF32", 0) == 0;
}

// The buffers of a convolution, and its calls on them.
struct Buffers {
  Conv1dDims dims;
  DeviceBuffer<float> x, w, b, dy, y, dx, dw, db;

  explicit Buffers(const Case& c)
      : dims(c.dims),
        x(c.x),
        w(c.w),
        b(c.b),
        dy(c.dy),
        y(static_cast<std::int64_t>(c.dy.size())),
        dx(static_cast<std::int64_t>(c.x.size())),
        dw(static_cast<std::int64_t>(c.w.size())),
        db(static_cast<std::int64_t>(c.b.size())) {}

  Conv1dForward<float> forward() {
    return {.dims = dims, .x = x.data(), .w = w.data(), .b = b.data(), .y = y.data()};
  }
  Conv1dBackwardInput<float> backward_input(GradOut<float> to) {
    return {.dims = dims, .dy = dy.data(), .w = w.data(), .dx = to};
  }
  Conv1dBackwardParams<float> backward_params(GradOut<float> to_w, GradOut<float> to_b) {
    return {.dims = dims, .x = x.data(), .dy = dy.data(), .dw = to_w, .db = to_b};
  }
};

// Every kernel of the queue's precision that can compute a pass of this layer, against the
// definition. Products of TF32 operands are exact in fp32 (11 + 11 bits), so against the definition
// on rounded operands only the sums' roundings count. Tensor cores cut off where others round:
// twice the error, at most.
void check_variants(kernels::CudaQueue& queue, const Conv1dDims& d) {
  SCOPED_TRACE(text(d));
  const Case c(d);
  const bool tf32 = queue.precision() == Precision::kTf32;
  const Conv1dReferences r = c.references(tf32);
  const std::int64_t factor = tf32 ? 2 : 1;
  Buffers all(c);
  const auto for_variants = [&](const auto& call, const auto& check) {
    for (const std::string& name : variants_of(queue.info(), queue.precision(), call)) {
      if (tf32 && !takes_tf32(name)) continue;  // as on a queue of fp32
      SCOPED_TRACE(name);
      check(name.c_str());
    }
  };

  for_variants(all.forward(), [&](const char* name) {
    all.y = DeviceBuffer<float>(static_cast<std::int64_t>(c.dy.size()));  // NaN again
    run(queue, all.forward(), name);
    harness::expect_near<float>("y", all.y.values(), r.y,
                                factor * (d.kernel_size * d.channels_in + 1));
    EXPECT_TRUE(all.y.walls_stand());
  });
  for_variants(all.backward_input({}), [&](const char* name) {
    harness::expect_gradient<float, DeviceBuffer>(
        "dx", r.dx, factor * d.kernel_size * d.channels_out,
        [&](GradOut<float> dx) { run(queue, all.backward_input(dx), name); });
  });
  const std::int64_t positions = d.batch * d.length_out();
  for_variants(all.backward_params({}, {}), [&](const char* name) {
    harness::expect_gradient<float, DeviceBuffer>(
        "dw", r.dw, factor * positions,
        [&](GradOut<float> dw) { run(queue, all.backward_params(dw, {}), name); });
    harness::expect_gradient<float, DeviceBuffer>("db", r.db, positions, [&](GradOut<float> db) {
      run(queue, all.backward_params({}, db), name);
    });
    // Both at once, each with its own way of writing.
    DeviceBuffer<float> dw(static_cast<std::int64_t>(c.w.size()));
    harness::expect_gradient<float, DeviceBuffer>(
        "db beside dw", r.db, positions,
        [&](GradOut<float> db) { run(queue, all.backward_params({dw.data()}, db), name); });
    harness::expect_near<float>("dw beside db", dw.values(), r.dw, factor * positions);
    EXPECT_TRUE(dw.walls_stand());
  });
  // Nobody asks for anything: nothing happens.
  const std::int64_t launches = queue.counters().launches;
  run(queue, all.backward_input({}));
  run(queue, all.backward_params({}, {}));
  EXPECT_EQ(queue.counters().launches, launches);
}

TEST_F(CudaConv1d, AnyShapeAgreesWithTheDefinition) {
  for (const Conv1dDims& dims : harness::conv1d_dims(90)) check_variants(cuda_queue(), dims);
  for (const Conv1dDims& dims : kAnyShape) check_variants(cuda_queue(), dims);
}

TEST_F(CudaConv1d, HiddenLayersAgreeWithTheDefinition) {
  for (const Conv1dDims& dims : kHidden) check_variants(cuda_queue(), dims);
}

TEST_F(CudaConv1d, HiddenLayersInTf32AgreeWithTheDefinitionOnRoundedOperands) {
  if (cuda_queue().info().compute_capability < 80) GTEST_SKIP() << "no tensor cores for TF32";
  for (const Conv1dDims& dims : kHidden) check_variants(cuda_queue(Precision::kTf32), dims);
}

// Kernels of 16-byte accesses leave the rest to others.
TEST_F(CudaConv1d, BuffersNeedNoAlignment) {
  const DeviceBuffer<float>::Misaligned misaligned;
  for (const Conv1dDims& d : {Conv1dDims{2, 20, 64, 64, 5, 2}, Conv1dDims{2, 20, 1, 32, 5, 2},
                              Conv1dDims{2, 20, 32, 1, 5, 2}}) {
    const Case c(d);
    const Conv1dReferences r = c.references(false);
    Buffers all(c);
    kernels::CudaQueue& queue = cuda_queue(Precision::kTf32);
    SCOPED_TRACE(text(d));
    run(queue, all.forward());
    harness::expect_near<float>("y", all.y.values(), r.y, d.kernel_size * d.channels_in + 1);
    EXPECT_TRUE(all.y.walls_stand());
    harness::expect_gradient<float, DeviceBuffer>(
        "dx", r.dx, d.kernel_size * d.channels_out,
        [&](GradOut<float> dx) { run(queue, all.backward_input(dx)); });
    harness::expect_gradient<float, DeviceBuffer>(
        "dw", r.dw, d.batch * d.length_out(),
        [&](GradOut<float> dw) { run(queue, all.backward_params(dw, {})); });
  }
}

TEST_F(CudaConv1d, SameBitsInEveryRun) {
  for (const Precision precision : {Precision::kFp32, Precision::kTf32}) {
    kernels::CudaQueue& queue = cuda_queue(precision);
    for (const Conv1dDims& d : {Conv1dDims{3, 200, 64, 64, 5, 2}, Conv1dDims{6, 64, 32, 32, 5, 2},
                                Conv1dDims{3, 131, 5, 7, 5, 2}, Conv1dDims{2, 300, 1, 64, 5, 2},
                                Conv1dDims{2, 300, 64, 1, 5, 2}}) {
      const Case c(d);
      Buffers b(c);
      harness::expect_same_device_bits(text(d), [&] {
        run(queue, b.forward());
        run(queue, b.backward_input({b.dx.data()}));
        run(queue, b.backward_params({b.dw.data()}, {b.db.data()}));
        std::vector<float> all;
        for (const auto* part : {&b.y, &b.dx, &b.dw, &b.db}) {
          const auto values = part->values();
          all.insert(all.end(), values.begin(), values.end());
        }
        return all;
      });
    }
  }
}

// A value that is not a number reaches the outputs that depend on it, and no others.
TEST_F(CudaConv1d, LetsNaNThrough) {
  const Conv1dDims d{2, 40, 64, 64, 5, 2};
  for (const Precision precision : {Precision::kFp32, Precision::kTf32}) {
    kernels::CudaQueue& queue = cuda_queue(precision);
    Case c(d);
    c.x[(40 + 17) * 64 + 5] = std::numeric_limits<float>::quiet_NaN();
    Buffers b(c);
    for (const std::string& name : variants_of(queue.info(), precision, b.forward())) {
      SCOPED_TRACE(name);
      // Zeros, as NaN is what is looked for: one that writes nothing shows.
      b.y.set(std::vector<float>(c.dy.size()));
      run(queue, b.forward(), name.c_str());
      const auto values = b.y.values();
      for (int i = 0; i < 2 * 40 * 64; ++i) {
        const int position = i / 64;
        ASSERT_EQ(std::isnan(values[static_cast<std::size_t>(i)]),
                  position >= 40 + 15 && position <= 40 + 19)
            << i;
      }
    }
  }
}

// Not of the device at hand, but of any.
TEST(CudaConv1dChoice, GoesByPrecisionDeviceAndShape) {
  kernels::CudaDeviceInfo hopper, ampere, turing, small;
  hopper.compute_capability = 90, hopper.multiprocessors = 132;
  hopper.shared_per_block = 227 * 1024;
  ampere.compute_capability = 86, ampere.multiprocessors = 84, ampere.shared_per_block = 99 * 1024;
  turing.compute_capability = 75, turing.multiprocessors = 40, turing.shared_per_block = 64 * 1024;
  small = turing;
  small.shared_per_block = 16 * 1024;
  const auto chosen = [](const kernels::CudaDeviceInfo& device, Precision precision,
                         const auto& call) { return variants_of(device, precision, call)[0]; };
  const Precision fp32 = Precision::kFp32, tf32 = Precision::kTf32;
  using forward = Conv1dForward<float>;
  using input = Conv1dBackwardInput<float>;
  using params = Conv1dBackwardParams<float>;

  const Conv1dDims w1{32, 600, 64, 64, 5, 2};  // 128 tiles of 150 positions
  const auto check_rows = [&](const auto& call) {
    EXPECT_EQ(chosen(hopper, tf32, call), "TF32 h = 64, 160 positions");
    EXPECT_EQ(chosen(ampere, tf32, call), "TF32 h = 64, 160 positions");
    EXPECT_EQ(chosen(turing, tf32, call), "fp32 h = 64, 32 positions");
    EXPECT_EQ(chosen(small, tf32, call), "any shape");
    EXPECT_EQ(chosen(hopper, fp32, call), "fp32 h = 64, 160 positions");
  };
  check_rows(forward{w1});
  check_rows(input{w1});
  EXPECT_EQ(chosen(hopper, tf32, params{w1}), "TF32 h = 64");
  EXPECT_EQ(chosen(hopper, fp32, params{w1}), "fp32 h = 64");
  EXPECT_EQ(chosen(turing, tf32, params{w1}), "fp32 h = 64");
  EXPECT_EQ(chosen(small, tf32, params{w1}), "any shape");
  // The demo's, and W5's 32 samples of 250 positions: small tiles keep all multiprocessors busy.
  EXPECT_EQ(chosen(hopper, tf32, forward{{64, 64, 32, 32, 5, 2}}), "TF32 h = 32, 32 positions");
  EXPECT_EQ(chosen(hopper, fp32, forward{{64, 64, 32, 32, 5, 2}}), "fp32 h = 32, 32 positions");
  EXPECT_EQ(chosen(hopper, tf32, forward{{32, 250, 64, 64, 5, 2}}), "TF32 h = 64, 64 positions");
  EXPECT_EQ(chosen(hopper, tf32, input{{32, 250, 64, 64, 5, 0}}), "TF32 h = 64, 64 positions");

  EXPECT_EQ(chosen(hopper, tf32, forward{{2, 9, 1, 64, 5, 2}}), "one input channel");
  EXPECT_EQ(chosen(hopper, tf32, forward{{2, 9, 64, 1, 5, 2}}), "one output channel");
  EXPECT_EQ(chosen(hopper, tf32, input{{2, 9, 64, 1, 5, 2}}), "one input channel");
  EXPECT_EQ(chosen(hopper, tf32, input{{2, 9, 1, 64, 5, 2}}), "one output channel");
  EXPECT_EQ(chosen(hopper, tf32, params{{2, 9, 1, 64, 5, 2}}), "one input channel");
  EXPECT_EQ(chosen(hopper, tf32, params{{2, 9, 64, 1, 5, 2}}), "one output channel");
  EXPECT_EQ(chosen(hopper, tf32, forward{{2, 9, 64, 64, 3, 1}}),
            "TF32 h = 64, 3 taps, 32 positions");
  EXPECT_EQ(chosen(hopper, fp32, params{{2, 9, 32, 32, 3, 1}}), "fp32 h = 32, 3 taps");
  EXPECT_EQ(chosen(hopper, tf32, forward{{2, 9, 64, 64, 7, 3}}), "any shape");
  EXPECT_EQ(chosen(hopper, tf32, forward{{2, 9, 32, 64, 5, 2}}), "any shape");
  EXPECT_EQ(chosen(hopper, tf32, params{{2, 9, 48, 48, 5, 2}}), "any shape");
}

TEST_F(CudaConv1d, RefusesAVariantThatCannotComputeThis) {
  const Conv1dDims d{1, 4, 2, 2, 3, 1};
  Buffers b{Case(d)};
  EXPECT_THROW(run(cuda_queue(), b.forward(), "one input channel"), std::logic_error);
}

}  // namespace
}  // namespace sidechannel
