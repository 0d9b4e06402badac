#include "tests/harness/norm_case.h"

#include <fmt/format.h>

#include <utility>

namespace sidechannel::harness {

using kernels::NormDims;

std::string NormCase::text() const {
  return fmt::format(
      "N={} L={} C={} channels_per_set={} samples_per_set={} positions_per_set={} activation={}{}",
      dims.batch, dims.length, dims.channels, dims.channels_per_set, dims.samples_per_set,
      dims.positions_per_set, static_cast<int>(dims.activation), dims.centred ? "" : " RMS");
}

std::size_t NormCase::statistic_of(std::size_t i) const {
  const std::size_t group = i / static_cast<std::size_t>(dims.rows() * dims.channels);
  return group * static_cast<std::size_t>(dims.channels) + channel_of(i);
}

std::vector<NormDims> norm_dims(int count) {
  constexpr double kEpsilon = 1e-5;
  std::vector<NormDims> all = {
      {1, 1, 1, 1, 1, kEpsilon, kRelu},      // one value: no variance at all
      {3, 1, 4, 1, 1, kEpsilon, kRelu},      // the same for every set
      {2, 2, 3, 1, 1, kEpsilon, kRelu},      // two values: x_hat is +-1, its gradient almost zero
      {4, 1, 5, 1, 4, kEpsilon, kRelu},      // one position, yet a batch
      {2, 1, 6, 6, 1, kEpsilon, kRelu},      // one position, yet channels
      {2, 13, 7, 7, 1, kEpsilon, kNone},     // layer, primes
      {6, 5, 17, 1, 3, kEpsilon, kRelu},     // batch in groups, one channel more than a vector
      {2, 11, 31, 1, 2, kEpsilon, kRelu},    // pack, one channel fewer
      {2, 3, 33, 11, 1, kEpsilon, kRelu},    // groups across vectors
      {4, 3, 12, 3, 2, kEpsilon, kRelu},     // channels and samples
      {2, 9, 8, 8, 1, kEpsilon, kRelu, 1},   // layer, each position
      {3, 6, 12, 3, 1, kEpsilon, kNone, 2},  // groups, pairs of positions
      {2, 70, 5, 5, 1, kEpsilon, kRelu, 1},  // more positions than the CPU sums in one go
  };
  Draw draw(77);
  Draw draw_positions(78);
  while (static_cast<int>(all.size()) < count) {
    NormDims d{};
    d.length = draw.pick({1, 2, 3, 4, 5, 7, 9, 11, 13, 16});
    d.channels = draw.pick({1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17});
    d.epsilon = kEpsilon;
    d.activation = draw.integer(0, 3) > 0 ? kRelu : kNone;
    if (all.size() % 5 == 2) d.activation = kMish;
    d.channels_per_set = 1;
    d.samples_per_set = 1;
    std::int64_t groups = draw.integer(1, 3);
    switch (all.size() % 7) {
      case 0:
        break;  // instance
      case 1:   // group
        do {
          d.channels_per_set = draw.integer(1, d.channels);
        } while (d.channels % d.channels_per_set != 0);
        break;
      case 2:
        d.channels_per_set = d.channels;
        break;  // layer
      case 3:   // batch
        d.samples_per_set = draw.integer(1, 5);
        groups = 1;
        break;
      case 4:
        d.samples_per_set = draw.integer(2, 4);
        break;  // batch in groups
      case 5:
        d.samples_per_set = 2;
        break;  // pack
      default:
        d.channels_per_set = d.channels;
        d.samples_per_set = 2;
    }
    d.batch = groups * d.samples_per_set;
    if (d.samples_per_set == 1 && draw_positions.integer(0, 1) == 1) {
      do {
        d.positions_per_set = draw_positions.integer(1, d.length);
      } while (d.length % d.positions_per_set != 0);
    }
    all.push_back(d);
  }
  return all;
}

std::vector<NormDims> large_norm_dims() {
  constexpr double kEpsilon = 1e-5;
  return {
      {4, 130, 32, 1, 1, kEpsilon, kRelu},
      {3, 257, 67, 1, 1, kEpsilon, kRelu},
      {4, 65, 64, 16, 1, kEpsilon, kRelu},
      {3, 97, 48, 48, 1, kEpsilon, kRelu},
      {8, 51, 40, 1, 4, kEpsilon, kRelu},
      {6, 33, 130, 1, 6, kEpsilon, kRelu},
      {4, 120, 65, 1, 2, kEpsilon, kNone},
      {4, 75, 60, 20, 2, kEpsilon, kRelu},
      {3, 130, 64, 64, 1, kEpsilon, kRelu, 1},
      {2, 40, 300, 300, 1, kEpsilon, kRelu, 1},
      {3, 97, 36, 12, 1, kEpsilon, kMish},
      {8, 600, 16, 1, 8, kEpsilon, kMish},
      // The edges of the CUDA kernels' tiles:
      {2, 600, 64, 1, 1, kEpsilon, kRelu},     // W1's layers, two samples of them
      {2, 64, 32, 1, 1, kEpsilon, kRelu},      // the demo's
      {3, 127, 8, 1, 1, kEpsilon, kRelu},      // a warp's rows but one
      {1, 129, 8, 1, 1, kEpsilon, kRelu},      // one more position than fits a warp's rows
      {2, 257, 12, 3, 1, kEpsilon, kRelu},     // sets that are no power of two, a tile part empty
      {1, 300, 36, 9, 1, kEpsilon, kRelu},     // sets across the packs of four channels
      {1, 150, 132, 4, 1, kEpsilon, kRelu},    // more channels than a tile's 128, in whole sets
      {1, 150, 132, 132, 1, kEpsilon, kRelu},  // a set wider than any tile: in chunks
      {1, 2050, 8, 1, 1, kEpsilon, kRelu},     // too long for columns of 32 bytes backward
      {1, 4097, 8, 1, 1, kEpsilon, kRelu},     // the same forward; in chunks backward
      {1, 8193, 4, 1, 1, kEpsilon, kRelu},     // one more position than any block holds
      {1, 600, 64, 64, 1, kEpsilon, kRelu},    // LayerNorm of W1: in chunks
      {8, 250, 64, 1, 4, kEpsilon, kRelu},     // W5: BatchNorm in groups of 4
      {8, 600, 32, 1, 8, kEpsilon, kRelu},     // BatchNorm of a whole batch: in chunks
      {4, 301, 32, 4, 2, kEpsilon, kNone},     // channels and samples
  };
}

std::vector<NormDims> all_norm_dims() {
  std::vector<NormDims> all = norm_dims(140);
  for (const NormDims& dims : large_norm_dims()) all.push_back(dims);
  return all;
}

std::vector<NormDims> rms_dims(int count) {
  std::vector<NormDims> all = norm_dims(count);
  for (NormDims& dims : all) dims.centred = false;
  return all;
}

std::vector<NormDims> large_rms_dims() {
  constexpr double kEpsilon = 1e-5;
  return {
      {3, 130, 64, 64, 1, kEpsilon, kRelu, 1, false},  // RMSNorm of each position
      {2, 40, 300, 300, 1, kEpsilon, kMish, 1, false},
      {3, 257, 67, 1, 1, kEpsilon, kRelu, 0, false},
      {2, 257, 12, 3, 1, kEpsilon, kNone, 0, false},
      {4, 301, 32, 4, 2, kEpsilon, kRelu, 0, false},
      {1, 4097, 8, 1, 1, kEpsilon, kRelu, 0, false},   // in chunks backward
      {1, 600, 64, 64, 1, kEpsilon, kRelu, 0, false},  // in chunks
      {8, 600, 16, 1, 8, kEpsilon, kMish, 0, false},   //
  };
}

SetStatistics statistics_of(const NormCase& c) {
  const NormDims& d = c.dims;
  const auto size = static_cast<std::size_t>(d.groups() * d.channels);
  SetStatistics s{std::vector<double>(size), std::vector<double>(size), std::vector<double>(size),
                  std::vector<double>(size), std::vector<double>(size)};
  const auto count = static_cast<double>(d.set_size());
  // The first channel of the set keeps the sums; the others get a copy.
  const auto set_of = [&](std::size_t statistic) {
    const auto channel = statistic % static_cast<std::size_t>(d.channels);
    return statistic - channel % static_cast<std::size_t>(d.channels_per_set);
  };
  const auto share = [&](std::vector<double>& sums) {
    for (std::size_t i = 0; i < size; ++i) sums[i] = sums[set_of(i)];
  };
  for (std::size_t i = 0; i < c.x.size(); ++i) {
    if (d.centred) s.mean[set_of(c.statistic_of(i))] += c.x[i] / count;
    s.mean_magnitude[set_of(c.statistic_of(i))] += std::abs(c.x[i]) / count;
  }
  share(s.mean);
  share(s.mean_magnitude);
  // Far from zero, a long sum of x loses digits even in double; one of deviations does not.
  std::vector<double> rest(size);
  for (std::size_t i = 0; d.centred && i < c.x.size(); ++i) {
    const std::size_t set = set_of(c.statistic_of(i));
    rest[set] += (c.x[i] - s.mean[set]) / count;
  }
  for (std::size_t i = 0; i < size; ++i) s.mean[i] += rest[set_of(i)];
  for (std::size_t i = 0; i < c.x.size(); ++i) {
    const std::size_t set = set_of(c.statistic_of(i));
    s.variance[set] += (c.x[i] - s.mean[set]) * (c.x[i] - s.mean[set]) / count;
    s.deviation_magnitude[set] += std::abs(c.x[i] - s.mean[set]) / count;
  }
  share(s.variance);
  share(s.deviation_magnitude);
  for (std::size_t i = 0; i < size; ++i) s.rstd[i] = 1 / std::sqrt(s.variance[i] + d.epsilon);
  return s;
}

template <class T>
NormCase make_norm_case(const NormDims& dims, std::uint64_t seed) {
  Draw draw(seed);
  NormCase c{dims, {}, {}, {}, {}};
  c.x = widened(draw.normals<T>(dims.size(), 0.5, 1.5));
  c.gamma = widened(draw.normals<T>(dims.channels, 1, 0.4));
  c.dy = widened(draw.normals<T>(dims.size()));

  const SetStatistics s = statistics_of(c);
  std::vector<std::vector<double>> negated(c.gamma.size());
  for (std::size_t i = 0; i < c.x.size(); ++i) {
    const std::size_t set = c.statistic_of(i);
    const std::size_t channel = c.channel_of(i);
    negated[channel].push_back(-c.gamma[channel] * (c.x[i] - s.mean[set]) * s.rstd[set]);
  }
  for (std::vector<double>& values : negated) {
    c.beta.push_back(static_cast<T>(clear_of(std::move(values))));
  }
  return c;
}

template <class T>
NormCase make_population(const NormDims& dims, std::uint64_t seed) {
  NormCase c = make_norm_case<T>(dims, seed);
  Draw draw(seed + 1000);
  for (std::int64_t i = 0; i < dims.channels; ++i) {
    c.population_mean.push_back(static_cast<T>(draw.normal(0.5, 1)));
    c.population_variance.push_back(static_cast<T>(std::exp(draw.normal())));
  }
  for (std::size_t i = 0; i < c.x.size(); ++i) {
    const std::size_t channel = c.channel_of(i);
    const double slope = c.gamma[channel] * c.population_scale(channel);
    while (std::abs(slope * (c.x[i] - c.population_mean[channel]) + c.beta[channel]) < 1e-3) {
      c.x[i] = static_cast<T>(c.x[i] + 0.25);
    }
  }
  return c;
}

template NormCase make_norm_case<float>(const NormDims&, std::uint64_t);
template NormCase make_norm_case<double>(const NormDims&, std::uint64_t);
template NormCase make_population<float>(const NormDims&, std::uint64_t);
template NormCase make_population<double>(const NormDims&, std::uint64_t);

}  // namespace sidechannel::harness
