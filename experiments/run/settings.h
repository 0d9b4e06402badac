#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "engine/device.h"
#include "engine/error.h"
#include "engine/io/json.h"
#include "experiments/run/domain.h"
#include "kernels/learning_rate.h"

namespace sidechannel::experiments {

// How a run of any experiment is carried out. An experiment's settings derive from this and add
//
//   static constexpr const char* kExperiment = "overlap";  // its presets: presets/overlap/*.json
//   template <class Self, class Visit>
//   static void for_each(Self& self, const Visit& visit);  // visit(name, member, domain, help)
//   static std::span<const OnlyWhen<...>> only_when();     // see there
//   void check() const;                                    // UsageError for what makes no sense
//
// where for_each is the one list behind JSON files, flags (with dashes for underscores), --help and
// docs/settings.md. A setting is text, a number (double) or a whole number (std::int64_t); its
// domain (see domain.h) says what it may be.
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
    visit("seed", s.seed, Whole{0, INT64_MAX}, "of weights and noise");
    visit("precision", s.precision, OneOf{{"auto", "fp32", "tf32"}},
          "of products; tf32 on a GPU alone, where auto takes it");
    visit("device", s.device, Text{"auto, cpu or cuda[:N]", Device::is_name}, "where to compute");
    visit("threads", s.threads, Whole{0, kMostThreads}, "CPU threads, 0 for all cores");
    visit("log_every", s.log_every, Whole{1, kMostSteps}, "steps between lines of metrics.jsonl");
    visit("checkpoint_every", s.checkpoint_every, Whole{0, kMostSteps},
          "steps between checkpoints, 0 for every 30 s");
    visit("stop_after", s.stop_after, Whole{0, kMostSteps},
          "stop as if interrupted after so many steps, 0 for never");
  }
};

// A setting that does nothing unless others are as `needs` says.
template <class S>
struct OnlyWhen {
  const char* setting;
  const char* needs;  // a flag and its value, for the message
  bool (*holds)(const S&);
};

// Names of the settings that results do not depend on.
inline const std::vector<std::string> kDoNotMatter = {"preset", "device", "threads",
                                                      "checkpoint_every", "stop_after"};

// Runs f, whose Error is then a UsageError: what it reads was asked for by the user.
template <class F>
auto asked_for(F&& f) try {
  return f();
} catch (const Error& error) {
  throw UsageError(error.what());
}

// "--log-every" for "log_every".
std::string flag_of(std::string setting);
// How messages name a setting: by its flag, or, in a file, by the file's name and its own.
std::string named(const std::string& file, const std::string& setting);

// A value as it stands behind a flag.
std::string flag_text(const Json& value);

// How a learning rate moves over `steps` steps, by a schedule's name ("constant" or "tail").
kernels::LearningRate learning_rate_from(double base, const std::string& schedule,
                                         std::int64_t warmup, std::int64_t steps);

// A preset of an experiment by name ("demo", "small", "paper") or by the path of a JSON file of the
// same form. UsageError for an unknown name and for a file that is no JSON object.
Json read_preset(const std::string& experiment, const std::string& preset);

// The number or the text in `value`, where it is one of that type and fits it.
template <class T>
std::optional<T> value_of(const Json& value) {
  if constexpr (std::is_same_v<T, std::string>) {
    if (value.is_string()) return value.template get<std::string>();
  } else if constexpr (std::is_same_v<T, double>) {
    if (value.is_number()) return value.template get<double>();
  } else {
    const bool too_large =
        value.is_number_unsigned() && value.template get<std::uint64_t>() > INT64_MAX;
    if (value.is_number_integer() && !too_large) return value.template get<std::int64_t>();
  }
  return std::nullopt;
}

// Takes the settings that `json` names; they come from `file`, or from flags
// where that is empty. UsageError for a name that is no setting and for a value outside its domain.
template <class S>
void apply(const Json& json, const std::string& file, S& settings) {
  for (const auto& item : json.items()) {
    const std::string& key = item.key();
    bool known = false;
    S::for_each(settings, [&](const char* name, auto& member, const auto& domain, const char*) {
      if (key != name) return;
      known = true;
      const auto value = value_of<std::remove_reference_t<decltype(member)>>(item.value());
      require(value && domain.holds(*value), fmt::format("{} {}: expected {}", named(file, key),
                                                         in_words(item.value()), domain.words()));
      member = *value;
    });
    require(known, fmt::format("{}: there is no setting {}", file, shown(key)));
  }
}

// UsageError for the first setting outside its domain.
template <class S>
void check_domains(const S& settings) {
  S::for_each(settings, [&](const char* name, const auto& value, const auto& domain, const char*) {
    require(domain.holds(value), fmt::format("{} {}: expected {}", flag_of(name),
                                             shown(fmt::to_string(value)), domain.words()));
  });
}

// UsageError for a setting in `given` that does nothing as the others are.
template <class S>
void check_effects(const Json& given, const S& settings) {
  for (const OnlyWhen<S>& rule : S::only_when()) {
    if (!given.contains(rule.setting)) continue;
    require(rule.holds(settings),
            fmt::format("{} {}: has no effect without {}", flag_of(rule.setting),
                        flag_text(given[rule.setting]), rule.needs));
  }
}

// The settings of a preset (see read_preset). In experiments with a choice of normalization its
// "for_norm" holds what differs for a kind; `norm`, where given, is the kind instead of the
// preset's own. What stands there for other kinds must make sense, too.
template <class S>
S settings_from_preset(const std::string& preset, const std::string& norm = "") {
  Json json = read_preset(S::kExperiment, preset);
  S settings;
  settings.preset = preset;
  if constexpr (requires { settings.norm; }) {
    const Json kinds = json.value("for_norm", Json::object());
    json.erase("for_norm");
    apply(json, preset, settings);
    if (!norm.empty()) settings.norm = norm;
    require(kinds.is_object(), fmt::format("{}: for_norm {}: expected an object of kinds of norm",
                                           preset, in_words(kinds)));
    for (const auto& kind : kinds.items()) {
      const std::string where = fmt::format("{}: for_norm {}", preset, shown(kind.key()));
      S other;
      Json only;
      only["norm"] = kind.key();
      apply(only, fmt::format("{}: for_norm", preset), other);
      require(kind.value().is_object() && !kind.value().contains("norm"),
              fmt::format("{}: expected an object of other settings than norm", where));
      apply(kind.value(), where, kind.key() == settings.norm ? settings : other);
    }
  } else {
    apply(json, preset, settings);
  }
  return settings;
}

template <class S>
Json to_json(const S& settings) {
  Json json;
  json["preset"] = settings.preset;
  S::for_each(settings, [&](const char* name, const auto& member, const auto&, const char*) {
    json[name] = member;
  });
  return json;
}

// Names of the settings in `mine` that are others in `theirs`, `except` some.
std::vector<std::string> differences(const Json& mine, const Json& theirs,
                                     const std::vector<std::string>& except = kDoNotMatter);

}  // namespace sidechannel::experiments
