#include "engine/gradcheck.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <utility>

#include "kernels/copy.h"

namespace sidechannel {
namespace {

constexpr double kUnitRoundoff = std::numeric_limits<double>::epsilon() / 2;
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

class Checker {
 public:
  Checker(const std::function<Var(Tape&)>& f, ParameterList& list,
          const GradientCheckOptions& options)
      : f_(f),
        parameters_(list.parameters()),
        options_(options),
        random_(options.seed),
        tape_(list.device(), DType::kF64) {
    for (const Parameter& parameter : parameters_) {
      check_type(parameter.value);
      origins_.push_back(parameter.value.to_host());
    }
  }

  static void check_type(const Tensor& value) {
    SC_CHECK(value.dtype() == DType::kF64, "check_gradients: expected f64, got {}",
             name_of(value.dtype()));
  }

  GradientCheck run() {
    const std::vector<HostArray> rules = backward();
    estimate_rounding();
    GradientCheck check;
    check.tolerance = options_.tolerance;
    for (std::size_t i = 0; i < rules.size(); ++i) check.inputs.push_back(compare(i, rules[i]));
    return check;
  }

 private:
  // Puts the values back, even when f throws.
  struct Restore {
    const std::deque<Parameter>& parameters;
    const std::vector<HostArray>& origins;
    ~Restore() {
      for (std::size_t i = 0; i < origins.size(); ++i) parameters[i].value.copy_from(origins[i]);
    }
  };

  // A change of one tensor, and what the rule says of it.
  struct Move {
    std::vector<double> by;  // for each element
    double length = 0;       // Euclidean
    double slope = 0;        // the rule's, along the move
    std::string where;
  };

  std::vector<double> normals(std::size_t size) {
    std::normal_distribution<double> normal;
    std::vector<double> values(size);
    for (double& value : values) value = normal(random_);
    return values;
  }

  // Puts all of them on an empty tape, so that those that f leaves alone get their zero gradient
  // too.
  void begin() {
    for (Parameter& parameter : parameters_) tape_.parameter(parameter);
  }

  // The gradients by the rules; draws the cotangents.
  std::vector<HostArray> backward() {
    begin();
    const Var first = f_(tape_);
    const Var second = f_(tape_);
    const HostArray y = first.value().to_host();
    SC_CHECK(y.bytes == second.value().to_host().bytes,
             "check_gradients: the function is not one of its inputs alone: two calls differ");
    const std::vector<double> c1 = normals(y.as<double>().size());
    const std::vector<double> c2 = normals(y.as<double>().size());
    double squares = 0;
    double largest = 0;
    for (std::size_t i = 0; i < c1.size(); ++i) {
      cotangent_.push_back(c1[i] + c2[i]);
      squares += cotangent_[i] * cotangent_[i];
      largest = std::max(largest, std::abs(y.as<double>()[i]));
    }
    // At least this: each element of f is rounded, and the errors add up like independent ones.
    rounding_ = 4 * kUnitRoundoff * std::sqrt(squares) * largest;

    // c1 . first + c2 . second, of which only the way back matters.
    const auto to_device = [&](const std::vector<double>& c) {
      return Tensor::from(tape_.device(), HostArray::from<double>(c, first.shape()));
    };
    Var objective = tape_.make({1});
    tape_.record(objective, {first, second},
                 [=, c1 = to_device(c1), c2 = to_device(c2)](Grads& grads) {
                   kernels::CpuQueue& queue = first.device().cpu_queue();  // where fp64 is
                   copy(queue, first.size(), c1.data<double>(), grads.into<double>(first));
                   copy(queue, first.size(), c2.data<double>(), grads.into<double>(second));
                 });
    for (const Parameter& parameter : parameters_) parameter.grad.fill(kNaN);
    tape_.backward(objective);
    std::vector<HostArray> rules;
    for (const Parameter& parameter : parameters_) rules.push_back(parameter.grad.to_host());
    return rules;
  }

  // The objective of the values as they stand; and the sum of its terms' absolute values.
  double objective(double* magnitude = nullptr) {
    tape_.reset();
    const NoGrad no_grad(tape_);
    begin();
    const HostArray y = f_(tape_).value().to_host();
    double sum = 0;
    for (std::size_t i = 0; i < cotangent_.size(); ++i) {
      const double term = cotangent_[i] * y.as<double>()[i];
      sum += term;
      if (magnitude) *magnitude += std::abs(term);
    }
    return sum;
  }

  // The same with one tensor at its origin + scale * move.
  double objective(std::size_t input, const Move& move, double scale) {
    const Restore restore{parameters_, origins_};
    HostArray moved = origins_[input];
    const std::span<double> values = moved.as<double>();
    for (std::size_t i = 0; i < values.size(); ++i) values[i] += scale * move.by[i];
    parameters_[input].value.copy_from(moved);
    return objective();
  }

  // The rounding error of an objective, estimated: what becomes of it when all inputs move by a
  // unit in their last place. An f that is computed stably rounds about as much on its way; where a
  // part of it magnifies (a norm of nearly equal values), this shows it. Not less than a rounding
  // of each element of f: an f that hardly depends on its inputs does not move with them, but
  // rounds.
  void estimate_rounding() {
    constexpr int kDraws = 8;
    const Restore restore{parameters_, origins_};
    double magnitude = 0;
    const double here = objective(&magnitude);
    double squares = 0;
    for (int draw = 0; draw < kDraws; ++draw) {
      for (std::size_t i = 0; i < origins_.size(); ++i) {
        HostArray moved = origins_[i];
        for (double& x : moved.as<double>()) x *= 1 + (random_() % 2 ? 2 : -2) * kUnitRoundoff;
        parameters_[i].value.copy_from(moved);
      }
      squares += std::pow(objective() - here, 2) / kDraws;
    }
    rounding_ = std::max({rounding_, 4 * std::sqrt(squares), kUnitRoundoff * magnitude});
  }

  InputCheck compare(std::size_t input, const HostArray& rule) {
    InputCheck check{parameters_[input].name, origins_[input].shape, 0, 0, 0, 0, ""};
    Move worst;
    double worst_error = -1;
    double worst_slope = 0;
    for_moves(input, rule, [&](Move move) {
      const double ahead = objective(input, move, 1);
      const double slope = (ahead - objective(input, move, -1)) / (2 * move.length);
      const double error = std::abs(move.slope - slope);
      check.norm += slope * slope;
      check.error += error * error;
      check.resolution += std::pow(rounding_ / move.length, 2);
      // A NaN is worse than everything, and the first one is named.
      if (!(error <= worst_error) && !std::isnan(worst_error)) {
        worst = std::move(move);
        worst_error = error;
        worst_slope = slope;
      }
    });
    if (worst.by.empty()) return check;  // an input without elements
    check.norm = std::sqrt(check.norm);
    check.error = std::sqrt(check.error);
    check.resolution = std::sqrt(check.resolution);
    const double smallest = check.resolution / options_.tolerance;
    check.relative_error = check.error / std::max({check.norm, smallest, 1e-300});
    check.worst =
        fmt::format("{}: rule {:.9g}, differences {:.9g}", worst.where, worst.slope, worst_slope);
    if (!(check.relative_error <= options_.tolerance)) check.worst += kink(input, worst);
    return check;
  }

  // Calls body with the moves to try with one tensor: along elements, and along random directions.
  void for_moves(std::size_t input, const HostArray& rule, const std::function<void(Move)>& body) {
    const std::span<const double> x = std::as_const(origins_[input]).as<double>();
    const std::span<const double> gradient = rule.as<double>();
    double squares = 0;
    for (double value : x) squares += value * value;
    const double scale = squares > 0 ? std::sqrt(squares / static_cast<double>(x.size())) : 1;
    const auto step_of = [&](std::size_t i) {
      const double to = x[i] + options_.step * std::max(std::abs(x[i]), scale);
      return to - x[i];  // so that x + step is a number of its own
    };

    std::vector<std::size_t> elements(x.size());
    std::iota(elements.begin(), elements.end(), std::size_t{0});
    const bool all = static_cast<std::int64_t>(x.size()) <= options_.max_elements;
    if (!all) {
      std::shuffle(elements.begin(), elements.end(), random_);
      elements.resize(static_cast<std::size_t>(options_.max_elements));
    }
    for (std::size_t i : elements) {
      Move move{std::vector<double>(x.size()), step_of(i), gradient[i], ""};
      move.by[i] = move.length;
      move.where = "at " + origins_[input].shape.place_of(static_cast<std::int64_t>(i));
      body(std::move(move));
    }
    for (int d = 0; !all && d < options_.directions; ++d) {
      Move move{normals(x.size()), 0, 0, fmt::format("along random direction {}", d)};
      double length_squared = 0;
      for (std::size_t i = 0; i < x.size(); ++i) {
        move.by[i] *= step_of(i);
        length_squared += move.by[i] * move.by[i];
        move.slope += move.by[i] * gradient[i];
      }
      move.length = std::sqrt(length_squared);
      move.slope /= move.length;
      body(std::move(move));
    }
  }

  // Words for a place where the slopes to both sides differ, or nothing.
  std::string kink(std::size_t input, const Move& move) {
    const double here = objective(input, move, 0);
    const double left = (here - objective(input, move, -1)) / move.length;
    const double right = (objective(input, move, 1) - here) / move.length;
    const double smooth = 1e-3 * std::max(std::abs(left), std::abs(right));
    if (std::abs(right - left) <= smooth + 4 * rounding_ / move.length) return "";
    return fmt::format(" (a kink? slopes {:.6g} and {:.6g} to its sides)", left, right);
  }

  const std::function<Var(Tape&)>& f_;
  std::deque<Parameter>& parameters_;
  GradientCheckOptions options_;
  std::mt19937_64 random_;
  Tape tape_;
  std::vector<HostArray> origins_;
  std::vector<double> cotangent_;
  double rounding_ = 0;  // of an objective, estimated
};

}  // namespace

std::string InputCheck::message() const {
  return fmt::format("{} {}: relative error {:.2g}, worst {}", name, shape.str(), relative_error,
                     worst);
}

bool GradientCheck::passed() const {
  return std::ranges::all_of(inputs, [&](const InputCheck& input) {
    return input.relative_error <= tolerance;  // false for NaN
  });
}

std::string GradientCheck::message() const {
  std::string lines = fmt::format("gradients, allowed relative error {:.2g}:", tolerance);
  for (const InputCheck& input : inputs) {
    const bool ok = input.relative_error <= tolerance;
    lines += fmt::format("\n  {} {}", ok ? "ok   " : "WRONG", input.message());
  }
  return lines;
}

GradientCheck check_gradients(const std::function<Var(Tape&, std::span<const Var>)>& f,
                              std::span<const Tensor> inputs, const GradientCheckOptions& options) {
  SC_CHECK(!inputs.empty(), "check_gradients: no inputs");
  ParameterList list(inputs[0].device(), DType::kF64, 0);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    Checker::check_type(inputs[i]);
    list.add_filled(fmt::format("input {}", i), inputs[i].shape(), 0).value.copy_from(inputs[i]);
  }
  const auto of_leaves = [&](Tape& tape) {
    std::vector<Var> leaves;
    for (Parameter& parameter : list.parameters()) leaves.push_back(tape.parameter(parameter));
    return f(tape, leaves);
  };
  return check_gradients(of_leaves, list, options);
}

GradientCheck check_gradients(const std::function<Var(Tape&)>& f, ParameterList& parameters,
                              const GradientCheckOptions& options) {
  return Checker(f, parameters, options).run();
}

}  // namespace sidechannel
