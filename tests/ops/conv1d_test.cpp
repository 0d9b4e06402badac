#include "kernels/conv1d.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "engine/gradcheck.h"
#include "tests/harness/backends.h"
#include "tests/harness/conv_check.h"
#if SIDECHANNEL_HAS_CUDA
#include "kernels/cuda/conv1d/variants.h"
#endif

namespace sidechannel {
namespace {

using harness::BufferOn;
using harness::Draw;
using harness::error_of;
using harness::expect_near;
using harness::Products;
using harness::Reference;
using harness::widened;
using kernels::Conv1dBackwardInput;
using kernels::Conv1dBackwardParams;
using kernels::Conv1dDims;
using kernels::Conv1dForward;
using kernels::ConvGradients;
using kernels::CpuQueue;
using kernels::GradOut;

// --- Shapes -------------------------------------------------------------------------------------

// Each is here for a reason; generated ones follow: `count` in all.
std::vector<Conv1dDims> small_dims(int count) {
  std::vector<Conv1dDims> all = {
      {1, 1, 1, 1, 1, 0},     // the smallest
      {2, 1, 3, 2, 5, 2},     // one position, shorter than the kernel
      {1, 2, 2, 3, 5, 4},     // l < k with the widest padding: more outputs than inputs
      {3, 3, 1, 4, 5, 2},     // l < k, one input channel
      {2, 4, 5, 1, 7, 6},     // l < k, one output channel
      {2, 5, 3, 3, 5, 0},     // valid, one output position
      {2, 11, 4, 6, 5, 0},    // valid
      {2, 13, 7, 5, 3, 1},    // primes
      {1, 17, 16, 16, 5, 2},  // whole vectors
      {1, 9, 17, 33, 3, 1},   // one channel more than whole vectors
      {1, 9, 15, 31, 3, 1},   // one fewer
      {2, 7, 1, 33, 5, 2},    // the first layer's kind: one channel in
      {2, 7, 33, 1, 5, 2},    // the last layer's kind: one channel out
      {2, 12, 8, 8, 4, 1},    // an even kernel: the two sides differ
      {2, 12, 8, 8, 4, 3},    //
  };
  Draw draw(2024);
  while (static_cast<int>(all.size()) < count) {
    Conv1dDims dims{};
    do {
      dims.batch = draw.integer(1, 3);
      dims.length = draw.pick({1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 16});
      dims.channels_in = draw.pick({1, 1, 2, 3, 4, 5, 7, 8, 9});
      dims.channels_out = draw.pick({1, 1, 2, 3, 4, 5, 7, 8, 9, 17});
      dims.kernel_size = draw.integer(1, 7);
      dims.padding = draw.integer(0, dims.kernel_size - 1);
    } while (dims.length_out() < 1);
    all.push_back(dims);
  }
  return all;
}

// The same with strides.
std::vector<Conv1dDims> strided_dims(int count) {
  std::vector<Conv1dDims> all = {
      {2, 12, 3, 4, 3, 1, 2},     // a U-Net's way down
      {2, 13, 3, 4, 3, 1, 2},     // and of an odd length
      {2, 12, 3, 4, 4, 1, 2},     // its way up, backwards
      {1, 9, 2, 3, 1, 0, 3},      // a kernel shorter than the stride: what nobody reads
      {2, 17, 5, 6, 2, 1, 5},     //
      {1, 3, 4, 4, 3, 0, 7},      // a stride that leads out of x: one output
      {2, 5, 3, 3, 7, 6, 4},      // l < k with the widest padding
      {2, 11, 1, 5, 5, 2, 2},     // one input channel
      {2, 11, 5, 1, 5, 2, 2},     // one output channel
      {2, 11, 1, 1, 5, 2, 3},     // both
      {2, 150, 9, 33, 19, 9, 2},  // more than eight taps of a phase
      {2, 256, 16, 32, 3, 1, 2},  // several tiles and chunks
      {1, 270, 33, 31, 5, 2, 3},  //
      {2, 130, 32, 32, 5, 2, 2},  // hidden layers, whose kernels have no strides
      {2, 150, 64, 64, 3, 1, 2},  //
      {2, 150, 64, 1, 5, 2, 2},   // one channel on a side, likewise
      {2, 150, 1, 64, 5, 2, 2},   //
      {70, 9, 2, 3, 3, 1, 2},     // more samples than splits have room for
  };
  Draw draw(2025);
  for (Conv1dDims dims : small_dims(count)) {
    dims.stride = draw.integer(2, 5);
    all.push_back(dims);
  }
  return all;
}

// Larger ones: several chunks of positions, tiles of every width.
const std::vector<Conv1dDims> kLargeDims = {
    {3, 131, 5, 7, 5, 2},
    {2, 200, 32, 32, 5, 2},
    {2, 97, 64, 64, 5, 2},
    {1, 70, 24, 40, 7, 0},
    {2, 129, 1, 64, 5, 2},
    {2, 129, 64, 1, 5, 2},
    {2, 65, 1, 1, 5, 2},
    {1, 64, 63, 65, 3, 2},
    {4, 33, 100, 12, 5, 4},
    {1, 300, 3, 3, 9, 8},
    {2, 90, 130, 66, 1, 0},
    // Gradients by minimal filtering, four positions and 16 channels at a time:
    {1, 8, 32, 32, 5, 2},    // the fewest outputs
    {1, 7, 32, 32, 5, 2},    // one fewer than it takes
    {3, 11, 32, 64, 5, 0},   // valid; a last tile of three positions
    {2, 9, 64, 32, 5, 4},    // more outputs than inputs
    {5, 13, 32, 96, 5, 1},   // uneven padding
    {4, 601, 32, 32, 5, 2},  // all slices of the weight gradient, each of more than one chunk
};

// For the tiles of the CUDA kernels that take any shape: 64 positions x 32 columns, steps of 8
// channels and 8 taps; weight gradients of 32 x 32 channels and chunks of 64 positions; one channel
// on a side: runs of 4 positions, 8 lanes, groups of 5 taps, chunks of 128 positions.
const std::vector<Conv1dDims> kTileDims = {
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

// For the CUDA kernels made for h = 32 and h = 64 and 5 or 3 taps: tiles of 32, 64 and 160
// positions, chunks of 64, products of 8.
const std::vector<Conv1dDims> kHiddenDims = {
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

std::string text(const Conv1dDims& d) {
  return fmt::format("N={} L={} C_in={} C_out={} k={} padding={} stride={}", d.batch, d.length,
                     d.channels_in, d.channels_out, d.kernel_size, d.padding, d.stride);
}

// --- The definition -----------------------------------------------------------------------------

// The buffers of a convolution, its operands drawn, and its calls on them.
template <class Backend, class T>
struct Buffers {
  Conv1dDims dims;
  Draw draw;
  BufferOn<Backend, T> x, w, b, dy, b_in, y, dx, dw, db;

  explicit Buffers(const Conv1dDims& d)
      : dims(d),
        draw(7),
        x(draw.normals<T>(d.batch * d.length * d.channels_in)),
        w(draw.normals<T>(d.kernel_size * d.channels_in * d.channels_out)),
        b(draw.normals<T>(d.channels_out)),
        dy(draw.normals<T>(d.batch * d.length_out() * d.channels_out)),
        b_in(draw.normals<T>(d.channels_in)),
        y(d.batch * d.length_out() * d.channels_out),
        dx(d.batch * d.length * d.channels_in),
        dw(d.kernel_size * d.channels_in * d.channels_out),
        db(d.channels_out) {}

  Conv1dForward<T> forward() {
    return {.dims = dims, .x = x.data(), .w = w.data(), .b = b.data(), .y = y.data()};
  }
  Conv1dBackwardInput<T> backward_input(GradOut<T> to) {
    return {.dims = dims, .dy = dy.data(), .w = w.data(), .dx = to};
  }
  Conv1dBackwardParams<T> backward_params(GradOut<T> to_w, GradOut<T> to_b) {
    return {.dims = dims, .x = x.data(), .dy = dy.data(), .dw = to_w, .db = to_b};
  }
};

// Which operands are rounded to TF32.
struct Rounded {
  bool x = false, w = false, dy = false;
};

// The three sums of the definition, term by term. Of rounded factors: their products are exact in
// fp32 (11 + 11 bits), so that only the sums' roundings count. y has the bias, `products` has not.
struct References {
  Reference y, products, dx, dw, db;

  template <class Buffers>
  References(const Buffers& buffers, const Rounded& rounded)
      : y(static_cast<std::int64_t>(buffers.y.values().size())),
        products(y),
        dx(static_cast<std::int64_t>(buffers.x.values().size())),
        dw(static_cast<std::int64_t>(buffers.w.values().size())),
        db(buffers.dims.channels_out) {
    const Conv1dDims& d = buffers.dims;
    const auto factors = [](const auto& buffer, bool tf32) {
      std::vector<double> values = widened(buffer.values());
      if (tf32) std::transform(values.begin(), values.end(), values.begin(), harness::to_tf32);
      return values;
    };
    const std::vector<double> x = factors(buffers.x, rounded.x), w = factors(buffers.w, rounded.w),
                              dy_factor = factors(buffers.dy, rounded.dy),
                              b = widened(buffers.b.values()), dy = widened(buffers.dy.values());
    const auto at = [](const std::vector<double>& v, std::int64_t i) {
      return v[static_cast<std::size_t>(i)];
    };
    for (std::int64_t out = 0; out < static_cast<std::int64_t>(dy.size()); ++out) {
      y.add(out, at(b, out % d.channels_out));
      db.add(out % d.channels_out, at(dy, out));
    }
    harness::for_products(d, [&](std::int64_t in, std::int64_t tap, std::int64_t out) {
      y.add(out, at(x, in) * at(w, tap));
      products.add(out, at(x, in) * at(w, tap));
      dx.add(in, at(dy_factor, out) * at(w, tap));
      dw.add(tap, at(dy_factor, out) * at(x, in));
    });
  }
};

// --- Kernels ------------------------------------------------------------------------------------

// A kernel that can compute a call.
template <class Call>
struct Kernel {
  std::string name;
  std::function<void(const Call&)> compute;

  Products products() const {
    if (name.starts_with("TF32")) return Products::kTf32;
    return name.starts_with("split TF32") ? Products::kSplit : Products::kPlain;
  }
};

template <class Call>
std::vector<Kernel<Call>> kernels_for(CpuQueue& queue, const Call&) {
  return {{"", [&queue](const Call& call) { run(queue, call); }}};
}
#if SIDECHANNEL_HAS_CUDA
// In TF32 those that take it, where there are any: the others are the same in fp32.
template <class Call>
std::vector<Kernel<Call>> kernels_for(kernels::CudaQueue& queue, const Call& call) {
  std::vector<Kernel<Call>> all, in_tf32;
  for (const std::string& name : variants_of(queue.info(), queue.precision(), call)) {
    const bool chosen = all.empty();  // which takes no name
    all.push_back({name, [&queue, name, chosen](const Call& c) {
                     run(queue, c, chosen ? nullptr : name.c_str());
                   }});
    if (all.back().products() == Products::kTf32) in_tf32.push_back(all.back());
  }
  return in_tf32.empty() ? all : in_tf32;
}
#endif

template <class Backend, class T>
void check_kernels(auto& queue, const Conv1dDims& d) {
  using Buffer = BufferOn<Backend, T>;
  SCOPED_TRACE(text(d));
  Buffers<Backend, T> b(d);
  // All passes of a layer have kernels in TF32, or none has.
  const bool tf32 = kernels_for(queue, b.forward())[0].products() == Products::kTf32;
  References r(b, {tf32, tf32, tf32});
  const std::int64_t positions = d.batch * d.length_out();
  const auto of_row = [&](const auto& kernel, std::int64_t channels) {
    const std::int64_t count = d.kernel_size * channels;
    return harness::roundings_of(kernel.products(), count, count / 8);
  };
  // On the CPU, where vectors of some width fill the channels, gradients may come by minimal
  // filtering. A term then passes up to 16 roundings more, in the transforms and in the sum of
  // slices.
  bool filtered = false;
  if constexpr (std::is_same_v<Backend, harness::OnCpu> && std::is_same_v<T, float>) {
    filtered = queue.conv_gradients() == ConvGradients::kFastest && d.kernel_size == 5 &&
               d.stride == 1 && d.channels_in % 4 == 0 && d.channels_out % 4 == 0;
  }
  // Without filtering and with a bias, as a transposed convolution has it.
  Reference transposed = r.dx;
  const std::vector<double> b_in = widened(b.b_in.values());
  for (std::size_t i = 0; i < transposed.value.size(); ++i) {
    transposed.add(static_cast<std::int64_t>(i), b_in[i % b_in.size()]);
  }
  if (filtered) {
    harness::widen_for_filtering(d, b.x.values(), b.w.values(), b.dy.values(), r.dx, r.dw);
  }
  const std::int64_t more = filtered ? 16 : 0;

  for (const auto& kernel : kernels_for(queue, b.forward())) {
    SCOPED_TRACE(kernel.name);
    b.y = Buffer(static_cast<std::int64_t>(r.y.value.size()));  // NaN again
    kernel.compute(b.forward());
    expect_near<T>("y", b.y.values(), r.y, of_row(kernel, d.channels_in) + 1);
    EXPECT_TRUE(b.y.walls_stand());
    // Without b, added to what stands there, as a transposed convolution's input gradient is.
    const std::vector<T> before = Draw(11).normals<T>(static_cast<std::int64_t>(r.y.value.size()));
    Reference total = r.products;
    total.add_all(widened(before));
    b.y.set(before);
    Conv1dForward<T> call = b.forward();
    call.b = nullptr;
    call.write = kernels::Write::kAccumulate;
    kernel.compute(call);
    expect_near<T>("y, accumulated", b.y.values(), total, of_row(kernel, d.channels_in) + 1);
    EXPECT_TRUE(b.y.walls_stand());
  }
  for (const auto& kernel : kernels_for(queue, b.backward_input({}))) {
    SCOPED_TRACE(kernel.name);
    harness::expect_gradient<Buffer>("dx", r.dx, of_row(kernel, d.channels_out) + more,
                                     [&](GradOut<T> dx) { kernel.compute(b.backward_input(dx)); });
    b.dx = Buffer(static_cast<std::int64_t>(r.dx.value.size()));
    Conv1dBackwardInput<T> call = b.backward_input({b.dx.data()});
    call.b = b.b_in.data();
    kernel.compute(call);
    expect_near<T>("dx with b", b.dx.values(), transposed, of_row(kernel, d.channels_out) + 1);
    EXPECT_TRUE(b.dx.walls_stand());
  }
  for (const auto& kernel : kernels_for(queue, b.backward_params({}, {}))) {
    SCOPED_TRACE(kernel.name);
    const std::int64_t of_weights =
        more +
        harness::roundings_of(kernel.products(), positions, d.batch * ((d.length_out() + 7) / 8));
    harness::expect_gradient<Buffer>(
        "dw", r.dw, of_weights, [&](GradOut<T> dw) { kernel.compute(b.backward_params(dw, {})); });
    harness::expect_gradient<Buffer>(
        "db", r.db, positions, [&](GradOut<T> db) { kernel.compute(b.backward_params({}, db)); });
    // Both at once, each with its own way of writing.
    b.dw = Buffer(static_cast<std::int64_t>(r.dw.value.size()));
    harness::expect_gradient<Buffer>("db beside dw", r.db, positions, [&](GradOut<T> db) {
      kernel.compute(b.backward_params({b.dw.data()}, db));
    });
    expect_near<T>("dw beside db", b.dw.values(), r.dw, of_weights);
    EXPECT_TRUE(b.dw.walls_stand());
  }
  // Nobody asks for anything: nothing happens.
  const std::int64_t launches = Backend::launches(queue);
  run(queue, b.backward_input({}));
  run(queue, b.backward_params({}, {}));
  EXPECT_EQ(Backend::launches(queue), launches);
}

BACKEND_TEST(Conv1d, AgreesWithTheDefinition) {
  Backend::for_precisions([]<class T>(auto& queue) {
    for (const auto& list : {small_dims(150), strided_dims(120), kLargeDims, kTileDims}) {
      for (const Conv1dDims& dims : list) check_kernels<Backend, T>(queue, dims);
    }
    // Kernels of 16-byte accesses leave the rest to others.
    Backend::for_alignments([&] {
      for (const Conv1dDims& dims :
           {Conv1dDims{2, 20, 64, 64, 5, 2}, Conv1dDims{2, 20, 1, 32, 5, 2},
            Conv1dDims{2, 20, 32, 1, 5, 2}, Conv1dDims{2, 20, 64, 64, 5, 2, 2}}) {
        check_kernels<Backend, T>(queue, dims);
      }
    });
  });
}

BACKEND_TEST(Conv1d, HiddenLayersAgreeWithTheDefinition) {
  Backend::for_precisions([]<class T>(auto& queue) {
    for (const Conv1dDims& dims : kHiddenDims) check_kernels<Backend, T>(queue, dims);
  });
}

BACKEND_TEST(Conv1d, SameBitsEveryTime) {
  std::vector<Conv1dDims> all = kLargeDims;
  all.insert(all.end(), {{3, 200, 64, 64, 5, 2},
                         {6, 64, 32, 32, 5, 2},
                         {2, 300, 1, 64, 5, 2},
                         {2, 300, 64, 1, 5, 2},
                         {3, 200, 24, 40, 3, 1, 2},
                         {3, 200, 64, 1, 4, 1, 3}});
  for (const Conv1dDims& d : all) {
    Backend::expect_same_bits(text(d), [&](auto& queue) {
      Buffers<Backend, float> b(d);
      run(queue, b.forward());
      run(queue, b.backward_input({b.dx.data()}));
      run(queue, b.backward_params({b.dw.data()}, {b.db.data()}));
      return harness::values_of_all({&b.y, &b.dx, &b.dw, &b.db});
    });
  }
}

// A sequence's output does not depend on what else is in the batch.
BACKEND_TEST(Conv1d, SameBitsInAnyBatch) {
  Buffers<Backend, float> together({5, 37, 6, 10, 5, 2});
  run(Backend::queue(), together.forward());
  const auto expected = together.y.values();
  for (std::int64_t n = 0; n < 5; ++n) {
    Buffers<Backend, float> alone({1, 37, 6, 10, 5, 2});
    Conv1dForward<float> call = together.forward();
    call.dims.batch = 1;
    call.x += n * 37 * 6;
    call.y = alone.y.data();
    run(Backend::queue(), call);
    harness::expect_equal_bits("y", alone.y.values(),
                               expected.subspan(static_cast<std::size_t>(n * 37 * 10), 37 * 10));
  }
}

// A value that is not a number reaches the outputs that depend on it, and no others.
BACKEND_TEST(Conv1d, LetsNaNThrough) {
  Backend::for_precisions([]<class T>(auto& queue) {
    for (const std::int64_t stride : {1, 2}) {
      Buffers<Backend, T> b({2, 40, 64, 64, 5, 2, stride});
      std::vector<T> x(b.x.values().begin(), b.x.values().end());
      x[(40 + 17) * 64 + 5] = std::numeric_limits<T>::quiet_NaN();
      b.x.set(x);
      for (const auto& kernel : kernels_for(queue, b.forward())) {
        SCOPED_TRACE(kernel.name);
        // Zeros, as NaN is what is looked for: one that writes nothing shows.
        b.y.set(std::vector<T>(b.y.values().size()));
        kernel.compute(b.forward());
        const auto values = b.y.values();
        for (std::size_t i = 0; i < values.size(); ++i) {
          const auto row = static_cast<std::int64_t>(i) / 64;
          const std::int64_t n = row / b.dims.length_out(), l = row % b.dims.length_out();
          ASSERT_EQ(std::isnan(values[i]), n == 1 && std::abs(l * stride - 17) <= 2) << i;
        }
      }
    }
  });
}

#if SIDECHANNEL_HAS_CUDA
// Not of the device at hand, but of any.
TEST(CudaConv1dChoice, GoesByPrecisionDeviceAndShape) {
  kernels::CudaDeviceInfo hopper, a100, ampere, turing, small;
  hopper.compute_capability = 90, hopper.multiprocessors = 132;
  hopper.shared_per_block = 227 * 1024;
  ampere.compute_capability = 86, ampere.multiprocessors = 84, ampere.shared_per_block = 99 * 1024;
  a100.compute_capability = 80, a100.multiprocessors = 108, a100.shared_per_block = 163 * 1024;
  turing.compute_capability = 75, turing.multiprocessors = 40, turing.shared_per_block = 64 * 1024;
  small = turing;
  small.shared_per_block = 16 * 1024;
  const auto chosen = [](const kernels::CudaDeviceInfo& device, kernels::Precision precision,
                         const auto& call) { return variants_of(device, precision, call)[0]; };
  const auto fp32 = kernels::Precision::kFp32, tf32 = kernels::Precision::kTf32;
  using forward = Conv1dForward<float>;
  using input = Conv1dBackwardInput<float>;
  using params = Conv1dBackwardParams<float>;

  const Conv1dDims w1{32, 600, 64, 64, 5, 2};  // 128 tiles of 150 positions
  const auto check_rows = [&](const auto& call) {
    EXPECT_EQ(chosen(hopper, tf32, call), "TF32 h = 64, 160 positions");
    EXPECT_EQ(chosen(ampere, tf32, call), "TF32 h = 64, 160 positions");
    EXPECT_EQ(chosen(turing, tf32, call), "fp32 h = 64, 32 positions");
    EXPECT_EQ(chosen(small, tf32, call), "any shape");
    EXPECT_EQ(chosen(hopper, fp32, call), "split TF32 h = 64, 160 positions");
    EXPECT_EQ(chosen(ampere, fp32, call), "fp32 h = 64, 160 positions");
    EXPECT_EQ(chosen(a100, fp32, call), "split TF32 h = 64, 64 positions");
  };
  check_rows(forward{w1});
  check_rows(input{w1});
  EXPECT_EQ(chosen(hopper, tf32, params{w1}), "TF32 h = 64");
  EXPECT_EQ(chosen(hopper, fp32, params{w1}), "split TF32 h = 64");
  EXPECT_EQ(chosen(ampere, fp32, params{w1}), "fp32 h = 64");
  EXPECT_EQ(chosen(turing, tf32, params{w1}), "fp32 h = 64");
  EXPECT_EQ(chosen(small, tf32, params{w1}), "any shape");
  // The demo's, and W5's 32 samples of 250 positions: small tiles keep all multiprocessors busy.
  EXPECT_EQ(chosen(hopper, tf32, forward{{64, 64, 32, 32, 5, 2}}), "TF32 h = 32, 32 positions");
  EXPECT_EQ(chosen(hopper, fp32, forward{{64, 64, 32, 32, 5, 2}}),
            "split TF32 h = 32, 32 positions");
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
  EXPECT_EQ(chosen(hopper, fp32, params{{2, 9, 32, 32, 3, 1}}), "split TF32 h = 32, 3 taps");
  EXPECT_EQ(chosen(hopper, tf32, forward{{2, 9, 64, 64, 7, 3}}), "any shape");
  EXPECT_EQ(chosen(hopper, tf32, forward{{2, 9, 32, 64, 5, 2}}), "any shape");
  EXPECT_EQ(chosen(hopper, tf32, params{{2, 9, 48, 48, 5, 2}}), "any shape");
  for (const auto& [in, out] : {std::pair{64, 64}, std::pair{1, 64}, std::pair{64, 1}}) {
    const Conv1dDims strided = {2, 99, in, out, 5, 2, 2};
    EXPECT_EQ(chosen(hopper, tf32, forward{strided}), "any shape");
    EXPECT_EQ(chosen(hopper, tf32, input{strided}), "any shape");
    EXPECT_EQ(chosen(hopper, tf32, params{strided}), "any shape");
  }
}

class CudaConv1dVariants : public harness::CudaTest {};

TEST_F(CudaConv1dVariants, RefuseWhatTheyCannotCompute) {
  Buffers<harness::OnCuda, float> b({1, 4, 2, 2, 3, 1});
  EXPECT_THROW(run(harness::cuda_queue(), b.forward(), "one input channel"), std::logic_error);
}

// Of the kernels that split operands, the one that is chosen for 64 channels and 5 taps: they
// differ in how they cut the problem alone. What they hold of docs/numerics.md beside their bound.
class CudaConv1dSplit : public harness::CudaTest {
 protected:
  using All = Buffers<harness::OnCuda, float>;
  static constexpr std::int64_t kChannels = 64, kTaps = 5, kLength = 40, kRows = 2 * kLength;

  void SetUp() override {
    CudaTest::SetUp();
    if (IsSkipped()) return;
    All b(kDims);
    const auto splits = [](const auto& call) {
      return kernels_for(harness::cuda_queue(), call)[0].products() == Products::kSplit;
    };
    if (!splits(b.forward())) GTEST_SKIP() << "a GPU on which splitting does not pay";
    EXPECT_TRUE(splits(b.backward_input({})));
    EXPECT_TRUE(splits(b.backward_params({}, {})));
  }
  // y, dx and dw.
  static void compute(All& b) {
    run(harness::cuda_queue(), b.forward());
    run(harness::cuda_queue(), b.backward_input({b.dx.data()}));
    run(harness::cuda_queue(), b.backward_params({b.dw.data()}, {}));
  }
  // Sets a buffer to f(its values, index by index).
  template <class Buffer, class F>
  static void change(Buffer& buffer, const F& f) {
    std::vector<float> values(buffer.values().begin(), buffer.values().end());
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = f(values[i], i);
    buffer.set(values);
  }

  static constexpr Conv1dDims kDims{2, kLength, kChannels, kChannels, kTaps, 2};
};

// A product of small and large parts that is missing, of one side or both, is further off than the
// bounds allow.
TEST_F(CudaConv1dSplit, PartsThatAreLeftOutAreFound) {
  All b(kDims);
  compute(b);
  const std::int64_t of_row =
      harness::roundings_of(Products::kSplit, kTaps * kChannels, kTaps * kChannels / 8);
  const std::int64_t of_weights = harness::roundings_of(Products::kSplit, kRows, kRows / 8);
  for (const auto& [x, w, dy] :
       {Rounded{}, Rounded{true, false, false}, Rounded{false, true, false},
        Rounded{false, false, true}, Rounded{true, true, true}}) {
    SCOPED_TRACE(testing::Message() << x << w << dy);
    const References r(b, {x, w, dy});
    const auto fails = [](const auto& buffer, const Reference& expected, std::int64_t roundings) {
      return harness::failures_of(
                 [&] { expect_near<float>("", buffer.values(), expected, roundings); }) > 0;
    };
    EXPECT_EQ(fails(b.y, r.y, of_row + 1), x || w);
    EXPECT_EQ(fails(b.dx, r.dx, of_row), dy || w);
    EXPECT_EQ(fails(b.dw, r.dw, of_weights), x || dy);
  }
}

// Infinity and NaN, and what becomes infinite in TF32, are not finite in the results that depend on
// it; all others have the bits that they have without it.
TEST_F(CudaConv1dSplit, WhatIsNotFiniteReachesWhatDependsOnIt) {
  using Limits = std::numeric_limits<float>;
  All before(kDims);
  compute(before);
  const auto check = [](const char* what, const auto& buffer, const auto& without,
                        const auto& depends) {
    SCOPED_TRACE(what);
    const auto values = buffer.values(), others = without.values();
    for (std::size_t i = 0; i < values.size(); ++i) {
      const auto at = static_cast<std::int64_t>(i);
      if (depends(at / kChannels, at % kChannels)) {
        ASSERT_FALSE(std::isfinite(values[i])) << i;
      } else {
        ASSERT_EQ(values[i], others[i]) << i;
      }
    }
  };
  // Of sample 1 the position 17, of channel 5; of the weights tap 1, from channel 3 to channel 4.
  const std::int64_t row = kLength + 17, tap = 1;
  const std::size_t place = row * kChannels + 5, weight = (tap * kChannels + 3) * kChannels + 4;
  const auto is_near = [](std::int64_t r, std::int64_t) { return std::abs(r - row) <= 2; };
  const auto nothing = [](std::int64_t, std::int64_t) { return false; };
  for (const float value : {Limits::quiet_NaN(), Limits::infinity(), -Limits::infinity(),
                            Limits::max(), -0x1.ffep127f}) {
    SCOPED_TRACE(value);
    const auto with = [value](std::size_t where) {
      return [=](float old, std::size_t i) { return i == where ? value : old; };
    };
    All x(kDims), w(kDims), dy(kDims);
    change(x.x, with(place));
    compute(x);
    check("x, y", x.y, before.y, is_near);
    check("x, dw", x.dw, before.dw,
          [](std::int64_t r, std::int64_t) { return r % kChannels == 5; });
    check("x, dx", x.dx, before.dx, nothing);
    change(dy.dy, with(place));
    compute(dy);
    check("dy, dx", dy.dx, before.dx, is_near);
    check("dy, dw", dy.dw, before.dw, [](std::int64_t, std::int64_t co) { return co == 5; });
    change(w.w, with(weight));
    compute(w);
    // Padding is zeros, which infinity makes NaN of.
    check("w, y", w.y, before.y, [](std::int64_t, std::int64_t co) { return co == 4; });
    check("w, dx", w.dx, before.dx, [](std::int64_t, std::int64_t ci) { return ci == 3; });
  }
  // The largest that does not.
  All large(kDims);
  change(large.x, [](float old, std::size_t i) { return i == place ? 0x1.ffdffep127f : old; });
  change(large.w, [](float old, std::size_t) { return 0x1p-10f * old; });
  compute(large);
  for (const float y : large.y.values()) ASSERT_TRUE(std::isfinite(y));
}

// Powers of two are exact, far from 1 too: from 2^-113 to the largest numbers nothing is lost. What
// is smaller is known to 2^-137.
TEST_F(CudaConv1dSplit, LargeAndSmallNumbersKeepTheirBits) {
  All b(kDims), scaled(kDims), tiny(kDims);
  compute(b);
  change(scaled.x, [](float x, std::size_t) { return 0x1p120f * x; });
  change(scaled.w, [](float w, std::size_t) { return 0x1p-90f * w; });
  change(scaled.dy, [](float dy, std::size_t) { return 0x1p-60f * dy; });
  change(scaled.b, [](float bias, std::size_t) { return 0x1p30f * bias; });
  compute(scaled);
  const auto same = [](const char* what, const auto& at_one, const auto& actual, float scale) {
    std::vector<float> expected(at_one.values().begin(), at_one.values().end());
    for (float& value : expected) value *= scale;
    harness::expect_equal_bits(what, actual.values(), expected);
  };
  same("y", b.y, scaled.y, 0x1p30f);
  same("dw", b.dw, scaled.dw, 0x1p60f);
  // dx would leave the range: its small parts are below 2^-149.

  change(tiny.x, [](float x, std::size_t) { return 0x1p-130f * x; });
  change(tiny.b, [](float, std::size_t) { return 0.0f; });
  run(harness::cuda_queue(), tiny.forward());
  const References r(tiny, {});
  double largest = 0;
  for (const float w : tiny.w.values()) largest = std::max(largest, std::abs(double(w)));
  for (std::size_t i = 0; i < r.y.value.size(); ++i) {
    const double bound = harness::gamma_of<float>(73) * r.y.magnitude[i] +
                         kTaps * kChannels * (0x1p-137 * largest + 0x1p-149);
    ASSERT_NEAR(tiny.y.values()[i], r.y.value[i], bound);
  }
}
#endif

TEST(Conv1d, Gradients) {
  Draw draw(1);
  std::uint64_t seed = 0;
  for (const auto& list : {small_dims(150), strided_dims(110)}) {
    for (const Conv1dDims& d : list) {
      const std::vector<Tensor> inputs = {
          draw.tensor({d.batch, d.length, d.channels_in}),
          draw.tensor({d.kernel_size, d.channels_in, d.channels_out}),
          draw.tensor({d.channels_out})};
      harness::expect_gradients(
          [&](Tape&, std::span<const Var> in) {
            return conv1d(in[0], in[1], in[2], d.padding, {.stride = d.stride});
          },
          inputs, {.seed = ++seed, .max_elements = 48},  // and random directions over all of them
          text(d));
    }
  }
}

// --- Gradients by the definition ----------------------------------------------------------------

TEST(DirectGradients, AgreeWithTheDefinition) {
  CpuQueue queue(2, ConvGradients::kDirect);
  for (const Conv1dDims& dims : kLargeDims) check_kernels<harness::OnCpu, float>(queue, dims);
}

// Of layers in a row without a norm, three or one, the gradients of one position: x's are exactly 0
// beyond its taps. Of one layer, the weights' of one output from one input too.
TEST(DirectGradients, AreZeroWhereTheDefinitionHasNothing) {
  constexpr std::int64_t kSamples = 8, kLength = 64, kChannels = 32, kTaps = 5;
  const Shape shape{kSamples, kLength, kChannels};
  const auto place = [](std::int64_t n, std::int64_t l, std::int64_t c) {
    return static_cast<std::size_t>((n * kLength + l) * kChannels + c);
  };
  const auto ones_from = [&](std::size_t at, std::int64_t count) {
    std::vector<double> values(static_cast<std::size_t>(shape.size()));
    std::fill_n(values.begin() + static_cast<std::ptrdiff_t>(at), count, 1);
    return values;
  };
  for (const int threads : {1, 2}) {
    const Device device = Device::cpu(threads, ConvGradients::kDirect);
    for (const DType dtype : {DType::kF32, DType::kF64}) {
      const auto tensor = [&](const std::vector<double>& values, Shape of) {
        return Tensor::from(device, harness::array_of(values, dtype, of));
      };
      Draw draw(3);
      const auto drawn = [&](Shape of) { return tensor(draw.normals<double>(of.size()), of); };
      for (const std::int64_t layers : {1, 3}) {
        SCOPED_TRACE(testing::Message() << name_of(dtype) << " " << layers << " layers");
        Tape tape(device, dtype);
        const Var x = tape.leaf(drawn(shape));
        std::vector<ConvNormActParameters> parameters;
        for (std::int64_t i = 0; i < layers; ++i) {
          parameters.push_back(
              {tape.leaf(drawn({kTaps, kChannels, kChannels})), tape.leaf(drawn({kChannels})), {}});
        }
        const Var y = layers == 1 ? conv1d(x, parameters[0].w, parameters[0].b, 2)
                                  : conv_norm_act(x, parameters, 2, {});
        tape.backward(y, tensor(ones_from(place(3, 30, 0), kChannels), shape));
        const std::vector<double> dx = harness::values_of(tape.gradient(x));
        std::int64_t heard = 0;
        for (std::int64_t i = 0; i < shape.size(); ++i) {
          const std::int64_t n = i / kChannels / kLength, l = i / kChannels % kLength;
          const double value = dx[static_cast<std::size_t>(i)];
          heard += value != 0;
          if (n == 3 && std::abs(l - 30) <= 2 * layers) continue;
          ASSERT_EQ(value, 0) << n << ", " << l;
        }
        EXPECT_GT(heard, kChannels);
      }
      Tape tape(device, dtype);
      const Var x = tape.constant(tensor(ones_from(place(3, 29, 5), 1), shape));
      const Var w = tape.leaf(drawn({kTaps, kChannels, kChannels}));
      tape.backward(conv1d(x, w, tape.leaf(drawn({kChannels})), 2),
                    tensor(ones_from(place(3, 30, 7), 1), shape));
      std::vector<double> expected(static_cast<std::size_t>(w.size()));
      expected[(1 * kChannels + 5) * kChannels + 7] = 1;
      EXPECT_EQ(harness::values_of(tape.gradient(w)), expected);
    }
  }
}

TEST(Conv1d, RefusesWrongShapes) {
  Tape tape(harness::device(), DType::kF64);
  const auto conv = [&](Shape x, Shape w, Shape b, std::int64_t padding, std::int64_t stride = 1) {
    return error_of(
        [&] { conv1d(tape.make(x), tape.make(w), tape.make(b), padding, {.stride = stride}); });
  };
  EXPECT_EQ(conv({2, 9, 3}, {5, 3, 4}, {4}, 2), "no error");
  EXPECT_EQ(conv({2, 9}, {5, 3, 4}, {4}, 2), "conv1d: expected x of shape [N, L, C], got [2, 9]");
  EXPECT_EQ(conv({2, 9, 3}, {5, 3}, {4}, 2),
            "conv1d: expected a weight of shape [k, C_in, C_out], got [5, 3]");
  EXPECT_EQ(conv({2, 9, 3}, {5, 2, 4}, {4}, 2), "conv1d: weight expects C_in = 2, got x of C = 3");
  EXPECT_EQ(conv({2, 9, 3}, {5, 3, 4}, {3}, 2), "conv1d: expected a bias of shape [4], got [3]");
  EXPECT_EQ(conv({2, 9, 3}, {5, 3, 4}, {4}, 5),
            "conv1d: expected a padding from 0 to k - 1 = 4, got 5");
  EXPECT_EQ(conv({2, 9, 3}, {5, 3, 4}, {4}, -1),
            "conv1d: expected a padding from 0 to k - 1 = 4, got -1");
  EXPECT_EQ(conv({2, 4, 3}, {5, 3, 4}, {4}, 0),
            "conv1d: a kernel of 5 with padding 0 does not fit into a sequence of 4");
  EXPECT_EQ(conv({2, 4, 3}, {5, 3, 4}, {4}, 0, 2),
            "conv1d: a kernel of 5 with padding 0 does not fit into a sequence of 4");
  EXPECT_EQ(conv({2, 9, 3}, {5, 3, 4}, {4}, 2, 0), "conv1d: expected a stride of 1 or more, got 0");
  EXPECT_EQ(conv({2, 9, 3}, {5, 3, 4}, {4}, 2, -2),
            "conv1d: expected a stride of 1 or more, got -2");
}

// One output, as of any stride that leads out of x.
TEST(Conv1d, TakesTheLongestStride) {
  Tape tape(harness::device(), DType::kF64);
  Draw draw(1);
  const Var x = tape.constant(draw.tensor({2, 9, 3})), w = tape.constant(draw.tensor({5, 3, 4})),
            b = tape.constant(draw.tensor({4}));
  const Var y = conv1d(x, w, b, 2, {.stride = INT64_MAX});
  EXPECT_EQ(y.shape(), (Shape{2, 1, 4}));
  EXPECT_EQ(harness::values_of(y.value()),
            harness::values_of(conv1d(x, w, b, 2, {.stride = 9}).value()));
}

}  // namespace
}  // namespace sidechannel
