#include "experiments/run/crew.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <optional>
#include <thread>

#include "engine/say.h"
#include "experiments/run/interrupt.h"
#include "experiments/run/progress.h"
#include "experiments/run/run_folder.h"
#include "kernels/cpu/cores.h"

namespace sidechannel::experiments {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kMostKills = 3;  // of one cell's worker, until the cell counts as failed

// The processes that work on cells, and the queue of what is left.
class Crew {
 public:
  Crew(const Sweep& sweep, const Workers& workers)
      : sweep_(sweep), workers_(workers), slots_(workers.devices.size()) {
    ::signal(SIGCHLD, SIG_DFL);  // ignored, as one may inherit it, it leaves no exit codes
    for (std::size_t cell = 0; cell < sweep.size(); ++cell) {
      if (sweep.finished(cell)) {
        ++finished_;
      } else {
        queue_.push_back(cell);
      }
    }
  }
  ~Crew() { stop(SIGKILL); }
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;

  std::vector<std::string> run() {
    const auto total = static_cast<std::int64_t>(sweep_.size());
    progress_.emplace("sweep", total, "cells", finished_);
    const PollsInterrupts polls;
    while (!queue_.empty() || running_ > 0) {
      if (interrupt_requested()) interrupt();
      bool changed = false;
      for (Slot& slot : slots_) changed = reap(slot) || changed;
      if (changed) look_again_ = {};
      for (Slot& slot : slots_) changed = (slot.pid == 0 && start(slot)) || changed;
      if (progress_->due()) progress_->show(finished_, details());
      if (!changed) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    if (!left_.empty()) interrupt();
    progress_->finish(finished_, details());
    return failed_;
  }

 private:
  struct Slot {
    pid_t pid = 0;
    std::size_t cell = 0;
    Clock::time_point since;
  };

  // With where each worker is: "[G4-seed0-lr0.001 train 300/5000]".
  std::string details() const {
    std::string text = fmt::format("{} running, {} failed", running_, failed_.size());
    for (const Slot& slot : slots_) {
      if (slot.pid == 0) continue;
      const std::string at = last_progress(sweep_.folder(slot.cell) / kLogFile);
      text += fmt::format("  [{}{}{}]", sweep_.ids[slot.cell], at.empty() ? "" : " ", at);
    }
    return text;
  }

  // Gives the slot the next cell that nobody works on. False where there is none.
  bool start(Slot& slot) {
    if (Clock::now() < look_again_) return false;
    for (std::size_t looked = queue_.size(); looked > 0; --looked) {
      const std::size_t cell = queue_.front();
      queue_.pop_front();
      if (sweep_.finished(cell)) {  // by another process, since we looked
        ++finished_;
        continue;
      }
      if (FolderLock::is_held(sweep_.folder(cell))) {
        queue_.push_back(cell);
        continue;
      }
      try {
        create_folder(sweep_.folder(cell));
      } catch (const Error& error) {
        give_up(cell, error.what());
        continue;
      }
      const pid_t pid =
          spawn(cell, workers_.devices[static_cast<std::size_t>(&slot - slots_.data())]);
      if (pid < 0) {  // a limit of the user, the group or the system
        SC_CHECK(running_ > 0, "cannot start a process: {}; `{} run --cell {}` and so on need none",
                 std::strerror(errno), sweep_.program, cell);
        queue_.push_front(cell);
        break;
      }
      slot = {pid, cell, Clock::now()};
      ++running_;
      return true;
    }
    look_again_ = Clock::now() + std::chrono::milliseconds(500);  // what others hold changes
    if (running_ == 0 && !queue_.empty() && !waited_) {
      waited_ = true;
      progress_->note(
          fmt::format("waiting for {} cells that other processes work on", queue_.size()));
    }
    return false;
  }

  // Negative where the system makes no process, with errno.
  pid_t spawn(std::size_t cell, const std::string& device) const {
    std::vector<std::string> words = workers_.command(cell, device);
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    const std::string log = (sweep_.folder(cell) / kLogFile).string();
    const pid_t parent = getpid();
    const pid_t pid = fork();
    if (pid == 0) {
      // A worker does not outlive the sweep: it stops with a checkpoint, as on any SIGTERM.
      prctl(PR_SET_PDEATHSIG, SIGTERM);
      if (getppid() != parent) _exit(kExitInterrupted);
      const int file =
          open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK, 0666);
      if (file >= 0) {
        dup2(file, STDOUT_FILENO);
        dup2(file, STDERR_FILENO);
      }
      execv("/proc/self/exe", argv.data());
      _exit(127);
    }
    return pid;
  }

  // Takes note of a worker that has ended. False where it has not.
  bool reap(Slot& slot) {
    int status = 0;
    if (slot.pid == 0 || waitpid(slot.pid, &status, WNOHANG) != slot.pid) return false;
    slot.pid = 0;
    --running_;
    const std::size_t cell = slot.cell;
    if (sweep_.finished(cell)) {
      ++finished_;
      progress_->note(fmt::format("{}: finished ({})", sweep_.ids[cell],
                                  duration_text(seconds_since(slot.since))));
    } else if (WIFEXITED(status) && WEXITSTATUS(status) == kExitInterrupted) {
      // Stopped by someone's signal, or another process was faster; or told to stop.
      (workers_.once ? left_ : queue_).push_back(cell);
    } else if (WIFSIGNALED(status) && ++kills_[cell] < kMostKills) {
      progress_->note(fmt::format("{}: its process was killed by signal {}, it continues",
                                  sweep_.ids[cell], WTERMSIG(status)));
      queue_.push_front(cell);
    } else {
      std::string why = sweep_.failure(cell);
      if (WIFSIGNALED(status)) {
        why = fmt::format("its process was killed by signal {}, {} times", WTERMSIG(status),
                          kMostKills);
      } else if (why.empty()) {  // it came to an end before it could say why
        why = fmt::format("exit code {}, see {}", WEXITSTATUS(status),
                          (sweep_.folder(cell) / kLogFile).string());
      }
      sweep_.set_failure(cell, why);
      give_up(cell, why);
    }
    return true;
  }

  void give_up(std::size_t cell, const std::string& why) {
    failed_.push_back(fmt::format("{}: {}", sweep_.ids[cell], why));
    progress_->note(fmt::format("{}: failed: {}", sweep_.ids[cell], why));
  }

  // Ends all workers and waits for them.
  void stop(int signal) {
    const DelaysInterrupts until_all_have_ended;
    for (const Slot& slot : slots_) {
      if (slot.pid != 0) kill(slot.pid, signal);
    }
    for (Slot& slot : slots_) {
      if (slot.pid == 0) continue;
      waitpid(slot.pid, nullptr, 0);
      slot.pid = 0;
      --running_;
      if (sweep_.finished(slot.cell)) ++finished_;
    }
  }

  [[noreturn]] void interrupt() {
    stop(SIGTERM);
    progress_->note(fmt::format("stopped: {} of {} cells are finished; the same command continues",
                                finished_, sweep_.size()));
    throw Interrupted();
  }

  const Sweep& sweep_;
  const Workers& workers_;
  std::vector<Slot> slots_;
  std::deque<std::size_t> queue_, left_;
  std::map<std::size_t, int> kills_;
  std::vector<std::string> failed_;
  std::int64_t finished_ = 0;
  std::int64_t running_ = 0;
  Clock::time_point look_again_;
  bool waited_ = false;
  std::optional<Progress> progress_;
};

}  // namespace

std::vector<std::string> run_workers(const Sweep& sweep, const Workers& workers) {
  return Crew(sweep, workers).run();
}

std::vector<std::string> worker_devices(const std::string& device, std::int64_t jobs,
                                        std::size_t cells) {
  std::vector<std::string> devices;
  if (kHasCuda && (device == "auto" || device == "cuda")) {
    std::string why;
    for (const kernels::CudaDeviceInfo& gpu : kernels::cuda_devices(&why)) {
      if (device == "auto" && gpu.emulated) continue;  // only taken when asked for
      devices.push_back(fmt::format("cuda:{}", gpu.index));
    }
    SC_CHECK(device == "auto" || !devices.empty(), "--device cuda: {}", why);
  }
  if (kHasCuda && devices.empty() && device.starts_with("cuda:")) {
    devices.push_back(device);
  } else if (devices.empty()) {
    Device::from_name(device == "auto" ? "cpu" : device, 1);  // refuses what makes no sense
    devices.emplace_back("cpu");
  }
  const std::size_t kinds = devices.size();
  const std::int64_t suits =
      devices.front() == "cpu" ? threads_each(0, 1) : static_cast<std::int64_t>(kinds);
  const auto count = std::min(cells, static_cast<std::size_t>(jobs > 0 ? jobs : suits));
  for (std::size_t i = kinds; i < count; ++i) devices.push_back(devices[i % kinds]);
  devices.resize(count);
  return devices;
}

std::int64_t threads_each(std::int64_t threads, std::size_t workers) {
  if (threads == 0) threads = kernels::usable_cores();
  return std::max<std::int64_t>(1, threads / static_cast<std::int64_t>(workers));
}

}  // namespace sidechannel::experiments
