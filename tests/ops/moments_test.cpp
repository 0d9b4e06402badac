#include "kernels/moments.h"

#include <gtest/gtest.h>

#include <deque>

#include "engine/moments.h"
#include "tests/harness/backends.h"

namespace sidechannel {
namespace {

using harness::BufferOn;
using harness::Draw;
using harness::error_of;
using harness::expect_equal_bits;

// Mean and sum of squared deviations of everything, in two passes over extended precision.
struct Exact {
  std::vector<double> mean, m2, deviation;  // deviation: the standard one
};

template <class T>
Exact two_pass(const std::vector<T>& x, std::int64_t length) {
  Exact exact;
  if (length == 0) return exact;
  const std::size_t samples = x.size() / static_cast<std::size_t>(length);
  for (std::size_t l = 0; l < static_cast<std::size_t>(length); ++l) {
    long double sum = 0;
    for (std::size_t n = 0; n < samples; ++n) sum += x[n * static_cast<std::size_t>(length) + l];
    const long double mean = sum / static_cast<long double>(samples);
    long double m2 = 0;
    for (std::size_t n = 0; n < samples; ++n) {
      const long double d = x[n * static_cast<std::size_t>(length) + l] - mean;
      m2 += d * d;
    }
    exact.mean.push_back(static_cast<double>(mean));
    exact.m2.push_back(static_cast<double>(m2));
    exact.deviation.push_back(std::sqrt(static_cast<double>(m2) / static_cast<double>(samples)));
  }
  return exact;
}

// The moments so far in a backend's memory, and what is added to them.
template <class Backend, class T>
struct Stream {
  std::int64_t length;
  BufferOn<Backend, std::int64_t> count;
  BufferOn<Backend, double> mean, m2;
  const std::int64_t* halted = nullptr;

  explicit Stream(std::int64_t l, std::int64_t counted = 0, double mean_so_far = 0,
                  double m2_so_far = 0)
      : length(l),
        count(std::vector{counted}),
        mean(std::vector<double>(static_cast<std::size_t>(l), mean_so_far)),
        m2(std::vector<double>(static_cast<std::size_t>(l), m2_so_far)) {}

  void add(auto& queue, std::int64_t samples, const T* x) {
    run(queue, kernels::MomentsUpdate<T>{.samples = samples,
                                         .length = length,
                                         .x = x,
                                         .halted = halted,
                                         .count = count.data(),
                                         .mean = mean.data(),
                                         .m2 = m2.data()});
    EXPECT_TRUE(mean.walls_stand() && m2.walls_stand() && count.walls_stand());
  }
};

// Merges x in batches of the given sizes. A mean of n values of size M is off by e <= g(n) M, of a
// batch as of all; m2 sums n squares (a relative error of g(n), each deviation being off by e) and
// merges terms (difference of two means)^2 count, each mean off by e:
//   |m2 error| <= g(2n) m2 + 4 n e deviation + 4 n e^2
template <class Backend, class T>
void check_merged(const std::vector<T>& x, std::int64_t length,
                  const std::vector<std::int64_t>& batches) {
  SCOPED_TRACE(testing::Message() << "length=" << length << " batches=" << batches.size());
  const BufferOn<Backend, T> in(x);
  const Exact exact = two_pass(x, length);
  Backend::expect_same_bits("moments", [&](auto& queue) {
    Stream<Backend, T> stream(length);
    std::int64_t total = 0;
    for (const std::int64_t samples : batches) {
      stream.add(queue, samples, in.data() + total * length);
      EXPECT_EQ(stream.count.value(), total += samples);
    }
    const auto n = static_cast<double>(total);
    const auto mean = stream.mean.values(), m2 = stream.m2.values();
    for (std::size_t l = 0; l < exact.mean.size(); ++l) {
      const double size = std::abs(exact.mean[l]) + exact.deviation[l];
      const double e = harness::gamma_of<double>(total + 4) * size;
      EXPECT_NEAR(mean[l], exact.mean[l], e) << l;
      EXPECT_NEAR(m2[l], exact.m2[l],
                  harness::gamma_of<double>(2 * total + 10) * exact.m2[l] +
                      4 * n * e * exact.deviation[l] + 4 * n * e * e)
          << l;
    }
    return harness::values_of_all({&stream.mean, &stream.m2});
  });
}

// A window's loss, a probe each, the noise of a batch; one block of 32 positions, exactly and one
// more; fewer samples than its 8 warps, as many, and one more.
BACKEND_TEST(Moments, MergedBatchesAgreeWithTwoPassesOverEverything) {
  Backend::for_types([]<class T>(auto&) {
    for (const std::int64_t length : {0, 1, 5, 16, 31, 32, 33, 37, 64, 100, 600}) {
      for (const double mean : {0.3, 100.0}) {
        const auto x = Draw(1).normals<T>(101 * length, mean, 2);
        for (const std::vector<std::int64_t>& batches : {std::vector<std::int64_t>{101},
                                                         {1, 99, 1},
                                                         {0, 40, 0, 61},
                                                         {7, 13, 2, 30, 49},
                                                         {8, 9, 32, 52},
                                                         std::vector<std::int64_t>(101, 1)}) {
          const bool takes_long = batches.size() > 100 && (length == 600 || mean == 100);
          if (!takes_long) check_merged<Backend>(x, length, batches);
        }
      }
    }
  });
}

// Mean 1e6 and deviation 1e-3: squares of 1e12 have a spacing of 1e-4, the variance is 1e-6. The
// bound above allows a relative error of 1e-5; E[x^2] - mean^2 does not even find its size.
TEST(Moments, StayAccurateFarFromZero) {
  const auto x = Draw(3).normals<double>(500 * 3, 1e6, 1e-3);
  for (const std::vector<std::int64_t>& batches :
       {std::vector<std::int64_t>{500}, {100, 1, 399}, std::vector<std::int64_t>(500, 1)}) {
    check_merged<harness::OnCpu>(x, 3, batches);
  }
  double sum = 0, squares = 0;
  for (std::size_t n = 0; n < 500; ++n) {
    sum += x[3 * n] / 500;
    squares += x[3 * n] * x[3 * n] / 500;
  }
  const double exact = two_pass(x, 3).m2[0] / 500;
  EXPECT_GT(std::abs((squares - sum * sum) / exact - 1), 0.5);
}

BACKEND_TEST(Moments, OfAConstantHaveNoVarianceAtAll) {
  Backend::for_types([]<class T>(auto& queue) {
    const BufferOn<Backend, T> x(std::vector<T>(60, T(0.1)));
    Stream<Backend, T> stream(3);
    for (const std::int64_t samples : {7, 1, 12}) stream.add(queue, samples, x.data());
    for (std::size_t l = 0; l < 3; ++l) {
      EXPECT_NEAR(stream.mean.values()[l], double(T(0.1)), 1e-16);
      EXPECT_LE(stream.m2.values()[l], 1e-30);
    }
  });
}

// Also a count that is written before all positions have read it: positions would disagree.
BACKEND_TEST(Moments, CountSamplesForAllPositionsAlike) {
  const BufferOn<Backend, float> x(std::vector<float>(7 * 203, 2.5f));
  Backend::expect_same_bits("moments", [&](auto& queue) {
    Stream<Backend, float> stream(203, 3, -1, 6);
    stream.add(queue, 7, x.data());
    EXPECT_EQ(stream.count.value(), 10);
    for (const double mean : stream.mean.values()) EXPECT_NEAR(mean, 0.3 * -1 + 0.7 * 2.5, 1e-15);
    for (const double m2 : stream.m2.values()) EXPECT_NEAR(m2, 6 + 3.5 * 3.5 * 2.1, 1e-13);
    return harness::values_of_all({&stream.mean, &stream.m2});
  });
}

// Several streams at once, each with a count of its own, have the bits of each alone; more of them
// than one launch takes.
BACKEND_TEST(Moments, OfSeveralStreamsAreThoseOfEach) {
  Backend::for_types([]<class T>(auto& queue) {
    for (const std::int64_t length : {5, 32, 70}) {
      for (const std::int64_t streams : {2, 3, 65}) {
        const std::int64_t samples = 6;
        const BufferOn<Backend, T> x(Draw(9).normals<T>(streams * samples * length));
        std::deque<Stream<Backend, T>> each, together;
        std::vector<kernels::MomentsUpdate<T>> calls;
        for (std::int64_t i = 0; i < streams; ++i) {
          each.emplace_back(length, 3 + i, 0.5, 2.0);
          together.emplace_back(length, 3 + i, 0.5, 2.0);
          const T* const own = x.data() + i * samples * length;
          each.back().add(queue, samples, own);
          calls.push_back({.samples = samples,
                           .length = length,
                           .x = own,
                           .count = together.back().count.data(),
                           .mean = together.back().mean.data(),
                           .m2 = together.back().m2.data()});
        }
        run(queue, kernels::View<kernels::MomentsUpdate<T>>(calls));
        for (std::size_t i = 0; i < each.size(); ++i) {
          EXPECT_EQ(together[i].count.value(), 9 + static_cast<std::int64_t>(i));
          expect_equal_bits("mean", together[i].mean.values(), each[i].mean.values());
          expect_equal_bits("m2", together[i].m2.values(), each[i].m2.values());
          EXPECT_TRUE(together[i].mean.walls_stand() && together[i].m2.walls_stand());
        }
      }
    }
  });
}

BACKEND_TEST(Moments, NoSamplesAreNothing) {
  BufferOn<Backend, std::int64_t> count(std::vector<std::int64_t>{5});
  run(Backend::queue(),
      kernels::MomentsUpdate<float>{.samples = 0, .length = 3, .count = count.data()});
  EXPECT_EQ(count.value(), 5);
}

BACKEND_TEST(Moments, NothingIsAddedOnceHalted) {
  Backend::for_types([]<class T>(auto& queue) {
    // On CUDA the count is moved in the same launch, and in one of its own.
    for (const std::int64_t length : {1, 3, 70}) {
      const BufferOn<Backend, T> x(Draw(6).normals<T>(4 * length));
      Stream<Backend, T> stream(length, 5, 2.5, 2.5);
      for (const std::int64_t halted : {1, 0}) {
        const BufferOn<Backend, std::int64_t> flag(std::vector{halted});
        stream.halted = flag.data();
        stream.add(queue, 4, x.data());
        EXPECT_EQ(stream.count.value(), halted == 1 ? 5 : 9);
        for (const auto* part : {&stream.mean, &stream.m2}) {
          for (const double value : part->values()) EXPECT_EQ(value == 2.5, halted == 1);
        }
      }
    }
  });
}

TEST(StreamingMoments, GiveTheUnbiasedVariance) {
  const auto x = Draw(5).normals<float>(30 * 4, 1, 3);
  StreamingMoments moments(harness::device(), 4);
  const auto batch = [&](std::size_t first, std::int64_t samples, Shape shape) {
    return Tensor::from(
        harness::device(),
        HostArray::from<float>(
            std::span(x).subspan(first * 4, static_cast<std::size_t>(samples * 4)), shape));
  };
  moments.add(batch(0, 1, {1, 4}));
  EXPECT_EQ(moments.variance().as<double>()[0], 0);  // of a single sample
  moments.add(batch(1, 20, {20, 4, 1}));
  moments.add(batch(21, 9, {9, 4}));
  EXPECT_EQ(moments.count(), 30);
  const Exact exact = two_pass(x, 4);
  for (std::size_t l = 0; l < 4; ++l) {
    EXPECT_NEAR(moments.mean().as<double>()[l], exact.mean[l], 1e-14);
    EXPECT_NEAR(moments.variance().as<double>()[l], exact.m2[l] / 29, 1e-13);
  }
  // A state that is put back goes on to the same bits.
  std::map<std::string, HostArray> saved;
  moments.save(saved, "layer");
  StreamingMoments again(harness::device(), 4);
  again.load(saved, "state", "layer", 30);
  moments.add(batch(3, 5, {5, 4}));
  again.add(batch(3, 5, {5, 4}));
  EXPECT_EQ(again.variance().bytes, moments.variance().bytes);
  EXPECT_EQ(again.mean().bytes, moments.mean().bytes);
  EXPECT_EQ(again.count(), 35);
  moments.clear();
  EXPECT_EQ(moments.count(), 0);
  EXPECT_EQ(moments.mean().as<double>()[0], 0);
  EXPECT_EQ(error_of([&] {
              moments.add(batch(0, 5, {4, 5}));
            }),
            "moments: expected samples of 4 positions, got [4, 5]");
  EXPECT_EQ(error_of([&] { moments.add(batch(0, 1, {4})); }),
            "moments: expected samples of 4 positions, got [4]");
}

TEST(StreamingMoments, AddToEach) {
  const Tensor x = Draw(8).tensor({2, 3, 4});
  std::vector<StreamingMoments> streams;
  for (int i = 0; i < 2; ++i) streams.emplace_back(harness::device(), 4);
  StreamingMoments::add_to_each(streams, x);
  for (std::int64_t i = 0; i < 2; ++i) {
    const StreamingMoments& stream = streams[static_cast<std::size_t>(i)];
    StreamingMoments alone(harness::device(), 4);
    alone.add(x.slice(12 * i, 12).reshape({3, 4}));
    EXPECT_EQ(stream.count(), 3);
    EXPECT_EQ(stream.mean().bytes, alone.mean().bytes);
    EXPECT_EQ(stream.variance().bytes, alone.variance().bytes);
  }
  EXPECT_EQ(error_of([&] { StreamingMoments::add_to_each(streams, x.slice(0, 12)); }),
            "moments: expected samples of 4 positions for 2 streams, got [12]");
  streams.emplace_back(harness::device(), 2);
  EXPECT_EQ(error_of([&] {
              StreamingMoments::add_to_each(streams, x.reshape({3, 8}));
            }),
            "moments: expected streams of 4 positions, got 2");
}

TEST(StreamingMoments, RefuseAStateThatIsNotTheirs) {
  StreamingMoments moments(harness::device(), 4);
  std::map<std::string, HostArray> saved;
  moments.save(saved, "window");
  const auto load = [&](auto change) {
    auto tensors = saved;
    change(tensors);
    return error_of([&] { moments.load(tensors, "run/checkpoint", "window", 0); });
  };
  EXPECT_EQ(load([](auto&) {}), "no error");
  for (const char* name : {"window.mean", "window.m2", "window.count"}) {
    EXPECT_EQ(load([&](auto& t) { t.erase(name); }),
              fmt::format("run/checkpoint: has no tensor {}", name));
  }
  EXPECT_EQ(load([](auto& t) { t["window.mean"] = HostArray(DType::kF64, {5}); }),
            "run/checkpoint: window.mean is f64 [5], expected f64 [4]");
  EXPECT_EQ(load([](auto& t) { t["window.count"] = HostArray(DType::kI64, {1}); }),
            "run/checkpoint: window.count is i64 [1], expected i64 []");
  for (const std::int64_t count : {std::int64_t{-1}, std::int64_t{1}, std::int64_t{1} << 62}) {
    EXPECT_EQ(load([&](auto& t) { t["window.count"] = scalar(count); }),
              fmt::format("run/checkpoint: window.count is {}, expected 0", count));
  }
  EXPECT_EQ(load([](auto& t) { t["window.m2"].template as<double>()[2] = -0.5; }),
            "run/checkpoint: tensor window.m2 holds -0.5, expected at least 0");
}

}  // namespace
}  // namespace sidechannel
