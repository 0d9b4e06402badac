// Fused normalization and ReLU on the CPU.
//
// Threads split the work in tasks that hold whole sets: one group of samples times one block of
// channels. Within a task the sums run along the positions, a vector of channels at a time, sample
// by sample in order; then the sums of a set's channels are added in order. Two passes for the
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

// Channels of a task: whole sets, and at least a vector of them.
template <class T>
std::int64_t channel_block(const NormDims& dims) {
  const std::int64_t sets = (kLanes<Full<T>> + dims.channels_per_set - 1) / dims.channels_per_set;
  return std::min(dims.channels, sets * dims.channels_per_set);
}

// Calls body(group, c0, c1) for each task: sample group times channels [c0, c1).
template <class T, class Body>
void for_tasks(CpuQueue& queue, const NormDims& dims, const Body& body) {
  const std::int64_t block = channel_block<T>(dims);
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

// The sum over the positions of one sample of term(vector at x). Four running sums, because one
// would wait for each addition to end.
template <class D, class T, class Term>
HWY_INLINE simd::Vec<D> sum_positions(D d, const T* x, std::int64_t length, std::int64_t stride,
                                      const Term& term) {
  auto s0 = hn::Zero(d);
  auto s1 = hn::Zero(d);
  auto s2 = hn::Zero(d);
  auto s3 = hn::Zero(d);
  std::int64_t l = 0;
  for (; l + 4 <= length; l += 4, x += 4 * stride) {
    s0 = term(hn::LoadU(d, x), s0);
    s1 = term(hn::LoadU(d, x + stride), s1);
    s2 = term(hn::LoadU(d, x + 2 * stride), s2);
    s3 = term(hn::LoadU(d, x + 3 * stride), s3);
  }
  for (; l < length; ++l, x += stride) s0 = term(hn::LoadU(d, x), s0);
  return hn::Add(hn::Add(s0, s1), hn::Add(s2, s3));
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

// y = relu(x * scale + shift) per channel, for the samples of one group.
template <class T>
void apply(const NormDims& dims, std::int64_t group, std::int64_t c0, std::int64_t c1, const T* x,
           const T* mean, const T* rstd, const T* gamma, const T* beta, T* y) {
  simd::for_vectors<T>(c0, c1, [&](auto d, std::int64_t c) {
    const auto vmean = hn::LoadU(d, mean + c);
    const auto scale = hn::Mul(hn::LoadU(d, rstd + c), hn::LoadU(d, gamma + c));
    const auto vbeta = hn::LoadU(d, beta + c);
    const auto floor = dims.relu ? hn::Zero(d) : hn::Set(d, -HUGE_VALF);
    const std::int64_t first = group * dims.samples_per_set * dims.length;
    const std::int64_t last = first + dims.samples_per_set * dims.length;
    for (std::int64_t row = first; row < last; ++row) {
      const std::int64_t at = row * dims.channels + c;
      const auto value = hn::MulAdd(hn::Sub(hn::LoadU(d, x + at), vmean), scale, vbeta);
      hn::StoreU(hn::Max(value, floor), d, y + at);
    }
  });
}

// Sums of dy (behind the ReLU) and of dy * x_hat over the samples of a group, per channel.
template <class T>
void reduce_backward(const NormDims& dims, std::int64_t group, std::int64_t c0, std::int64_t c1,
                     const T* x, const T* mean, const T* rstd, const T* gamma, const T* beta,
                     const T* dy, T* sum_dy, T* sum_dy_x_hat) {
  simd::for_vectors<T>(c0, c1, [&](auto d, std::int64_t c) {
    const auto vmean = hn::LoadU(d, mean + c);
    const auto vrstd = hn::LoadU(d, rstd + c);
    const auto scale = hn::Mul(vrstd, hn::LoadU(d, gamma + c));
    const auto vbeta = hn::LoadU(d, beta + c);
    auto total = hn::Zero(d);
    auto total_x_hat = hn::Zero(d);
    for (std::int64_t i = 0; i < dims.samples_per_set; ++i) {
      const std::int64_t n = group * dims.samples_per_set + i;
      // Two interleaved sums each, as long as the length allows.
      auto s0 = hn::Zero(d), s1 = hn::Zero(d), t0 = hn::Zero(d), t1 = hn::Zero(d);
      const auto add = [&](std::int64_t l, auto& s, auto& t) {
        const std::int64_t at = (n * dims.length + l) * dims.channels + c;
        const auto centred = hn::Sub(hn::LoadU(d, x + at), vmean);
        auto g = hn::LoadU(d, dy + at);
        if (dims.relu) {
          g = hn::IfThenElseZero(hn::Gt(hn::MulAdd(centred, scale, vbeta), hn::Zero(d)), g);
        }
        s = hn::Add(s, g);
        t = hn::MulAdd(g, centred, t);
      };
      std::int64_t l = 0;
      for (; l + 2 <= dims.length; l += 2) {
        add(l, s0, t0);
        add(l + 1, s1, t1);
      }
      if (l < dims.length) add(l, s0, t0);
      total = hn::Add(total, hn::Add(s0, s1));
      total_x_hat = hn::Add(total_x_hat, hn::Add(t0, t1));
    }
    hn::StoreU(total, d, sum_dy + c);
    hn::StoreU(hn::Mul(total_x_hat, vrstd), d, sum_dy_x_hat + c);
  });
}

// dx = rstd * (gamma * dy - mean_dy - x_hat * mean_dy_x_hat); the two means are those over the
// set of gamma * dy and gamma * dy * x_hat (zero where statistics are constants).
template <class T>
void apply_backward(const NormDims& dims, std::int64_t group, std::int64_t c0, std::int64_t c1,
                    const T* x, const T* mean, const T* rstd, const T* gamma, const T* beta,
                    const T* dy, const T* mean_dy, const T* mean_dy_x_hat, GradOut<T> dx) {
  simd::for_vectors<T>(c0, c1, [&](auto d, std::int64_t c) {
    const auto vmean = hn::LoadU(d, mean + c);
    const auto vrstd = hn::LoadU(d, rstd + c);
    const auto scale = hn::Mul(vrstd, hn::LoadU(d, gamma + c));
    const auto vbeta = hn::LoadU(d, beta + c);
    const auto shift = hn::Mul(vrstd, hn::LoadU(d, mean_dy + c));
    const auto slope = hn::Mul(hn::Mul(vrstd, vrstd), hn::LoadU(d, mean_dy_x_hat + c));
    const std::int64_t first = group * dims.samples_per_set * dims.length;
    const std::int64_t last = first + dims.samples_per_set * dims.length;
    for (std::int64_t row = first; row < last; ++row) {
      const std::int64_t at = row * dims.channels + c;
      const auto centred = hn::Sub(hn::LoadU(d, x + at), vmean);
      auto g = hn::LoadU(d, dy + at);
      if (dims.relu) {
        g = hn::IfThenElseZero(hn::Gt(hn::MulAdd(centred, scale, vbeta), hn::Zero(d)), g);
      }
      auto result = hn::NegMulAdd(centred, slope, hn::MulSub(g, scale, shift));
      if (dx.write == Write::kAccumulate) result = hn::Add(result, hn::LoadU(d, dx.data + at));
      hn::StoreU(result, d, dx.data + at);
    }
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
    // Sums `term` over all positions of the group's samples into out[c], then over each set.
    const auto reduce = [&](T* out, const auto& make_term) {
      simd::for_vectors<T>(c0, c1, [&](auto d, std::int64_t c) {
        const auto term = make_term(d, c);
        auto total = hn::Zero(d);
        for (std::int64_t i = 0; i < dims.samples_per_set; ++i) {
          const std::int64_t n = group * dims.samples_per_set + i;
          total = hn::Add(total, sum_positions(d, x + n * dims.length * dims.channels + c,
                                               dims.length, dims.channels, term));
        }
        hn::StoreU(total, d, out + c);
      });
      total_over_sets(dims, out + c0, c1 - c0);
    };
    reduce(m, [](auto, std::int64_t) {
      return [](auto v, auto sum) { return hn::Add(sum, v); };
    });
    for (std::int64_t c = c0; c < c1; ++c) m[c] *= per_value;
    reduce(r, [m](auto d, std::int64_t c) {
      const auto vmean = hn::LoadU(d, m + c);
      return [vmean](auto v, auto sum) {
        const auto centred = hn::Sub(v, vmean);
        return hn::MulAdd(centred, centred, sum);
      };
    });
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
      running_mean[c] =
          static_cast<T>((1 - momentum) * static_cast<double>(running_mean[c]) + momentum * current_mean);
      running_variance[c] = static_cast<T>((1 - momentum) * static_cast<double>(running_variance[c]) +
                                           momentum * current_variance);
    }
  }
}

#define SIDECHANNEL_INSTANTIATE(T)                                                                 \
  template void norm_relu_forward(CpuQueue&, const NormDims&, const T*, const T*, const T*, T*,    \
                                  T*, T*);                                                         \
  template void norm_relu_backward(CpuQueue&, const NormDims&, const T*, const T*, const T*,       \
                                   const T*, const T*, const T*, GradOut<T>, GradOut<T>,           \
                                   GradOut<T>);                                                    \
  template void norm_relu_population_forward(CpuQueue&, const NormDims&, const T*, const T*,       \
                                             const T*, const T*, const T*, T*);                    \
  template void norm_relu_population_backward(CpuQueue&, const NormDims&, const T*, const T*,      \
                                              const T*, const T*, const T*, const T*, GradOut<T>,  \
                                              GradOut<T>, GradOut<T>);                             \
  template void norm_update_running(CpuQueue&, const NormDims&, double, const T*, const T*, T*,    \
                                    T*);
SIDECHANNEL_INSTANTIATE(float)
SIDECHANNEL_INSTANTIATE(double)
#undef SIDECHANNEL_INSTANTIATE

}  // namespace sidechannel::kernels
