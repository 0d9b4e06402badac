#pragma once

#include <cstdint>

#include "engine/tensor.h"

namespace sidechannel {

// Sinusoidal embeddings of the steps 0, 1, ... (Vaswani et al. 2017, as SinusoidalPosEmb of Janner
// et al. 2022's diffuser has them), [steps, dim], for gather() to take rows of. With h = dim / 2
// and f_i = 10000^(-i / (h - 1)):
//
//   row t = [sin(t f_0) .. sin(t f_{h-1}), cos(t f_0) .. cos(t f_{h-1})]
//
// Computed in double on the host, and rounded once. Error where dim is odd or less than 4.
Tensor sinusoidal_table(const Device& device, DType dtype, std::int64_t steps, std::int64_t dim);

}  // namespace sidechannel
