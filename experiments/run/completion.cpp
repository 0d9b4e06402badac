#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <map>

#include "experiments/run/domain.h"
#include "experiments/run/help.h"

namespace sidechannel::experiments {
namespace {

// In single quotes, for either shell.
std::string quoted(const std::string& text) {
  std::string quoted = "'";
  for (const char letter : text) quoted += letter == '\'' ? "'\\''" : std::string(1, letter);
  return quoted + "'";
}

std::vector<std::string> flags_of(const CLI::Option& option) {
  std::vector<std::string> flags;
  for (const std::string& name : option.get_snames()) flags.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) flags.push_back("--" + name);
  return flags;
}

std::vector<std::string> flags_of(const CLI::App& command) {
  std::vector<std::string> flags;
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& flag : flags_of(*option)) flags.push_back(flag);
  }
  return flags;
}

std::vector<std::string> names_of(const std::vector<const CLI::App*>& commands) {
  std::vector<std::string> names;
  for (const CLI::App* command : commands) names.push_back(command->get_name());
  return names;
}

// --- bash ---------------------------------------------------------------------------------------

// The branch of a command: what may come next, unless one of its flags waits for a value.
std::string bash_branch(const CLI::App& command) {
  std::map<std::string, std::vector<std::string>> flags_by_values;
  std::vector<std::string> words = flags_of(command);
  for (const CLI::Option* option : command.get_options()) {
    const FlagValues values = values_of(*option);
    if (option->get_positional()) {
      words.insert(words.end(), values.words.begin(), values.words.end());
    } else if (option->get_expected_max() > 0) {
      const char* paths = values.files ? " paths=-f" : values.folders ? " paths=-d" : "";
      std::vector<std::string>& flags = flags_by_values[fmt::format(
          "words={}{}", quoted(fmt::format("{}", fmt::join(values.words, " "))), paths)];
      for (const std::string& flag : flags_of(*option)) flags.push_back(flag);
    }
  }
  std::string text = fmt::format("    {})\n      words={}\n", command.get_name(),
                                 quoted(fmt::format("{}", fmt::join(words, " "))));
  if (!flags_by_values.empty()) {
    text += "      case $before in\n";
    for (const auto& [values, flags] : flags_by_values) {
      text += fmt::format("        {}) {} ;;\n", fmt::join(flags, "|"), values);
    }
    text += "      esac\n";
  }
  return text + "      ;;\n";
}

// bash parts --flag=value into three words.
std::string bash_completion(const CLI::App& app) {
  const std::string& name = app.get_name();
  std::vector<std::string> first = names_of(shown_commands(app));
  for (const std::string& flag : flags_of(app)) first.push_back(flag);
  std::string text = fmt::format(
      R"(# Completion of {0} for bash, by `{0} completion bash`.
_sidechannel_{0}() {{
  local IFS=$' \t\n' word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} words='' paths=''
  if [[ $word == = ]]; then
    word=''
  elif [[ $before == = ]]; then
    before=${{COMP_WORDS[COMP_CWORD-2]}}
  fi
  ((COMP_CWORD > 1)) || words={1}
  ((COMP_CWORD < 2)) || case ${{COMP_WORDS[1]}} in
)",
      name, quoted(fmt::format("{}", fmt::join(first, " "))));
  for (const CLI::App* command : shown_commands(app)) text += bash_branch(*command);
  return text + fmt::format(R"(  esac
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word"; [[ -z $paths ]] || compgen "$paths" -- "$word")
  [[ -z $paths ]] || compopt -o filenames 2>/dev/null || :
}}
complete -F _sidechannel_{0} {0}
)",
                            name);
}

// --- zsh ----------------------------------------------------------------------------------------

// As _arguments takes it: brackets end a description.
std::string zsh_description(const CLI::Option& option) {
  std::string text = option.get_description();
  for (char& letter : text) {
    if (letter == '[') letter = '(';
    if (letter == ']') letter = ')';
  }
  return text;
}

// What _arguments does about a value: ":message:action".
std::string zsh_value(const CLI::Option& option, const std::string& name) {
  const FlagValues values = values_of(option);
  const std::string words = fmt::format("{}", fmt::join(values.words, " "));
  const std::string message =
      option.get_positional() ? option.get_name(true) : option.get_lnames().front();
  if (values.files && !words.empty()) {
    return fmt::format(":{}:_sidechannel_{}_or_file {}", message, name, words);
  }
  if (values.files) return fmt::format(":{}:_files", message);
  if (values.folders) return fmt::format(":{}:_files -/", message);
  return words.empty() ? fmt::format(":{}:", message) : fmt::format(":{}:({})", message, words);
}

std::string zsh_branch(const CLI::App& command, const std::string& name) {
  std::string text = fmt::format("    {})\n      _arguments", command.get_name());
  for (const CLI::Option* option : command.get_options()) {
    const std::vector<std::string> flags = flags_of(*option);
    const bool takes = option->get_expected_max() > 0;
    for (const std::string& flag : flags) {
      // What one name has given, no other needs to.
      text += fmt::format(
          " \\\n        {}",
          quoted(fmt::format("({}){}{}[{}]{}", fmt::join(flags, " "), flag,
                             takes && flag.starts_with("--") ? "=" : "", zsh_description(*option),
                             takes ? zsh_value(*option, name) : "")));
    }
    if (option->get_positional()) text += " \\\n        " + quoted("1" + zsh_value(*option, name));
  }
  return text + "\n      ;;\n";
}

std::string zsh_completion(const CLI::App& app) {
  const std::string& name = app.get_name();
  std::string text = fmt::format(
      R"(#compdef {0}
# Completion of {0} for zsh, by `{0} completion zsh`.
_sidechannel_{0}_or_file() {{
  compadd "$@"
  _files
}}
_sidechannel_{0}() {{
  if ((CURRENT == 2)); then
    local -a commands=(
)",
      name);
  for (const CLI::App* command : shown_commands(app)) {
    text +=
        fmt::format("      {}\n",
                    quoted(fmt::format("{}:{}", command->get_name(), command->get_description())));
  }
  text += fmt::format(R"(    )
    if [[ $PREFIX == -* ]]; then
      compadd -- {}
    else
      _describe command commands
    fi
    return
  fi
  shift words
  ((CURRENT--))
  case $words[1] in
)",
                      fmt::join(flags_of(app), " "));
  for (const CLI::App* command : shown_commands(app)) text += zsh_branch(*command, name);
  return text + fmt::format(R"(  esac
}}
if [[ $funcstack[1] == _{0} ]]; then
  _sidechannel_{0} "$@"
else
  compdef _sidechannel_{0} {0}
fi
)",
                            name);
}

}  // namespace

std::string completion_of(const CLI::App& app, const std::string& shell) {
  return shell == "zsh" ? zsh_completion(app) : bash_completion(app);
}

}  // namespace sidechannel::experiments
