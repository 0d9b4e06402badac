#include "experiments/run/flags.h"

#include <CLI/CLI.hpp>
#include <numeric>
#include <utility>

#include "experiments/run/build_info.h"
#include "experiments/run/progress.h"

namespace sidechannel::experiments {
namespace {

// "train, probe or map"
std::string names_of(const std::vector<CLI::App*>& commands) {
  std::vector<const char*> names;
  for (const CLI::App* command : commands) names.push_back(command->get_name().c_str());
  return listed(names);
}

// For --help.
const char* type_of(const Setting& setting) {
  return std::holds_alternative<Whole>(setting.domain)  ? "N"
         : std::holds_alternative<Real>(setting.domain) ? "NUMBER"
                                                        : "TEXT";
}

// How many letters must be changed, added or taken away to make `b` of `a`.
std::size_t edits(const std::string& a, const std::string& b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t change = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, change}));
    }
  }
  return row.back();
}

// ", did you mean --seed?" for "--sed"; nothing where no flag is near.
std::string suggestion(const CLI::App& command, const std::string& flag) {
  std::string best;
  std::size_t least = 1 + std::min<std::size_t>(3, flag.size() / 4);
  if (flag.size() > 40) return best;
  for (const CLI::Option* option : command.get_options()) {
    const std::string name = option->get_name();
    const std::size_t distance = edits(flag, name);
    if (distance < least) least = distance, best = name;
  }
  return best.empty() ? best : fmt::format(", did you mean {}?", best);
}

// The option of a word of the command line that is a flag, NAME or NAME=VALUE; null for other ones.
const CLI::Option* option_of(const CLI::App& command, const std::string& word) {
  return word.starts_with("--") ? command.get_option_no_throw(word.substr(0, word.find('=')))
                                : nullptr;
}

// Whether its value is the word behind it.
bool takes_next(const CLI::Option& option, const std::string& word) {
  return option.get_expected_max() > 0 && word.find('=') == std::string::npos;
}

// The first word that no option of the command takes, as a message. CLI11 keeps no order, and a
// word may be another flag's value, too.
std::string unexpected(const CLI::App& command, int argc, char** argv) {
  std::string first;
  for (int i = 2; i < argc && first.empty(); ++i) {
    const CLI::Option* option = option_of(command, argv[i]);
    if (option == nullptr) {
      first = argv[i];
    } else if (takes_next(*option, argv[i])) {
      ++i;
    }
  }
  if (first.empty()) first = command.remaining(true).front();
  if (!first.starts_with('-')) return fmt::format("{}: not expected here", shown(first));
  const std::string flag = first.substr(0, first.find('='));
  return fmt::format("there is no flag {}{}", shown(flag), suggestion(command, flag));
}

// Every option that wants a value has one, of its own. For CLI11 the next flag would do.
void require_values(const CLI::App& command, int argc, char** argv) {
  for (int i = 2; i < argc; ++i) {
    const std::string word = argv[i];
    require(word != "--", "--: not expected here (see --help)");
    const CLI::Option* option = option_of(command, word);
    if (option == nullptr || option->get_expected_max() == 0) continue;
    const std::size_t equals = word.find('=');
    const std::string flag = word.substr(0, equals);
    const bool apart = takes_next(*option, word);
    if (apart) ++i;
    const std::string value = !apart ? word.substr(equals + 1) : i < argc ? argv[i] : "";
    require(!value.empty(), fmt::format("{}: expected a value, got {} (see --help)", flag,
                                        apart && i >= argc ? "none" : "an empty one"));
    require(!apart || !value.starts_with("--"),
            fmt::format("{}: expected a value, got the flag {}", flag, shown(value)));
  }
}

void add_preset_flag(CLI::App& app, RunFlags& flags) {
  app.add_option("--preset", flags.preset, "demo, small, paper, or a JSON file")
      ->capture_default_str();
}

}  // namespace

Resume RunFlags::resume_policy() const {
  return resume == "only" ? Resume::kOnly : resume == "never" ? Resume::kNever : Resume::kAuto;
}

Json read_flag(const Setting& setting, const std::string& flag, const std::string& text) {
  return std::visit(
      [&](const auto& domain) -> Json {
        const auto value = domain.read(text);
        require(value && domain.holds(*value),
                fmt::format("{} {}: expected {}", flag, shown(text), domain.words()));
        return *value;
      },
      setting.domain);
}

void add_setting_flags(CLI::App& app, const std::vector<Setting>& settings, Json& given) {
  for (const Setting& setting : settings) {
    const std::string flag = flag_of(setting.name);
    app.add_option_function<std::string>(
           flag,
           [&given, setting, flag](const std::string& text) {
             given[setting.name] = read_flag(setting, flag, text);
           },
           fmt::format("{}: {}", setting.help, words_of(setting.domain)))
        ->take_last()  // of a flag given twice, so that scripts can append
        ->type_name(type_of(setting));
  }
}

void add_check_flag(CLI::App& app, bool& check) {
  app.add_flag("--check", check,
               "say whether the settings make sense and what memory they need, and do nothing");
}

void add_preset_flags(CLI::App& app, const std::vector<Setting>& settings, RunFlags& flags) {
  add_preset_flag(app, flags);
  add_setting_flags(app, settings, flags.given);
}

void add_run_flags(CLI::App& app, const std::vector<Setting>& settings,
                   const std::string& default_out, RunFlags& flags) {
  add_preset_flag(app, flags);
  app.add_option("--out", flags.out, fmt::format("folder of the run (default: {})", default_out));
  app.add_option("--resume", flags.resume,
                 "auto (continue what is there), only (fail when nothing is), never (fail when "
                 "something is)")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "only", "never"}));
  add_check_flag(app, flags.check);
  add_setting_flags(app, settings, flags.given);
}

void require_same(const Json& given, const char* name, const Json& theirs,
                  const std::string& file) {
  const Json mine = given.value(name, theirs);
  require(mine == theirs, fmt::format("{} {}: {} holds a network with {} {}", flag_of(name),
                                      flag_text(mine), file, flag_of(name), flag_text(theirs)));
}

void require_apart(const char* flag, const std::string& written,
                   const std::vector<std::string>& read) {
  for (const std::string& file : read) {
    if (written.empty() || file.empty()) continue;
    std::error_code error;  // of one that is not there yet
    require(!std::filesystem::equivalent(written, file, error) &&
                std::filesystem::weakly_canonical(written, error) !=
                    std::filesystem::weakly_canonical(file, error),
            fmt::format("{} {}: is what is read, {}", flag, written, file));
  }
}

std::string three_digits(const Json& number) {
  return number.is_number() ? share_text(number.get<double>()) : "none";
}

std::string default_folder(const std::string& preset, const std::string& rest) {
  return fmt::format("runs/{}-{}", std::filesystem::path(preset).stem().string(), rest);
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
    const bool known = app.get_option_no_throw(first) != nullptr ||
                       std::ranges::count(commands, first, &CLI::App::get_name) > 0;
    if (!known) {
      throw UsageError(
          fmt::format("{} {}: expected {} (see --help)",
                      first.starts_with('-') ? "expected a command before" : "there is no command",
                      shown(first), names));
    }
  }
  for (CLI::App* command : commands) {
    if (argc > 1 && command->get_name() == argv[1]) require_values(*command, argc, argv);
    command->allow_extras();  // to be named in their order
  }
  app.allow_extras();
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    return app.exit(CLI::CallForHelp());
  } catch (const CLI::CallForVersion& version) {
    return app.exit(version);
  } catch (const CLI::ParseError& error) {
    throw UsageError(fmt::format("{} (see --help)", error.what()));
  }
  const std::vector<CLI::App*> chosen = app.get_subcommands();
  if (!app.remaining(true).empty()) {
    const CLI::App& command = chosen.empty() ? app : *chosen.front();
    throw UsageError(fmt::format("{} (see --help)", unexpected(command, argc, argv)));
  }
  return std::nullopt;
}

}  // namespace sidechannel::experiments
