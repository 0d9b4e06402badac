#include "experiments/flags.h"

#include <CLI/CLI.hpp>
#include <algorithm>

#include "engine/say.h"
#include "experiments/build_info.h"
#include "experiments/interrupt.h"
#include "experiments/streams.h"

namespace sidechannel::experiments {
namespace {

template <class T>
CLI::Option* add_flag(CLI::App& app, const SettingFlag& setting, Json& given) {
  return app.add_option_function<T>(
      flag_of(setting.name), [&given, name = setting.name](const T& value) { given[name] = value; },
      setting.help);
}

// "train, probe or map"
std::string names_of(const std::vector<CLI::App*>& commands) {
  std::string names;
  for (std::size_t i = 0; i < commands.size(); ++i) {
    const char* separator = i == 0 ? "" : i + 1 < commands.size() ? ", " : " or ";
    names += separator + commands[i]->get_name();
  }
  return names;
}

}  // namespace

Resume RunFlags::resume_policy() const {
  return resume == "only" ? Resume::kOnly : resume == "never" ? Resume::kNever : Resume::kAuto;
}

void add_setting_flags(CLI::App& app, const std::vector<SettingFlag>& settings, Json& given) {
  for (const SettingFlag& setting : settings) {
    using Type = SettingFlag::Type;
    CLI::Option* option = setting.type == Type::kText ? add_flag<std::string>(app, setting, given)
                          : setting.type == Type::kNumber
                              ? add_flag<double>(app, setting, given)
                              : add_flag<std::int64_t>(app, setting, given);
    option->take_last();  // of a flag given twice, so that scripts can append
    option->type_name(setting.type == Type::kText     ? "TEXT"
                      : setting.type == Type::kNumber ? "NUMBER"
                                                      : "N");
  }
}

void add_run_flags(CLI::App& app, const std::vector<SettingFlag>& settings,
                   const std::string& default_out, RunFlags& flags) {
  app.add_option("--preset", flags.preset, "demo, small, paper, or a JSON file")
      ->capture_default_str();
  app.add_option("--out", flags.out, fmt::format("folder of the run (default: {})", default_out));
  app.add_option("--resume", flags.resume,
                 "auto (continue what is there), only (fail when nothing is), never (fail when "
                 "something is)")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "only", "never"}));
  add_setting_flags(app, settings, flags.given);
}

std::string default_folder(const std::string& preset, const std::string& rest) {
  return fmt::format("runs/{}-{}", std::filesystem::path(preset).stem().string(), rest);
}

std::string flag_of(std::string setting) {
  std::replace(setting.begin(), setting.end(), '_', '-');
  return "--" + setting;
}

std::optional<int> parse(CLI::App& app, int argc, char** argv) {
  app.set_version_flag("--version", [] {
    const BuildInfo build = build_info();
    return fmt::format("sidechannel {} ({}{}), {}, {}", build.version, build.commit,
                       build.modified ? ", modified" : "", build.compiler, build.flags);
  });
  const std::vector<CLI::App*> commands = app.get_subcommands([](CLI::App*) { return true; });
  if (!commands.empty()) {
    const std::string names = names_of(commands);
    if (argc < 2) throw UsageError(fmt::format("expected a command: {} (see --help)", names));
    const std::string first = argv[1];
    if (!first.starts_with('-') &&
        std::none_of(commands.begin(), commands.end(),
                     [&](const CLI::App* known) { return known->get_name() == first; })) {
      throw UsageError(
          fmt::format("there is no command {}: expected {} (see --help)", first, names));
    }
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    return app.exit(CLI::CallForHelp());
  } catch (const CLI::CallForVersion& version) {
    return app.exit(version);
  } catch (const CLI::ParseError& error) {
    throw UsageError(fmt::format("{} (see --help)", error.what()));
  }
  return std::nullopt;
}

namespace {

// What went wrong, in a line, and the exit code that stands for it.
int exit_code_of(const char* name, int (*program)(int argc, char** argv), int argc, char** argv) {
  const std::string missing = missing_cpu_features();
  if (!missing.empty()) {
    note("{}: this CPU lacks {}; build again on it, or with -DSIDECHANNEL_ARCH=x86-64-v3\n", name,
         missing);
    return 1;
  }
  try {
    return program(argc, argv);
  } catch (const Interrupted&) {
    return kExitInterrupted;
  } catch (const UsageError& error) {
    note("{}: {}\n", name, error.what());
    return 2;
  } catch (const std::exception& error) {
    note("{}: {}\n", name, error.what());
    return 1;
  }
}

}  // namespace

int run_main(const char* name, int (*program)(int argc, char** argv), int argc, char** argv) {
  prepare_streams();
  const int code = exit_code_of(name, program, argc, argv);
  const std::string lost = why_stdout_is_incomplete();
  if (lost.empty()) return code;
  note("{}: cannot write standard output: {}\n", name, lost);
  return code == 0 ? 1 : code;
}

}  // namespace sidechannel::experiments
