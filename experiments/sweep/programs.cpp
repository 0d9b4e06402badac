#include "experiments/sweep/programs.h"

#include <array>

#include "engine/say.h"
#include "experiments/diffusion/diffuse.h"
#include "experiments/localization/localize.h"
#include "experiments/localization/memory.h"
#include "experiments/overlap/distinguish.h"
#include "experiments/run/flags.h"
#include "experiments/run/progress.h"
#include "experiments/run/summary.h"

namespace sidechannel::experiments {
namespace {

namespace fs = std::filesystem;

void add_numbers(const std::string& name, const Json& value, Json& numbers) {
  if (value.is_object()) {
    for (const auto& item : value.items()) {
      add_numbers(name.empty() ? item.key() : name + "." + item.key(), item.value(), numbers);
    }
  } else if (value.is_array()) {
    for (std::size_t i = 0; i < value.size(); ++i) {
      add_numbers(fmt::format("{}.{}", name, i), value[i], numbers);
    }
  } else if (value.is_number() || value.is_null()) {
    numbers[name] = value;
  }
}

// The program whose runs have the settings S.
template <class S>
class ProgramOf : public SweptProgram {
 public:
  const std::vector<Setting>& settings() const override {
    static const std::vector<Setting> all =
        settings_that<S>([](const Setting& setting) { return !setting.how; });
    return all;
  }

  Resolved resolve(const Json& json, const std::string& preset, const Json& given) const override {
    S settings = settings_from<S>(json, preset, given.value("norm", ""));
    apply(given, "", settings);
    settings.check();
    Resolved result{to_json(settings), {}};
    for (const std::string& name : do_not_matter<S>()) result.settings.erase(name);
    check(result.settings);
    for (const auto& item : given.items()) {
      try {
        check_effects(Json::object({{item.key(), item.value()}}), settings, GivenAs::kAxis);
      } catch (const UsageError& error) {
        result.idle.emplace_back(item.key(), error.what());
      }
    }
    return result;
  }

  void check(const Json& settings) const override {
    for (const std::string& name : do_not_matter<S>()) {
      require(!settings.contains(name), fmt::format("{}: is not for a sweep to set", name));
    }
    of(settings, Json::object());
  }

  MemoryNeed memory(const Json& settings, const Json& how) const override {
    return need(of(settings, how));
  }

  std::string make(const Json& json, const std::string& preset, const Json& how,
                   const fs::path& folder, const std::function<bool()>& done) const override {
    S settings = of(json, how);
    settings.preset = preset;
    const Device device = choose_device(settings);
    require_memory(need(settings), device);
    RunFolder run(folder, described(settings), device, Resume::kAuto);
    return done() ? "" : work(settings, run, device);
  }

  const char* results() const override { return kSummary; }
  bool has_results(const Json& settings, const fs::path& folder) const override {
    return fs::exists(folder / results()) && fault(settings, folder).empty();
  }
  Outcome outcome(const Json& settings, const fs::path& folder) const override {
    Json summary = summarized(of(settings, Json::object()), folder);
    const Json notice = summary.value("notice", Json());
    for (const char* not_a_measure : {"notice", "seconds"}) summary.erase(not_a_measure);
    for (const Setting& setting : all_settings<S>()) {  // but what is only called like one
      if (!summary.value(setting.name, Json()).is_structured()) summary.erase(setting.name);
    }
    return {flat_numbers(summary), notice};
  }

 protected:
  // As a plan says them; they make sense.
  static S of(const Json& json, const Json& how) {
    S settings;
    apply(json, "", settings);
    apply(how, "", settings);
    settings.check();
    return settings;
  }

  virtual MemoryNeed need(const S& settings) const = 0;
  virtual std::string work(const S& settings, RunFolder& folder, const Device& device) const = 0;
  virtual Json described(const S& settings) const { return to_json(settings); }
  virtual Json summarized(const S& settings, const fs::path& folder) const = 0;
};

class Localization final : public ProgramOf<LocalizationSettings> {
 public:
  explicit Localization(bool population) : population_(population) {}
  const char* name() const override { return "localization"; }

  void check(const Json& json) const override {
    ProgramOf::check(json);
    if (!population_) return;
    const LocalizationSettings settings = of(json, Json::object());
    require(settings.eval_statistics == "minibatch",
            "--eval-statistics population: has no effect with --population");
    with_population(settings).check();
  }

  bool has_results(const Json& json, const fs::path& folder) const override {
    if (!ProgramOf::has_results(json, folder)) return false;
    if (!population_) return true;
    const fs::path beside = folder / kPopulation;
    if (!ProgramOf::has_results(json, beside)) return false;
    Json settings = json;
    settings["eval_statistics"] = kPopulation;
    if (settings.value("precision", "") == "auto") settings.erase("precision");
    return holds_run_of(beside, settings);
  }
  std::string fault(const Json& /*settings*/, const fs::path& folder) const override {
    const std::string own = fault_of_summary(folder);
    return own.empty() ? fault_of_summary(folder / kPopulation) : own;
  }
  Outcome outcome(const Json& json, const fs::path& folder) const override {
    Outcome result = ProgramOf::outcome(json, folder);
    if (!population_) return result;
    const Json others = ProgramOf::outcome(json, folder / kPopulation).measures;
    result.measures[kPopulationGap] =
        others["final_loss"].get<double>() - result.measures["final_loss"].get<double>();
    for (const auto& item : others.items()) {
      result.measures[fmt::format("{}.{}", kPopulation, item.key())] = item.value();
    }
    return result;
  }
  std::vector<std::pair<std::string, int>> headline() const override {
    std::vector<std::pair<std::string, int>> names = {{"localization_distance", 1},
                                                      {"unbroken_distance", 1},
                                                      {"interior_slope", 3},
                                                      {"localized_fraction", 3}};
    if (population_) {
      names.insert(
          names.end(),
          {{"final_loss", 4}, {"population.localized_fraction", 3}, {"population.final_loss", 4}});
    }
    return names;
  }

 protected:
  MemoryNeed need(const LocalizationSettings& settings) const override {
    return memory_of(settings, LocalizationPhases::kAll);
  }

  std::string work(const LocalizationSettings& settings, RunFolder& folder,
                   const Device& device) const override {
    const Json summary = run_localization(settings, folder, device);
    if (population_) {
      const LocalizationSettings others = with_population(settings);
      RunFolder beside(folder.path() / kPopulation, to_json(others), device, Resume::kAuto,
                       do_not_matter(), {{kGivenModel, std::string("../") + kModelFile}});
      run_localization(others, beside, device, LocalizationPhases::kAll,
                       folder.file(kModelFile).string());
    }
    return fmt::format("localization distance {}, interior slope {}",
                       summary["localization_distance"].dump(),
                       three_digits(summary["interior_slope"]));
  }

  // Of each layer's numbers the last one's, the output's. Error where the predictions were not
  // finite, as earlier versions left them: whatever they say they have localized does not count.
  Json summarized(const LocalizationSettings& /*settings*/, const fs::path& folder) const override {
    Json summary = read_summary(folder);
    SC_CHECK(summary.value("final_loss", Json()).is_number(),
             "{}: its predictions are not finite; without its folder `sweep run` makes it again",
             (folder / kSummary).string());
    for (const char* name : {"layers", "localization_distances", "unbroken_distances"}) {
      summary.erase(name);
    }
    for (Json& value : summary) {
      if (value.is_array() && !value.empty()) value = Json(value.back());
    }
    return summary;
  }

 private:
  static LocalizationSettings with_population(LocalizationSettings settings) {
    settings.eval_statistics = kPopulation;
    return settings;
  }

  bool population_;
};

// Of one network, where `overlap` has one for each of many.
struct OneOverlapSettings : OverlapSettings {
  using Self = OneOverlapSettings;
  SETTING(std::int64_t, overlap, 0, "positions that the two sequences share",
          Whole{0, kMostLength});

  void check() const {
    check_domains(all_settings<OneOverlapSettings>(), *this);
    check_network();
    require(overlap <= length(),
            fmt::format("--overlap {}: but the sequences are {} long", overlap, length()));
  }
};

class Overlap final : public ProgramOf<OneOverlapSettings> {
 public:
  const char* name() const override { return "overlap"; }
  const char* results() const override { return kResult; }
  std::string fault(const Json& settings, const fs::path& folder) const override {
    return fault_of_result(folder, settings.value("overlap", std::int64_t{0}));
  }
  std::vector<std::pair<std::string, int>> headline() const override { return {{"mse", 3}}; }

 protected:
  MemoryNeed need(const OneOverlapSettings& settings) const override { return memory_of(settings); }
  Json described(const OneOverlapSettings& settings) const override {
    return settings_of(settings, settings.overlap);
  }
  std::string work(const OneOverlapSettings& settings, RunFolder& folder,
                   const Device& device) const override {
    const Json result = distinguish(settings, settings.overlap, folder, device);
    return fmt::format("mean squared error {}", number_text(result["mse"].get<double>(), 3));
  }
  Json summarized(const OneOverlapSettings& settings, const fs::path& folder) const override {
    return read_result(folder, settings.overlap);
  }
};

class Diffusion final : public ProgramOf<DiffusionSettings> {
 public:
  const char* name() const override { return "diffusion"; }
  std::string fault(const Json& /*settings*/, const fs::path& folder) const override {
    return fault_of_plans(folder);
  }
  std::vector<std::pair<std::string, int>> headline() const override {
    return {{"held_out.valid", 3}, {"held_out.solved", 3}, {"trained.valid", 3}};
  }

 protected:
  MemoryNeed need(const DiffusionSettings& settings) const override { return memory_of(settings); }
  std::string work(const DiffusionSettings& settings, RunFolder& folder,
                   const Device& device) const override {
    return words_of_plans(settings, run_diffusion(settings, folder, device));
  }
  Json summarized(const DiffusionSettings& /*settings*/, const fs::path& folder) const override {
    return read_plans(folder);
  }
};

constexpr std::array kPrograms = {"localization", "overlap", "diffusion"};

}  // namespace

Json flat_numbers(const Json& object) {
  Json numbers = Json::object();
  add_numbers("", object, numbers);
  return numbers;
}

std::string swept_programs() {
  return listed({kPrograms.begin(), kPrograms.end()});
}

std::shared_ptr<const SweptProgram> swept_program(const std::string& name, bool population) {
  if (name == "localization") return std::make_shared<Localization>(population);
  require(!population, "--population: is of localization alone");
  if (name == "overlap") return std::make_shared<Overlap>();
  if (name == "diffusion") return std::make_shared<Diffusion>();
  throw UsageError(fmt::format("--program {}: expected {}", shown(name), swept_programs()));
}

}  // namespace sidechannel::experiments
