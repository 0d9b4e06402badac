// Section 3.1's training, step by step: the program `localization train` without its folder.

#include <algorithm>
#include <cmath>

#include "engine/python/network.h"
#include "experiments/localization/training.h"
#include "experiments/run/flags.h"
#include "experiments/run/progress.h"

namespace sidechannel::python {
namespace {

using namespace experiments;

// A preset, its choices for the kind of norm, and what is given by name; checked.
LocalizationSettings resolved(const std::string& preset, const nb::kwargs& given) {
  RunFlags flags;
  flags.preset = preset;
  const Json named = json_from(given, "settings");
  const std::vector<Setting>& all = all_settings<LocalizationSettings>();
  std::vector<std::string> names;
  for (const Setting& setting : all) names.emplace_back(setting.name);
  for (const auto& item : named.items()) {
    const std::string& name = item.key();
    const auto found = std::ranges::find_if(all, [&](const Setting& setting) {
      const std::vector<std::string> flags_of_it = flags_of(setting);
      return std::ranges::find(flags_of_it, flag_of(name)) != flags_of_it.end();
    });
    require(found != all.end(),
            fmt::format("{}: there is no such setting{}", shown(name), suggestion(name, names)));
    const bool of_programs = found->how || found->name == std::string("precision");
    require(!of_programs,
            fmt::format("{}: no setting of a training in Python (give a Device)", found->name));
    flags.given[found->name] = item.value();
  }
  return resolve<LocalizationSettings>(flags);
}

class PyTraining {
 public:
  PyTraining(LocalizationSettings settings, const Device& device)
      : settings_(std::move(settings)), device_(device) {
    settings_.precision = device.is_cuda() ? sidechannel::name_of(device.cuda_queue().precision())
                                           : sidechannel::name_of(Precision::kFp32);
    compute(device_, [&] {
      network_ = settings_.make_network(device_);
      enter_stage(0);
    });
  }

  const LocalizationSettings& settings() const { return settings_; }
  nb::object network() const { return python_from(network_); }
  std::int64_t done() const { return done_; }
  std::int64_t total() const { return settings_.total_iterations(); }
  const Json& line() const { return line_; }

  // So many steps, or what is left. `callback` is given each line; what it throws ends the call
  // behind the step that led to it.
  void run(std::optional<std::int64_t> steps, nb::handle callback) {
    SC_CHECK(!running_, "training: is running already");
    if (!callback.is_none() && PyCallable_Check(callback.ptr()) == 0) {
      throw nb::type_error("callback: expected something that can be called");
    }
    require(!steps || (*steps >= 0 && *steps <= total() - done_),
            fmt::format("steps {}: expected 0 to the {} that are left", steps.value_or(0),
                        total() - done_));
    running_ = true;
    const std::shared_ptr<void> stopped(nullptr, [this](void*) { running_ = false; });
    const std::int64_t until = steps ? done_ + *steps : total();
    SignalCheck check;
    while (done_ < until) {
      if (settings_.has_curriculum() && done_ == settings_.curriculum_iterations) {
        look();
        compute(device_, [&] { enter_stage(done_); });
      }
      // On the CPU many steps without the GIL, until there is something to do with it.
      compute(device_, [&] {
        do {
          (*step_)();
          ++done_;
        } while (done_ < until && !ends_line() && !ends_stage() && !check.due());
      });
      if (ends_line()) {
        line_ = look();
        if (!callback.is_none()) callback(done_, python_from(line_));
      }
      check();
    }
  }

 private:
  void enter_stage(std::int64_t first) {
    first_ = first;
    step_ = step_of_run(settings_, *network_, first);
    step_->seek(first);
  }
  bool ends_line() const { return done_ % settings_.log_every == 0 || done_ == total(); }
  bool ends_stage() const { return done_ == settings_.curriculum_iterations; }

  // The line of metrics.jsonl that would stand here; Error where a step could not be made.
  Json look() {
    const AdamState adam = wait_for(device_, [&] { return step_->adam().state(); });
    const std::int64_t step = first_ + adam.steps;
    if (adam.halted != 0) {
      const std::string what = compute(device_, [&] { return step_->not_finite(step); });
      throw Error(fmt::format("step {}: loss {}, gradient norm {}; stopped before the update{}",
                              step, number_text(std::abs(adam.loss), 5),
                              number_text(std::abs(adam.gradient_norm()), 5),
                              what.empty() ? ", whose square is beyond f32" : "; first " + what));
    }
    if (!step_->has_measures()) return line_;
    const std::vector<double> measures = wait_for(device_, [&] { return step_->measures(); });
    Json line{{"step", done_}};
    line.update(step_->line(measures, adam));
    compute(device_, [&] { step_->clear_measures(); });
    return line;
  }

  LocalizationSettings settings_;
  Device device_;
  std::shared_ptr<Network> network_;
  std::int64_t first_ = 0, done_ = 0;
  std::unique_ptr<LocalizationStep> step_;
  Json line_;
  bool running_ = false;
};

HostArray targets(std::int64_t length) {
  require(length >= 0, fmt::format("length {}: expected 0 or more", length));
  static_cast<void>(Shape{length});  // or its Error
  return target_positions(length);
}

}  // namespace

void bind_training(nb::module_& m) {
  nb::class_<PyTraining>(m, "LocalizationTraining",
                         R"(Section 3.1's training: a network is taught where it is.

LocalizationTraining("demo", norm="instance", seed=0): a preset and any of the program's settings by
name. The weights after its last step are those of `localization train`, to the bit; nothing is
written.)")
      .def(
          "__init__",
          [](PyTraining* self, const std::string& preset, const Device* device,
             const nb::kwargs& settings) {
            new (self) PyTraining(resolved(preset, settings), or_default(device));
          },
          "preset"_a = "demo", "device"_a = nb::none(), "settings"_a)
      .def("run", &PyTraining::run, "steps"_a = nb::none(), nb::kw_only(),
           "callback"_a = nb::none(),
           "So many steps, or all that are left. After every log_every steps and the last, "
           "callback(done, line) is given what metrics.jsonl would hold. Ctrl-C, and what a "
           "callback raises, end it between two steps: run() goes on from there.")
      .def_prop_ro("network", &PyTraining::network, nb::sig("def network(self) -> Network"),
                   "The network that is trained, with the weights of the last step.")
      .def_prop_ro("settings",
                   [](const PyTraining& self) { return python_from(to_json(self.settings())); })
      .def_prop_ro("done", &PyTraining::done, "Steps so far.")
      .def_prop_ro("total", &PyTraining::total, "Steps in all.")
      .def_prop_ro(
          "line", [](const PyTraining& self) { return python_from(self.line()); },
          "The last line, a dict; None before the first.");
  m.def(
      "localization_settings",
      [](const std::string& preset, const nb::kwargs& given) {
        return python_from(to_json(resolved(preset, given)));
      },
      "preset"_a = "demo", "settings"_a,
      "What a preset, and settings by name, come to: a dict, as `localization settings` prints "
      "it.");
  m.def(
      "target_positions", [](std::int64_t length) { return numpy_from(targets(length)); },
      "length"_a, "The target of Problem 2.1: i / (length - 1) - 1/2 for i from 0, f32, [length].");
  m.def(
      "interior_slope",
      [](nb::handle mean, std::int64_t radius) {
        const HostArray values = numbers_from("interior_slope", mean, DType::kF64);
        require(values.shape.rank() == 1 && radius >= 0,
                fmt::format("interior_slope: expected a mean [length] and a radius of 0 or more, "
                            "got {} and {}",
                            values.shape.str(), radius));
        return interior_slope(values, radius);
      },
      "mean"_a, "radius"_a,
      "Slope of a mean prediction [length] on the target beyond `radius` of either end: 1 for a "
      "network that knows where it is, 0 for one that does not; NaN where there is no interior.");
}

}  // namespace sidechannel::python
