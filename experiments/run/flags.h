#pragma once

#include <algorithm>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/io/json.h"
#include "engine/say.h"
#include "experiments/run/memory.h"
#include "experiments/run/run_folder.h"
#include "experiments/run/settings.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace sidechannel::experiments {

// What a command line says about a run, before it is laid over a preset.
struct RunFlags {
  std::string preset = "demo";
  std::string out;
  Json resume = Json::object();  // {"resume": ...}, where it is named
  bool check = false;            // do nothing but check
  Json given = Json::object();   // the settings that it names

  Resume resume_policy() const;
};

// The settings of S, or those of them that `is` picks.
template <class S>
std::vector<Setting> settings_that(const std::function<bool(const Setting&)>& is) {
  std::vector<Setting> settings = all_settings<S>();
  std::erase_if(settings, [&](const Setting& setting) { return !is(setting); });
  return settings;
}
template <class S>
std::vector<Setting> settings_named(const std::vector<std::string>& names) {
  return settings_that<S>([&](const Setting& setting) {
    return std::ranges::find(names, setting.name) != names.end();
  });
}

// What settings are without their flags, for --help: in each preset by its name, or, where there
// are no presets, under "".
using Defaults = std::vector<std::pair<std::string, Json>>;
template <class S>
Defaults defaults_of() {
  Defaults defaults;
  for (const std::string& preset : preset_names(S::kExperiment)) {
    defaults.emplace_back(preset, to_json(settings_from_preset<S>(preset)));
  }
  if (defaults.empty()) defaults.emplace_back("", to_json(S()));
  return defaults;
}

// What a setting is without its flag: "demo 64, small 160, paper 600", or "0.1" in all of them.
std::string default_text(const std::string& setting, const Defaults& defaults);

// ", did you mean --seed?" for "--sed"; nothing where none of the names is near.
std::string suggestion(const std::string& word, const std::vector<std::string>& names);

// The sections of --help in which flags stand that are no settings.
inline constexpr const char* kRunSection = "Run";
inline constexpr const char* kOutputSection = "Output";

// What the text after `flag` says of a setting; UsageError where it says nothing that it may be.
Json read_flag(const Setting& setting, const std::string& flag, const std::string& text);

// Flags that leave what they are given in `given`.
void add_setting_flags(CLI::App& app, const std::vector<Setting>& settings, Json& given,
                       const Defaults& defaults = {});

// A flag that is no setting, for a text of such a type (see domain.h): FILE, FOLDER, ...
CLI::Option* add_text_flag(CLI::App& app, const char* flag, std::string& text, const char* type,
                           const std::string& what);

// --preset
void add_preset_flag(CLI::App& app, std::string& preset,
                     const char* what = "settings to begin with, over which the flags lie");

// --check
void add_check_flag(CLI::App& app, bool& check);

// --preset and a flag for each setting.
void add_preset_flags(CLI::App& app, const std::vector<Setting>& settings, RunFlags& flags,
                      const Defaults& defaults);

// The same with --out, --resume and --check. `default_out` says in --help where a run
// goes without --out.
void add_run_flags(CLI::App& app, const std::vector<Setting>& settings,
                   const std::string& default_out, RunFlags& flags, const Defaults& defaults);

// The preset, then its choices for the kind of norm, then the flags; checked.
template <class S>
S resolve(const RunFlags& flags) {
  S settings = settings_from_preset<S>(flags.preset, flags.given.value("norm", ""));
  apply(flags.given, "", settings);
  settings.check();
  check_effects(flags.given, settings);
  return settings;
}

// UsageError where a setting in `given` is another one than the network in `file` has.
void require_same(const Json& given, const char* name, const Json& theirs, const std::string& file);

// UsageError where the file that `flag` says to write is one of those that are read, or one that a
// run or a sweep consists of.
void require_apart(const char* flag, const std::string& written,
                   const std::vector<std::string>& read);

// Whether the command is to answer in JSON (--json): with one object on stdout, and nothing else.
inline bool answers_in_json = false;

// Prints JSON to stdout, in ASCII: whatever it holds, a terminal shows it and a program reads it.
int print_json(const Json& json);

// What a command came to: `result` with --json, or else words. Returns 0, the exit code.
template <class... T>
int answer(const Json& result, fmt::format_string<T...> words, T&&... values) {
  if (answers_in_json) return print_json(result);
  tell(stdout, in_lines<T...>(words, values...));
  return 0;
}

// The answer of --check, of a run that would be kept in `folder`.
int answer_check(const std::string& folder, const CheckedMemory& memory);

// Prints what resolve() gives, for scripts to read.
template <class S>
int print_settings(const RunFlags& flags) {
  return print_json(to_json(resolve<S>(flags)));
}

// A number of a summary for a line of output: with three digits, or "none" for null.
std::string three_digits(const Json& number);

// "runs/PRESET-REST", the folder of a run that was given none.
std::string default_folder(const std::string& preset, const std::string& rest);

// Adds what every program has (--version, `completion`) and what every command has (--json,
// --quiet), and parses. The exit code where that was all (--help, --version, completion);
// UsageError, one line, for what does not parse: it names the subcommands where none was given, and
// the flag or command that comes nearest to one that there is not.
std::optional<int> parse(CLI::App& app, int argc, char** argv);

}  // namespace sidechannel::experiments
