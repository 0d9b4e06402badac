#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "engine/device.h"
#include "engine/error.h"
#include "engine/io/json.h"
#include "engine/optim/adam.h"
#include "experiments/run/domain.h"

namespace sidechannel::experiments {

struct RunSettings;

// All that is known of a setting. Flags (with dashes for underscores), --help, completion, JSON
// files, `settings`, config.json and docs/cli.md are made of the list of them, so that one that
// SETTING declares is in all of these.
struct Setting {
  template <class T>
  using Member = T RunSettings::*;

  const char* name;
  const char* help;
  Domain domain;
  std::variant<Member<std::int64_t>, Member<double>, Member<std::string>> member = {};
  bool how = false;       // results do not depend on it: it says how a run is carried out
  bool predicts = false;  // it is one of `localization predict`, too
  // It does nothing but where this holds, which `needs` says as a flag and its value.
  const char* needs = nullptr;
  bool (RunSettings::*effective)() const = nullptr;
  bool may_idle = false;     // as a flag, but not as an axis of a sweep
  const char* section = "";  // of --help
  const char* aliases = "";  // of its flag, with commas between

  // visit(domain, member), both of the type that they have.
  template <class Visit>
  auto visit(const Visit& visit) const {
    return std::visit(
        [&]<class D>(const D& of) {
          return visit(of, std::get<Member<typename D::Value>>(member));
        },
        domain);
  }
};

// What SETTING may say of a setting beside its domain.
inline constexpr bool Setting::*kHow = &Setting::how;
inline constexpr bool Setting::*kPredicts = &Setting::predicts;
template <class S>
struct OnlyWhen {
  const char* needs;
  bool (S::*effective)() const;
  bool may_idle = false;  // scripts switch it off with one flag more: refused in sweeps' axes alone
};
template <class S>
OnlyWhen(const char*, bool (S::*)() const) -> OnlyWhen<S>;  // which clang 14 does not see itself
struct Section {  // of --help: this setting and those that follow stand there, up to the next one
  const char* name;
};
struct Alias {  // what else the field calls it: "lr", without dashes; several with commas between
  const char* names;
};

// Where settings are noted while their list is made (see all_settings).
inline thread_local std::vector<Setting>* noted_settings = nullptr;

inline void add_to(Setting& setting, bool Setting::*mark) {
  setting.*mark = true;
}
template <class S>
void add_to(Setting& setting, const OnlyWhen<S>& rule) {
  setting.needs = rule.needs;
  setting.effective = static_cast<bool (RunSettings::*)() const>(rule.effective);
  setting.may_idle = rule.may_idle;
}
inline void add_to(Setting& setting, const Section& section) {
  setting.section = section.name;
}
inline void add_to(Setting& setting, const Alias& alias) {
  setting.aliases = alias.names;
}

template <class T, class S, class... More>
T declared(T S::*member, const char* name, T value, const char* help, const Domain& domain,
           const More&... more) {
  if (noted_settings != nullptr) {
    Setting setting{name, help, domain, static_cast<Setting::Member<T>>(member)};
    if (!noted_settings->empty()) setting.section = noted_settings->back().section;
    (add_to(setting, more), ...);
    noted_settings->push_back(std::move(setting));
  }
  return value;
}

// A member of the settings `Self`: type, name, default, help, domain (see domain.h), and what else
// there is to say (kHow, kPredicts, OnlyWhen, Section, Alias). The one place where a setting
// stands.
#define SETTING(type, name, value, help, ...) \
  type name =                                 \
      ::sidechannel::experiments::declared(&Self::name, #name, type(value), help, __VA_ARGS__)

// How a run of any experiment is carried out. An experiment's settings derive from this and add
//
//   using Self = ...;                                      // and SETTINGs
//   static constexpr const char* kExperiment = "overlap";  // its presets: presets/overlap/*.json
//   void check() const;                                    // UsageError for what makes no sense
struct RunSettings {
  using Self = RunSettings;
  std::string preset = "demo";
  SETTING(std::int64_t, seed, 0, "of weights and noise", Whole{0, INT64_MAX}, Section{"Data"});
  SETTING(std::string, precision, "auto", "of products; tf32 on a GPU alone, where auto takes it",
          OneOf{{"auto", "fp32", "tf32"}}, kPredicts, Section{"How it is carried out"});
  SETTING(std::string, device, "auto", "where to compute",
          Text{"auto, cpu or cuda[:N]", Device::is_name, "auto|cpu|cuda[:N]"}, kHow, kPredicts);
  SETTING(std::int64_t, threads, 0, "CPU threads, 0 for all cores", Whole{0, kMostThreads}, kHow,
          kPredicts, Alias{"num-threads"});
  SETTING(std::int64_t, log_every, 100, "steps between lines of metrics.jsonl",
          Whole{1, kMostSteps}, Alias{"log-interval"});
  SETTING(std::int64_t, checkpoint_every, 0, "steps between checkpoints, 0 for every 30 s",
          Whole{0, kMostSteps}, kHow, Alias{"save-every"});
  SETTING(std::int64_t, stop_after, 0, "stop as if interrupted after so many steps, 0 for never",
          Whole{0, kMostSteps}, kHow);

  std::uint64_t random_seed() const { return static_cast<std::uint64_t>(seed); }
};

// The device that settings ask for. Says on stderr what `auto` took, and why, but if `quiet`.
// Resolves the precision: `auto` is tf32 on a GPU that has it, fp32 elsewhere. UsageError for tf32
// where there is none, and for a wish that this build cannot fulfil.
Device choose_device(RunSettings& settings, bool quiet = false);

// The settings that `make`, which makes an S, declares; those of RunSettings last.
std::vector<Setting> settings_declared_by(void (*make)());
template <class S>
const std::vector<Setting>& all_settings() {
  static const std::vector<Setting> all = settings_declared_by([] { S(); });
  return all;
}

// Names of the settings that results do not depend on.
template <class S = RunSettings>
std::vector<std::string> do_not_matter() {
  std::vector<std::string> names{"preset"};
  for (const Setting& setting : all_settings<S>()) {
    if (setting.how) names.push_back(setting.name);
  }
  return names;
}

// Runs f, whose Error is then a UsageError: what it reads was asked for by the user.
template <class F>
auto asked_for(F&& f) try {
  return f();
} catch (const Error& error) {
  throw UsageError(error.what());
}

// "--log-every" for "log_every".
std::string flag_of(std::string setting);
// All of a setting's flags: --learning-rate, --lr.
std::vector<std::string> flags_of(const Setting& setting);
// How messages name a setting: by its flag, or, in a file, by the file's name and its own.
std::string named(const std::string& file, const std::string& setting);

// A value as it stands behind a flag.
std::string flag_text(const Json& value);

// How a learning rate moves over `steps` steps, by a schedule's name ("constant" or "tail").
LearningRate learning_rate_from(double base, const std::string& schedule, std::int64_t warmup,
                                std::int64_t steps);

// The names of an experiment's presets, the smallest first; there may be none.
std::vector<std::string> preset_names(const std::string& experiment);

// A preset of an experiment by name ("demo", "small", "paper") or by the path of a JSON file of the
// same form. UsageError for an unknown name and for a file that is no JSON object.
Json read_preset(const std::string& experiment, const std::string& preset);

// The words for what a setting may be.
std::string words_of(const Domain& domain);

// Takes the settings that `json` names; they come from `file`, or from flags
// where that is empty. UsageError for a name that is no setting and for a value outside its domain.
void apply(const std::vector<Setting>& all, const Json& json, const std::string& file,
           RunSettings& settings);
template <class S>
void apply(const Json& json, const std::string& file, S& settings) {
  apply(all_settings<S>(), json, file, settings);
}

// UsageError for the first setting outside its domain.
void check_domains(const std::vector<Setting>& all, const RunSettings& settings);

// UsageError for a setting in `given` that does nothing as the others are.
enum class GivenAs { kFlag, kAxis };
void check_effects(const std::vector<Setting>& all, const Json& given, const RunSettings& settings,
                   GivenAs as);
template <class S>
void check_effects(const Json& given, const S& settings, GivenAs as = GivenAs::kFlag) {
  check_effects(all_settings<S>(), given, settings, as);
}

Json to_json(const std::vector<Setting>& all, const RunSettings& settings);
template <class S>
Json to_json(const S& settings) {
  return to_json(all_settings<S>(), settings);
}

// The settings that the JSON of a preset says, which is called `preset`. In experiments with a
// choice of normalization its "for_norm" holds what differs for a kind; `norm`, where given, is the
// kind instead of the preset's own. What stands there for other kinds must make sense, too.
template <class S>
S settings_from(Json json, const std::string& preset, const std::string& norm = "") {
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
      apply(Json::object({{"norm", kind.key()}}), fmt::format("{}: for_norm", preset), other);
      require(kind.value().is_object() && !kind.value().contains("norm"),
              fmt::format("{}: expected an object of other settings than norm", where));
      apply(kind.value(), where, kind.key() == settings.norm ? settings : other);
    }
  } else {
    apply(json, preset, settings);
  }
  return settings;
}
// Those of a preset (see read_preset).
template <class S>
S settings_from_preset(const std::string& preset, const std::string& norm = "") {
  return settings_from<S>(read_preset(S::kExperiment, preset), preset, norm);
}

// Names of the settings in `mine` that are others in `theirs`, `except` some.
std::vector<std::string> differences(const Json& mine, const Json& theirs,
                                     const std::vector<std::string>& except = do_not_matter());

}  // namespace sidechannel::experiments
