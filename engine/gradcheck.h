#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "engine/ops.h"
#include "engine/parameter.h"

namespace sidechannel {

// Gradient checks, for operations and for whole models: what the backward rules compute, against
// central differences of the forward pass, in f64.
//
//   TEST(MyOp, Gradients) {
//     const GradientCheck check = check_gradients(
//         [](Tape&, std::span<const Var> in) { return my_op(in[0], in[1]); }, std::vector{x, w});
//     EXPECT_TRUE(check.passed()) << check.message();
//   }
//
// The checked function is c . f(x), for a random cotangent c of f's shape and never for the plain
// sum of f: the sum of a normalized tensor is constant, and a rule that returns zeros would pass.
// f is recorded twice on one tape, with a cotangent of its own each time, so that every rule
// overwrites its gradients once and accumulates once; gradients start as NaN, so that what a rule
// leaves out shows. f must be a function of its inputs alone; an Error says so when two calls
// differ in a bit.
//
// Differences know nothing of kinks: keep inputs of a ReLU further from 0 than the step carries
// them (for a ReLU behind a normalization or a dense layer, by the choice of its bias). A failed
// check says when the worst element stands at a kink.

struct GradientCheckOptions {
  std::uint64_t seed = 0;  // of cotangents, and of the elements and directions that are tried
  // Of the differences: an element moves by `step` times its own size or the root mean square of
  // its tensor, whichever is larger (times 1 in a tensor of zeros).
  double step = 1e-6;
  double tolerance = 1e-6;  // what passed() allows as relative error
  // Inputs with more elements are checked at this many random ones, and along random directions
  // that move all elements at once.
  std::int64_t max_elements = 256;
  int directions = 8;
};

// One input's gradient. Norms run over the elements and directions that were tried.
struct InputCheck {
  std::string name;  // "input 0", or the parameter's
  Shape shape;
  // ||rule - differences|| / ||differences||. Where the gradient is zero, or so small that rounding
  // leaves no accurate difference, ||differences|| counts as `resolution` / tolerance: then the
  // error is judged in absolute terms, against `resolution`.
  double relative_error = 0;
  double norm = 0;        // ||differences||
  double error = 0;       // ||rule - differences||
  double resolution = 0;  // the rounding error of ||differences||, estimated
  std::string worst;      // where |rule - differences| is largest, with both values

  std::string message() const;  // one line
};

struct GradientCheck {
  std::vector<InputCheck> inputs;
  double tolerance = 0;

  bool passed() const;
  std::string message() const;  // one line for each input
};

// Checks f's gradients for all of its inputs, given their values (f64).
GradientCheck check_gradients(const std::function<Var(Tape&, std::span<const Var>)>& f,
                              std::span<const Tensor> inputs,
                              const GradientCheckOptions& options = {});

// Checks f's gradients for all parameters of a model (f64), whose values are varied and put back;
// their `grad` is left with the last backward pass.
GradientCheck check_gradients(const std::function<Var(Tape&)>& f, ParameterList& parameters,
                              const GradientCheckOptions& options = {});

}  // namespace sidechannel
