#pragma once

// What several operations ask of their inputs: the dims of a kernel's call, or an Error that names
// the operation.

#include <span>

#include "engine/norm.h"
#include "engine/tape.h"
#include "kernels/conv1d.h"
#include "kernels/norm_act.h"

namespace sidechannel {

// Of either kind of convolution: the weight's shape in words, and which of its axes is C_in.
void check_convolution(const char* name, const Shape& x, const Var& w, const char* w_shape,
                       int axis_in, const Var& b, std::int64_t padding, std::int64_t stride);
kernels::Conv1dDims conv1d_dims(const char* name, const Shape& x, const Var& w, const Var& b,
                                std::int64_t padding, std::int64_t stride = 1);

kernels::NormDims norm_dims(const char* name, const Shape& x, const Var& gamma, const Var& beta,
                            const NormOptions& options);
// The same, of a normalization by the batch's statistics.
kernels::NormDims batch_norm_dims(const char* name, const Shape& x, const Var& gamma,
                                  const Var& beta, const NormOptions& options);

// Statistics of a call, in one tensor [3, groups, channels].
template <class T>
kernels::NormStatistics<T> parts_of(const Tensor& statistics) {
  T* first = statistics.data<T>();
  const std::int64_t size = statistics.size() / 3;
  return {first, first + size, first + 2 * size};
}

// Moves the running statistics of layers that have some, by the batch's.
struct RunningUpdate {
  RunningStatistics* running = nullptr;
  kernels::NormDims dims;
  Tensor statistics;
};
void update_running(std::span<const RunningUpdate> layers);

}  // namespace sidechannel
