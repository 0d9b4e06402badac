// The kernels for perceptrons side by side, on CUDA in TF32.

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>

#include "kernels/cuda/mlp/kernels.h"
#include "tests/harness/conv_check.h"
#include "tests/harness/cuda_check.h"

namespace sidechannel {
namespace {

using harness::Draw;
using harness::failures_of;
using harness::Reference;
using harness::to_tf32;
using harness::widened;
using kernels::kMlpWidth;
using kernels::MlpDims;
using kernels::MlpKept;
using kernels::Precision;
using kernels::Write;
using Buffer = harness::DeviceBuffer<float>;
using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

kernels::CudaQueue& queue() {
  return harness::cuda_queue(Precision::kTf32);
}

struct MlpCase {
  std::int64_t rows, in, networks;

  std::string text() const { return fmt::format("{} x {} x {}", networks, rows, in); }
  MlpDims dims() const { return {rows, in, kMlpWidth}; }
};

// A row alone, tiles that are whole, one row short and one over; several of them, which are ranges
// of rows for blocks of their own; several networks.
const std::vector<MlpCase> kCases = {{1, 64, 1},   {128, 32, 2}, {127, 64, 2},
                                     {129, 32, 1}, {300, 64, 3}, {40, 32, 8}};

struct Network {
  Buffer x, w1, b1, w2, b2, w3, b3;
  Buffer dw1, db1, dw2, db2, dw3, db3;

  Network(const MlpDims& d, std::uint64_t seed)
      : Network(d, Draw(seed), 1 / std::sqrt(static_cast<double>(d.in))) {}
  Network(const MlpDims& d, Draw draw, double scale)
      : x(draw.normals<float>(d.rows * d.in)),
        w1(draw.normals<float>(d.width * d.in, 0, scale)),
        b1(draw.normals<float>(d.width, 0, 0.3)),
        w2(draw.normals<float>(d.width * d.width, 0, 1.0 / 16)),
        b2(draw.normals<float>(d.width, 0, 0.3)),
        w3(draw.normals<float>(d.width, 0, 1.0 / 16)),
        b3(draw.normals<float>(1)),
        dw1(d.width * d.in),
        db1(d.width),
        dw2(d.width * d.width),
        db2(d.width),
        dw3(d.width),
        db3(1) {}

  kernels::MlpNetwork<float> described() const {
    return {x.data(), w1.data(), b1.data(), w2.data(), b2.data(), w3.data(), b3.data()};
  }
  std::vector<Buffer*> gradients() { return {&dw1, &db1, &dw2, &db2, &dw3, &db3}; }
  kernels::MlpGradients<float> asked(Write write) {
    return {{dw1.data(), write}, {db1.data(), write}, {dw2.data(), write},
            {db2.data(), write}, {dw3.data(), write}, {db3.data(), write}};
  }
};

// Networks with what they compute.
struct Mlps {
  MlpCase c;
  kernels::CudaQueue& on;
  std::deque<Network> networks;
  Buffer y, kept, dy;

  explicit Mlps(const MlpCase& c_, kernels::CudaQueue& on_ = queue())
      : c(c_),
        on(on_),
        y(c.networks * c.rows),
        kept(kernels::mlp_kept(c.dims(), static_cast<std::size_t>(c.networks))),
        dy(Draw(3).normals<float>(c.networks * c.rows)) {
    for (std::int64_t i = 0; i < c.networks; ++i) {
      networks.emplace_back(c.dims(), static_cast<std::uint64_t>(10 + i));
    }
  }
  std::vector<kernels::MlpNetwork<float>> described() const {
    std::vector<kernels::MlpNetwork<float>> all;
    for (const Network& network : networks) all.push_back(network.described());
    return all;
  }
  void forward(bool keeps = true) {
    run(on, kernels::MlpForward<float>{.dims = c.dims(),
                                       .networks = described(),
                                       .y = y.data(),
                                       .kept = keeps ? kept.data() : nullptr});
    on.synchronize();
  }
  void backward(const std::vector<kernels::MlpGradients<float>>& gradients) {
    run(on, kernels::MlpBackward<float>{.dims = c.dims(),
                                        .networks = described(),
                                        .kept = kept.data(),
                                        .dy = dy.data(),
                                        .gradients = gradients});
    on.synchronize();
  }
  void backward(Write write = Write::kOverwrite) {
    std::vector<kernels::MlpGradients<float>> all;
    for (Network& network : networks) all.push_back(network.asked(write));
    backward(all);
  }
  bool walls_stand() {
    bool stand = y.walls_stand() && kept.walls_stand() && dy.walls_stand();
    for (Network& network : networks) {
      for (const Buffer* buffer : network.gradients()) stand = stand && buffer->walls_stand();
    }
    return stand;
  }
};

Matrix matrix(std::span<const float> values, std::int64_t columns, bool rounded = false) {
  const auto rows = static_cast<std::int64_t>(values.size()) / columns;
  Matrix m(rows, columns);
  for (std::int64_t i = 0; i < m.size(); ++i) {
    const double value = values[static_cast<std::size_t>(i)];
    m.data()[i] = rounded ? to_tf32(value) : value;
  }
  return m;
}

// What is kept of a network (kernels/cuda/mlp/kernels.h).
struct Kept {
  Matrix hidden, above1, above2;  // the last two: 1 or 0

  Kept(Mlps& mlps, std::int64_t network) {
    const MlpKept layout(mlps.c.dims());
    const auto all = mlps.kept.values().subspan(static_cast<std::size_t>(network * layout.floats()),
                                                static_cast<std::size_t>(layout.floats()));
    const std::int64_t rows = mlps.c.rows;
    hidden = matrix(all.first(static_cast<std::size_t>(rows * kMlpWidth)), kMlpWidth);
    const float* words = all.data() + layout.rows * kMlpWidth;
    for (Matrix* above : {&above1, &above2}) {
      *above = Matrix(rows, kMlpWidth);
      for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t u = 0; u < kMlpWidth; ++u) {
          const std::int64_t t = r % 4, e = r % 8 / 4, p = u / 32, g = u % 32 / 4, i = u % 4;
          std::uint32_t word;
          std::memcpy(&word, words + r / 8 * 64 + (8 * e + p) * 4 + i, sizeof word);
          (*above)(r, u) = word >> (4 * g + t) & 1;
        }
      }
      words += layout.above_words();
    }
  }
};

Reference reference(const Matrix& value, const Matrix& magnitude) {
  Reference r(value.size());
  r.value.assign(value.data(), value.data() + value.size());
  r.magnitude.assign(magnitude.data(), magnitude.data() + magnitude.size());
  return r;
}

// Tensor cores cut off where others round: twice the error, at most.
constexpr std::int64_t kFactor = 2;
// A value that is known but for its roundings may go to TF32 either way: off by 2^-11.
constexpr std::int64_t kToTf32 = 1 << 13;

// Wrong rules, which must be found.
enum class Fault { kNone, kNoBias, kNoMask1, kNoMask2, kOtherRow, kScaled };

// Each layer of a network from what the kernel left of the one below, by the definition.
struct Check {
  Mlps& mlps;
  Network& n;
  std::int64_t rows;
  Kept kept;
  Matrix x, w1, w2, w3, before2, size2;  // size2: sums of absolute values
  std::span<const float> y, dy;

  Check(Mlps& mlps_, std::int64_t network)
      : mlps(mlps_),
        n(mlps.networks[static_cast<std::size_t>(network)]),
        rows(mlps.c.rows),
        kept(mlps, network),
        x(matrix(n.x.values(), mlps.c.in, true)),
        w1(matrix(n.w1.values(), mlps.c.in, true)),
        w2(matrix(n.w2.values(), kMlpWidth, true)),
        w3(matrix(n.w3.values(), kMlpWidth)) {
    const auto own = [&](const Buffer& all) {
      return all.values().subspan(static_cast<std::size_t>(network * rows),
                                  static_cast<std::size_t>(rows));
    };
    y = own(mlps.y);
    dy = own(mlps.dy);
    const Matrix b2 = Matrix::Ones(rows, 1) * matrix(n.b2.values(), kMlpWidth);
    before2 = kept.hidden * w2.transpose() + b2;
    size2 = kept.hidden.cwiseAbs() * w2.cwiseAbs().transpose() + b2.cwiseAbs();
  }

  void expect_forward(Fault fault = Fault::kNone) const {
    const std::int64_t of_h1 = kFactor * (mlps.c.in + 1), of_h2 = kFactor * (kMlpWidth + 1);
    Matrix b1 = Matrix::Ones(rows, 1) * matrix(n.b1.values(), kMlpWidth);
    if (fault == Fault::kNoBias) b1.setZero();
    const Matrix before1 = x * w1.transpose() + b1;
    const Matrix size1 = x.cwiseAbs() * w1.cwiseAbs().transpose() + b1.cwiseAbs();
    std::vector<float> hidden(kept.hidden.data(), kept.hidden.data() + kept.hidden.size());
    // Its own rounding to TF32, of what is at most its size.
    harness::expect_near<float>("h1", hidden, reference(before1.cwiseMax(0), size1),
                                of_h1 + kToTf32);
    for (std::int64_t i = 0; i < before1.size(); ++i) {
      ASSERT_EQ(kept.above1.data()[i] > 0, kept.hidden.data()[i] > 0) << "h1 " << i;
      ASSERT_EQ(kept.hidden.data()[i], to_tf32(kept.hidden.data()[i])) << "h1 " << i;
      // Where h2 is near its kink, its roundings decide.
      if (std::abs(before2.data()[i]) <= harness::gamma_of<float>(of_h2) * size2.data()[i])
        continue;
      ASSERT_EQ(kept.above2.data()[i] > 0, before2.data()[i] > 0) << "h2 " << i;
    }
    Matrix h2 = before2.cwiseMax(0);
    if (fault == Fault::kNoMask2) h2 = before2;
    const Matrix b3 = Matrix::Constant(rows, 1, n.b3.value());
    harness::expect_near<float>(
        "y", y,
        reference(h2 * w3.transpose() + b3, size2 * w3.cwiseAbs().transpose() + b3.cwiseAbs()),
        of_h2 + kMlpWidth + 1);
  }

  // With the kernel's own masks. `before`: what the gradients are added to.
  void expect_backward(Fault fault = Fault::kNone,
                       const std::vector<std::vector<float>>& before = {}) const {
    Matrix d = matrix(dy, 1), m1 = kept.above1, m2 = kept.above2;
    if (fault == Fault::kNoMask1) m1.setOnes();
    if (fault == Fault::kNoMask2) m2.setOnes();
    if (fault == Fault::kOtherRow) d = d.reverse().eval();
    if (fault == Fault::kScaled) d *= 1.01;
    const Matrix g2 = m2.cwiseProduct(d * w3);
    // The products of w2 and w3 are rounded to TF32 as one.
    const Matrix exact_w2 = matrix(n.w2.values(), kMlpWidth);
    const Matrix g1 = m1.cwiseProduct(g2 * exact_w2);
    const Matrix size_g1 = m1.cwiseProduct(g2.cwiseAbs() * exact_w2.cwiseAbs());
    const Matrix ones = Matrix::Ones(1, rows);
    // h2 dy, of what came before the ReLU.
    const Matrix dw3 = d.transpose() * m2.cwiseProduct(before2);
    const Matrix size_dw3 = d.transpose().cwiseAbs() * m2.cwiseProduct(size2);
    // Of g1: w3 w2 as fp32 and as TF32, its sum, times dy.
    const std::int64_t of_g1 = 2 + kToTf32 + kFactor * kMlpWidth;
    // Ranges of rows are added up, too; dy goes to TF32 for s, which is multiplied by w3.
    const std::int64_t of_rows = kFactor * rows + 1, of_s = kToTf32 + of_rows;
    const std::vector<std::tuple<const char*, Matrix, Matrix, std::int64_t>> all = {
        {"dw1", g1.transpose() * x, size_g1.transpose() * x.cwiseAbs(), of_g1 + kToTf32 + of_rows},
        {"db1", ones * g1, ones * size_g1, of_g1 + of_rows},
        {"dw2", g2.transpose() * kept.hidden, g2.transpose().cwiseAbs() * kept.hidden, of_s + 1},
        {"db2", ones * g2, ones * g2.cwiseAbs(), of_rows + 1},
        {"dw3", dw3, size_dw3, of_s + kMlpWidth + 2},
        {"db3", ones * d, ones * d.cwiseAbs(), of_rows}};
    const auto gradients = n.gradients();
    for (std::size_t i = 0; i < all.size(); ++i) {
      const auto& [name, value, magnitude, roundings] = all[i];
      Reference expected = reference(value, magnitude);
      if (!before.empty()) expected.add_all(widened(before[i]));
      harness::expect_near<float>(name, gradients[i]->values(), expected,
                                  roundings + (before.empty() ? 0 : 1));
    }
  }
};

class CudaMlpKernels : public harness::CudaTest {};

TEST_F(CudaMlpKernels, AgreeWithTheDefinition) {
  for (const MlpCase& c : kCases) {
    SCOPED_TRACE(c.text());
    Mlps mlps(c), added(c);
    mlps.forward();
    mlps.backward();
    EXPECT_TRUE(mlps.walls_stand());
    added.forward();
    std::vector<std::vector<std::vector<float>>> before;
    for (Network& network : added.networks) {
      before.emplace_back();
      for (Buffer* buffer : network.gradients()) {
        before.back().push_back(Draw(before.size()).normals<float>(std::ssize(buffer->values())));
        buffer->set(before.back().back());
      }
    }
    added.backward(Write::kAccumulate);
    EXPECT_TRUE(added.walls_stand());
    for (std::int64_t i = 0; i < c.networks; ++i) {
      SCOPED_TRACE(i);
      const Check check(mlps, i);
      check.expect_forward();
      check.expect_backward();
      Check(added, i).expect_backward(Fault::kNone, before[static_cast<std::size_t>(i)]);
    }
    // Without a way back: the same answers.
    Mlps brief(c);
    brief.forward(false);
    harness::expect_equal_bits("y", brief.y.values(), mlps.y.values());
  }
}

// Blocks that walk over several tiles, on the way forward from one network's to the next one's.
TEST_F(CudaMlpKernels, WalkOverTiles) {
#if SIDECHANNEL_CUDA_EMULATED
  emu::device_model().multiprocessors = 3;
  kernels::CudaQueue few(0, Precision::kTf32);
  emu::device_model().multiprocessors = emu::DeviceModel().multiprocessors;
  const std::vector<MlpCase> cases = {{700, 64, 2}, {390, 32, 1}, {150, 64, 4}};
#else
  kernels::CudaQueue few(0, Precision::kTf32);
  const std::vector<MlpCase> cases = {{150 * few.info().multiprocessors + 1, 64, 2}};
#endif
  for (const MlpCase& c : cases) {
    SCOPED_TRACE(c.text());
    Mlps mlps(c, few);
    mlps.forward();
    mlps.backward();
    EXPECT_TRUE(mlps.walls_stand());
    for (std::int64_t i = 0; i < c.networks; ++i) {
      SCOPED_TRACE(i);
      const Check check(mlps, i);
      check.expect_forward();
      check.expect_backward();
    }
  }
}

// Each network by itself has the same bits, though its rows are cut otherwise on the way back.
TEST_F(CudaMlpKernels, NetworksDoNotTouchEachOther) {
  Mlps both({200, 64, 2}), alone({200, 64, 2});
  both.forward();
  alone.networks.pop_front();
  alone.c.networks = 1;
  alone.forward();
  harness::expect_equal_bits("y", alone.y.values().first(200), both.y.values().subspan(200));
}

TEST_F(CudaMlpKernels, ComputeWhatIsAskedFor) {
  const MlpCase c{130, 32, 2};
  Mlps all(c), some(c);
  all.forward();
  all.backward();
  some.forward();
  for (Network& network : some.networks) {
    for (Buffer* buffer : network.gradients()) {
      buffer->set(std::vector<float>(buffer->values().size(), 7.0f));
    }
  }
  std::vector<kernels::MlpGradients<float>> asked(2);
  asked[0].dw3 = {some.networks[0].dw3.data()};
  asked[1].dw1 = {some.networks[1].dw1.data()};
  asked[1].db2 = {some.networks[1].db2.data()};
  some.backward(asked);
  const std::vector<std::vector<std::size_t>> computed = {{4}, {0, 3}};
  for (std::size_t i = 0; i < 2; ++i) {
    const auto actual = some.networks[i].gradients(), expected = all.networks[i].gradients();
    for (std::size_t j = 0; j < actual.size(); ++j) {
      const auto values = actual[j]->values();
      if (std::ranges::count(computed[i], j) > 0) {
        harness::expect_equal_bits("alone", values, expected[j]->values());
      } else {
        EXPECT_EQ(std::ranges::count(values, 7.0f), std::ssize(values)) << i << ", " << j;
      }
    }
  }
}

TEST_F(CudaMlpKernels, WrongRulesAreFound) {
  Mlps mlps({150, 32, 1});
  mlps.forward();
  mlps.backward();
  const Check check(mlps, 0);
  using enum Fault;
  for (const Fault fault : {kNone, kNoBias, kNoMask1, kNoMask2, kOtherRow, kScaled}) {
    SCOPED_TRACE(static_cast<int>(fault));
    EXPECT_EQ(failures_of([&] { check.expect_forward(fault); }) > 0,
              fault == kNoBias || fault == kNoMask2);
    EXPECT_EQ(failures_of([&] { check.expect_backward(fault); }) > 0,
              fault != kNone && fault != kNoBias);
  }
}

TEST_F(CudaMlpKernels, SameBitsEveryTime) {
  const MlpCase c{300, 64, 2};
  std::vector<std::vector<float>> first;
  for (int i = 0; i < 3; ++i) {
    Mlps mlps(c);
    mlps.forward();
    mlps.backward();
    std::vector<std::vector<float>> all;
    const auto add = [&](const Buffer& buffer) {
      all.emplace_back(buffer.values().begin(), buffer.values().end());
    };
    add(mlps.y);
    for (Network& network : mlps.networks) {
      for (const Buffer* buffer : network.gradients()) add(*buffer);
    }
    if (i == 0) first = all;
    for (std::size_t j = 0; j < all.size(); ++j) {
      harness::expect_equal_bits(fmt::format("{}", j), all[j], first[j]);
    }
  }
}

// What is not a number stays visible: in y, and in the gradients where dy is.
TEST_F(CudaMlpKernels, LetNaNThrough) {
  Mlps mlps({3, 64, 1});
  auto x =
      std::vector<float>(mlps.networks[0].x.values().begin(), mlps.networks[0].x.values().end());
  x[64 + 5] = std::numeric_limits<float>::quiet_NaN();
  mlps.networks[0].x.set(x);
  mlps.forward();
  const auto y = mlps.y.values();
  EXPECT_TRUE(std::isfinite(y[0]) && std::isnan(y[1]) && std::isfinite(y[2]));
  mlps.dy.set({1, std::numeric_limits<float>::quiet_NaN(), 1});
  mlps.backward();
  EXPECT_TRUE(std::isnan(mlps.networks[0].db3.value()));
}

// A few launches, however many networks there are.
TEST_F(CudaMlpKernels, AreFewLaunches) {
  for (const std::int64_t networks : {1, 5}) {
    Mlps mlps({20, 32, networks});
    const auto launches = [&] { return queue().counters().launches; };
    const auto before = launches();
    mlps.forward();
    EXPECT_EQ(launches() - before, 2);
    mlps.backward();
    EXPECT_EQ(launches() - before, 6);
  }
}

// 32 networks at most, whose arguments a launch takes; x aligned.
TEST_F(CudaMlpKernels, AreForSomeShapes) {
  const auto at_once = [](const MlpDims& dims, std::size_t count, Precision precision,
                          std::uintptr_t address = 256) {
    const std::vector<kernels::MlpNetwork<float>> networks(
        count, {.x = reinterpret_cast<const float*>(address)});
    return mlps_at_once(harness::cuda_queue(precision),
                        kernels::MlpForward<float>{.dims = dims, .networks = networks});
  };
  EXPECT_EQ(at_once({10, 64, 256}, 31, Precision::kTf32), 31u);
  EXPECT_EQ(at_once({10, 32, 256}, 40, Precision::kTf32), 32u);
  EXPECT_EQ(at_once({10, 64, 256}, 31, Precision::kFp32), 0u);
  EXPECT_EQ(at_once({10, 64, 256}, 31, Precision::kTf32, 260), 0u);
  EXPECT_EQ(at_once({0, 64, 256}, 31, Precision::kTf32), 0u);
  EXPECT_EQ(at_once({10, 16, 256}, 31, Precision::kTf32), 0u);
  EXPECT_EQ(at_once({10, 64, 128}, 31, Precision::kTf32), 0u);
}

}  // namespace
}  // namespace sidechannel
