#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "experiments/run_folder.h"
#include "experiments/settings.h"

namespace CLI {
class App;
}

namespace sidechannel::experiments {

// What a command line says about a run, before it is laid over a preset.
struct RunFlags {
  std::string preset = "demo";
  std::string out;
  std::string resume = "auto";
  Json given = Json::object();  // the settings that it names

  Resume resume_policy() const;
};

// A setting as a flag.
struct SettingFlag {
  enum class Type { kText, kNumber, kInteger };
  const char* name;
  Type type;
  const char* help;
};

// The settings of S, or those of them that `only` names.
template <class S>
std::vector<SettingFlag> setting_flags(const std::vector<std::string>& only = {}) {
  std::vector<SettingFlag> flags;
  const S settings;
  S::for_each(settings, [&](const char* name, const auto& member, const char* help) {
    if (!only.empty() && std::find(only.begin(), only.end(), name) == only.end()) return;
    using T = std::decay_t<decltype(member)>;
    using Type = SettingFlag::Type;
    flags.push_back({name,
                     std::is_same_v<T, std::string> ? Type::kText
                     : std::is_same_v<T, double>    ? Type::kNumber
                                                    : Type::kInteger,
                     help});
  });
  return flags;
}

// Flags that leave what they are given in `given`.
void add_setting_flags(CLI::App& app, const std::vector<SettingFlag>& settings, Json& given);

// --preset, --out, --resume and a flag for each setting. `default_out` says in --help where a run
// goes without --out.
void add_run_flags(CLI::App& app, const std::vector<SettingFlag>& settings,
                   const std::string& default_out, RunFlags& flags);

// The preset, then its choices for the kind of norm, then the flags; checked.
template <class S>
S resolve(const RunFlags& flags) {
  S settings = settings_from_preset<S>(flags.preset, flags.given.value("norm", ""));
  apply(flags.given, "flags", settings);
  settings.check();
  return settings;
}

// "runs/PRESET-REST", the folder of a run that was given none.
std::string default_folder(const std::string& preset, const std::string& rest);

// "--log-every" for "log_every".
std::string flag_of(std::string setting);

// Adds --version and parses. The exit code where that was all (--help, --version); UsageError, one
// line, for what does not parse, naming the subcommands where there are any and none was given.
std::optional<int> parse(CLI::App& app, int argc, char** argv);

// What every program's main does: runs `program` and turns what it throws into one line on stderr
// that begins with `name` and an exit code: 2 for a UsageError, 75 for Interrupted, 1 for others.
int run_main(const char* name, int (*program)(int argc, char** argv), int argc, char** argv);

}  // namespace sidechannel::experiments
