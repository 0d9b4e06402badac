#pragma once

// What layers in a row (conv_norm_act.cpp) take of norm_act.cpp beside its calls. Of sets that hold
// all positions.

#include "kernels/norm_act.h"

namespace sidechannel::kernels {

// The call's y, from statistics that are there.
template <class T>
void apply_statistics(CpuQueue& queue, const NormForward<T>& call);

// The call's dx, and the sums of each group for dbeta and dgamma: partial [groups, 2, channels].
template <class T>
void backward_of_groups(CpuQueue& queue, const NormBackward<T>& call, double* partial);

// dbeta and dgamma, from all groups' sums.
template <class T>
void finish_params(const NormDims& dims, const double* partial, GradOut<T> dgamma,
                   GradOut<T> dbeta);

}  // namespace sidechannel::kernels
