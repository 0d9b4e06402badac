#include "kernels/norm_act.h"

#include "engine/ops.h"

namespace sidechannel {
namespace {

// Checks everything that the two kinds of statistics have in common.
kernels::NormDims norm_dims(const char* name, const Var& x, const Var& gamma, const Var& beta,
                            const NormOptions& options) {
  SC_CHECK(x.shape().rank() == 3, "{}: expected x of shape [N, L, C], got {}", name,
           x.shape().str());
  const std::int64_t channels = x.shape()[2];
  SC_CHECK(gamma.shape() == Shape{channels} && beta.shape() == Shape{channels},
           "{}: expected gamma and beta of shape [{}], got {} and {}", name, channels,
           gamma.shape().str(), beta.shape().str());
  return {.batch = x.shape()[0],
          .length = x.shape()[1],
          .channels = channels,
          .channels_per_set = options.channels_per_set,
          .samples_per_set = options.samples_per_set,
          .epsilon = options.epsilon,
          .activation = options.activation,
          .positions_per_set = options.positions_per_set};
}

void check_statistics(const char* name, const Tensor& mean, const Tensor& variance,
                      std::int64_t channels) {
  SC_CHECK(mean.shape() == Shape{channels} && variance.shape() == Shape{channels},
           "{}: expected a mean and a variance of shape [{}], got {} and {}", name, channels,
           mean.shape().str(), variance.shape().str());
}

// Those in one tensor [3, groups, channels].
template <class T>
kernels::NormStatistics<T> parts_of(const Tensor& statistics) {
  T* first = statistics.data<T>();
  const std::int64_t size = statistics.size() / 3;
  return {first, first + size, first + 2 * size};
}

}  // namespace

Var norm_act(const Var& x, const Var& gamma, const Var& beta, const NormOptions& options) {
  const kernels::NormDims dims = norm_dims("norm_act", x, gamma, beta, options);
  SC_CHECK(dims.channels_per_set >= 1 && dims.channels % dims.channels_per_set == 0,
           "norm_act: sets of {} channels do not divide {} channels", dims.channels_per_set,
           dims.channels);
  SC_CHECK(dims.samples_per_set >= 1 && dims.batch % dims.samples_per_set == 0,
           "norm_act: sets of {} samples do not divide a batch of {}", dims.samples_per_set,
           dims.batch);
  const std::int64_t positions = dims.positions_per_set;
  SC_CHECK(positions >= 0 && (positions == 0 || dims.length % positions == 0),
           "norm_act: sets of {} positions do not divide a length of {}", positions, dims.length);
  SC_CHECK(positions == 0 || dims.samples_per_set == 1,
           "norm_act: sets of {} positions hold one sample, not {}", positions,
           dims.samples_per_set);
  Tape& tape = x.tape();
  Var y = tape.make(x.shape());
  const Tensor statistics = tape.make({3, dims.groups(), dims.channels}).value();
  on(x.device(), x.dtype(), [&]<class T>(auto& queue) {
    run(queue, kernels::NormForward<T>{.dims = dims,
                                       .x = x.data<T>(),
                                       .gamma = gamma.data<T>(),
                                       .beta = beta.data<T>(),
                                       .y = y.data<T>(),
                                       .statistics = parts_of<T>(statistics)});
    if (RunningStatistics* running = options.update) {
      SC_CHECK(dims.channels_per_set == 1 && positions == 0,
               "norm_act: running statistics need sets of one channel and all positions, got {} "
               "channels and {} positions",
               dims.channels_per_set, positions == 0 ? dims.length : positions);
      check_statistics("norm_act", running->mean, running->variance, dims.channels);
      run(queue, kernels::NormUpdateRunning<T>{.dims = dims,
                                               .momentum = running->momentum,
                                               .statistics = parts_of<T>(statistics),
                                               .running_mean = running->mean.data<T>(),
                                               .running_variance = running->variance.data<T>()});
    }
  });
  tape.record(y, {x, gamma, beta}, [=](Grads& g) {
    on(x.device(), x.dtype(), [&]<class T>(auto& queue) {
      run(queue, kernels::NormBackward<T>{.dims = dims,
                                          .x = x.data<T>(),
                                          .gamma = gamma.data<T>(),
                                          .beta = beta.data<T>(),
                                          .statistics = parts_of<T>(statistics),
                                          .dy = g.output<T>(),
                                          .dx = g.into<T>(x),
                                          .dbeta = g.into<T>(beta),
                                          .dgamma = g.into<T>(gamma)});
    });
  });
  return y;
}

Var norm_act_population(const Var& x, const Var& gamma, const Var& beta, const Tensor& mean,
                        const Tensor& variance, const NormOptions& options) {
  const kernels::NormDims dims = norm_dims("norm_act_population", x, gamma, beta, options);
  check_statistics("norm_act_population", mean, variance, dims.channels);
  Var y = x.tape().make(x.shape());
  on(x.device(), x.dtype(), [&]<class T>(auto& queue) {
    run(queue, kernels::NormPopulationForward<T>{.dims = dims,
                                                 .x = x.data<T>(),
                                                 .gamma = gamma.data<T>(),
                                                 .beta = beta.data<T>(),
                                                 .mean = mean.data<T>(),
                                                 .variance = variance.data<T>(),
                                                 .y = y.data<T>()});
  });
  x.tape().record(y, {x, gamma, beta}, [=](Grads& g) {
    on(x.device(), x.dtype(), [&]<class T>(auto& queue) {
      run(queue, kernels::NormPopulationBackward<T>{.dims = dims,
                                                    .x = x.data<T>(),
                                                    .gamma = gamma.data<T>(),
                                                    .beta = beta.data<T>(),
                                                    .mean = mean.data<T>(),
                                                    .variance = variance.data<T>(),
                                                    .dy = g.output<T>(),
                                                    .dx = g.into<T>(x),
                                                    .dbeta = g.into<T>(beta),
                                                    .dgamma = g.into<T>(gamma)});
    });
  });
  return y;
}

}  // namespace sidechannel
