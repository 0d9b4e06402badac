#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "engine/tape.h"

namespace sidechannel {

// Copies of x on the tape: so many rows come of one pass back, and their activations lie there.
inline constexpr std::int64_t kJacobianRowsAtOnce = 16;

// Rows of the Jacobian of y = f(x) at x [S, L, C]: for each of `outputs`, a place in y as it lies
// in memory, the derivatives with respect to all of x, which `visit` is given in order, in f64.
//
// f takes copies of x, [n S, L, C], and gives as many of y; what belongs to one copy must not
// depend on another. Many cotangents so go back in one pass; parameters are held constant. The
// derivatives are those of x's device and type.
void jacobian_rows(const Tensor& x, const std::function<Var(const Var&)>& f,
                   std::span<const std::int64_t> outputs,
                   const std::function<void(std::size_t row, std::span<const double>)>& visit);

}  // namespace sidechannel
