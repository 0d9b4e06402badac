// Fused normalization and ReLU on the CPU.
//
// Threads split the work in tasks that hold whole sets: one group of samples times one block of
// channels. Within a task the sums run along the positions, in the order of memory, even and odd
// positions apart; then the sums of a set's channels are added in order. Two passes for the
// statistics (mean, then centred squares), because E[x^2] - mean^2 cancels.

#include "kernels/norm_relu.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cpu/simd.h"

namespace sidechannel::kernels {
namespace {

using simd::Full;
using simd::kLanes;
namespace hn = simd::hn;

// Channels of a task: all of them when there are sample groups for every thread, otherwise fewer,
// but whole sets and at least a vector. Each channel is computed alike whatever the split.
template <class T>
std::int64_t channels_per_task(const CpuQueue& queue, const NormDims& dims) {
  const std::int64_t tasks = 2 * queue.threads();
  const std::int64_t parts = (tasks + dims.sample_groups() - 1) / dims.sample_groups();
  const std::int64_t wanted = std::max(dims.channels / parts, kLanes<Full<T>>);
  const std::int64_t sets = (wanted + dims.channels_per_set - 1) / dims.channels_per_set;
  return std::min(dims.channels, sets * dims.channels_per_set);
}

// Calls body(group, c0, c1) for each task: sample group times channels [c0, c1).
template <class T, class Body>
void for_tasks(CpuQueue& queue, const NormDims& dims, const Body& body) {
  const std::int64_t block = channels_per_task<T>(queue, dims);
  const std::int64_t blocks = (dims.channels + block - 1) / block;
  queue.parallel_for(dims.sample_groups() * blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t c0 = task % blocks * block;
      body(task / blocks, c0, std::min(c0 + block, dims.channels));
    }
  });
}

// Replaces each channel's value by the total over its set.
template <class T>
void total_over_sets(const NormDims& dims, T* values, std::int64_t count) {
  if (dims.channels_per_set == 1) return;
  for (std::int64_t c = 0; c < count; c += dims.channels_per_set) {
    T total = 0;
    for (std::int64_t i = 0; i < dims.channels_per_set; ++i) total += values[c + i];
    std::fill_n(values + c, dims.channels_per_set, total);
  }
}

// kRow neighbouring vectors of channels, for all positions of the samples of a group: a walk
// through memory in its order.
template <int kRow, class D>
struct Row {
  using V = simd::Vec<D>;
  static constexpr std::int64_t lanes = kLanes<D>;
  V v[kRow];

  template <class T>
  static Row load(D d, const T* from) {
    Row row;
    row.each([&](int j) { row.v[j] = hn::LoadU(d, from + j * lanes); });
    return row;
  }
  static Row zero(D d) {
    Row row;
    row.each([&](int j) { row.v[j] = hn::Zero(d); });
    return row;
  }
  template <class T>
  void store(D d, T* to) const {
    each([&](int j) { hn::StoreU(v[j], d, to + j * lanes); });
  }
  void add(const Row& other) {
    each([&](int j) { v[j] = hn::Add(v[j], other.v[j]); });
  }
  template <class F>
  static HWY_INLINE void each(const F& f) {
#pragma GCC unroll 4
    for (int j = 0; j < kRow; ++j) f(j);
  }
};

// Calls term(offset of a row, even) for every position of every sample of the group in order, where
// `even` tells which of two running sums to add to: one alone would wait for each addition to end.
template <class Term>
HWY_INLINE void for_positions(const NormDims& dims, std::int64_t group, const Term& term) {
  const std::int64_t first = group * dims.samples_per_set * dims.length * dims.channels;
  const std::int64_t last = first + dims.samples_per_set * dims.length * dims.channels;
  std::int64_t at = first;
  for (; at + dims.channels < last; at += 2 * dims.channels) {
    term(at, std::true_type());
    term(at + dims.channels, std::false_type());
  }
  if (at < last) term(at, std::true_type());
}

// Gradients of gamma and beta, summed over the sample groups in order.
// partial [groups, 2, channels]: sums of dy and of dy * x_hat.
template <class T>
void finish_params(const NormDims& dims, const T* partial, GradOut<T> dgamma, GradOut<T> dbeta) {
  const auto add_up = [&](const T* sums, GradOut<T> out) {
    if (!out.data) return;
    if (out.write == Write::kOverwrite) std::fill_n(out.data, dims.channels, T(0));
    for (std::int64_t group = 0; group < dims.sample_groups(); ++group) {
      for (std::int64_t c = 0; c < dims.channels; ++c) {
        out.data[c] += sums[group * 2 * dims.channels + c];
      }
    }
  };
  add_up(partial, dbeta);
  add_up(partial + dims.channels, dgamma);
}

// What the backward passes need of a row of channels.
template <int kRow, class D, class T>
struct RowConstants {
  using R = Row<kRow, D>;
  R mean, rstd, scale, beta;  // scale = rstd * gamma
  bool relu;

  RowConstants(D d, const NormDims& dims, std::int64_t c, const T* mean_, const T* rstd_,
               const T* gamma, const T* beta_)
      : mean(R::load(d, mean_ + c)),
        rstd(R::load(d, rstd_ + c)),
        scale(R::load(d, gamma + c)),
        beta(R::load(d, beta_ + c)),
        relu(dims.relu) {
    R::each([&](int j) { scale.v[j] = hn::Mul(rstd.v[j], scale.v[j]); });
  }
  // x - mean, and dy where the ReLU let x through.
  HWY_INLINE void centre_and_mask(D d, int j, simd::Vec<D>& x, simd::Vec<D>& dy) const {
    x = hn::Sub(x, mean.v[j]);
    if (relu) {
      const auto before = hn::MulAdd(x, scale.v[j], beta.v[j]);
      dy = hn::IfThenElseZero(hn::Gt(before, hn::Zero(d)), dy);
    }
  }
};

// y = relu(x_hat * gamma + beta) for the samples of one group.
template <class T>
void apply(const NormDims& dims, std::int64_t group, std::int64_t c0, std::int64_t c1, const T* x,
           const T* mean, const T* rstd, const T* gamma, const T* beta, T* y) {
  simd::for_vector_rows<T>(c0, c1, [&](auto d, auto row, std::int64_t c) {
    using R = Row<decltype(row)::value, decltype(d)>;
    const RowConstants<decltype(row)::value, decltype(d), T> k(d, dims, c, mean, rstd, gamma, beta);
    const auto floor = dims.relu ? hn::Zero(d) : hn::Set(d, -HUGE_VALF);
    for_positions(dims, group, [&](std::int64_t at, auto) {
      R value = R::load(d, x + at + c);
      R::each([&](int j) {
        value.v[j] = hn::MulAdd(hn::Sub(value.v[j], k.mean.v[j]), k.scale.v[j], k.beta.v[j]);
        value.v[j] = hn::Max(floor, value.v[j]);  // in this order NaN stays NaN
      });
      value.store(d, y + at + c);
    });
  });
}

// Sums of dy (behind the ReLU) and of dy * x_hat over the samples of a group, per channel.
template <class T>
void reduce_backward(const NormDims& dims, std::int64_t group, std::int64_t c0, std::int64_t c1,
                     const T* x, const T* mean, const T* rstd, const T* gamma, const T* beta,
                     const T* dy, T* sum_dy, T* sum_dy_x_hat) {
  simd::for_vector_rows<T>(c0, c1, [&](auto d, auto row, std::int64_t c) {
    using R = Row<decltype(row)::value, decltype(d)>;
    const RowConstants<decltype(row)::value, decltype(d), T> k(d, dims, c, mean, rstd, gamma, beta);
    R s0 = R::zero(d), s1 = R::zero(d), t0 = R::zero(d), t1 = R::zero(d);
    for_positions(dims, group, [&](std::int64_t at, auto even) {
      R centred = R::load(d, x + at + c);
      R g = R::load(d, dy + at + c);
      R& s = decltype(even)::value ? s0 : s1;
      R& t = decltype(even)::value ? t0 : t1;
      R::each([&](int j) {
        k.centre_and_mask(d, j, centred.v[j], g.v[j]);
        s.v[j] = hn::Add(s.v[j], g.v[j]);
        t.v[j] = hn::MulAdd(g.v[j], centred.v[j], t.v[j]);
      });
    });
    s0.add(s1);
    t0.add(t1);
    R::each([&](int j) { t0.v[j] = hn::Mul(t0.v[j], k.rstd.v[j]); });
    s0.store(d, sum_dy + c);
    t0.store(d, sum_dy_x_hat + c);
  });
}

// dx = rstd * (gamma * dy - mean_dy - x_hat * mean_dy_x_hat); the two means are those over the
// set of gamma * dy and gamma * dy * x_hat (zero where statistics are constants).
template <class T>
void apply_backward(const NormDims& dims, std::int64_t group, std::int64_t c0, std::int64_t c1,
                    const T* x, const T* mean, const T* rstd, const T* gamma, const T* beta,
                    const T* dy, const T* mean_dy, const T* mean_dy_x_hat, GradOut<T> dx) {
  simd::for_vector_rows<T>(c0, c1, [&](auto d, auto row, std::int64_t c) {
    using R = Row<decltype(row)::value, decltype(d)>;
    const RowConstants<decltype(row)::value, decltype(d), T> k(d, dims, c, mean, rstd, gamma, beta);
    R shift = R::load(d, mean_dy + c);
    R slope = R::load(d, mean_dy_x_hat + c);
    R::each([&](int j) {
      shift.v[j] = hn::Mul(k.rstd.v[j], shift.v[j]);
      slope.v[j] = hn::Mul(hn::Mul(k.rstd.v[j], k.rstd.v[j]), slope.v[j]);
    });
    for_positions(dims, group, [&](std::int64_t at, auto) {
      R centred = R::load(d, x + at + c);
      R g = R::load(d, dy + at + c);
      R::each([&](int j) {
        k.centre_and_mask(d, j, centred.v[j], g.v[j]);
        g.v[j] =
            hn::NegMulAdd(centred.v[j], slope.v[j], hn::MulSub(g.v[j], k.scale.v[j], shift.v[j]));
      });
      if (dx.write == Write::kAccumulate) g.add(R::load(d, dx.data + at + c));
      g.store(d, dx.data + at + c);
    });
  });
}

// 1 / sqrt(variance + epsilon) of population statistics.
template <class T>
std::vector<T> population_rstd(const NormDims& dims, const T* variance) {
  std::vector<T> rstd(static_cast<std::size_t>(dims.channels));
  for (std::size_t c = 0; c < rstd.size(); ++c) {
    rstd[c] = T(1) / std::sqrt(variance[c] + static_cast<T>(dims.epsilon));
  }
  return rstd;
}

// The population's statistics do not mix samples: any split of the batch will do.
NormDims per_sample(NormDims dims) {
  dims.channels_per_set = 1;
  dims.samples_per_set = 1;
  return dims;
}

template <class T>
T* partial_sums(CpuQueue& queue, const NormDims& dims) {
  return static_cast<T*>(queue.scratch(
      static_cast<std::size_t>(dims.sample_groups() * 4 * dims.channels) * sizeof(T)));
}

}  // namespace

template <class T>
void norm_relu_forward(CpuQueue& queue, const NormDims& dims, const T* x, const T* gamma,
                       const T* beta, T* y, T* mean, T* rstd) {
  const T per_value = T(1) / static_cast<T>(dims.set_size());
  for_tasks<T>(queue, dims, [&](std::int64_t group, std::int64_t c0, std::int64_t c1) {
    T* m = mean + group * dims.channels;
    T* r = rstd + group * dims.channels;
    simd::for_vector_rows<T>(c0, c1, [&](auto d, auto row, std::int64_t c) {
      using R = Row<decltype(row)::value, decltype(d)>;
      R s0 = R::zero(d), s1 = R::zero(d);
      for_positions(dims, group, [&](std::int64_t at, auto even) {
        (decltype(even)::value ? s0 : s1).add(R::load(d, x + at + c));
      });
      s0.add(s1);
      s0.store(d, m + c);
    });
    total_over_sets(dims, m + c0, c1 - c0);
    for (std::int64_t c = c0; c < c1; ++c) m[c] *= per_value;

    simd::for_vector_rows<T>(c0, c1, [&](auto d, auto row, std::int64_t c) {
      using R = Row<decltype(row)::value, decltype(d)>;
      const R means = R::load(d, m + c);
      R s0 = R::zero(d), s1 = R::zero(d);
      for_positions(dims, group, [&](std::int64_t at, auto even) {
        const R value = R::load(d, x + at + c);
        R& s = decltype(even)::value ? s0 : s1;
        R::each([&](int j) {
          const auto centred = hn::Sub(value.v[j], means.v[j]);
          s.v[j] = hn::MulAdd(centred, centred, s.v[j]);
        });
      });
      s0.add(s1);
      s0.store(d, r + c);
    });
    total_over_sets(dims, r + c0, c1 - c0);
    for (std::int64_t c = c0; c < c1; ++c) {
      r[c] = T(1) / std::sqrt(r[c] * per_value + static_cast<T>(dims.epsilon));
    }
    apply(dims, group, c0, c1, x, m, r, gamma, beta, y);
  });
}

template <class T>
void norm_relu_backward(CpuQueue& queue, const NormDims& dims, const T* x, const T* gamma,
                        const T* beta, const T* mean, const T* rstd, const T* dy, GradOut<T> dx,
                        GradOut<T> dgamma, GradOut<T> dbeta) {
  T* partial = partial_sums<T>(queue, dims);
  T* set_means = partial + dims.sample_groups() * 2 * dims.channels;
  const T per_value = T(1) / static_cast<T>(dims.set_size());
  for_tasks<T>(queue, dims, [&](std::int64_t group, std::int64_t c0, std::int64_t c1) {
    const T* m = mean + group * dims.channels;
    const T* r = rstd + group * dims.channels;
    T* sum_dy = partial + group * 2 * dims.channels;
    T* sum_dy_x_hat = sum_dy + dims.channels;
    reduce_backward(dims, group, c0, c1, x, m, r, gamma, beta, dy, sum_dy, sum_dy_x_hat);
    if (!dx.data) return;
    T* mean_dy = set_means + group * 2 * dims.channels;
    T* mean_dy_x_hat = mean_dy + dims.channels;
    for (std::int64_t c = c0; c < c1; ++c) {
      mean_dy[c] = sum_dy[c] * gamma[c] * per_value;
      mean_dy_x_hat[c] = sum_dy_x_hat[c] * gamma[c] * per_value;
    }
    total_over_sets(dims, mean_dy + c0, c1 - c0);
    total_over_sets(dims, mean_dy_x_hat + c0, c1 - c0);
    apply_backward(dims, group, c0, c1, x, m, r, gamma, beta, dy, mean_dy, mean_dy_x_hat, dx);
  });
  finish_params(dims, partial, dgamma, dbeta);
}

template <class T>
void norm_relu_population_forward(CpuQueue& queue, const NormDims& population, const T* x,
                                  const T* gamma, const T* beta, const T* mean, const T* variance,
                                  T* y) {
  const NormDims dims = per_sample(population);
  const std::vector<T> rstd = population_rstd(dims, variance);
  for_tasks<T>(queue, dims, [&](std::int64_t group, std::int64_t c0, std::int64_t c1) {
    apply(dims, group, c0, c1, x, mean, rstd.data(), gamma, beta, y);
  });
}

template <class T>
void norm_relu_population_backward(CpuQueue& queue, const NormDims& population, const T* x,
                                   const T* gamma, const T* beta, const T* mean, const T* variance,
                                   const T* dy, GradOut<T> dx, GradOut<T> dgamma,
                                   GradOut<T> dbeta) {
  const NormDims dims = per_sample(population);
  const std::vector<T> rstd = population_rstd(dims, variance);
  const std::vector<T> zeros(static_cast<std::size_t>(dims.channels));
  T* partial = partial_sums<T>(queue, dims);
  for_tasks<T>(queue, dims, [&](std::int64_t group, std::int64_t c0, std::int64_t c1) {
    T* sum_dy = partial + group * 2 * dims.channels;
    reduce_backward(dims, group, c0, c1, x, mean, rstd.data(), gamma, beta, dy, sum_dy,
                    sum_dy + dims.channels);
    if (dx.data) {
      apply_backward(dims, group, c0, c1, x, mean, rstd.data(), gamma, beta, dy, zeros.data(),
                     zeros.data(), dx);
    }
  });
  finish_params(dims, partial, dgamma, dbeta);
}

template <class T>
void norm_update_running(CpuQueue&, const NormDims& dims, double momentum, const T* mean,
                         const T* rstd, T* running_mean, T* running_variance) {
  const auto count = static_cast<double>(dims.set_size());
  const bool average_first = dims.samples_per_set == 1;
  const std::int64_t updates = average_first ? 1 : dims.sample_groups();
  const std::int64_t sets = average_first ? dims.sample_groups() : 1;  // of one update
  for (std::int64_t c = 0; c < dims.channels; ++c) {
    for (std::int64_t update = 0; update < updates; ++update) {
      double current_mean = 0;
      double current_variance = 0;
      for (std::int64_t set = update * sets; set < (update + 1) * sets; ++set) {
        const double r = rstd[set * dims.channels + c];
        current_mean += mean[set * dims.channels + c];
        current_variance += std::max(0.0, 1 / (r * r) - dims.epsilon);
      }
      current_mean /= static_cast<double>(sets);
      current_variance *= count / std::max(1.0, count - 1) / static_cast<double>(sets);
      running_mean[c] = static_cast<T>((1 - momentum) * static_cast<double>(running_mean[c]) +
                                       momentum * current_mean);
      running_variance[c] = static_cast<T>(
          (1 - momentum) * static_cast<double>(running_variance[c]) + momentum * current_variance);
    }
  }
}

#define SIDECHANNEL_INSTANTIATE(T)                                                                \
  template void norm_relu_forward(CpuQueue&, const NormDims&, const T*, const T*, const T*, T*,   \
                                  T*, T*);                                                        \
  template void norm_relu_backward(CpuQueue&, const NormDims&, const T*, const T*, const T*,      \
                                   const T*, const T*, const T*, GradOut<T>, GradOut<T>,          \
                                   GradOut<T>);                                                   \
  template void norm_relu_population_forward(CpuQueue&, const NormDims&, const T*, const T*,      \
                                             const T*, const T*, const T*, T*);                   \
  template void norm_relu_population_backward(CpuQueue&, const NormDims&, const T*, const T*,     \
                                              const T*, const T*, const T*, const T*, GradOut<T>, \
                                              GradOut<T>, GradOut<T>);                            \
  template void norm_update_running(CpuQueue&, const NormDims&, double, const T*, const T*, T*, T*);
SIDECHANNEL_INSTANTIATE(float)
SIDECHANNEL_INSTANTIATE(double)
#undef SIDECHANNEL_INSTANTIATE

}  // namespace sidechannel::kernels
