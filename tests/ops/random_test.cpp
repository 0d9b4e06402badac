#include "kernels/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <random>

#include "engine/tape.h"
#include "kernels/normal.h"
#include "tests/harness/backends.h"

namespace sidechannel {
namespace {

using harness::BufferOn;
using kernels::RandomPosition;
using kernels::RandomStream;

constexpr RandomStream kStream{20250131, 1};
constexpr std::uint32_t kStep = 7;

template <class Backend, class T = float>
std::vector<T> normals(auto& queue, const RandomStream& random, const RandomPosition& position,
                       std::int64_t samples, std::int64_t length) {
  const BufferOn<Backend, RandomPosition> at(std::vector{position});
  BufferOn<Backend, T> out(samples * length);
  run(queue, kernels::NormalFill<T>{.random = random,
                                    .at = at.data(),
                                    .samples = samples,
                                    .length = length,
                                    .out = out.data()});
  EXPECT_TRUE(out.walls_stand());
  return harness::values_of_all({&out});
}
// On the CPU, by one thread.
std::vector<float> normals(const RandomStream& random, const RandomPosition& position,
                           std::int64_t samples, std::int64_t length) {
  return normals<harness::OnCpu>(harness::queue(), random, position, samples, length);
}

template <class Backend, class T = float>
std::vector<T> uniforms(auto& queue, const RandomStream& random, std::uint32_t step, double bound,
                        std::int64_t size) {
  BufferOn<Backend, T> out(size);
  run(queue, kernels::UniformFill<T>{
                 .random = random, .step = step, .bound = bound, .size = size, .out = out.data()});
  EXPECT_TRUE(out.walls_stand());
  return harness::values_of_all({&out});
}

template <class Backend, class T = float>
std::vector<T> integers(auto& queue, const RandomStream& random, const RandomPosition& position,
                        std::int64_t samples, std::uint32_t count) {
  const BufferOn<Backend, RandomPosition> at(std::vector{position});
  BufferOn<Backend, T> out(samples);
  run(queue, kernels::IntegerFill<T>{.random = random,
                                     .at = at.data(),
                                     .samples = samples,
                                     .count = count,
                                     .out = out.data()});
  EXPECT_TRUE(out.walls_stand());
  return harness::values_of_all({&out});
}

// --- The generator's bits -----------------------------------------------------------------------

// The known answers for philox4x32 with 10 rounds of Random123's own tests (kat_vectors).
TEST(Philox, GivesTheKnownAnswers) {
  using Words = std::array<std::uint32_t, 4>;
  const auto words = [](const Words& counter, std::uint64_t key) {
    Words out;
    // The counter's words, in the order in which philox() places its arguments.
    kernels::philox(key, counter[3], counter[2], counter[1], counter[0], out.data());
    return out;
  };
  EXPECT_EQ(words({0, 0, 0, 0}, 0), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(words({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, 0xffffffffffffffff),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(words({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0x299f31d0a4093822),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

// FNV-1a over the numbers' bits.
std::uint64_t hash_of(const std::vector<float>& values) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (float value : values) {
    hash = (hash ^ std::bit_cast<std::uint32_t>(value)) * 0x100000001b3;
  }
  return hash;
}

// Stored bits: a change of compiler, flags, processor or backend that moves any of them breaks the
// promise that a seed names the same run everywhere. The bits are those of a second implementation
// too, in Python with NumPy's float32, which rounds after every operation.
BACKEND_TEST(Normal, DrawsTheStoredBits) {
  const std::vector<std::uint32_t> stored = {
      0xbf4dc1a5, 0x3f7ba0cc, 0x3f7959ed, 0xbe40a9f8, 0x3f810841, 0x3e41dd72, 0x3cddeb45,
      0x3faffd6e, 0x4009ab75, 0x3eec4b84, 0xbf84ff2c, 0xbfdc362d, 0x3e920041, 0xbdea6ce8,
      0xbd5bff5a, 0x3f2150e2, 0xbf50cc21, 0x3fa4e9dd, 0xbfa12bad, 0xbfffb33f};
  const auto draw = [](const auto&... what) { return normals<Backend>(Backend::queue(), what...); };
  std::vector<std::uint32_t> bits;
  for (const float value : draw(kStream, RandomPosition{kStep, 3}, 2, 10)) {
    bits.push_back(std::bit_cast<std::uint32_t>(value));
  }
  EXPECT_EQ(bits, stored) << fmt::format("{:#010x}", fmt::join(bits, ", "));
  EXPECT_EQ(hash_of(draw(RandomStream{1, 4}, RandomPosition{0, 0}, 500, 601)),
            8576096083556125235u);
  EXPECT_EQ(
      hash_of(draw(RandomStream{0xfedcba9876543210, 1}, RandomPosition{99999, 4000000000}, 3, 5)),
      6928434359623379406u);
}

BACKEND_TEST(Uniform, DrawsTheStoredBits) {
  const auto values = uniforms<Backend>(Backend::queue(), {5, 0}, 3, 0.25, 10001);
  EXPECT_EQ(std::bit_cast<std::uint32_t>(values[0]), 3189814810u);
  EXPECT_EQ(hash_of(values), 4891574343632545335u);
}

BACKEND_TEST(Integers, DrawsTheStoredNumbers) {
  const auto draw = [](const auto&... what) {
    return integers<Backend>(Backend::queue(), what...);
  };
  const RandomPosition at{kStep, 3};
  EXPECT_EQ(draw(kStream, at, 12, 1000u),
            (std::vector<float>{446, 132, 693, 837, 434, 441, 680, 647, 427, 774, 140, 335}));
  EXPECT_EQ(draw(kStream, at, 5, 1u << 24),
            (std::vector<float>{7492914, 2226273, 11640739, 14043568, 7295663}));
  EXPECT_EQ(draw(kStream, at, 3, 1u), (std::vector<float>{0, 0, 0}));
  EXPECT_EQ(hash_of(draw(RandomStream{1, 4}, RandomPosition{0, 0}, 3000, 65537u)),
            11353982439127307653u);
  // Samples that wrap around.
  EXPECT_EQ(hash_of(draw(RandomStream{0xfedcba9876543210, 1}, RandomPosition{99999, 4294967290}, 10,
                         9999991u)),
            12909891670709182681u);
}

// In f64 too: the same numbers.
template <class Backend>
void check_bits_of_normals(const RandomStream& random, const RandomPosition& at,
                           std::int64_t samples, std::int64_t length) {
  SCOPED_TRACE(testing::Message() << samples << " x " << length);
  const auto expected = normals(random, at, samples, length);
  Backend::for_types([&]<class T>(auto& queue) {
    const std::vector<T> wide(expected.begin(), expected.end());
    harness::expect_equal_bits("normals", normals<Backend, T>(queue, random, at, samples, length),
                               wide);
  });
}

// Lengths that do and do not fill a counter's four numbers, several blocks of threads, and counters
// near the ends of their ranges, which wrap around.
BACKEND_TEST(Normal, HasTheBitsOfOneCpuThread) {
  const RandomStream random{0x123456789abcdef0, 3};
  for (const std::int64_t length : {1, 2, 3, 4, 5, 21, 64, 129, 600}) {
    Backend::for_alignments([&] { check_bits_of_normals<Backend>(random, {17, 1000}, 5, length); });
  }
  check_bits_of_normals<Backend>({~std::uint64_t{0}, ~0u}, {~0u, ~0u - 7}, 32, 600);
  check_bits_of_normals<Backend>({0, 0}, {0, 0}, 1, 40000);
  // Every path of the logarithm and of the quarter turns: a million numbers.
  check_bits_of_normals<Backend>({42, 1}, {0, 0}, 64, 16384);
}

BACKEND_TEST(Uniform, HasTheBitsOfOneCpuThread) {
  for (const std::int64_t size : {1, 3, 4, 5, 1024, 1025, 4097}) {
    const auto expected = uniforms<harness::OnCpu>(harness::queue(), {7, 2}, 5, 0.125, size);
    Backend::for_types([&]<class T>(auto& queue) {
      Backend::for_alignments([&] {
        const std::vector<T> wide(expected.begin(), expected.end());
        harness::expect_equal_bits("uniforms", uniforms<Backend, T>(queue, {7, 2}, 5, 0.125, size),
                                   wide);
      });
    });
  }
}

BACKEND_TEST(Normal, DependsOnItsPlaceAlone) {
  const std::int64_t length = 37;  // no multiple of the generator's four
  const auto whole = normals(kStream, {kStep, 10}, 9, length);
  Backend::expect_same_bits("normal", [&](auto& queue) {
    EXPECT_EQ(normals<Backend>(queue, kStream, {kStep, 10}, 9, length), whole);
    for (std::int64_t first = 0; first < 9; ++first) {  // one sample at a time
      const auto one = normals<Backend>(queue, kStream,
                                        {kStep, static_cast<std::uint32_t>(10 + first)}, 1, length);
      EXPECT_TRUE(std::equal(one.begin(), one.end(), whole.begin() + first * length));
    }
    // A prefix of a longer sequence.
    const auto shorter = normals<Backend>(queue, kStream, {kStep, 10}, 1, 22);
    EXPECT_TRUE(std::equal(shorter.begin(), shorter.end(), whole.begin()));
    return normals<Backend>(queue, kStream, {kStep, 0}, 300, 61);
  });
}

BACKEND_TEST(Integers, DependOnTheirPlaceAlone) {
  for (const std::int64_t samples : {0, 1, 255, 256, 257, 3000}) {
    const auto whole =
        integers<harness::OnCpu>(harness::queue(), kStream, {kStep, 10}, samples, 99);
    Backend::for_types([&]<class T>(auto& queue) {
      const std::vector<T> wide(whole.begin(), whole.end());
      EXPECT_EQ((integers<Backend, T>(queue, kStream, {kStep, 10}, samples, 99)), wide);
    });
    Backend::expect_same_bits("integers", [&](auto& queue) {
      for (const std::int64_t first : {samples / 3, samples / 2}) {
        const auto rest = integers<Backend>(
            queue, kStream, {kStep, static_cast<std::uint32_t>(10 + first)}, samples - first, 99);
        EXPECT_TRUE(std::equal(rest.begin(), rest.end(), whole.begin() + first, whole.end()));
      }
      return integers<Backend>(queue, kStream, {kStep, 10}, samples, 99);
    });
  }
}

TEST(Integers, OnTheTapeAreIndexedBySampleToo) {
  Tape tape(harness::device(), DType::kF32);
  Random random(harness::device(), kStream.seed);
  random.seek(kStep, 3);
  const Var drawn = tape.uniform_integers(12, 1000, Stream::kNoise, random);
  EXPECT_TRUE((drawn.shape() == Shape{12}));
  EXPECT_FALSE(drawn.requires_grad());
  EXPECT_EQ(harness::values_of(drawn.value()),
            (std::vector<double>{446, 132, 693, 837, 434, 441, 680, 647, 427, 774, 140, 335}));
  random.advance(0, 2);
  EXPECT_EQ(harness::values_of(tape.uniform_integers(3, 1000, Stream::kNoise, random).value()),
            (std::vector<double>{693, 837, 434}));
  for (const std::int64_t count :
       {std::int64_t{0}, std::int64_t{-1}, (std::int64_t{1} << 24) + 1}) {
    EXPECT_EQ(harness::error_of([&] { tape.uniform_integers(3, count, Stream::kNoise, random); }),
              fmt::format("uniform_integers: expected a count from 1 to 16777216, got {}", count));
  }
}

TEST(Normal, OnTheTapeAreIndexedBySampleToo) {
  Tape tape(harness::device(), DType::kF32);
  Random random(harness::device(), kStream.seed);
  const auto draw = [&](Shape shape, std::uint32_t first) {
    random.seek(kStep, first);
    return harness::values_of(tape.normal(shape, Stream::kNoise, random).value());
  };
  const auto whole = draw({8, 13, 1}, 0);
  EXPECT_EQ(whole, harness::widened(normals(kStream, {kStep, 0}, 8, 13)));
  std::vector<double> parts;
  for (std::uint32_t first : {0u, 2u, 4u, 6u}) {
    const auto part = draw({2, 13}, first);
    parts.insert(parts.end(), part.begin(), part.end());
  }
  EXPECT_EQ(parts, whole);
}

// --- Positions ----------------------------------------------------------------------------------

BACKEND_TEST(RandomPosition, AdvancesCounterByCounterAndWraps) {
  const auto after = [](const RandomPosition& start, const RandomPosition& by) {
    BufferOn<Backend, RandomPosition> at(std::vector{start});
    run(Backend::queue(), kernels::RandomAdvance{.at = at.data(), .by = by});
    EXPECT_TRUE(at.walls_stand());
    return std::pair(at.value().step, at.value().first_sample);
  };
  EXPECT_EQ(after({7, 100}, {1, 0}), std::pair(8u, 100u));
  EXPECT_EQ(after({8, 100}, {0, 32}), std::pair(8u, 132u));
  EXPECT_EQ(after({8, 132}, {2, 3}), std::pair(10u, 135u));
  EXPECT_EQ(after({0xffffffff, 0xfffffffe}, {1, 5}), std::pair(0u, 3u));
  EXPECT_EQ(after({0xffffffff, 10}, {2, 32}), std::pair(1u, 42u));
}

// A body that draws and advances, repeated without a number from the host, gives what a seek to
// each place gives.
TEST(Random, WalksThroughStepsAndSamplesOnItsOwn) {
  Tape tape(harness::device(), DType::kF32);
  Random walking(harness::device(), 5);
  Random seeking(harness::device(), 5);
  const auto draw = [&](const Random& random) {
    return harness::values_of(tape.normal({4, 9}, Stream{4}, random).value());
  };
  walking.seek(3, 8);
  std::vector<std::vector<double>> seen;
  for (std::uint32_t i = 0; i < 5; ++i) {
    const auto values = draw(walking);
    seeking.seek(3 + i, 8 + 4 * i);
    EXPECT_EQ(values, draw(seeking)) << i;
    for (const auto& other : seen) EXPECT_NE(values, other);
    seen.push_back(values);
    walking.advance(1, 4);
  }
}

// --- Their distribution -------------------------------------------------------------------------

// All statistics below are those of fixed bits: they pass or fail for good. The thresholds are
// what a truly normal sample exceeds with a probability of 1e-6 each: 4.89 standard errors to both
// sides, and 2.69 / sqrt(n) for the Kolmogorov-Smirnov distance (2 exp(-2 * 2.69^2)).
constexpr double kSigmas = 4.89;
constexpr double kKolmogorov = 2.69;

double cdf(double x) {
  return 0.5 * std::erfc(-x / std::sqrt(2.0));
}

// That sorted values are those of a distribution.
template <class Cdf>
void expect_distribution(const std::vector<float>& values, const Cdf& share_below) {
  const auto n = static_cast<double>(values.size());
  double distance = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double p = share_below(values[i]);
    distance = std::max({distance, std::abs(p - static_cast<double>(i) / n),
                         std::abs(p - static_cast<double>(i + 1) / n)});
  }
  EXPECT_LT(distance, kKolmogorov / std::sqrt(n));
}

TEST(Normal, HasTheMomentsOfTheNormalDistribution) {
  const auto values = normals({42, 1}, {0, 0}, 2000, 500);
  const auto n = static_cast<double>(values.size());
  double power[9] = {};
  for (float value : values) {
    double product = 1;
    for (double& sum : power) {
      sum += product / n;
      product *= value;
    }
  }
  // E x^k, whose estimate has the variance (E x^2k - (E x^k)^2) / n; E x^2k = (2k - 1)!!
  EXPECT_NEAR(power[1], 0, kSigmas * std::sqrt(1 / n));
  EXPECT_NEAR(power[2], 1, kSigmas * std::sqrt((3 - 1) / n));
  EXPECT_NEAR(power[3], 0, kSigmas * std::sqrt(15 / n));
  EXPECT_NEAR(power[4], 3, kSigmas * std::sqrt((105 - 9) / n));
  EXPECT_NEAR(power[6], 15, kSigmas * std::sqrt((10395 - 225) / n));
}

TEST(Normal, HasTheNormalDistribution) {
  auto values = normals({43, 1}, {0, 0}, 2000, 500);
  std::sort(values.begin(), values.end());
  const auto n = static_cast<double>(values.size());
  expect_distribution(values, cdf);
  // The tails, where the distance above says little: counts are binomial.
  for (double x : {2.0, 3.0, 4.0}) {
    const auto beyond = std::count_if(values.begin(), values.end(),
                                      [&](float value) { return std::abs(value) > x; });
    const double expected = 2 * n * cdf(-x);
    EXPECT_NEAR(static_cast<double>(beyond), expected, kSigmas * std::sqrt(expected) + 1) << x;
  }
  // The smallest radius word gives sqrt(-2 ln 2^-24) = 5.77.
  EXPECT_LE(values.back(), 5.78f);
  EXPECT_GE(values.front(), -5.78f);
}

// Correlations of the numbers and of their squares, each with a standard error of 1 / sqrt(n).
void expect_independent(const std::vector<float>& a, const std::vector<float>& b,
                        std::string_view what) {
  ASSERT_EQ(a.size(), b.size());
  const auto n = static_cast<double>(a.size());
  double plain = 0;
  double squares = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    plain += double(a[i]) * b[i] / n;
    squares += (double(a[i]) * a[i] - 1) * (double(b[i]) * b[i] - 1) / 2 / n;
  }
  EXPECT_LT(std::abs(plain), kSigmas / std::sqrt(n)) << what;
  EXPECT_LT(std::abs(squares), kSigmas / std::sqrt(n)) << what;
}

TEST(Normal, NumbersOfDifferentCountersAreIndependent) {
  const std::int64_t samples = 400;
  const std::int64_t length = 500;
  const auto first = normals({44, 1}, {5, 0}, samples, length);
  expect_independent(first, normals({45, 1}, {5, 0}, samples, length), "the next seed");
  expect_independent(first, normals({44 + (std::uint64_t{1} << 32), 1}, {5, 0}, samples, length),
                     "a seed that differs in its upper half");
  expect_independent(first, normals({44, 1}, {6, 0}, samples, length), "the next step");
  expect_independent(first, normals({44, 1}, {5, 400}, samples, length), "other samples");
  for (std::uint32_t stream : {0u, 2u, 3u, 4u}) {
    expect_independent(first, normals({44, stream}, {5, 0}, samples, length),
                       fmt::format("stream {}", stream));
  }
  // Neighbours of one sequence, the pairs of one radius among them.
  for (std::int64_t lag : {1, 2, 3, 4, 500}) {
    expect_independent({first.begin(), first.end() - lag}, {first.begin() + lag, first.end()},
                       fmt::format("lag {}", lag));
  }
}

__extension__ typedef unsigned __int128 Wide;

// The numbers that `draw` gives for another fraction than the definition: those at both ends of the
// fractions of some numbers, where a word too few or a rounding would show, and random ones.
template <class DrawBelow>
int wrong_numbers(const DrawBelow& draw) {
  int wrong = 0;
  const auto check = [&](std::uint32_t count, std::uint64_t fraction) {
    const std::uint32_t words[4] = {static_cast<std::uint32_t>(fraction >> 32),
                                    static_cast<std::uint32_t>(fraction), 0, 0};
    wrong += draw(count, words) != static_cast<std::uint32_t>(Wide{fraction} * count >> 64);
  };
  std::mt19937_64 random(1);
  for (const std::uint32_t count :
       {1u, 2u, 3u, 1000u, 65537u, 9999991u, (1u << 24) - 1, 1u << 24}) {
    for (int i = 0; i < 1000; ++i) {
      const std::uint64_t number = random() % count;
      const Wide first = ((Wide{number} << 64) + count - 1) / count;  // the first of its fractions
      check(count, static_cast<std::uint64_t>(first));
      check(count, static_cast<std::uint64_t>(first - (first > 0 ? 1 : 0)));
      check(count, random());
    }
    check(count, ~std::uint64_t{0});
  }
  return wrong;
}

// So each number has as many of the 2^64 fractions as any other, or one more.
TEST(Integers, AreTheWholePartsOfFractions) {
  EXPECT_EQ(wrong_numbers(kernels::below), 0);
  // Known-wrong variants: one word alone, the words' order, a remainder.
  EXPECT_GT(wrong_numbers([](std::uint32_t count, const std::uint32_t* words) {
              return static_cast<std::uint32_t>(std::uint64_t{words[0]} * count >> 32);
            }),
            100);
  EXPECT_GT(wrong_numbers([](std::uint32_t count, const std::uint32_t* words) {
              const std::uint32_t turned[4] = {words[1], words[0], 0, 0};
              return kernels::below(count, turned);
            }),
            1000);
  EXPECT_GT(wrong_numbers(
                [](std::uint32_t count, const std::uint32_t* words) { return words[0] % count; }),
            1000);
}

TEST(Integers, AreUniform) {
  for (const std::uint32_t count : {2u, 7u, 20u, 256u}) {
    const auto values =
        integers<harness::OnCpu>(harness::queue(2), {47, 3}, {0, 0}, 1000003, count);
    std::vector<double> seen(count);
    for (const float value : values) ++seen.at(static_cast<std::size_t>(value));
    const double p = 1.0 / count, n = static_cast<double>(values.size());
    for (const double times : seen) {
      EXPECT_NEAR(times, n * p, kSigmas * std::sqrt(n * p * (1 - p))) << count;
    }
  }
  auto values = integers<harness::OnCpu>(harness::queue(2), {48, 3}, {0, 0}, 1000003, 1u << 24);
  std::sort(values.begin(), values.end());
  expect_distribution(values, [](double x) { return x / 0x1p24; });
}

TEST(Uniform, IsUniformWithinItsBound) {
  auto values = uniforms<harness::OnCpu>(harness::queue(2), {46, 0}, 0, 0.25, 1000003);
  const auto n = static_cast<double>(values.size());
  double mean = 0;
  for (float value : values) mean += value / n;
  EXPECT_NEAR(mean, 0, kSigmas * 0.25 / std::sqrt(3 * n));
  std::sort(values.begin(), values.end());
  EXPECT_GE(values.front(), -0.25f);
  EXPECT_LT(values.back(), 0.25f);
  expect_distribution(values, [](double x) { return (x + 0.25) / 0.5; });
}

// --- The polynomials ----------------------------------------------------------------------------

// In units of the result's last place; every 2^-23 + 0.5 that a word can give, in steps.
TEST(Polynomials, AreAccurate) {
  double worst_log = 0;
  for (std::uint32_t i = 0; i < (1u << 23); i += 61) {
    const float u = (static_cast<float>(i) + 0.5f) * 0x1p-23f;
    const float value = kernels::log_of_unit(u);
    const double exact = std::log(static_cast<double>(u));
    const double ulp =
        static_cast<double>(std::nextafter(std::abs(value), 100.0f)) - std::abs(value);
    worst_log = std::max(worst_log, std::abs(value - exact) / ulp);
  }
  EXPECT_LT(worst_log, 2);
  double worst_angle = 0;
  for (std::uint32_t i = 0; i < (1u << 24); i += 61) {
    const float v = static_cast<float>(i) * 0x1p-24f;
    float cosine = 0;
    float sine = 0;
    kernels::cos_sin_of_turns(v, &cosine, &sine);
    const double angle = 2 * 3.14159265358979323846 * v;
    worst_angle = std::max(
        {worst_angle, std::abs(cosine - std::cos(angle)), std::abs(sine - std::sin(angle))});
  }
  EXPECT_LT(worst_angle, 0x1p-23);  // one unit in the last place of 1
}

}  // namespace
}  // namespace sidechannel
