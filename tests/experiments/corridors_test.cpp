// The town of the planning experiment, by brute force: what its walkers may do, which pairs of
// junctions training never sees, and which plans are good ones.

#include "experiments/diffusion/corridors.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <set>

#include "tests/harness/backends.h"

namespace sidechannel::experiments {
namespace {

using Pair = std::pair<std::int64_t, std::int64_t>;

// Of all sizes: towns of one block and of many, plans that are short and long, odd numbers of
// steps.
const CorridorsConfig kTowns[] = {
    {.side = 2, .corridors = 3, .steps_per_corridor = 5, .walks = 8, .walk_corridors = 20},
    {.side = 3, .corridors = 4, .steps_per_corridor = 8, .walks = 12, .walk_corridors = 24},
    {.side = 4, .corridors = 1, .steps_per_corridor = 9, .walks = 20, .walk_corridors = 30},
    {.side = 5,
     .corridors = 6,
     .steps_per_corridor = 7,
     .walks = 30,
     .walk_corridors = 40,
     .held_out = 0.5},
    {.side = 4,
     .corridors = 2,
     .steps_per_corridor = 8,
     .walks = 60,
     .walk_corridors = 12,
     .held_out = 0}};

double corridor_of(const CorridorsConfig& config) {
  return 2.0 / static_cast<double>(config.side - 1);
}

// In corridors, from the lowest junction on the left.
struct Point {
  double x, y;
};
Point point(const Corridors& town, const float* at) {
  const double corridor = corridor_of(town.config());
  return {(static_cast<double>(at[0]) + 1) / corridor, (static_cast<double>(at[1]) + 1) / corridor};
}

// How far a position lies off the nearest of all corridors, in either coordinate.
double off_all_corridors(const CorridorsConfig& config, const Point& p) {
  const auto beyond = [](double value, std::int64_t from, std::int64_t to) {
    return std::max({static_cast<double>(from) - value, value - static_cast<double>(to), 0.0});
  };
  double least = std::numeric_limits<double>::infinity();
  for (std::int64_t x = 0; x < config.side; ++x) {
    for (std::int64_t y = 0; y < config.side; ++y) {
      for (const auto& [dx, dy] : {Pair{1, 0}, {0, 1}}) {
        if (x + dx >= config.side || y + dy >= config.side) continue;
        least = std::min(least, std::max(beyond(p.x, x, x + dx), beyond(p.y, y, y + dy)));
      }
    }
  }
  return least;
}

// The nearest of all junctions.
std::int64_t junction_at(const CorridorsConfig& config, const Point& p) {
  std::int64_t nearest = 0;
  double least = std::numeric_limits<double>::infinity();
  for (std::int64_t junction = 0; junction < config.side * config.side; ++junction) {
    const std::int64_t column = junction % config.side, row = junction / config.side;
    const double distance =
        std::hypot(p.x - static_cast<double>(column), p.y - static_cast<double>(row));
    if (distance < least) least = distance, nearest = junction;
  }
  return nearest;
}

// The neighbours of a junction but for the one before.
std::vector<std::int64_t> ways_from(std::int64_t side, std::int64_t at, std::int64_t before) {
  std::vector<std::int64_t> ways;
  for (std::int64_t to = 0; to < side * side; ++to) {
    const std::int64_t far = std::abs(to % side - at % side) + std::abs(to / side - at / side);
    if (far == 1 && to != before) ways.push_back(to);
  }
  return ways;
}

// Every walk from a junction of so many corridors that does not turn back; where it ends.
void follow(const CorridorsConfig& config, std::int64_t at, std::int64_t before,
            std::int64_t corridors, std::set<std::int64_t>& ends) {
  if (corridors == 0) {
    ends.insert(at);
    return;
  }
  for (const std::int64_t to : ways_from(config.side, at, before)) {
    follow(config, to, at, corridors - 1, ends);
  }
}

// The window that training counts as so many.
const float* window(const Corridors& town, std::int64_t number) {
  const std::int64_t length = town.walks().shape[1];
  const std::int64_t starts = length - town.config().horizon() + 1;
  const std::int64_t at = number / starts * length + number % starts;
  return &town.walks().as<float>()[static_cast<std::size_t>(2 * at)];
}
// Whether it begins, and so ends, where walkers are at a junction.
bool is_plan(const Corridors& town, std::int64_t number) {
  const std::int64_t starts = town.walks().shape[1] - town.config().horizon() + 1;
  return number % starts % town.config().steps_per_corridor == 0;
}
std::int64_t windows_in_all(const Corridors& town) {
  return town.config().walks * (town.walks().shape[1] - town.config().horizon() + 1);
}
std::vector<float> plan_of(const Corridors& town, std::int64_t number) {
  const float* first = window(town, number);
  return {first, first + 2 * town.config().horizon()};
}

template <class F>
void for_towns(const F& f) {
  for (const CorridorsConfig& config : kTowns) {
    for (const std::uint64_t seed : {0, 1, 7}) {
      SCOPED_TRACE(testing::Message() << "side " << config.side << ", corridors "
                                      << config.corridors << ", seed " << seed);
      f(Corridors(config, seed));
    }
  }
}

// --- Walks --------------------------------------------------------------------------------------

TEST(CorridorsByForce, WalkersStayInCorridorsKeepTheirSpeedAndNeverTurnBack) {
  for_towns([](const Corridors& town) {
    const CorridorsConfig& config = town.config();
    const std::int64_t length = town.walks().shape[1], steps = config.steps_per_corridor;
    ASSERT_EQ(length, config.walk_corridors * steps);
    for (std::int64_t walk = 0; walk < config.walks; ++walk) {
      std::vector<Point> all;
      for (std::int64_t i = 0; i < length; ++i) {
        all.push_back(point(
            town, &town.walks().as<float>()[static_cast<std::size_t>(2 * (walk * length + i))]));
        ASSERT_LE(off_all_corridors(config, all.back()), Corridors::kOffset + 1e-5);
      }
      std::vector<std::int64_t> junctions;
      for (std::int64_t i = 0; i < length; i += steps) {
        junctions.push_back(junction_at(config, all[static_cast<std::size_t>(i)]));
      }
      for (std::size_t i = 0; i + 1 < junctions.size(); ++i) {
        const std::int64_t before = i == 0 ? -1 : junctions[i - 1];
        const std::vector<std::int64_t> ways = ways_from(config.side, junctions[i], before);
        ASSERT_TRUE(std::ranges::find(ways, junctions[i + 1]) != ways.end()) << walk << " " << i;
      }
      for (std::size_t i = 0; i + 1 < all.size(); ++i) {  // straight ahead within a corridor
        if (i % static_cast<std::size_t>(steps) == 0) continue;
        ASSERT_NEAR(all[i + 1].x - all[i].x, all[i].x - all[i - 1].x, 1e-5) << i;
        ASSERT_NEAR(all[i + 1].y - all[i].y, all[i].y - all[i - 1].y, 1e-5) << i;
      }
    }
  });
}

TEST(CorridorsByForce, TheTownIsOfItsSeedAlone) {
  for (const CorridorsConfig& config : kTowns) {
    const Corridors a(config, 3), b(config, 3), other(config, 4);
    EXPECT_EQ(a.walks().bytes, b.walks().bytes);
    EXPECT_EQ(a.windows(), b.windows());
    EXPECT_EQ(a.held_out(), b.held_out());
    EXPECT_NE(a.walks().bytes, other.walks().bytes);
    if (a.held_out().size() > 1) {
      EXPECT_NE(a.held_out(), other.held_out());
    }
  }
}

// --- Pairs --------------------------------------------------------------------------------------

TEST(CorridorsByForce, EveryPairThatAWalkCanJoinIsTrainedOrHeldOut) {
  for_towns([](const Corridors& town) {
    const CorridorsConfig& config = town.config();
    std::set<Pair> joined;
    for (std::int64_t start = 0; start < config.side * config.side; ++start) {
      std::set<std::int64_t> goals;
      follow(config, start, -1, config.corridors, goals);
      for (const std::int64_t goal : goals) joined.insert({start, goal});
    }
    std::set<Pair> found;
    for (const auto* pairs : {&town.held_out(), &town.trained()}) {
      for (const auto& [start, goal] : *pairs) EXPECT_TRUE(found.insert({start, goal}).second);
    }
    EXPECT_EQ(found, joined);
    EXPECT_EQ(town.held_out().size(),
              static_cast<std::size_t>(config.held_out * static_cast<double>(joined.size())));
  });
}

TEST(CorridorsByForce, NoPlanOfTrainingJoinsAPairThatIsHeldOutAndAllOthersAreThere) {
  for_towns([](const Corridors& town) {
    const CorridorsConfig& config = town.config();
    const std::set<std::int64_t> seen(town.windows().begin(), town.windows().end());
    ASSERT_EQ(seen.size(), town.windows().size());
    std::int64_t held_out = 0;
    for (std::int64_t number = 0; number < windows_in_all(town); ++number) {
      const float* first = window(town, number);
      if (!is_plan(town, number)) {
        ASSERT_FALSE(seen.contains(number)) << number;
        continue;
      }
      const JunctionPair pair = {
          junction_at(config, point(town, first)),
          junction_at(config, point(town, first + 2 * (config.horizon() - 1)))};
      const bool held = std::ranges::find(town.held_out(), pair) != town.held_out().end();
      ASSERT_EQ(seen.contains(number), !held) << number;
      held_out += held;
    }
    EXPECT_EQ(held_out > 0, config.held_out > 0);  // there was something to leave out
  });
}

// Each corridor is walked in training, in both directions: the pieces of the plans between pairs
// that are held out are known.
TEST(CorridorsByForce, EveryCorridorIsWalkedInTraining) {
  for_towns([](const Corridors& town) {
    const CorridorsConfig& config = town.config();
    const std::int64_t steps = config.steps_per_corridor;
    if (config.corridors == 1) return;  // a corridor is a pair there
    std::set<Pair> walked;
    for (const std::int64_t number : town.windows()) {
      const float* first = window(town, number);
      for (std::int64_t i = 0; i + steps < config.horizon(); i += steps) {
        walked.insert({junction_at(config, point(town, first + 2 * i)),
                       junction_at(config, point(town, first + 2 * (i + steps)))});
      }
    }
    for (std::int64_t at = 0; at < config.side * config.side; ++at) {
      for (const std::int64_t to : ways_from(config.side, at, -1)) {
        EXPECT_TRUE(walked.contains({at, to})) << at << " to " << to;
      }
    }
  });
}

// --- Verdicts -----------------------------------------------------------------------------------

TEST(CorridorsByForce, EveryWindowIsAGoodPlan) {
  for_towns([](const Corridors& town) {
    for (std::int64_t number = 0; number < windows_in_all(town); ++number) {
      const Corridors::Verdict verdict = town.judge(window(town, number));
      ASSERT_EQ(verdict.inside, 1) << number;
      ASSERT_TRUE(verdict.connected) << number;
    }
  });
}

// What is no plan, whichever window it is made of and wherever it goes wrong.
TEST(CorridorsByForce, APositionInABlockOrOutsideTheTownIsSeen) {
  for_towns([](const Corridors& town) {
    const CorridorsConfig& config = town.config();
    const double corridor = corridor_of(config), most = static_cast<double>(config.side - 1);
    const std::int64_t horizon = config.horizon();
    const double beyond = Corridors::kHalfWidth + 0.01, within = Corridors::kHalfWidth - 0.01;
    const struct {
      Point place;
      bool inside;
    } cases[] = {{{0.5, 0.5}, false},
                 {{most - 0.5, most - 0.5}, false},
                 {{beyond, beyond}, false},
                 {{within, 0.5}, true},
                 {{0.5, within}, true},
                 {{-beyond, 0}, false},
                 {{-within, 0}, true},
                 {{0, -beyond}, false},
                 {{most + beyond, most}, false},
                 {{most + within, most}, true},
                 {{most, most + beyond}, false},
                 {{1e30, 0}, false},
                 {{0, -1e30}, false},
                 {{NAN, 0}, false},
                 {{0, NAN}, false},
                 {{INFINITY, 0}, false}};
    for (const std::int64_t number : {town.windows().front(), town.windows().back()}) {
      for (std::int64_t i = 0; i < horizon; ++i) {
        for (const auto& [place, inside] : cases) {
          std::vector<float> plan = plan_of(town, number);
          plan[static_cast<std::size_t>(2 * i)] = static_cast<float>(place.x * corridor - 1);
          plan[static_cast<std::size_t>(2 * i + 1)] = static_cast<float>(place.y * corridor - 1);
          const Corridors::Verdict verdict = town.judge(plan.data());
          const double expected = 1 - (inside ? 0 : 1 / static_cast<double>(horizon));
          EXPECT_NEAR(verdict.inside, expected, 1e-12) << place.x << " " << place.y << " at " << i;
          EXPECT_TRUE(inside || !verdict.valid());
        }
      }
    }
  });
}

// Two windows end to end are a plan where the one ends next to the other's beginning, and a jump
// elsewhere: by the distance, which is measured here in corridors.
TEST(CorridorsByForce, AJumpIsSeen) {
  for_towns([](const Corridors& town) {
    const CorridorsConfig& config = town.config();
    const auto horizon = static_cast<std::size_t>(config.horizon());
    const double longest = Corridors::kLongestStep * (1 + 2 * Corridors::kOffset) /
                           static_cast<double>(config.steps_per_corridor);
    std::mt19937 random(1);
    int jumps = 0;
    for (int i = 0; i < 300; ++i) {
      const auto any = [&] {
        return plan_of(town, town.windows()[random() % town.windows().size()]);
      };
      std::vector<float> plan = any();
      const std::vector<float> other = any();
      const std::size_t at = 1 + random() % (horizon - 1);
      std::copy(other.begin() + static_cast<std::ptrdiff_t>(2 * at), other.end(),
                plan.begin() + static_cast<std::ptrdiff_t>(2 * at));
      const Point before = point(town, &plan[2 * at - 2]), after = point(town, &plan[2 * at]);
      const double step = std::hypot(after.x - before.x, after.y - before.y);
      if (std::abs(step - longest) < 1e-5) continue;
      const Corridors::Verdict verdict = town.judge(plan.data());
      EXPECT_EQ(verdict.inside, 1);
      EXPECT_EQ(verdict.connected, step < longest) << step;
      jumps += step > longest;
    }
    EXPECT_GT(jumps, 100);
  });
}

// Straight from a junction to the one across a block: no step is long, but it is no way.
TEST(CorridorsByForce, ADiagonalThroughABlockIsSeen) {
  for_towns([](const Corridors& town) {
    const CorridorsConfig& config = town.config();
    const std::int64_t horizon = config.horizon(), steps = config.steps_per_corridor;
    std::vector<float> plan(static_cast<std::size_t>(2 * horizon));
    const auto put = [&](std::int64_t i, double x, double y) {
      plan[static_cast<std::size_t>(2 * i)] = static_cast<float>(x * corridor_of(config) - 1);
      plan[static_cast<std::size_t>(2 * i + 1)] = static_cast<float>(y * corridor_of(config) - 1);
    };
    for (std::int64_t i = 0; i < horizon; ++i) {  // and waits there
      const double share = std::min(1.0, static_cast<double>(i) / static_cast<double>(steps));
      put(i, share, share);
    }
    EXPECT_TRUE(town.judge(plan.data()).connected);
    EXPECT_FALSE(town.judge(plan.data()).valid());
    for (std::int64_t i = 0; i < horizon; ++i) {  // along the corridor instead
      put(i, std::min(1.0, static_cast<double>(i) / static_cast<double>(steps)), 0);
    }
    EXPECT_TRUE(town.judge(plan.data()).valid());
    for (std::int64_t i = 0; i < horizon; ++i) {  // twice as fast as is allowed
      const double fast = 2 * Corridors::kLongestStep * (1 + 2 * Corridors::kOffset);
      put(i, i == 0 ? 0 : std::min(1.0, fast / static_cast<double>(steps)), 0);
    }
    EXPECT_FALSE(town.judge(plan.data()).connected);
  });
}

// --- Distances ----------------------------------------------------------------------------------

TEST(CorridorsByForce, TheDistanceIsThatToTheNearestOfAllWindowsThatTrainingSees) {
  for_towns([](const Corridors& town) {
    const CorridorsConfig& config = town.config();
    const auto size = static_cast<std::size_t>(2 * config.horizon());
    std::mt19937 random(2);
    std::vector<std::vector<float>> plans;
    for (int i = 0; i < 4; ++i) {
      plans.push_back(plan_of(town, town.windows()[random() % town.windows().size()]));
      for (float& value : plans.back()) {
        value += static_cast<float>(i) * 0.05F * (static_cast<float>(random() % 100) / 50 - 1);
      }
    }
    for (std::int64_t number = 0; number < windows_in_all(town); ++number) {  // one held out
      if (!is_plan(town, number) || std::ranges::binary_search(town.windows(), number)) continue;
      plans.push_back(plan_of(town, number));
      break;
    }
    for (std::size_t i = 0; i < plans.size(); ++i) {
      double least = std::numeric_limits<double>::infinity();
      for (const std::int64_t number : town.windows()) {
        double sum = 0;
        for (std::size_t j = 0; j < size; ++j) {
          const auto d = static_cast<double>(plans[i][j] - window(town, number)[j]);
          sum += d * d;
        }
        least = std::min(least, sum);
      }
      const double found = town.distance_to_training(plans[i].data());
      EXPECT_NEAR(found, std::sqrt(least / static_cast<double>(config.horizon())), 1e-9) << i;
      EXPECT_EQ(found == 0, i == 0) << i;  // and of a plan that training has not seen it is not 0
    }
  });
}

TEST(CorridorsByForce, PlacesAreThoseOfTheJunctions) {
  for_towns([](const Corridors& town) {
    const CorridorsConfig& config = town.config();
    std::set<std::pair<float, float>> places;
    for (std::int64_t junction = 0; junction < config.side * config.side; ++junction) {
      float at[2];
      town.place_of(junction, &at[0], &at[1]);
      EXPECT_EQ(junction_at(config, point(town, at)), junction);
      EXPECT_LE(std::max(std::abs(at[0]), std::abs(at[1])), 1.0F + 1e-6F);
      places.insert({at[0], at[1]});
    }
    EXPECT_EQ(std::ssize(places), config.side * config.side);
  });
}

}  // namespace
}  // namespace sidechannel::experiments
