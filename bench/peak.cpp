#include "bench/peak.h"

#include <benchmark/benchmark.h>

#include <algorithm>

#include "experiments/run/progress.h"
#include "kernels/cpu/simd.h"
#include "kernels/queue.h"

namespace sidechannel::bench {
namespace {

namespace hn = kernels::simd::hn;
using Tag = kernels::simd::Full<float>;

constexpr int kChains = kernels::simd::kManyRegisters ? 24 : 12;

void run_chains(std::int64_t rounds) {
  const Tag d;
  hn::Vec<Tag> x[kChains];
#pragma GCC unroll 32
  for (int i = 0; i < kChains; ++i) x[i] = hn::Set(d, 1e-3f * static_cast<float>(i + 1));
  const auto factor = hn::Set(d, 0.999f);
  const auto term = hn::Set(d, 1e-3f);
  for (std::int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 32
    for (int i = 0; i < kChains; ++i) x[i] = hn::MulAdd(x[i], factor, term);
  }
  auto sum = hn::Zero(d);
#pragma GCC unroll 32
  for (int i = 0; i < kChains; ++i) sum = hn::Add(sum, x[i]);
  benchmark::DoNotOptimize(hn::GetLane(hn::SumOfLanes(d, sum)));
}

}  // namespace

double fma_peak(int threads) {
  constexpr std::int64_t kRounds = 10'000'000;
  kernels::CpuQueue queue(threads);
  double best = 0;
  for (int repeat = 0; repeat < 4; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    queue.parallel_for(threads, 1, [](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) run_chains(kRounds);
    });
    const double seconds = experiments::seconds_since(start);
    best = std::max(best, 2.0 * kChains * static_cast<double>(kernels::simd::kLanes<Tag>) *
                              kRounds * threads / seconds / 1e9);
  }
  return best;
}

}  // namespace sidechannel::bench
