#include "experiments/run/phase.h"

#include <chrono>
#include <utility>

#include "engine/finite.h"
#include "experiments/run/interrupt.h"
#include "experiments/run/progress.h"

namespace sidechannel::experiments {
namespace {

constexpr double kCheckpointSeconds = 30;
constexpr std::int64_t kMostMilliseconds = 10'000'000'000'000;  // 300 years

}  // namespace

Phase::Phase(const RunSettings& settings, RunFolder& folder, std::string name,
             std::string state_file, std::string unit, std::int64_t steps)
    : settings_(settings),
      folder_(folder),
      name_(std::move(name)),
      state_file_(std::move(state_file)),
      unit_(std::move(unit)),
      steps_(steps) {}

double Phase::run() {
  using Clock = std::chrono::steady_clock;
  std::int64_t at = 0;
  double seconds_before = 0;
  Standing standing = Standing::kOurs;
  bool loaded = false;  // something, though it be of a state that would not do
  const auto take = [&](const SafetensorsFile& state, const std::string& source) {
    standing = folder_.standing_of(state, source, state_file_);
    if (standing == Standing::kObsolete) {
      SC_CHECK(!loaded, "{}: is of when the run was shorter", source);
      at = 0;
      seconds_before = 0;
      return;
    }
    at = number_in(state, "step", source, steps_);
    seconds_before =
        static_cast<double>(number_in(state, "milliseconds", source, kMostMilliseconds)) / 1000;
    check_finite(state.tensors, source);
    loaded = true;
    load(state, source, at);
    if (at < steps_) folder_.rewind_log(state, source, standing);
  };
  const bool found = folder_.load_state(state_file_, take);
  const bool resumed = found && standing != Standing::kObsolete;
  if (found && !resumed) folder_.drop_lines_of(name_);
  if (resumed && at == steps_) return seconds_before;
  const Clock::time_point start = Clock::now();
  const auto seconds = [&] { return seconds_before + seconds_since(start); };
  Clock::time_point saved_at = start;
  const auto save_state = [&] {
    SafetensorsFile state;
    state.metadata["step"] = std::to_string(at);
    state.metadata["milliseconds"] = std::to_string(static_cast<std::int64_t>(seconds() * 1000));
    save(state);
    check_finite(state.tensors, fmt::format("{}, step {}", name_, at));
    const DelaysInterrupts until_saved;  // to look at what the state holds may take longer
    folder_.save_state(state_file_, std::move(state));
    saved_at = Clock::now();
  };
  Progress progress(name_, steps_, unit_, at);
  if (resumed) progress.note(fmt::format("{}: resumed at step {}", name_, at));
  const PollsInterrupts polls;
  save_state();
  const std::int64_t first = at;
  while (at < steps_) {
    const bool enough = settings_.stop_after > 0 && at - first >= settings_.stop_after;
    if (enough || interrupt_requested()) {
      save_state();
      progress.note(fmt::format("{}: stopped at step {}, state saved in {}", name_, at,
                                folder_.file(state_file_).string()));
      throw Interrupted();
    }
    step(at);
    ++at;
    if (progress.due()) progress.show(at, details());
    const bool due = settings_.checkpoint_every > 0 ? at % settings_.checkpoint_every == 0
                                                    : seconds_since(saved_at) > kCheckpointSeconds;
    if (due || at == steps_) save_state();
  }
  progress.finish(at, details());
  return seconds();
}

}  // namespace sidechannel::experiments
