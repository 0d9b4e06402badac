#pragma once

#include <cstdint>
#include <vector>

#include "engine/io/host_array.h"

namespace sidechannel::experiments {

// A town of streets: junctions on a square lattice, neighbouring ones joined by corridors. Walkers
// go from junction to junction without turning back, at one speed, and a little off the middle.
//
// A plan begins at a junction and ends at another, so many corridors on. Some pairs of the two are
// held out: no training plan has them, though each corridor of theirs is walked in others. To find
// a way between these a planner has to put together pieces of what it knows.
struct CorridorsConfig {
  std::int64_t side = 4;       // junctions along a side
  std::int64_t corridors = 5;  // of a plan
  std::int64_t steps_per_corridor = 7;
  std::int64_t walks = 256;          // of training data
  std::int64_t walk_corridors = 64;  // each
  double held_out = 0.25;            // share of the pairs

  // Positions of a plan, both junctions included.
  std::int64_t horizon() const { return corridors * steps_per_corridor + 1; }
  // UsageError for what there cannot be.
  void check() const;
};

// Two junctions, numbered row by row.
struct JunctionPair {
  std::int64_t start, goal;
  bool operator==(const JunctionPair&) const = default;
};

class Corridors {
 public:
  // The town and its walks depend on the seed alone.
  Corridors(const CorridorsConfig& config, std::uint64_t seed);

  const CorridorsConfig& config() const { return config_; }
  // [walks, length, 2] in f32: x and y from -1 to 1.
  const HostArray& walks() const { return walks_; }
  // The windows of horizon() positions, from a junction to a junction, that training may see;
  // counted as gather_windows() counts them.
  const std::vector<std::int64_t>& windows() const { return windows_; }
  const std::vector<JunctionPair>& held_out() const { return held_out_; }
  const std::vector<JunctionPair>& trained() const { return trained_; }
  // Where a junction lies.
  void place_of(std::int64_t junction, float* x, float* y) const;

  // What is to be said of a plan [horizon, 2].
  struct Verdict {
    double inside;   // share of its positions within a corridor
    bool connected;  // no step is longer than kLongestStep times a walker's
    bool valid() const { return connected && inside == 1; }
  };
  Verdict judge(const float* plan) const;
  // The root mean square distance between a position of the plan and of the nearest window that
  // training may see.
  double distance_to_training(const float* plan) const;

  static constexpr double kOffset = 0.1;      // of a walker, at most, in corridors
  static constexpr double kHalfWidth = 0.25;  // of a corridor, so that blocks are as wide
  static constexpr double kLongestStep = 2;

 private:
  double corridor() const;                            // its length, in the coordinates of walks()
  std::int64_t nearest(const float* position) const;  // junction

  CorridorsConfig config_;
  HostArray walks_;
  std::vector<std::int64_t> windows_;
  std::vector<JunctionPair> held_out_, trained_;
};

}  // namespace sidechannel::experiments
