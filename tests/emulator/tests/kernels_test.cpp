// Correct kernels compute what they should, in every order of threads.

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "emu/emulator.h"
#include "emu/ptx.h"
#include "fixture.h"
#include "kernels.h"

namespace sidechannel::test {
namespace {

class Kernels : public testing::TestWithParam<emu::Order> {
 protected:
  Kernels() { emu::options().order = GetParam(); }
  FreshMachine machine;
  CudaQueue queue{0, kernels::Precision::kFp32};
};

std::string name_of_order(const testing::TestParamInfo<emu::Order>& order) {
  constexpr const char* kNames[] = {"FirstIn", "LastIn", "Random"};
  return kNames[static_cast<int>(order.param)];
}

INSTANTIATE_TEST_SUITE_P(Orders, Kernels,
                         testing::Values(emu::Order::kFirstIn, emu::Order::kLastIn,
                                         emu::Order::kRandom),
                         name_of_order);

TEST_P(Kernels, PlacesInGridAndBlock) {
  const Device<unsigned> y(queue, std::vector<unsigned>(144, 0));
  places(queue, y.data());
  const std::vector<unsigned> got = y.get();
  for (unsigned block = 0; block < 12; ++block) {
    for (unsigned thread = 0; thread < 12; ++thread) {
      EXPECT_EQ(got[block * 12 + thread], 100 * block + thread);
    }
  }
}

TEST_P(Kernels, BarrierOfABlock) {
  for (const unsigned threads : {1, 31, 32, 33, 1024}) {
    const std::vector<float> values = counting(threads);
    const Device<float> x(queue, values);
    reverse_in_block(queue, threads, x.data());
    EXPECT_EQ(x.get(), std::vector<float>(values.rbegin(), values.rend())) << threads;
  }
}

TEST_P(Kernels, BlockSumIsTheTreeOfTreesInEveryThread) {
  const int blocks = 3;
  const int threads = 96;
  std::vector<float> values;
  for (int i = 0; i < blocks * threads; ++i) values.push_back(std::sin(static_cast<float>(i)));
  const Device<float> x(queue, values);
  const Device<float> y(queue, std::vector<float>(blocks));
  block_sums(queue, blocks, threads, x.data(), y.data());
  const auto tree = [](std::vector<float> v) {
    for (std::size_t half = v.size() / 2; half > 0; half /= 2) {
      for (std::size_t i = 0; i < half; ++i) v[i] += v[i + half];
    }
    return v[0];
  };
  std::vector<float> expected;
  for (int block = 0; block < blocks; ++block) {
    std::vector<float> of_warp(32);
    for (int warp = 0; warp < threads / 32; ++warp) {
      const auto begin = values.begin() + block * threads + warp * 32;
      of_warp[static_cast<std::size_t>(warp)] = tree(std::vector<float>(begin, begin + 32));
    }
    expected.push_back(tree(of_warp));
  }
  EXPECT_EQ(y.get(), expected);
}

TEST_P(Kernels, Shuffles) {
  const Device<unsigned> y(queue, std::vector<unsigned>(128, 0));
  shuffles(queue, y.data());
  const std::vector<unsigned> got = y.get();
  for (unsigned lane = 0; lane < 32; ++lane) {
    EXPECT_EQ(got[lane], lane ^ 5);
    EXPECT_EQ(got[32 + lane], lane < 3 ? lane : lane - 3);
    EXPECT_EQ(got[64 + lane], lane % 16 + 7 < 16 ? lane + 7 : lane);  // in halves
    EXPECT_EQ(got[96 + lane], 9u);
  }
}

TEST_P(Kernels, Votes) {
  const Device<unsigned> lanes(queue, std::vector<unsigned>(64, 0));
  ballots(queue, lanes.data());
  const std::vector<unsigned> got = lanes.get();
  for (unsigned thread = 0; thread < 64; ++thread) {
    unsigned expected = 0;
    for (unsigned lane = 0; lane < 32; ++lane) {
      if ((thread / 32 * 32 + lane) % 3 == 0) expected |= 1u << lane;
    }
    EXPECT_EQ(got[thread], expected);
  }
  for (const int threads : {1, 2, 100}) {
    const Device<int> y(queue, std::vector<int>(3, -1));
    votes(queue, threads, y.data());
    EXPECT_EQ(y.get(), (std::vector<int>{threads - 1, threads == 1 ? 1 : 0, 1}));
  }
}

TEST_P(Kernels, TilesOfAWarp) {
  const Device<float> x(queue, counting(64));
  const Device<float> y(queue, std::vector<float>(64));
  tile_sums(queue, x.data(), y.data());
  for (std::size_t i = 0; i < 64; ++i) {
    const std::size_t tile = i / 8;
    EXPECT_EQ(y.get()[i], static_cast<float>(tile * 64 + 28));
  }
}

// Against the definition, entry by entry: small integers, so that every sum is exact.
TEST_P(Kernels, MatrixProductOfAWarp) {
  std::vector<float> a(128);
  std::vector<float> b(64);
  for (std::size_t i = 0; i < a.size(); ++i) a[i] = static_cast<float>(i * 7 % 23) - 11;
  for (std::size_t i = 0; i < b.size(); ++i) b[i] = static_cast<float>(i * 5 % 17) - 8;
  const Device<float> a_device(queue, a);
  const Device<float> b_device(queue, b);
  const Device<float> d(queue, std::vector<float>(128));
  matrix_product(queue, a_device.data(), b_device.data(), d.data());
  std::vector<float> expected(128);
  for (std::size_t row = 0; row < 16; ++row) {
    for (std::size_t column = 0; column < 8; ++column) {
      for (std::size_t k = 0; k < 8; ++k) {
        expected[row * 8 + column] += a[row * 8 + k] * b[k * 8 + column];
      }
    }
  }
  EXPECT_EQ(d.get(), expected);
}

// Sums are cut off, not rounded: 1 + 3/4 of the last bit is 1.
TEST_P(Kernels, MatrixProductsAreCutOff) {
  std::vector<float> a(128), b(64);
  a[0] = b[0] = 1;
  for (std::size_t k = 1; k < 7; ++k) a[k] = b[8 * k] = 0x1p-13f;
  const Device<float> a_device(queue, a), b_device(queue, b);
  const Device<float> d(queue, std::vector<float>(128));
  matrix_product(queue, a_device.data(), b_device.data(), d.data());
  EXPECT_EQ(d.get()[0], 1.0f);  // and 6 * 2^-26
  EXPECT_NE(1.0f, 1.0f + 6 * 0x1p-26f);
}

TEST_P(Kernels, AsynchronousCopies) {
  for (const unsigned size : {1, 32, 33, 100}) {
    const std::vector<float> values = counting(size, 1);
    const Device<float> x(queue, values);
    const Device<float> y(queue, std::vector<float>(values.size()));
    copy_through_shared(queue, size, x.data(), y.data());
    EXPECT_EQ(y.get(), values) << size;
  }
}

TEST_P(Kernels, Clusters) {
  for (const unsigned blocks : {1, 2, 4, 8}) {
    const Device<float> x(queue, std::vector<float>(2 * blocks * 32, 1.0f));
    const Device<float> y(queue, std::vector<float>(2 * blocks));
    cluster_sums(queue, 2, blocks, x.data(), y.data());
    EXPECT_EQ(y.get(), std::vector<float>(2 * blocks, static_cast<float>(32 * blocks)));
  }
}

TEST_P(Kernels, AtomicsAndWarpBarriers) {
  const Device<int> count(queue, std::vector<int>{0});
  count_with_atomics(queue, 5, 100, count.data());
  EXPECT_EQ(count.get(), std::vector<int>{500});
  const Device<float> x(queue, counting(64));
  tree_in_warp(queue, x.data());
  EXPECT_EQ(x.get(), std::vector<float>(64, 63.0f * 32));
}

TEST_P(Kernels, LaunchesRunInTheirOrder) {
  const Device<float> x(queue, std::vector<float>(1000));
  const Device<float> y(queue, std::vector<float>(1000));
  fill(queue, 1000, 1.0f, x.data());
  fill(queue, 1000, 10.0f, y.data());
  for (int i = 0; i < 3; ++i) add(queue, 1000, x.data(), y.data());
  fill(queue, 1000, 5.0f, x.data());
  EXPECT_EQ(y.get(), std::vector<float>(1000, 13.0f));
}

TEST_P(Kernels, SharedMemoryUpToTheDevicesLimit) {
  const Device<float> y(queue, std::vector<float>(1));
  for (const std::size_t bytes :
       {std::size_t{4}, std::size_t{48} * 1024, std::size_t{227} * 1024}) {
    queue.copy_to_device(y.data(), std::vector<float>(1).data(), sizeof(float));
    dynamic_shared_of(queue, bytes, y.data());
    EXPECT_EQ(y.get(), std::vector<float>{7.0f});
  }
}

TEST(Tf32, RoundsToTheNearestAndTiesAwayFromZero) {
  const auto rounded = [](float x) { return emu::bits_as<float>(emu::cvt_rna_tf32(x)); };
  EXPECT_EQ(rounded(1.0f), 1.0f);
  EXPECT_EQ(rounded(1.0f + 0x1p-11f), 1.0f + 0x1p-10f);
  EXPECT_EQ(rounded(-1.0f - 0x1p-11f), -1.0f - 0x1p-10f);
  EXPECT_EQ(rounded(1.0f + 0x1p-11f - 0x1p-23f), 1.0f);
  EXPECT_EQ(rounded(INFINITY), INFINITY);
  EXPECT_TRUE(std::isnan(rounded(NAN)));
}

}  // namespace
}  // namespace sidechannel::test
