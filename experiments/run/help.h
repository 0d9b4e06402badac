#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace sidechannel::experiments {

// What programs say of themselves, all of it made of the options that they have: --help,
// docs/cli.md and what shells complete.

// --help of a command in sections, with all names of a flag, its type and its default, as wide as
// the terminal or 100 columns.
void format_help(CLI::App& command);

// Command lines to be copied, at the end of --help.
void add_examples(CLI::App& command, const std::vector<std::string>& lines);

// The commands of a program, but for those that --help hides.
std::vector<const CLI::App*> shown_commands(const CLI::App& app);

// A program's part of docs/cli.md: some of its commands with their examples, and in one table for
// each section their flags.
std::string reference_of(const CLI::App& app, const std::vector<const CLI::App*>& commands);

// What may stand behind a flag, by its type (see domain.h): these words, or the name of a file or a
// folder.
struct FlagValues {
  std::vector<std::string> words;
  bool files = false;
  bool folders = false;
};
FlagValues values_of(const CLI::Option& option);

// A script for `shell`, bash or zsh, that completes the program's commands, flags and values.
std::string completion_of(const CLI::App& app, const std::string& shell);

}  // namespace sidechannel::experiments
