#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/learning_rate.h"
#include "models/localizer.h"

namespace sidechannel::experiments {

// Everything that a localization run depends on. The defaults are the demo's.
struct Settings {
  std::string preset = "demo";

  // The network (Equation 1) and the task (Problem 2.1).
  std::int64_t length = 64;
  std::int64_t depth = 8;
  std::int64_t channels = 32;
  std::int64_t kernel_size = 5;
  std::string norm = "instance";
  std::int64_t groups = 1;
  std::int64_t samples_per_set = 1;

  // Training. A first stage at another length (a curriculum, which the paper does not have) comes
  // before the `iterations` where curriculum_iterations > 0.
  std::int64_t batch = 8;
  double learning_rate = 2e-3;
  std::string schedule = "tail";
  std::int64_t warmup = 0;
  std::int64_t iterations = 10000;
  std::int64_t curriculum_length = 0;
  std::int64_t curriculum_iterations = 0;
  double curriculum_learning_rate = 0;

  // Probes, one for each hidden layer.
  std::int64_t probe_width = 256;
  std::int64_t probe_batch = 8;
  std::int64_t probe_iterations = 2000;
  double probe_learning_rate = 1e-3;

  // The localization map.
  std::int64_t map_samples = 20000;
  double p_threshold = 0.1;
  std::string eval_statistics = "minibatch";

  std::int64_t seed = 0;
  std::string precision = "auto";

  // How a run is carried out; results do not depend on these.
  std::string device = "auto";
  std::int64_t threads = 0;
  std::int64_t log_every = 100;
  std::int64_t checkpoint_every = 0;
  std::int64_t stop_after = 0;

  // UsageError for values that make no sense, alone or together.
  void check() const;

  LocalizerConfig network() const;
  // How the learning rate moves, over the first stage and over the training proper.
  kernels::LearningRate curriculum_rate() const;
  kernels::LearningRate training_rate() const;
  // Where probes and maps take their statistics from.
  Statistics evaluation_statistics() const;
  std::int64_t total_iterations() const { return curriculum_iterations + iterations; }
};

// Calls visit(name, member, help) for each setting that a preset or a flag can give: the one list
// behind JSON files, flags (with dashes for underscores) and --help.
template <class AnySettings, class Visit>
void for_each_setting(AnySettings&& s, const Visit& visit) {
  visit("length", s.length, "sequence length l");
  visit("depth", s.depth, "convolutions d in all, first and last included");
  visit("channels", s.channels, "hidden channels h");
  visit("kernel_size", s.kernel_size, "kernel size k, odd");
  visit("norm", s.norm, "none, instance, group, layer or batch");
  visit("groups", s.groups, "groups G of group norm");
  visit("samples_per_set", s.samples_per_set, "samples that share batch norm's statistics");
  visit("batch", s.batch, "sequences in a training step");
  visit("learning_rate", s.learning_rate, "Adam's base learning rate");
  visit("schedule", s.schedule, "constant, or tail: 70 % constant, then linear to 5 %");
  visit("warmup", s.warmup, "steps of linear warm-up");
  visit("iterations", s.iterations, "training steps");
  visit("curriculum_length", s.curriculum_length, "sequence length of a first stage");
  visit("curriculum_iterations", s.curriculum_iterations, "steps of the first stage, 0 for none");
  visit("curriculum_learning_rate", s.curriculum_learning_rate, "its learning rate, constant");
  visit("probe_width", s.probe_width, "width of the probes' two hidden layers");
  visit("probe_batch", s.probe_batch,
        "sequences in a step of the probes' training, and of the map");
  visit("probe_iterations", s.probe_iterations, "steps of the probes' training");
  visit("probe_learning_rate", s.probe_learning_rate, "Adam's learning rate for the probes");
  visit("map_samples", s.map_samples, "sequences behind the localization map");
  visit("p_threshold", s.p_threshold, "Welch's test rejects below this p-value");
  visit("eval_statistics", s.eval_statistics, "minibatch or population, for probes and map");
  visit("seed", s.seed, "of weights and noise");
  visit("precision", s.precision, "auto, fp32 or tf32 (CUDA; what auto takes there)");
  visit("device", s.device, "auto, cpu or cuda[:N]");
  visit("threads", s.threads, "CPU threads, 0 for all cores");
  visit("log_every", s.log_every, "steps between lines of metrics.jsonl");
  visit("checkpoint_every", s.checkpoint_every, "steps between checkpoints, 0 for every 30 s");
  visit("stop_after", s.stop_after, "stop as if interrupted after so many steps, 0 for never");
}

// A preset by name ("demo", "small", "paper") or by the path of a JSON file of the same form. The
// preset's "for_norm" holds what differs for a kind of normalization. UsageError for an unknown
// preset, an unknown key or a value of the wrong type.
Settings settings_from_preset(const std::string& preset, const std::string& norm = "");

nlohmann::ordered_json to_json(const Settings& settings);

// Names of the settings that differ and that results depend on.
std::vector<std::string> differences(const nlohmann::ordered_json& a,
                                     const nlohmann::ordered_json& b);

}  // namespace sidechannel::experiments
