#include "engine/optim/adam.h"

#include <cmath>

#include "engine/python/binding.h"

namespace sidechannel::python {
namespace {

struct PyAdam {
  std::shared_ptr<ParameterList> list;
  Adam adam;

  AdamState state() const {
    return wait_for(list->device(), [&] { return adam.state(); });
  }
};

AdamRule rule(double learning_rate, const std::string& schedule, std::int64_t warmup,
              std::int64_t steps, double beta1, double beta2, double epsilon) {
  const auto kind = one_of<LearningRate::Schedule>(
      "schedule", schedule,
      {{"constant", LearningRate::Schedule::kConstant}, {"tail", LearningRate::Schedule::kTail}});
  require(learning_rate > 0 && std::isfinite(learning_rate),
          fmt::format("learning_rate {}: expected a number of more than 0", learning_rate));
  require(epsilon >= 0 && std::isfinite(epsilon),
          fmt::format("epsilon {}: expected a number of at least 0", epsilon));
  require(warmup >= 0, fmt::format("warmup {}: expected 0 steps or more", warmup));
  require(kind == LearningRate::Schedule::kConstant || steps >= 1,
          fmt::format("steps {}: expected those of the whole training, for schedule tail", steps));
  for (const double beta : {beta1, beta2}) {
    require(beta >= 0 && beta < 1, fmt::format("beta {}: expected from 0 to less than 1", beta));
  }
  return {{learning_rate, kind, warmup, steps}, beta1, beta2, epsilon};
}

void step(PyAdam& self, const PyVar* loss) {
  SC_CHECK(self.adam.moves_all_of(*self.list),
           "adam: the parameters were added to since it was made; make another");
  if (loss == nullptr) return compute(self.list->device(), [&] { self.adam.step(); });
  check_together("adam", *self.list, *loss);
  compute(self.list->device(), [&] { self.adam.step(loss->var.value()); });
}

}  // namespace

void bind_adam(nb::module_& m) {
  nb::class_<PyAdam>(m, "Adam",
                     R"(Adam (Kingma & Ba 2015), as PyTorch's torch.optim.Adam computes it.

schedule: "constant", or "tail": constant for 70 % of `steps`, then linear down to 5 %. `warmup`
steps of linear warm-up come first. Takes over the parameters, whose values and gradients then lie
in one piece of memory each.)")
      .def(
          "__init__",
          [](PyAdam* self, const PyParameters& parameters, double learning_rate,
             const std::string& schedule, std::int64_t warmup, std::int64_t steps, double beta1,
             double beta2, double epsilon) {
            const AdamRule chosen =
                rule(learning_rate, schedule, warmup, steps, beta1, beta2, epsilon);
            new (self) PyAdam{parameters.list, compute(parameters.list->device(), [&] {
                                return Adam(*parameters.list, chosen);
                              })};
          },
          "parameters"_a, "learning_rate"_a = 1e-3, nb::kw_only(), "schedule"_a = "constant",
          "warmup"_a = 0, "steps"_a = 0, "beta1"_a = 0.9, "beta2"_a = 0.999, "epsilon"_a = 1e-8)
      .def("step", &step, "loss"_a.none() = nb::none(),
           "One update from the gradients that stand in the parameters. When one of them, or the "
           "loss, where it is given, is not finite, training halts instead: nothing changes from "
           "then on.")
      .def_prop_ro(
          "steps", [](const PyAdam& self) { return self.state().steps; },
          "Updates so far; this and what follows waits for the device.")
      .def_prop_ro("halted", [](const PyAdam& self) { return self.state().halted != 0; })
      .def_prop_ro(
          "learning_rate", [](const PyAdam& self) { return self.state().learning_rate; },
          "Of the last step.")
      .def_prop_ro(
          "gradient_norm", [](const PyAdam& self) { return self.state().gradient_norm(); },
          "Of the last step: the Euclidean norm of all gradients.");
}

}  // namespace sidechannel::python
