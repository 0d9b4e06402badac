#include "kernels/norm_act.h"

#include <vector>

#include "engine/ops.h"
#include "engine/ops/dims.h"

namespace sidechannel {
namespace {

void check_statistics(const char* name, const Tensor& mean, const Tensor& variance,
                      std::int64_t channels) {
  SC_CHECK(mean.shape() == Shape{channels} && variance.shape() == Shape{channels},
           "{}: expected a mean and a variance of shape [{}], got {} and {}", name, channels,
           mean.shape().str(), variance.shape().str());
}

}  // namespace

// Checks everything that the two kinds of statistics have in common.
kernels::NormDims norm_dims(const char* name, const Shape& x, const Var& gamma, const Var& beta,
                            const NormOptions& options) {
  SC_CHECK(x.rank() == 3, "{}: expected x of shape [N, L, C], got {}", name, x.str());
  const std::int64_t channels = x[2];
  SC_CHECK(gamma.shape() == Shape{channels} && beta.shape() == Shape{channels},
           "{}: expected gamma and beta of shape [{}], got {} and {}", name, channels,
           gamma.shape().str(), beta.shape().str());
  return {.batch = x[0],
          .length = x[1],
          .channels = channels,
          .channels_per_set = options.channels_per_set,
          .samples_per_set = options.samples_per_set,
          .epsilon = options.epsilon,
          .activation = options.activation,
          .positions_per_set = options.positions_per_set,
          .centred = options.centred};
}

kernels::NormDims batch_norm_dims(const char* name, const Shape& x, const Var& gamma,
                                  const Var& beta, const NormOptions& options) {
  const kernels::NormDims dims = norm_dims(name, x, gamma, beta, options);
  SC_CHECK(dims.channels_per_set >= 1 && dims.channels % dims.channels_per_set == 0,
           "{}: sets of {} channels do not divide {} channels", name, dims.channels_per_set,
           dims.channels);
  SC_CHECK(dims.samples_per_set >= 1 && dims.batch % dims.samples_per_set == 0,
           "{}: sets of {} samples do not divide a batch of {}", name, dims.samples_per_set,
           dims.batch);
  const std::int64_t positions = dims.positions_per_set;
  SC_CHECK(positions >= 0 && (positions == 0 || dims.length % positions == 0),
           "{}: sets of {} positions do not divide a length of {}", name, positions, dims.length);
  SC_CHECK(positions == 0 || dims.samples_per_set == 1,
           "{}: sets of {} positions hold one sample, not {}", name, positions,
           dims.samples_per_set);
  if (const RunningStatistics* running = options.update) {
    SC_CHECK(positions == 0, "{}: running statistics need sets of all positions, got {} of {}",
             name, positions, dims.length);
    SC_CHECK(dims.centred, "{}: RMS statistics have no mean for running statistics to follow",
             name);
    check_statistics(name, running->mean, running->variance, dims.channels);
  }
  return dims;
}

void update_running(std::span<const RunningUpdate> layers) {
  if (layers.empty()) return;
  const Tensor& first = layers[0].statistics;
  on(first.device(), first.dtype(), [&]<class T>(auto& queue) {
    std::vector<kernels::NormUpdateRunning<T>> calls;
    for (const RunningUpdate& layer : layers) {
      const RunningStatistics* running = layer.running;
      if (running == nullptr) continue;
      calls.push_back({.dims = layer.dims,
                       .momentum = running->momentum,
                       .statistics = parts_of<T>(layer.statistics),
                       .running_mean = running->mean.data<T>(),
                       .running_variance = running->variance.data<T>()});
    }
    run(queue, kernels::View<kernels::NormUpdateRunning<T>>(calls));
  });
}

Var norm_act(const Var& x, const Var& gamma, const Var& beta, const NormOptions& options) {
  const kernels::NormDims dims = batch_norm_dims("norm_act", x.shape(), gamma, beta, options);
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
  });
  update_running(std::vector<RunningUpdate>{{options.update, dims, statistics}});
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
                                          .dgamma = g.into<T>(gamma),
                                          .through_mean = options.through_mean,
                                          .through_variance = options.through_variance});
    });
  });
  return y;
}

Var norm_act_population(const Var& x, const Var& gamma, const Var& beta, const Tensor& mean,
                        const Tensor& variance, const NormOptions& options) {
  const kernels::NormDims dims = norm_dims("norm_act_population", x.shape(), gamma, beta, options);
  SC_CHECK(dims.centred, "norm_act_population: RMS statistics have no population");
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
