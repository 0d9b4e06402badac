// Fused normalization and activation on the CPU.
//
// Threads split the work in tasks that hold whole sets: groups (one, where it is not of a few rows
// only) times one block of channels. Within a task the sums run along the positions, in the order
// of memory, in blocks of kBlock; then the sums of a set's channels are added in order, in double.
//
// Two passes for the statistics. The first gives a mean m that is near enough; the second takes
// d = x - m, which is off by a rounding of its own however far x lies from zero, and corrects m by
// the sum of d, and the sum of d^2 for that correction:
//
//   mean = m + sum of d / n,  variance = (sum of d^2 - (sum of d)^2 / n) / n
//
// The mean of x^2 is variance + mean^2: terms that are positive, so nothing cancels.
//
// Sets of one position: norm_pieces.h.

#include "kernels/cpu/norm_act.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "kernels/cpu/norm_pieces.h"
#include "kernels/cpu/norm_rows.h"
#include "kernels/fill.h"
#include "kernels/norm_running.h"

namespace sidechannel::kernels {
namespace {

using simd::Full;

// Neighbouring groups whose parameter gradients are summed one after the other, whatever the
// threads.
std::int64_t groups_per_task(const NormDims& dims) {
  constexpr std::int64_t kRows = 64;
  return dims.positions_per_set > 0 ? std::max<std::int64_t>(kRows / dims.rows(), 1) : 1;
}
std::int64_t bundles(const NormDims& dims) {
  const std::int64_t bundle = groups_per_task(dims);
  return (dims.groups() + bundle - 1) / bundle;
}

// Channels of a task: all of them when there are groups for every thread, otherwise fewer, but
// whole sets and at least a vector. Each channel is computed alike whatever the split.
template <class T>
std::int64_t channels_per_task(const CpuQueue& queue, const NormDims& dims) {
  const std::int64_t tasks = queue.threads() == 1 ? 1 : 2 * queue.threads();
  const std::int64_t parts = (tasks + bundles(dims) - 1) / bundles(dims);
  const std::int64_t wanted = std::max(dims.channels / parts, kLanes<Full<T>>);
  const std::int64_t sets = (wanted + dims.channels_per_set - 1) / dims.channels_per_set;
  return std::min(dims.channels, sets * dims.channels_per_set);
}

// Calls body(group, c0, c1) for all groups and channels, those of a task in order.
template <class T, class Body>
void for_tasks(CpuQueue& queue, const NormDims& dims, const Body& body) {
  const std::int64_t block = channels_per_task<T>(queue, dims);
  const std::int64_t blocks = (dims.channels + block - 1) / block;
  const std::int64_t bundle = groups_per_task(dims);
  queue.parallel_for(bundles(dims) * blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t c0 = task % blocks * block;
      const std::int64_t first = task / blocks * bundle;
      const std::int64_t last = std::min(first + bundle, dims.groups());
      for (std::int64_t group = first; group < last; ++group) {
        body(group, c0, std::min(c0 + block, dims.channels));
      }
    }
  });
}

// Adds a group's sums for channels [c0, c1) to those of its bundle, of which it may be the first.
// partial as below.
inline void add_to_bundle(const NormDims& dims, std::int64_t group, std::int64_t c0,
                          std::int64_t c1, const double* sum_dy, const double* sum_dy_x_hat,
                          double* partial) {
  const std::int64_t bundle = groups_per_task(dims);
  double* dy = partial + group / bundle * 2 * dims.channels + c0;
  double* dy_x_hat = dy + dims.channels;
  const bool first = group % bundle == 0;
  for (std::int64_t i = 0; i < c1 - c0; ++i) {
    dy[i] = (first ? 0 : dy[i]) + sum_dy[i];
    dy_x_hat[i] = (first ? 0 : dy_x_hat[i]) + sum_dy_x_hat[i];
  }
}

// y = activation(x_hat * gamma + beta) for the rows of one group. Call: NormForward, or that of a
// population.
template <class T, template <class> class Call>
void apply(const Call<T>& call, const NormDims& dims, const NormStatistics<T>& statistics,
           std::int64_t group, std::int64_t c0, std::int64_t c1) {
  const T* x = call.x;
  T* y = call.y;
  for_activated_rows<T>(dims, c0, c1, [&](auto d, auto row, auto activation, std::int64_t c) {
    using R = Row<decltype(row)::value, decltype(d)>;
    const RowConstants<decltype(row)::value, decltype(d), T> k(d, call, statistics, c);
    const Extent extent(dims, group);
    for (std::int64_t at = extent.first; at < extent.last; at += dims.channels) {
      R value = R::load(d, x + at + c);
      R::each([&](int j) { value.v[j] = simd::activate(d, activation, k.centre(j, value.v[j])); });
      value.store(d, y + at + c);
    }
  });
}

// Sums of dy (through the activation) and of dy * x_hat over the rows of a group, for the channels
// [c0, c1); the results begin at c0. Call: NormBackward, or that of a population.
template <class T, template <class> class Call>
void reduce_backward(const Call<T>& call, const NormDims& dims, const NormStatistics<T>& s,
                     std::int64_t group, std::int64_t c0, std::int64_t c1, double* sum_dy,
                     double* sum_dy_x_hat) {
  const T *x = call.x, *dy = call.dy;
  for_activated_rows<T>(dims, c0, c1, [&](auto d, auto row, auto activation, std::int64_t c) {
    constexpr int kRow = decltype(row)::value;
    using R = Row<kRow, decltype(d)>;
    const RowConstants<kRow, decltype(d), T> k(d, call, s, c);
    sum_positions<2, kRow>(d, dims, group, {sum_dy + c - c0, sum_dy_x_hat + c - c0},
                           [&](std::int64_t at, auto& sums) {
                             R centred = R::load(d, x + at + c);
                             R g = R::load(d, dy + at + c);
                             R::each([&](int j) {
                               k.centre_and_activate(d, activation, j, centred.v[j], g.v[j]);
                               sums[0].v[j] = hn::Add(sums[0].v[j], g.v[j]);
                               sums[1].v[j] = hn::MulAdd(g.v[j], centred.v[j], sums[1].v[j]);
                             });
                           });
  });
  for (std::int64_t c = c0; c < c1; ++c) {
    double& sum = sum_dy_x_hat[c - c0];
    sum = (sum - static_cast<double>(s.mean_rest[c]) * sum_dy[c - c0]) *
          static_cast<double>(s.rstd[c]);
  }
}

// dx from shift and slope, which begin at c0.
template <class T, template <class> class Call>
void apply_backward(const Call<T>& call, const NormDims& dims, const NormStatistics<T>& statistics,
                    std::int64_t group, std::int64_t c0, std::int64_t c1, const T* shifts,
                    const T* slopes) {
  const T *x = call.x, *dy = call.dy;
  const GradOut<T> dx = call.dx;
  for_activated_rows<T>(dims, c0, c1, [&](auto d, auto row, auto activation, std::int64_t c) {
    using R = Row<decltype(row)::value, decltype(d)>;
    const RowConstants<decltype(row)::value, decltype(d), T> k(d, call, statistics, c);
    const R shift = R::load(d, shifts + c - c0), slope = R::load(d, slopes + c - c0);
    const Extent extent(dims, group);
    for (std::int64_t at = extent.first; at < extent.last; at += dims.channels) {
      R centred = R::load(d, x + at + c);
      R g = R::load(d, dy + at + c);
      R::each([&](int j) {
        k.centre_and_activate(d, activation, j, centred.v[j], g.v[j]);
        g.v[j] =
            hn::NegMulAdd(centred.v[j], slope.v[j], hn::MulSub(g.v[j], k.scale.v[j], shift.v[j]));
      });
      if (dx.write == Write::kAccumulate) g.add(R::load(d, dx.data + at + c));
      g.store(d, dx.data + at + c);
    }
  });
}

template <class T>
NormStatistics<T> of_group(const NormDims& dims, const NormStatistics<T>& all, std::int64_t group) {
  const std::int64_t first = group * dims.channels;
  return {all.mean + first, all.mean_rest + first, all.rstd + first};
}

// Statistics of a population: [channels].
template <class T>
struct Population {
  std::vector<T> memory;
  NormStatistics<T> statistics;

  Population(const NormDims& dims, const T* mean, const T* variance)
      : memory(static_cast<std::size_t>(3 * dims.channels)),
        statistics{memory.data(), memory.data() + dims.channels,
                   memory.data() + 2 * dims.channels} {
    std::copy_n(mean, dims.channels, statistics.mean);
    for (std::int64_t c = 0; c < dims.channels; ++c) {
      statistics.rstd[c] = T(1) / std::sqrt(variance[c] + static_cast<T>(dims.epsilon));
    }
  }
};

// The population's statistics do not mix samples: any split of the batch will do.
NormDims per_sample(NormDims dims) {
  dims.channels_per_set = 1;
  dims.samples_per_set = 1;
  dims.positions_per_set = 0;
  return dims;
}

// Of finish_params.
double* partial_sums(CpuQueue& queue, const NormDims& dims) {
  return static_cast<double*>(
      queue.scratch(static_cast<std::size_t>(bundles(dims) * 2 * dims.channels) * sizeof(double)));
}

}  // namespace

// Gradients of gamma and beta, summed over the bundles in order, in double.
// partial [bundles, 2, channels]: sums of dy and of dy * x_hat.
template <class T>
void finish_params(const NormDims& dims, const double* partial, GradOut<T> dgamma,
                   GradOut<T> dbeta) {
  const auto add_up = [&](const double* sums, GradOut<T> out) {
    constexpr std::int64_t kBlock = 64;
    for (std::int64_t c0 = 0; out.data && c0 < dims.channels; c0 += kBlock) {
      const std::int64_t count = std::min(kBlock, dims.channels - c0);
      double total[kBlock] = {};
      for (std::int64_t bundle = 0; bundle < bundles(dims); ++bundle) {
        for (std::int64_t i = 0; i < count; ++i) {
          total[i] += sums[bundle * 2 * dims.channels + c0 + i];
        }
      }
      for (std::int64_t i = 0; i < count; ++i) {
        const auto before = out.write == Write::kAccumulate ? out.data[c0 + i] : T(0);
        out.data[c0 + i] = static_cast<T>(static_cast<double>(before) + total[i]);
      }
    }
  };
  add_up(partial, dbeta);
  add_up(partial + dims.channels, dgamma);
}

template <class T>
void run(CpuQueue& queue, const NormForward<T>& call) {
  const NormDims& dims = call.dims;
  if (dims.size() == 0) return;
  const double per_value = 1 / static_cast<double>(dims.set_size());
  const T* x = call.x;
  for_tasks<T>(queue, dims, [&](std::int64_t group, std::int64_t c0, std::int64_t c1) {
    const NormStatistics<T> s = of_group(dims, call.statistics, group);
    if (sets_are_pieces(dims)) {
      statistics_of_pieces(dims, x + group * dims.channels, c0, c1, s);
      return apply(call, dims, s, group, c0, c1);
    }
    thread_local simd::AlignedBuffer<double> memory;
    const std::array<double*, 2> sums = two_arrays(memory, c1 - c0);  // of d, and of d^2
    simd::for_vector_rows<T>(c0, c1, [&](auto d, auto row, std::int64_t c) {
      constexpr int kRow = decltype(row)::value;
      using R = Row<kRow, decltype(d)>;
      sum_positions<1, kRow>(d, dims, group, {sums[0] + c - c0}, [&](std::int64_t at, auto& terms) {
        terms[0].add(R::load(d, x + at + c));
      });
    });
    total_over_sets(dims, sums[0], c1 - c0);
    for (std::int64_t c = c0; c < c1; ++c) s.mean[c] = static_cast<T>(sums[0][c - c0] * per_value);

    simd::for_vector_rows<T>(c0, c1, [&](auto d, auto row, std::int64_t c) {
      constexpr int kRow = decltype(row)::value;
      using R = Row<kRow, decltype(d)>;
      const R means = R::load(d, s.mean + c);
      sum_positions<2, kRow>(d, dims, group, {sums[0] + c - c0, sums[1] + c - c0},
                             [&](std::int64_t at, auto& terms) {
                               R centred = R::load(d, x + at + c);
                               R::each([&](int j) {
                                 auto& value = centred.v[j];
                                 value = hn::Sub(value, means.v[j]);
                                 terms[0].v[j] = hn::Add(terms[0].v[j], value);
                                 terms[1].v[j] = hn::MulAdd(value, value, terms[1].v[j]);
                               });
                             });
    });
    for (double* sum : sums) total_over_sets(dims, sum, c1 - c0);
    finish_statistics(dims, c0, c1, s, sums[0], sums[1]);
    apply(call, dims, s, group, c0, c1);
  });
}

template <class T>
void apply_statistics(CpuQueue& queue, const NormForward<T>& call) {
  for_tasks<T>(queue, call.dims, [&](std::int64_t group, std::int64_t c0, std::int64_t c1) {
    apply(call, call.dims, of_group(call.dims, call.statistics, group), group, c0, c1);
  });
}

template <class T>
void backward_of_groups(CpuQueue& queue, const NormBackward<T>& call, double* partial) {
  const NormDims& dims = call.dims;
  for_tasks<T>(queue, dims, [&](std::int64_t group, std::int64_t c0, std::int64_t c1) {
    const NormStatistics<T> s = of_group(dims, call.statistics, group);
    thread_local simd::AlignedBuffer<double> sums;
    const auto [sum_dy, sum_dy_x_hat] = two_arrays(sums, c1 - c0);
    if (sets_are_pieces(dims)) {
      backward_of_pieces(call, s, group, c0, c1, sum_dy, sum_dy_x_hat);
      return add_to_bundle(dims, group, c0, c1, sum_dy, sum_dy_x_hat, partial);
    }
    reduce_backward(call, dims, s, group, c0, c1, sum_dy, sum_dy_x_hat);
    add_to_bundle(dims, group, c0, c1, sum_dy, sum_dy_x_hat, partial);
    if (!call.dx.data) return;
    thread_local simd::AlignedBuffer<double> means;
    thread_local simd::AlignedBuffer<T> constants;
    const auto [a, b] = two_arrays(means, c1 - c0);
    for (std::int64_t i = 0; i < c1 - c0; ++i) {
      a[i] = sum_dy[i] * static_cast<double>(call.gamma[c0 + i]);
      b[i] = sum_dy_x_hat[i] * static_cast<double>(call.gamma[c0 + i]);
    }
    total_over_sets(dims, a, c1 - c0);
    total_over_sets(dims, b, c1 - c0);
    const auto [shift, slope] = two_arrays(constants, c1 - c0);
    for (std::int64_t i = 0; i < c1 - c0; ++i) {
      const auto of_channel =
          shift_and_slope<T>(call, s.mean_rest[c0 + i], s.rstd[c0 + i], a[i], b[i]);
      shift[i] = of_channel.shift;
      slope[i] = of_channel.slope;
    }
    apply_backward(call, dims, s, group, c0, c1, shift, slope);
  });
}

template <class T>
void run(CpuQueue& queue, const NormBackward<T>& call) {
  const NormDims& dims = call.dims;
  if (dims.size() == 0) return add_nothing(queue, dims.channels, call.dgamma, call.dbeta);
  double* partial = partial_sums(queue, dims);
  backward_of_groups(queue, call, partial);
  finish_params(dims, partial, call.dgamma, call.dbeta);
}

template <class T>
void run(CpuQueue& queue, const NormPopulationForward<T>& call) {
  if (call.dims.size() == 0) return;
  const NormDims dims = per_sample(call.dims);
  const Population<T> given(dims, call.mean, call.variance);
  for_tasks<T>(queue, dims, [&](std::int64_t group, std::int64_t c0, std::int64_t c1) {
    apply(call, dims, given.statistics, group, c0, c1);
  });
}

template <class T>
void run(CpuQueue& queue, const NormPopulationBackward<T>& call) {
  if (call.dims.size() == 0) {
    return add_nothing(queue, call.dims.channels, call.dgamma, call.dbeta);
  }
  const NormDims dims = per_sample(call.dims);
  const Population<T> given(dims, call.mean, call.variance);
  const std::vector<T> zeros(static_cast<std::size_t>(dims.channels));
  double* partial = partial_sums(queue, dims);
  for_tasks<T>(queue, dims, [&](std::int64_t group, std::int64_t c0, std::int64_t c1) {
    thread_local simd::AlignedBuffer<double> sums;
    const auto [sum_dy, sum_dy_x_hat] = two_arrays(sums, c1 - c0);
    reduce_backward(call, dims, given.statistics, group, c0, c1, sum_dy, sum_dy_x_hat);
    add_to_bundle(dims, group, c0, c1, sum_dy, sum_dy_x_hat, partial);
    if (!call.dx.data) return;
    apply_backward(call, dims, given.statistics, group, c0, c1, zeros.data(), zeros.data());
  });
  finish_params(dims, partial, call.dgamma, call.dbeta);
}

template <class T>
void run(CpuQueue&, const NormUpdateRunning<T>& call) {
  if (call.dims.size() == 0) return;
  for (std::int64_t c = 0; c < call.dims.channels; ++c) move_running(call, c);
}

template <class T>
void run(CpuQueue& queue, View<NormUpdateRunning<T>> calls) {
  for (const NormUpdateRunning<T>& call : calls) run(queue, call);
}

template void apply_statistics(CpuQueue&, const NormForward<float>&);
template void apply_statistics(CpuQueue&, const NormForward<double>&);
template void backward_of_groups(CpuQueue&, const NormBackward<float>&, double*);
template void backward_of_groups(CpuQueue&, const NormBackward<double>&, double*);
template void finish_params(const NormDims&, const double*, GradOut<float>, GradOut<float>);
template void finish_params(const NormDims&, const double*, GradOut<double>, GradOut<double>);

template void run(CpuQueue&, const NormForward<float>&);
template void run(CpuQueue&, const NormForward<double>&);
template void run(CpuQueue&, const NormBackward<float>&);
template void run(CpuQueue&, const NormBackward<double>&);
template void run(CpuQueue&, const NormPopulationForward<float>&);
template void run(CpuQueue&, const NormPopulationForward<double>&);
template void run(CpuQueue&, const NormPopulationBackward<float>&);
template void run(CpuQueue&, const NormPopulationBackward<double>&);
template void run(CpuQueue&, const NormUpdateRunning<float>&);
template void run(CpuQueue&, const NormUpdateRunning<double>&);
template void run(CpuQueue&, View<NormUpdateRunning<float>>);
template void run(CpuQueue&, View<NormUpdateRunning<double>>);

}  // namespace sidechannel::kernels
