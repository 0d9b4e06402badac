#pragma once

#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "engine/error.h"
#include "engine/json.h"
#include "kernels/learning_rate.h"

namespace sidechannel::experiments {

// How a run of any experiment is carried out. An experiment's settings derive from this and add
//
//   static constexpr const char* kExperiment = "overlap";  // its presets: presets/overlap/*.json
//   template <class Self, class Visit>
//   static void for_each(Self& self, const Visit& visit);  // visit(name, member, help) for each
//   void check() const;                                    // UsageError for what makes no sense
//
// where for_each is the one list behind JSON files, flags (with dashes for underscores) and --help.
// A setting is text, a number (double) or a whole number (std::int64_t).
struct RunSettings {
  std::string preset = "demo";
  std::int64_t seed = 0;
  std::string precision = "auto";

  // Results do not depend on these, save that `log_every` says what is logged.
  std::string device = "auto";
  std::int64_t threads = 0;
  std::int64_t log_every = 100;
  std::int64_t checkpoint_every = 0;
  std::int64_t stop_after = 0;

  template <class Self, class Visit>
  static void for_each(Self& s, const Visit& visit) {
    visit("seed", s.seed, "of weights and noise");
    visit("precision", s.precision, "auto, fp32 or tf32 (CUDA; what auto takes there)");
    visit("device", s.device, "auto, cpu or cuda[:N]");
    visit("threads", s.threads, "CPU threads, 0 for all cores");
    visit("log_every", s.log_every, "steps between lines of metrics.jsonl");
    visit("checkpoint_every", s.checkpoint_every, "steps between checkpoints, 0 for every 30 s");
    visit("stop_after", s.stop_after, "stop as if interrupted after so many steps, 0 for never");
  }

  void check() const;
};

// Names of the settings that results do not depend on.
inline const std::vector<std::string> kDoNotMatter = {"preset", "device", "threads",
                                                      "checkpoint_every", "stop_after"};

// Where a condition on settings does not hold: UsageError with `message`.
void require(bool condition, const std::string& message);
// Runs f, whose Error is then a UsageError: what it reads was asked for by the user.
template <class F>
auto asked_for(F&& f) try {
  return f();
} catch (const Error& error) {
  throw UsageError(error.what());
}
// "NAME VALUE: expected at least LEAST" where that is not so.
void require_at_least(const char* name, std::int64_t value, std::int64_t least);

// How a learning rate moves over `steps` steps, by a schedule's name ("constant" or "tail").
kernels::LearningRate learning_rate_from(double base, const std::string& schedule,
                                         std::int64_t warmup, std::int64_t steps);

// A preset of an experiment by name ("demo", "small", "paper") or by the path of a JSON file of the
// same form. UsageError for an unknown name and for a file that is no JSON object.
Json read_preset(const std::string& experiment, const std::string& preset);

// Takes the settings that `json` names, its "for_norm" apart. UsageError, beginning with `source`,
// for a name that is no setting and for a value of the wrong type.
template <class S>
void apply(const Json& json, const std::string& source, S& settings) {
  for (const auto& item : json.items()) {
    const std::string& key = item.key();
    const Json& value = item.value();
    if (key == "for_norm") continue;
    bool known = false;
    S::for_each(settings, [&](const char* name, auto& member, const char*) {
      if (key != name) return;
      known = true;
      using T = std::remove_reference_t<decltype(member)>;
      const bool fits = std::is_same_v<T, std::string> ? value.is_string()
                        : std::is_same_v<T, double>    ? value.is_number()
                                                       : value.is_number_integer();
      require(fits, fmt::format("{}: {} cannot be {}", source, key, value.dump()));
      member = value.template get<T>();
    });
    require(known, fmt::format("{}: there is no setting {}", source, key));
  }
}

// The settings of a preset (see read_preset). In experiments with a choice of normalization its
// "for_norm" holds what differs for a kind; `norm`, where given, is the kind instead of the
// preset's own.
template <class S>
S settings_from_preset(const std::string& preset, const std::string& norm = "") {
  const Json json = read_preset(S::kExperiment, preset);
  S settings;
  settings.preset = preset;
  apply(json, preset, settings);
  if constexpr (requires { settings.norm; }) {
    if (!norm.empty()) settings.norm = norm;
    if (json.contains("for_norm") && json["for_norm"].contains(settings.norm)) {
      apply(json["for_norm"][settings.norm], preset, settings);
    }
  }
  return settings;
}

template <class S>
Json to_json(const S& settings) {
  Json json;
  json["preset"] = settings.preset;
  S::for_each(settings,
              [&](const char* name, const auto& member, const char*) { json[name] = member; });
  return json;
}

// Names of the settings in `mine` that are others in `theirs`, `except` some.
std::vector<std::string> differences(const Json& mine, const Json& theirs,
                                     const std::vector<std::string>& except = kDoNotMatter);

}  // namespace sidechannel::experiments
