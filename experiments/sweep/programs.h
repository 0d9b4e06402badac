#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "experiments/run/memory.h"
#include "experiments/run/run_folder.h"
#include "experiments/run/settings.h"

namespace sidechannel::experiments {

// A cell's settings, once they were found to make sense together.
struct Resolved {
  Json settings;  // by name, those that results depend on
  // Of what was given, what does nothing as the others are, and the words for it.
  std::vector<std::pair<std::string, std::string>> idle;
};

// A program whose runs a sweep makes: what its settings are, and how one of its runs is made.
class SweptProgram {
 public:
  virtual ~SweptProgram() = default;
  virtual const char* name() const = 0;
  // What may be varied: all that results depend on.
  virtual const std::vector<Setting>& settings() const = 0;

  // The preset's `json` (see settings_from), which is called `preset`, with `given` over it.
  // UsageError for what makes no sense.
  virtual Resolved resolve(const Json& json, const std::string& preset,
                           const Json& given) const = 0;
  // UsageError unless settings are those of a run.
  virtual void check(const Json& settings) const = 0;

  // The rest is of a run with these settings, carried out as `how` says (which is an object, too).

  virtual MemoryNeed memory(const Json& settings, const Json& how) const = 0;
  // Makes the run in its folder, but where done(), asked while nobody else works there, says that
  // it is made. Returns what there is to say of it in a line; empty where it was done.
  virtual std::string make(const Json& settings, const std::string& preset, const Json& how,
                           const std::filesystem::path& folder,
                           const std::function<bool()>& done) const = 0;

  virtual const char* results() const = 0;  // the file that says that it is finished
  virtual bool has_results(const Json& settings, const std::filesystem::path& folder) const = 0;
  // What is wrong with a file of results that is there; empty where nothing is.
  virtual std::string fault(const Json& settings, const std::filesystem::path& folder) const = 0;
  // What a finished run says of itself.
  struct Outcome {
    Json measures;  // every number by its name, null where it is not defined; none of the clock's
    Json notice;    // words about a network that learned nothing, or null
  };
  virtual Outcome outcome(const Json& settings, const std::filesystem::path& folder) const = 0;
  // Those that a table has room for, and their digits.
  virtual std::vector<std::pair<std::string, int>> headline() const = 0;
};

// "localization, overlap or diffusion"
std::string swept_programs();

// One of them by name; with `population`, of localization alone, each network's run has another
// beside it, in kPopulation: of the same network with its population statistics. UsageError for
// other names, and for a program that has no such.
std::shared_ptr<const SweptProgram> swept_program(const std::string& name, bool population);
inline constexpr const char* kPopulation = "population";
// How much larger the loss is with these; their other measures are called "population.final_loss"
// and so on.
inline constexpr const char* kPopulationGap = "population_gap";

// Every number in an object by its name, those of objects and lists in it as "reach.left" and
// "mean.0"; what is null is one that is not defined.
Json flat_numbers(const Json& object);

}  // namespace sidechannel::experiments
