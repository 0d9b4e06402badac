#include "experiments/run/help.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <sstream>
#include <utility>

#include "experiments/run/domain.h"

namespace sidechannel::experiments {
namespace {

constexpr const char* kExamples = "Examples:";
constexpr const char* kIndent = "  ";

std::size_t width() {
  winsize size = {};
  const bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= 60;
  return known ? size.ws_col : 100;
}

// The words of a text in lines of at most `columns`, of which all but the first begin at `indent`.
std::string wrapped(const std::string& text, std::size_t columns, std::size_t indent) {
  std::string lines;
  std::size_t at = indent;
  std::istringstream words(text);
  for (std::string word; words >> word; at += word.size()) {
    if (at > indent && at + 1 + word.size() > columns) {
      lines += '\n' + std::string(indent, ' ');
      at = indent;
    } else if (at > indent) {
      lines += ' ';
      ++at;
    }
    lines += word;
  }
  return lines;
}

// "--learning-rate", "--lr"
std::vector<std::string> names_of(const CLI::Option& option) {
  if (option.get_positional()) return {option.get_name(true)};
  std::vector<std::string> names;
  for (const std::string& name : option.get_snames()) names.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) names.push_back("--" + name);
  return names;
}

// Its type; of a flag without a value none.
std::string type_of(const CLI::Option& option) {
  return option.get_expected_max() == 0 ? "" : option.get_type_name();
}

class Formatter : public CLI::Formatter {
 public:
  // With one empty line between sections.
  std::string make_help(const CLI::App* app, std::string name,
                        CLI::AppFormatMode mode) const override {
    const std::string help = CLI::Formatter::make_help(app, std::move(name), mode);
    return CLI::detail::find_and_replace(help, "\n\n\n", "\n\n");
  }

  std::string make_option(const CLI::Option* option, bool /*is_positional*/) const override {
    const std::string type = type_of(*option);
    std::string line = fmt::format("{}{}{}{}", kIndent, fmt::join(names_of(*option), ", "),
                                   type.empty() ? "" : " ", type);
    std::string what = option->get_description();
    if (option->get_required()) what += " (required)";
    if (!option->get_default_str().empty()) {
      what += fmt::format(" [{}]", option->get_default_str());
    }
    const std::size_t column = get_column_width();
    const bool fits = line.size() + 2 <= column;
    line += fits ? std::string(column - line.size(), ' ') : '\n' + std::string(column, ' ');
    return line + wrapped(what, width(), column) + '\n';
  }
};

std::vector<std::string> examples_of(const CLI::App& app) {
  std::vector<std::string> lines;
  for (const std::string& line : split(app.get_footer(), '\n')) {
    if (line.starts_with(kIndent)) lines.push_back(line.substr(2));
  }
  return lines;
}

// A cell of a table in Markdown.
std::string in_table(std::string text) {
  for (std::size_t at = 0; (at = text.find('|', at)) != text.npos; at += 2) text.insert(at, "\\");
  return text;
}

// A flag as commands of a program have it, and which of them.
struct Row {
  std::string flag, what, otherwise;  // without it
  std::vector<std::string> commands;
};

Row row_of(const CLI::Option& option) {
  std::string flag;
  const std::string type = type_of(option);
  for (const std::string& name : names_of(option)) {
    flag += fmt::format("{}`{}{}{}`", flag.empty() ? "" : ", ", name,
                        flag.empty() && !type.empty() ? " " : "", flag.empty() ? type : "");
  }
  return {in_table(flag),
          in_table(option.get_description()),
          option.get_required() ? "required" : in_table(option.get_default_str()),
          {}};
}

struct Table {
  std::string section;
  std::vector<Row> rows;
};

std::vector<Table> tables_of(const std::vector<const CLI::App*>& commands) {
  std::vector<Table> tables;
  for (const CLI::App* command : commands) {
    for (const CLI::Option* option : command->get_options()) {
      auto table = std::ranges::find(tables, option->get_group(), &Table::section);
      if (table == tables.end()) table = tables.insert(table, Table{option->get_group(), {}});
      Row row = row_of(*option);
      auto same = std::ranges::find_if(table->rows, [&](const Row& other) {
        return other.flag == row.flag && other.what == row.what &&
               (other.otherwise == row.otherwise || row.otherwise.empty());
      });
      if (same == table->rows.end()) same = table->rows.insert(same, std::move(row));
      same->commands.push_back(command->get_name());
    }
  }
  return tables;
}

}  // namespace

void format_help(CLI::App& command) {
  command.formatter(std::make_shared<Formatter>());
}

void add_examples(CLI::App& command, const std::vector<std::string>& lines) {
  command.footer(
      fmt::format("{}\n{}{}", kExamples, kIndent, fmt::join(lines, fmt::format("\n{}", kIndent))));
}

std::vector<const CLI::App*> shown_commands(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App* command) { return !command->get_group().empty(); });
}

std::string reference_of(const CLI::App& app, const std::vector<const CLI::App*>& commands) {
  std::string text = fmt::format("## {}\n\n{}\n\n| command | what it does |\n|---|---|\n",
                                 app.get_name(), app.get_description());
  for (const CLI::App* command : commands) {
    text += fmt::format("| `{} {}` | {} |\n", app.get_name(), command->get_name(),
                        in_table(command->get_description()));
  }
  text += "\n```sh\n";
  for (const CLI::App* command : commands) {
    for (const std::string& line : examples_of(*command)) text += line + '\n';
  }
  text += "```\n";
  for (const Table& table : tables_of(commands)) {
    text += fmt::format("\n**{}**\n\n| flag | what | default | of |\n|---|---|---|---|\n",
                        table.section);
    for (const Row& row : table.rows) {
      text += fmt::format("| {} | {} | {} | {} |\n", row.flag, row.what, row.otherwise,
                          row.commands.size() == commands.size()
                              ? "all"
                              : fmt::format("{}", fmt::join(row.commands, ", ")));
    }
  }
  return text;
}

FlagValues values_of(const CLI::Option& option) {
  FlagValues values;
  for (const std::string& word : split(type_of(option), '|')) {
    if (word.starts_with("FILE")) {
      values.files = true;
    } else if (word == "FOLDER") {
      values.folders = true;
    } else if (!word.empty() && (word.front() < 'A' || word.front() > 'Z')) {
      values.words.push_back(word.substr(0, word.find('[')));  // "cuda[:N]"
    }
  }
  return values;
}

}  // namespace sidechannel::experiments
