#include "experiments/run/crew.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <future>
#include <list>
#include <map>
#include <optional>
#include <set>
#include <system_error>
#include <thread>

#include "engine/say.h"
#include "experiments/run/interrupt.h"
#include "experiments/run/program.h"
#include "experiments/run/progress.h"
#include "experiments/run/run_folder.h"
#include "kernels/cpu/cores.h"

namespace sidechannel::experiments {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kMostKills = 3;  // of one cell's worker, until the cell counts as failed

// What a process of several cells says when a thread of it has ended.
struct Report {
  std::size_t cell;
  int code;
};

// A process that works on cells.
struct Process {
  pid_t pid;
  std::string device;
  std::optional<OpenFile> socket;  // by which it is told of its cells, where it may have several
};

// Whether the disk that holds it has no room for a line of a log.
bool is_full(const std::filesystem::path& folder) {
  std::error_code unknown;
  const std::filesystem::space_info space = std::filesystem::space(folder, unknown);
  return !unknown && space.available < 16 * 1024;
}

// The workers, and the queue of what is left.
class Crew {
 public:
  Crew(const Sweep& sweep, const Workers& workers) : sweep_(sweep), workers_(workers) {
    for (const std::string& device : workers.devices) slots_.emplace_back().device = device;
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
      for (auto process = processes_.begin(); process != processes_.end();) {
        const bool ended = look_after(*process, &changed);
        process = ended ? processes_.erase(process) : std::next(process);
      }
      if (changed) look_again_ = {};
      for (Slot& slot : slots_) changed = (slot.process == nullptr && start(slot)) || changed;
      if (progress_->due()) progress_->show(finished_, details());
      if (!changed) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    if (!left_.empty()) interrupt();
    stop(SIGTERM);
    progress_->finish(finished_, details());
    return failed_;
  }

 private:
  struct Slot {
    std::string device;
    Process* process = nullptr;  // that works on a cell
    std::size_t cell = 0;
    Clock::time_point since;
  };

  // With where each worker is: "[groups=4,seed=0 train 300/5000]".
  std::string details() const {
    std::string text = fmt::format("{} running, {} failed", running_, failed_.size());
    for (const Slot& slot : slots_) {
      if (slot.process == nullptr) continue;
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
      Process* const process = process_for(cell, slot.device);
      if (process == nullptr) {  // a limit of the user, the group or the system
        SC_CHECK(running_ > 0, "cannot start a process: {}; `{} run --cell {}` and so on need none",
                 std::strerror(errno), sweep_.program, cell);
        queue_.push_front(cell);
        break;
      }
      slot.process = process;
      slot.cell = cell;
      slot.since = Clock::now();
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

  // A process that works on the cell from now on; null where the system makes none, with errno.
  Process* process_for(std::size_t cell, const std::string& device) {
    if (device == "cpu" || alone_.contains(cell)) {
      return spawn(std::to_string(cell), device, sweep_.folder(cell), {});
    }
    auto shared = std::ranges::find_if(processes_, [&](const Process& process) {
      return process.socket && process.device == device;
    });
    Process* process = shared == processes_.end() ? nullptr : &*shared;
    if (process == nullptr) {
      int ends[2];
      if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return nullptr;
      OpenFile ours(ends[0]);
      const OpenFile theirs(ends[1]);
      process = spawn(kCellsToldOf, device, sweep_.path, theirs.descriptor());
      if (process == nullptr) return nullptr;
      process->socket.emplace(std::move(ours));
    }
    // One that has just ended does not hear it: then the cell is taken back with those it had.
    ::send(process->socket->descriptor(), &cell, sizeof cell, MSG_NOSIGNAL);
    return process;
  }

  Process* spawn(const std::string& cell, const std::string& device,
                 const std::filesystem::path& folder, std::optional<int> input) {
    std::vector<std::string> words = workers_.command(cell, device);
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    const std::string log = (folder / kLogFile).string();
    const pid_t parent = getpid();
    const pid_t pid = fork();
    if (pid == 0) {
      // A worker does not outlive the sweep: it stops with a checkpoint, as on any SIGTERM.
      prctl(PR_SET_PDEATHSIG, SIGTERM);
      if (getppid() != parent) _exit(kExitInterrupted);
      if (input) dup2(*input, STDIN_FILENO);
      const int file =
          open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK, 0666);
      if (file >= 0) {
        dup2(file, STDOUT_FILENO);
        dup2(file, STDERR_FILENO);
      }
      execv("/proc/self/exe", argv.data());
      _exit(127);
    }
    return pid < 0 ? nullptr : &processes_.emplace_back(Process{pid, device, {}});
  }

  // Takes note of what a process says, and of its end. Whether it has ended.
  bool look_after(Process& process, bool* changed) {
    int status = 0;
    const bool ended = waitpid(process.pid, &status, WNOHANG) == process.pid;
    // What it has said before it ended is known from here on.
    Report report;
    while (process.socket && ::recv(process.socket->descriptor(), &report, sizeof report,
                                    MSG_DONTWAIT) == sizeof report) {
      for (Slot& slot : slots_) {
        if (slot.process == &process && slot.cell == report.cell) {
          reap(slot, W_EXITCODE(report.code, 0));
          *changed = true;
        }
      }
    }
    if (!ended) return false;
    *changed = true;
    const bool stopped = WIFEXITED(status) && WEXITSTATUS(status) == kExitInterrupted;
    for (Slot& slot : slots_) {
      if (slot.process != &process) continue;
      if (process.socket && !stopped) {
        leave_alone(slot, status);
      } else {
        reap(slot, status);
      }
    }
    return true;
  }

  // Of a process of several cells that has ended, nobody knows by which.
  void leave_alone(Slot& slot, int status) {
    slot.process = nullptr;
    --running_;
    sweep_.clear_failure(slot.cell);  // which may be another cell's
    alone_.insert(slot.cell);
    queue_.push_front(slot.cell);
    const std::string how = WIFSIGNALED(status)
                                ? fmt::format("was killed by signal {}", WTERMSIG(status))
                                : fmt::format("ended with exit code {}", WEXITSTATUS(status));
    progress_->note(fmt::format("{}: the process that it shared {}, it continues in one of its own",
                                sweep_.ids[slot.cell], how));
  }

  // Takes note of a worker that has ended.
  void reap(Slot& slot, int status) {
    slot.process = nullptr;
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
      } else if (why.empty() && is_full(sweep_.path)) {
        why = fmt::format("exit code {}, {}", WEXITSTATUS(status),
                          std::generic_category().message(ENOSPC));
      } else if (why.empty()) {  // it came to an end before it could say why
        why = fmt::format("exit code {}, see {}", WEXITSTATUS(status),
                          (sweep_.folder(cell) / kLogFile).string());
      }
      sweep_.set_failure(cell, why);
      give_up(cell, why);
    }
  }

  void give_up(std::size_t cell, const std::string& why) {
    failed_.push_back(fmt::format("{}: {}", sweep_.ids[cell], why));
    progress_->note(fmt::format("{}: failed: {}", sweep_.ids[cell], why));
  }

  // Ends all workers and waits for them. A process without cells ends when it can be told of none.
  void stop(int signal) {
    const DelaysInterrupts until_all_have_ended;
    for (Process& process : processes_) {
      process.socket.reset();
      if (std::ranges::count(slots_, &process, &Slot::process) > 0) kill(process.pid, signal);
    }
    for (const Process& process : processes_) waitpid(process.pid, nullptr, 0);
    for (Slot& slot : slots_) {
      if (std::exchange(slot.process, nullptr) == nullptr) continue;
      --running_;
      if (sweep_.finished(slot.cell)) ++finished_;
    }
    processes_.clear();
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
  std::list<Process> processes_;  // slots point to them
  std::set<std::size_t> alone_;   // cells that share no process
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

int make_cells_told_of(const Sweep& sweep, const std::function<int(std::size_t cell)>& make) {
  std::vector<std::future<void>> threads;
  const auto work = [&](std::size_t cell) {
    const SpeaksInto log(sweep.folder(cell) / kLogFile);
    const Report report{cell, exit_code_of(sweep.program, [&] { return make(cell); })};
    // Nothing in this process goes on after that; who started it knows what to do.
    if (report.code != 0 && kernels::cuda_has_faulted()) _exit(1);
    // After a signal this process ends, and with it all that it has.
    if (!interrupt_requested()) ::send(STDIN_FILENO, &report, sizeof report, MSG_NOSIGNAL);
  };
  while (!interrupt_requested()) {
    std::erase_if(threads, [](const std::future<void>& thread) {
      return thread.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
    });
    constexpr int kLookAgain = 10;  // milliseconds
    pollfd input{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
    if (::poll(&input, 1, kLookAgain) <= 0) continue;
    std::size_t cell = 0;
    const ssize_t bytes = ::recv(STDIN_FILENO, &cell, sizeof cell, 0);
    require(bytes >= 0 || errno != ENOTSOCK,
            fmt::format("--cell {}: is for `run` alone, which tells of cells", kCellsToldOf));
    if (bytes != sizeof cell) break;  // no more are to come
    threads.push_back(std::async(std::launch::async, work, cell));
  }
  threads.clear();  // waits for them
  return interrupt_requested() ? kExitInterrupted : 0;
}

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
