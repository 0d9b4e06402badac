#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>

#include "kernels/host_device.h"
#include "kernels/learning_rate.h"
#include "kernels/queue.h"

namespace sidechannel::kernels {

// Adam (Kingma & Ba 2015, Algorithm 1), in PyTorch's arrangement. Step t, counted from 1:
//
//   m = beta1 * m + (1 - beta1) * g        v = beta2 * v + (1 - beta2) * g^2
//   p = p - learning_rate(t - 1) / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon)
//
// On the CPU, m and v below the smallest normal number become 0.
struct AdamRule {
  LearningRate rate;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
};

// Where a training stands: in the queue's memory, so that a step can be repeated without the host.
struct AdamState {
  std::int64_t steps = 0;  // updates so far
  // Of the last step:
  double learning_rate = 0;
  double rate = 0;            // learning_rate / (1 - beta1^steps)
  double correction = 0;      // 1 / sqrt(1 - beta2^steps)
  double sum_of_squares = 0;  // of the gradient
  double loss = 0;
  // Not 0 from the first loss or gradient on that is not finite, or whose square would not be. That
  // step is not counted and changes no parameter, and none after it does: whenever the host looks,
  // the state is the one that led there, with the loss and the gradient that halted it.
  std::int64_t halted = 0;

  SC_HOST_DEVICE double gradient_norm() const { return std::sqrt(sum_of_squares); }
};

// beta^steps in multiplications, which every device rounds alike; the C library's power differs by
// processor in the last bit.
SC_HOST_DEVICE inline double decay(double beta, std::int64_t steps) {
  double power = 1;
  for (double factor = beta; steps > 0; steps /= 2, factor *= factor) {
    if (steps % 2 == 1) power *= factor;
  }
  return power;
}

// The state after one more step begins, with these numbers: the same function on every backend.
// `largest` is the largest number that v, the average of squares, can hold. Were it to become
// infinite, the parameter would never move again, and nothing would show it.
SC_HOST_DEVICE inline AdamState begin_step(const AdamRule& rule, AdamState state,
                                           double sum_of_squares, double loss, double largest) {
  if (state.halted != 0) return state;
  state.sum_of_squares = sum_of_squares;
  state.loss = loss;
  if (!std::isfinite(sum_of_squares) || sum_of_squares > largest || !std::isfinite(loss)) {
    state.halted = 1;
    return state;
  }
  state.learning_rate = rule.rate.at(state.steps);
  ++state.steps;
  state.rate = state.learning_rate / (1 - decay(rule.beta1, state.steps));
  state.correction = 1 / std::sqrt(1 - decay(rule.beta2, state.steps));
  return state;
}

// Begins a step: *state = begin_step(rule, *state, *sum_of_squares, *loss, the largest T). All
// three lie in the queue's memory.
template <class T>
struct AdamBegin {
  AdamRule rule;
  const double* sum_of_squares = nullptr;  // of the gradient
  const T* loss = nullptr;                 // a null loss counts as finite
  AdamState* state = nullptr;
};
template <class T>
void run(CpuQueue& queue, const AdamBegin<T>& call);
void run(CudaQueue& queue, const AdamBegin<float>& call);

// The update of the step that has begun; nothing once the state is halted. All parameters of a
// model in one flat buffer, in one pass.
template <class T>
struct AdamUpdate {
  AdamRule rule;
  const AdamState* state = nullptr;
  std::int64_t size = 0;
  const T* g = nullptr;  // [size], and so are:
  T* p = nullptr;
  T* m = nullptr;
  T* v = nullptr;
};
template <class T>
void run(CpuQueue& queue, const AdamUpdate<T>& call);
void run(CudaQueue& queue, const AdamUpdate<float>& call);

}  // namespace sidechannel::kernels
