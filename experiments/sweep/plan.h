#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "experiments/run/sweep.h"
#include "experiments/sweep/programs.h"

namespace sidechannel::experiments {

// What a sweep is asked to be.
struct SweepRequest {
  std::string program = {};            // whose preset `preset` is; of a sweep's preset, empty
  std::string preset = {};             // empty: the program's demo
  std::vector<std::string> over = {};  // each as parse_axis takes it
  std::vector<std::string> set = {};   // each NAME=VALUE
  bool population = false;

  bool empty() const {
    return program.empty() && preset.empty() && over.empty() && set.empty() && !population;
  }
};

// A setting that a sweep varies.
struct Axis {
  std::string setting;
  std::vector<Json> values;
};

// Cells of a sweep at most: each is a folder and a line of the plan.
inline constexpr std::int64_t kMostCells = 10'000;

// NAME=VALUES, each value as the flag of the setting takes it, between commas; of whole numbers
// also ranges (see Range); of texts that have commas themselves, between slashes. UsageError for
// what is no setting of the program, or none of its values, and for a value that is named twice.
Axis parse_axis(const SweptProgram& program, const std::string& text);

// Which cell stands for those that differ on one axis alone: the one whose measures are the best,
// the first measure counting first; of equals the first cell.
struct Choice {
  struct Measure {
    std::string name;
    bool most;  // or least
  };
  std::string axis;
  std::vector<Measure> by;
  std::string text;  // as it is written, with the axis by its first name
};

// "learning_rate=max:localized_fraction,min:final_loss", where the axis may have any name of its
// setting; UsageError for another form, and for what is none of the axes.
Choice parse_choice(const SweptProgram& program, const std::string& text,
                    const std::vector<std::string>& axes);

// Runs of a program: one for each combination of the axes' values.
struct SweepPlan {
  struct Cell {
    std::string id;  // "depth=8,seed=0"
    Json settings;   // on each axis; and what else differs, as a preset has it for a kind of norm
  };
  std::shared_ptr<const SweptProgram> program;
  bool population = false;
  std::string preset;
  std::vector<std::string> axes;  // the names of their settings
  std::string choose;             // which cells stand for others (see Choice); empty: none does
  Json settings;                  // what the cells share, by name
  std::vector<Cell> cells;

  // A cell's own: what they share, and what makes it this cell.
  Json settings_of(std::size_t cell) const;
};

// The presets of sweeps ("groups/small", "crosstalk/demo" or a JSON file) hold a program's settings
// and
//
//   "program": "localization",  "over": ["groups=1,2,4", "seed=0..2"],
//   "choose": "...",  "population": true
//
// the latter two where they like. What the request says lies over it. Cells are ordered so that the
// first of them make a whole, if thin, figure: the first axis varies first. UsageError for what
// makes no sense; it names all cells that do not.
SweepPlan plan_sweep(const SweepRequest& request);

// plan.json in the sweep's folder. Written once: another plan than the one that is there is a
// UsageError that says how they differ.
void write_plan(const std::filesystem::path& path, const SweepPlan& plan);
// That UsageError, and nothing written.
void require_folder_for(const std::filesystem::path& path, const SweepPlan& plan);
bool has_plan(const std::filesystem::path& path);
SweepPlan read_plan(const std::filesystem::path& path);

// What the largest cell needs.
MemoryNeed memory_of(const SweepPlan& plan, const Json& how);

Sweep cells_of(const std::filesystem::path& path, const SweepPlan& plan);

}  // namespace sidechannel::experiments
