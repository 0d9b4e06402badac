#include "experiments/run/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <system_error>

#include "engine/say.h"
#include "experiments/run/domain.h"

namespace sidechannel::experiments {
namespace {

constexpr double kTerminalPeriod = 0.1;  // seconds
constexpr double kPlainPeriod = 5;

// Whether stderr is a terminal that knows how to write over a line.
bool can_redraw() {
  const char* const kind = std::getenv("TERM");
  return isatty(STDERR_FILENO) == 1 && kind != nullptr && std::string_view(kind) != "dumb" &&
         *kind != '\0';
}

std::size_t terminal_width() {
  winsize size = {};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::string duration_text(double seconds) {
  constexpr double kForever = 1e15;
  const auto s = static_cast<std::int64_t>(std::ceil(std::clamp(seconds, 0.0, kForever)));
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{} min {:02} s", s / 60, s % 60);
  constexpr std::int64_t kDay = 24 * 3600;
  if (s < 4 * kDay) return fmt::format("{} h {:02} min", s / 3600, s % 3600 / 60);
  return fmt::format("{} days", s / kDay);
}

std::string number_text(double value, int decimals) {
  constexpr double kMost = 1e6;
  const double size = std::abs(value);
  const bool usual = size == 0 || !std::isfinite(size) ||
                     (size < kMost && size >= 0.5 * std::pow(10.0, -decimals));
  return usual ? fmt::format("{:.{}f}", value, decimals) : fmt::format("{:.3g}", value);
}

std::string share_text(double value) {
  return number_text(std::abs(value) < 0.0005 ? 0 : value, 3);
}

std::string progress_part(std::string_view line) {
  const std::size_t end = line.find("  ");  // as draw() sets details apart
  if (end == line.npos) return {};
  const std::string_view part = line.substr(0, end);
  const std::size_t space = part.rfind(' ');
  const std::size_t slash = part.rfind('/');
  const bool counts = space != part.npos && space > 0 && slash != part.npos && slash > space &&
                      whole_number(part.substr(space + 1, slash - space - 1)) &&
                      whole_number(part.substr(slash + 1));
  return counts ? std::string(part) : "";
}

std::string last_progress(const std::filesystem::path& log) {
  constexpr std::streamoff kEnough = 1 << 16;  // notices between two lines of progress are shorter
  std::error_code error;
  if (!std::filesystem::is_regular_file(log, error)) return {};  // a pipe would wait for its writer
  std::ifstream file(log, std::ios::ate);
  const std::streamoff begin = std::max<std::streamoff>(0, file.tellg() - kEnough);
  file.seekg(begin);
  std::string last;
  std::string line;
  if (begin > 0) std::getline(file, line);  // the end of one
  while (std::getline(file, line) && !file.eof()) {
    const std::string part = progress_part(line);
    if (!part.empty()) last = part;
  }
  return last;
}

Progress::Progress(std::string label, std::int64_t total, std::string unit, std::int64_t done)
    : label_(std::move(label)),
      total_(total),
      unit_(std::move(unit)),
      first_(done),
      terminal_(can_redraw()),
      start_(Clock::now()),
      drawn_(start_) {}

Progress::~Progress() {
  if (open_) sidechannel::note("\n");
}

bool Progress::due() const {
  return seconds_since(drawn_) >= (terminal_ ? kTerminalPeriod : kPlainPeriod);
}

void Progress::show(std::int64_t done, const std::string& details) {
  if (due()) draw(done, details, false);
}

void Progress::finish(std::int64_t done, const std::string& details) {
  draw(done, details, true);
}

void Progress::note(const std::string& line) {
  if (open_) sidechannel::note("\n");
  sidechannel::note("{}\n", line);
  open_ = false;
}

void Progress::draw(std::int64_t done, const std::string& details, bool last) {
  drawn_ = Clock::now();
  const double seconds = seconds_since(start_);
  const double rate = seconds > 0 ? static_cast<double>(done - first_) / seconds : 0;
  std::string line = fmt::format("{} {}/{}  {}", label_, done, total_, details);
  if (rate >= 1) line += fmt::format("  {:.0f} {}/s", rate, unit_);
  if (done < total_ && rate > 0) {
    line += fmt::format("  {} left", duration_text(static_cast<double>(total_ - done) / rate));
  } else if (done >= total_) {
    line += fmt::format("  {}", duration_text(seconds));
  }
  if (!terminal_) {
    sidechannel::note("{}\n", line);
    return;
  }
  line.resize(std::min(line.size(), terminal_width() - 1));
  sidechannel::note("\r{}\x1b[K", line);
  if (last) sidechannel::note("\n");
  std::fflush(stderr);
  open_ = !last;
}

}  // namespace sidechannel::experiments
