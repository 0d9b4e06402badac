#include "experiments/run/flags.h"

#include <CLI/CLI.hpp>
#include <algorithm>

#include "experiments/run/build_info.h"
#include "experiments/run/help.h"
#include "experiments/run/progress.h"
#include "experiments/run/summary.h"

namespace sidechannel::experiments {
namespace {

// "train, probe or map"
std::string names_of(const std::vector<const CLI::App*>& commands) {
  std::vector<const char*> names;
  for (const CLI::App* command : commands) names.push_back(command->get_name().c_str());
  return listed(names);
}

// How many letters must be changed, added, taken away or swapped with the next one to make `b` of
// `a`.
std::size_t edits(const std::string& a, const std::string& b) {
  std::vector<std::vector<std::size_t>> to(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
  for (std::size_t i = 0; i <= a.size(); ++i) {
    for (std::size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        to[i][j] = i + j;
        continue;
      }
      const std::size_t change = to[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      to[i][j] = std::min({to[i - 1][j] + 1, to[i][j - 1] + 1, change});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        to[i][j] = std::min(to[i][j], to[i - 2][j - 2] + 1);
      }
    }
  }
  return to[a.size()][b.size()];
}

}  // namespace

std::string suggestion(const std::string& word, const std::vector<std::string>& names) {
  std::string best;
  std::size_t least = 1 + std::min<std::size_t>(3, word.size() / 4);
  if (word.size() > 40) return best;
  for (const std::string& name : names) {
    const std::size_t distance = edits(word, name);
    if (distance < least) least = distance, best = name;
  }
  return best.empty() ? best : fmt::format(", did you mean {}?", best);
}

namespace {

std::vector<std::string> flags_of(const CLI::App& command) {
  std::vector<std::string> flags;
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& name : option->get_lnames()) flags.push_back("--" + name);
  }
  return flags;
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
  std::size_t places =
      command.get_options([](const CLI::Option* option) { return option->get_positional(); })
          .size();
  for (int i = 2; i < argc && first.empty(); ++i) {
    const CLI::Option* option = option_of(command, argv[i]);
    if (option == nullptr && places > 0 && *argv[i] != '-') {
      --places;
    } else if (option == nullptr) {
      first = argv[i];
    } else if (takes_next(*option, argv[i])) {
      ++i;
    }
  }
  if (first.empty()) first = command.remaining(true).front();
  if (!first.starts_with('-')) return fmt::format("{}: not expected here", shown(first));
  const std::string flag = first.substr(0, first.find('='));
  return fmt::format("there is no flag {}{}", shown(flag), suggestion(flag, flags_of(command)));
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

// Its help, with what it may be where its type does not say that.
std::string description_of(const Setting& setting, const std::string& type) {
  if (type.find('|') != type.npos) return setting.help;
  return fmt::format("{}: {}", setting.help, words_of(setting.domain));
}

constexpr const char* kHelpWords = "print this help and exit";

// What every command has. --help comes last in its section.
void add_output_flags(CLI::App& command) {
  command
      .add_flag_callback(
          "--json", [] { answers_in_json = true; },
          "answer with one JSON object on standard output, and nothing else there")
      ->group(kOutputSection);
  command
      .add_flag_callback(
          "--quiet", [] { notes_are_heard = false; },
          "no progress and no notices on standard error; errors all the same")
      ->group(kOutputSection);
  command.set_help_flag("-h,--help", kHelpWords)->group(kOutputSection);
}

// What parse() adds to a program.
struct Additions {
  std::vector<const CLI::App*> beside;  // the program's own commands
  CLI::App* completion = nullptr;
  std::string shell;
  CLI::App* reference = nullptr;  // for docs/cli.md; not in --help
};
void add_common(CLI::App& app, Additions& added) {
  added.beside = shown_commands(app);
  for (CLI::App* command : app.get_subcommands([](CLI::App*) { return true; })) {
    add_output_flags(*command);
  }
  const std::string name = app.get_name();
  added.completion = app.add_subcommand(
      "completion", "print a script with which a shell completes commands, flags and values");
  added.completion->add_option("shell", added.shell, "which one")
      ->required()
      ->type_name("bash|zsh")
      ->group(kRunSection);
  added.completion->set_help_flag("-h,--help", kHelpWords)->group(kOutputSection);
  add_examples(
      *added.completion,
      {fmt::format("source <({} completion bash)  # in this shell", name),
       fmt::format("{0} completion bash > ~/.local/share/bash-completion/completions/{0}", name),
       fmt::format("{0} completion zsh > ~/.zsh/completions/_{0}", name)});
  added.reference = app.add_subcommand("reference", "")->group("");
  app.set_help_flag("-h,--help", kHelpWords);
  format_help(app);
  for (CLI::App* command : app.get_subcommands([](CLI::App*) { return true; })) {
    format_help(*command);
  }
  app.set_version_flag(
      "--version",
      [] {
        const BuildInfo build = build_info();
        return fmt::format("sidechannel {} ({}{}), {}, {}", build.version, build.commit,
                           build.modified ? ", modified" : "", build.compiler, build.flags);
      },
      "print which version this is and how it was built, and exit");
}

}  // namespace

Resume RunFlags::resume_policy() const {
  const std::string name = resume.value("resume", "auto");
  return name == "only" ? Resume::kOnly : name == "never" ? Resume::kNever : Resume::kAuto;
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

std::string default_text(const std::string& setting, const Defaults& defaults) {
  std::string each;
  std::vector<std::string> values;
  for (const auto& [preset, settings] : defaults) {
    if (!settings.contains(setting)) continue;
    const Json& value = settings[setting];
    values.push_back(value.is_number_float() ? fmt::format("{}", value.get<double>())
                                             : flag_text(value));
    each += fmt::format("{}{} {}", each.empty() ? "" : ", ", preset, values.back());
  }
  if (values.empty()) return {};
  return std::ranges::count(values, values.front()) == std::ssize(values) ? values.front() : each;
}

void add_setting_flags(CLI::App& app, const std::vector<Setting>& settings, Json& given,
                       const Defaults& defaults) {
  for (const Setting& setting : settings) {
    const std::string flag = flag_of(setting.name);
    const std::string type =
        std::visit([](const auto& domain) { return domain.type(); }, setting.domain);
    app.add_option_function<std::string>(
           fmt::format("{}", fmt::join(flags_of(setting), ",")),
           [&given, setting, flag](const std::string& text) {
             given[setting.name] = read_flag(setting, flag, text);
           },
           description_of(setting, type))
        ->take_last()  // of a flag given twice, by whichever name, so that scripts can append
        ->type_name(type)
        ->default_str(default_text(setting.name, defaults))
        ->group(*setting.section == '\0' ? kRunSection : setting.section);
  }
}

CLI::Option* add_text_flag(CLI::App& app, const char* flag, std::string& text, const char* type,
                           const std::string& what) {
  return app.add_option(flag, text, what)->type_name(type)->group(kRunSection);
}

void add_preset_flag(CLI::App& app, std::string& preset, const char* what) {
  add_text_flag(app, "--preset", preset, "demo|small|paper|FILE.json", what)->default_str("demo");
}

void add_check_flag(CLI::App& app, bool& check) {
  app.add_flag("--check", check,
               "say whether the settings make sense and what memory they need, and do nothing")
      ->group(kRunSection);
}

void add_preset_flags(CLI::App& app, const std::vector<Setting>& settings, RunFlags& flags,
                      const Defaults& defaults) {
  add_preset_flag(app, flags.preset);
  add_setting_flags(app, settings, flags.given, defaults);
}

void add_run_flags(CLI::App& app, const std::vector<Setting>& settings,
                   const std::string& default_out, RunFlags& flags, const Defaults& defaults) {
  add_preset_flag(app, flags.preset);
  add_text_flag(app, "--out", flags.out, "FOLDER", "where the run is kept")
      ->default_str(default_out);
  add_setting_flags(app,
                    {{"resume",
                      "auto: continue what is there; only: fail when nothing is; never: fail when "
                      "something is",
                      OneOf{{"auto", "only", "never"}}}},
                    flags.resume, {{"", Json::object({{"resume", "auto"}})}});
  add_check_flag(app, flags.check);
  add_setting_flags(app, settings, flags.given, defaults);
}

void require_same(const Json& given, const char* name, const Json& theirs,
                  const std::string& file) {
  const Json mine = given.value(name, theirs);
  require(mine == theirs, fmt::format("{} {}: {} holds a network with {} {}", flag_of(name),
                                      flag_text(mine), file, flag_of(name), flag_text(theirs)));
}

void require_apart(const char* flag, const std::string& written,
                   const std::vector<std::string>& read) {
  const std::filesystem::path path(written), name = path.filename(), folder = path.parent_path();
  const bool belongs = name == kConfigFile || name == kPlanFile || name == kSummary ||
                       name == kResult || name == kMetricsFile ||
                       name.extension() == ".safetensors";
  const auto lies_beside = [&](const char* file) { return std::filesystem::exists(folder / file); };
  require(!belongs || !(lies_beside(kConfigFile) || lies_beside(kPlanFile)),
          fmt::format("{} {}: is a file of the run or sweep in that folder", flag, written));
  for (const std::string& file : read) {
    if (written.empty() || file.empty()) continue;
    std::error_code error;  // of one that is not there yet
    require(!std::filesystem::equivalent(written, file, error) &&
                std::filesystem::weakly_canonical(written, error) !=
                    std::filesystem::weakly_canonical(file, error),
            fmt::format("{} {}: is what is read, {}", flag, written, file));
  }
}

int print_json(const Json& json) {
  tell(stdout, json.dump(2, ' ', true, Json::error_handler_t::replace) + '\n');
  return 0;
}

int answer_check(const std::string& folder, const CheckedMemory& memory) {
  return answer({{"folder", folder}, {"memory", memory.bytes}}, "{}\n", memory.words);
}

std::string three_digits(const Json& number) {
  return number.is_number() ? share_text(number.get<double>()) : "none";
}

std::string default_folder(const std::string& preset, const std::string& rest) {
  return fmt::format("runs/{}-{}", std::filesystem::path(preset).stem().string(), rest);
}

std::optional<int> parse(CLI::App& app, int argc, char** argv) {
  answers_in_json = false;  // whatever a call before this one has asked
  notes_are_heard = true;
  Additions added;
  add_common(app, added);
  const std::vector<CLI::App*> commands = app.get_subcommands([](CLI::App*) { return true; });
  const std::string names = names_of(shown_commands(app));
  if (argc < 2) throw UsageError(fmt::format("expected a command: {} (see --help)", names));
  const std::string first = argv[1];
  const bool known = app.get_option_no_throw(first) != nullptr ||
                     std::ranges::count(commands, first, &CLI::App::get_name) > 0;
  if (!known) {
    const bool flag = first.starts_with('-');
    std::vector<std::string> shown_names;
    for (const CLI::App* command : shown_commands(app)) shown_names.push_back(command->get_name());
    const std::string guess = flag ? "" : suggestion(first, shown_names);
    throw UsageError(fmt::format("{} {}{} (see --help)",
                                 flag ? "expected a command before" : "there is no command",
                                 shown(first), guess.empty() ? ": expected " + names : guess));
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
  if (*added.completion) {
    const Setting shell{"shell", "", OneOf{{"bash", "zsh"}}};
    tell(stdout,
         completion_of(app, read_flag(shell, "completion", added.shell).get<std::string>()));
    return 0;
  }
  if (*added.reference) {
    tell(stdout, reference_of(app, added.beside));
    return 0;
  }
  return std::nullopt;
}

}  // namespace sidechannel::experiments
