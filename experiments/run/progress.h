#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace sidechannel::experiments {

// Progress of a loop on stderr: one line that is drawn over on a terminal, a plain line every few
// seconds elsewhere. Shows the step, what the caller adds, the rate and the time left.
class Progress {
 public:
  // `unit` names what is counted, as in "it/s".
  Progress(std::string label, std::int64_t total, std::string unit, std::int64_t done = 0);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Whether it is time to draw: lets callers skip the work of making `details`.
  bool due() const;
  void show(std::int64_t done, const std::string& details);
  // Ends the line; draws it a last time.
  void finish(std::int64_t done, const std::string& details);
  // A line of its own between progress lines.
  void note(const std::string& line);

 private:
  using Clock = std::chrono::steady_clock;
  void draw(std::int64_t done, const std::string& details, bool last);

  std::string label_;
  std::int64_t total_;
  std::string unit_;
  std::int64_t first_;
  bool terminal_;
  bool open_ = false;  // whether the line stands on the terminal, to be drawn over
  Clock::time_point start_;
  Clock::time_point drawn_;
};

double seconds_since(std::chrono::steady_clock::time_point start);

// "4 s", "3 min 20 s", "2 h 05 min", "12 days"
std::string duration_text(double seconds);

// A number in few digits: with that many decimals, "0.0123", or, where they would show none of its
// digits or it has too many before the point, "3.79e+27".
std::string number_text(double value, int decimals);
// The same of a slope or a share, which count in thousandths: "0.000" for what is less.
std::string share_text(double value);

// "train 2018/5000" of a line of progress that is no terminal's; empty of any other line.
std::string progress_part(std::string_view line);
// The same of the newest line of progress in a log that another process writes; empty where there
// is none.
std::string last_progress(const std::filesystem::path& log);

}  // namespace sidechannel::experiments
