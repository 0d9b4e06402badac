#include "experiments/diffusion/corridors.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <set>

#include "engine/io/file.h"

namespace sidechannel::experiments {
namespace {

struct Place {
  std::int64_t x, y;
  bool operator==(const Place&) const = default;
};

// Draws that are the same with every library.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : random_(seed) {}
  std::size_t below(std::size_t count) { return static_cast<std::size_t>(random_() % count); }
  double uniform() { return static_cast<double>(random_() >> 11) * 0x1p-53; }

 private:
  std::mt19937_64 random_;
};

std::vector<Place> neighbours(const Place& at, const Place& before, std::int64_t side) {
  std::vector<Place> all;
  for (const auto& [dx, dy] : {Place{1, 0}, {-1, 0}, {0, 1}, {0, -1}}) {
    const Place to = {at.x + dx, at.y + dy};
    const bool inside = to.x >= 0 && to.x < side && to.y >= 0 && to.y < side;
    if (inside && !(to == before)) all.push_back(to);
  }
  return all;
}

// The pairs that a walk of so many corridors can join, without turning back.
std::vector<JunctionPair> joined_pairs(const CorridorsConfig& config) {
  using State = std::pair<std::int64_t, std::int64_t>;  // a junction, and the one before
  const std::int64_t side = config.side;
  const auto place = [&](std::int64_t j) {
    return j < 0 ? Place{-1, -1} : Place{j % side, j / side};
  };
  std::vector<JunctionPair> pairs;
  for (std::int64_t start = 0; start < side * side; ++start) {
    std::set<State> states = {{start, -1}};
    for (std::int64_t i = 0; i < config.corridors; ++i) {
      std::set<State> next;
      for (const auto& [at, before] : states) {
        for (const Place& to : neighbours(place(at), place(before), side)) {
          next.insert({to.y * side + to.x, at});
        }
      }
      states = std::move(next);
    }
    std::set<std::int64_t> goals;
    for (const auto& [at, before] : states) goals.insert(at);
    for (const std::int64_t goal : goals) pairs.push_back({start, goal});
  }
  return pairs;
}

}  // namespace

void CorridorsConfig::check() const {
  require(side >= 2, fmt::format("--side {}: expected at least 2 junctions", side));
  require(corridors >= 1 && steps_per_corridor >= 1 && walks >= 1,
          "--corridors, --steps-per-corridor, --walks: expected at least 1");
  require(walk_corridors > corridors,
          fmt::format("--walk-corridors {}: expected more than --corridors {}", walk_corridors,
                      corridors));
  require(held_out >= 0 && held_out < 1, "--held-out: expected a share below 1");
}

Corridors::Corridors(const CorridorsConfig& config, std::uint64_t seed) : config_(config) {
  config_.check();
  Dice dice(seed);
  std::vector<JunctionPair> pairs = joined_pairs(config_);
  for (std::size_t i = pairs.size(); i > 1; --i) std::swap(pairs[i - 1], pairs[dice.below(i)]);
  const auto count = static_cast<std::size_t>(config_.held_out * static_cast<double>(pairs.size()));
  held_out_.assign(pairs.begin(), pairs.begin() + static_cast<std::ptrdiff_t>(count));
  trained_.assign(pairs.begin() + static_cast<std::ptrdiff_t>(count), pairs.end());

  const std::int64_t steps = config_.steps_per_corridor;
  const std::int64_t length = config_.walk_corridors * steps;
  walks_ = HostArray(DType::kF32, {config_.walks, length, 2});
  const auto values = walks_.as<float>();
  std::size_t at = 0;
  for (std::int64_t walk = 0; walk < config_.walks; ++walk) {
    const auto side = static_cast<std::size_t>(config_.side);
    Place before = {-1, -1};
    Place here = {static_cast<std::int64_t>(dice.below(side)),
                  static_cast<std::int64_t>(dice.below(side))};
    const auto beside = [&](std::int64_t coordinate) {
      const double offset = kOffset * (2 * dice.uniform() - 1);
      return (static_cast<double>(coordinate) + offset) * corridor() - 1;
    };
    double x = beside(here.x), y = beside(here.y);
    for (std::int64_t i = 0; i < config_.walk_corridors; ++i) {
      const std::vector<Place> ways = neighbours(here, before, config_.side);
      const Place there = ways[dice.below(ways.size())];
      const double to_x = beside(there.x), to_y = beside(there.y);
      for (std::int64_t step = 0; step < steps; ++step) {
        const double share = static_cast<double>(step) / static_cast<double>(steps);
        values[at++] = static_cast<float>(x + share * (to_x - x));
        values[at++] = static_cast<float>(y + share * (to_y - y));
      }
      x = to_x, y = to_y;
      before = here, here = there;
    }
  }
  const std::int64_t horizon = config_.horizon(), starts = length - horizon + 1;
  for (std::int64_t walk = 0; walk < config_.walks; ++walk) {
    for (std::int64_t start = 0; start < starts; start += steps) {
      const float* first = &values[static_cast<std::size_t>((walk * length + start) * 2)];
      const JunctionPair pair = {nearest(first), nearest(first + 2 * (horizon - 1))};
      if (std::ranges::find(held_out_, pair) == held_out_.end()) {
        windows_.push_back(walk * starts + start);
      }
    }
  }
  require(!windows_.empty(), "--held-out: no training plan is left; hold out fewer pairs");
}

double Corridors::corridor() const {
  return 2.0 / static_cast<double>(config_.side - 1);
}

void Corridors::place_of(std::int64_t junction, float* x, float* y) const {
  *x = static_cast<float>(static_cast<double>(junction % config_.side) * corridor() - 1);
  const std::int64_t row = junction / config_.side;
  *y = static_cast<float>(static_cast<double>(row) * corridor() - 1);
}

std::int64_t Corridors::nearest(const float* position) const {
  const auto coordinate = [&](float value) {
    const double at = (static_cast<double>(value) + 1) / corridor();
    return std::clamp<std::int64_t>(std::llround(at), 0, config_.side - 1);
  };
  return coordinate(position[1]) * config_.side + coordinate(position[0]);
}

Corridors::Verdict Corridors::judge(const float* plan) const {
  const std::int64_t horizon = config_.horizon();
  const double longest = kLongestStep * corridor() * (1 + 2 * kOffset) /
                         static_cast<double>(config_.steps_per_corridor);
  std::int64_t inside = 0;
  bool connected = true;
  for (std::int64_t i = 0; i < horizon; ++i) {
    const double x = (static_cast<double>(plan[2 * i]) + 1) / corridor();
    const double y = (static_cast<double>(plan[2 * i + 1]) + 1) / corridor();
    // Off the nearest street of each direction, within the town.
    const double most = static_cast<double>(config_.side - 1) + kHalfWidth;
    const bool in_town = x >= -kHalfWidth && y >= -kHalfWidth && x <= most && y <= most;
    const double off = std::min(std::abs(x - std::round(x)), std::abs(y - std::round(y)));
    inside += in_town && off <= kHalfWidth;
    if (i == 0) continue;
    const double step = std::hypot(static_cast<double>(plan[2 * i] - plan[2 * i - 2]),
                                   static_cast<double>(plan[2 * i + 1] - plan[2 * i - 1]));
    connected = connected && step <= longest;
  }
  return {static_cast<double>(inside) / static_cast<double>(horizon), connected};
}

double Corridors::distance_to_training(const float* plan) const {
  const std::int64_t horizon = config_.horizon(), length = walks_.shape[1];
  const std::int64_t starts = length - horizon + 1;
  const auto values = walks_.as<float>();
  double least = std::numeric_limits<double>::infinity();
  for (const std::int64_t window : windows_) {
    const float* there =
        &values[static_cast<std::size_t>((window / starts * length + window % starts) * 2)];
    double sum = 0;
    for (std::int64_t i = 0; i < 2 * horizon && sum < least; ++i) {
      const double d = static_cast<double>(plan[i] - there[i]);
      sum += d * d;
    }
    least = std::min(least, sum);
  }
  return std::sqrt(least / static_cast<double>(horizon));
}

}  // namespace sidechannel::experiments
