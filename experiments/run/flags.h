#pragma once

#include <algorithm>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "engine/io/json.h"
#include "engine/say.h"
#include "experiments/run/run_folder.h"
#include "experiments/run/settings.h"

namespace CLI {
class App;
}

namespace sidechannel::experiments {

// What a command line says about a run, before it is laid over a preset.
struct RunFlags {
  std::string preset = "demo";
  std::string out;
  std::string resume = "auto";
  bool check = false;           // do nothing but check
  Json given = Json::object();  // the settings that it names

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

// What the text after `flag` says of a setting; UsageError where it says nothing that it may be.
Json read_flag(const Setting& setting, const std::string& flag, const std::string& text);

// Flags that leave what they are given in `given`.
void add_setting_flags(CLI::App& app, const std::vector<Setting>& settings, Json& given);

// --check
void add_check_flag(CLI::App& app, bool& check);

// --preset and a flag for each setting.
void add_preset_flags(CLI::App& app, const std::vector<Setting>& settings, RunFlags& flags);

// The same with --out, --resume and --check. `default_out` says in --help where a run
// goes without --out.
void add_run_flags(CLI::App& app, const std::vector<Setting>& settings,
                   const std::string& default_out, RunFlags& flags);

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

// UsageError where the file that `flag` says to write is one of those that are read.
void require_apart(const char* flag, const std::string& written,
                   const std::vector<std::string>& read);

// Prints what resolve() gives, as JSON, for scripts to read.
template <class S>
int print_settings(const RunFlags& flags) {
  const std::string text = json_text(to_json(resolve<S>(flags)), 2);
  for (const std::string& line : split(text, '\n')) say("{}\n", line);
  return 0;
}

// A number of a summary for a line of output: with three digits, or "none" for null.
std::string three_digits(const Json& number);

// "runs/PRESET-REST", the folder of a run that was given none.
std::string default_folder(const std::string& preset, const std::string& rest);

// Adds --version and parses. The exit code where that was all (--help, --version); UsageError, one
// line, for what does not parse: it names the subcommands where none was given, and the flag that
// comes nearest to one that there is not.
std::optional<int> parse(CLI::App& app, int argc, char** argv);

}  // namespace sidechannel::experiments
