// The operation: layers together, where the device has them so, are what they are one by one.

#include <gtest/gtest.h>

#include "tests/harness/conv_norm_act_pass.h"

namespace sidechannel {
namespace {

using harness::one_by_one;
using harness::Pass;
using harness::RowCase;
using harness::together;
using harness::values_of;
using enum harness::Normalized;

// What the CPU computes together with some numbers of threads and not with others, and what never.
const std::vector<RowCase> kRows = {
    {8, 64, 32, 5, 2, 3},
    {8, 64, 32, 5, 2, 2, 8},
    {8, 64, 32, 5, 2, 2, 32},
    {8, 64, 32, 5, 2, 3, 1, 2},
    {8, 64, 32, 5, 2, 3, 1, 1, kNone},
    {8, 70, 32, 5, 0, 3},
    {16, 65, 64, 5, 2, 2, 1, 4},
    {3, 20, 16, 3, 1, 2},
    {6, 64, 32, 5, 2, 1},
    {12, 40, 32, 5, 2, 4, 1, 2, kOdd},
    {8, 64, 32, 5, 2, 3, 8, 1, kAll, false},
};

// In f32 the same bits, whatever the number of threads. In f64 the gradients of convolutions come
// by another way; but they, too, do not depend on the threads.
TEST(ConvNormActOperation, GivesTheBitsOfTheOperations) {
  int fused = 0;
  for (const RowCase& c : kRows) {
    SCOPED_TRACE(c.text());
    Pass apart(harness::device(1), DType::kF32, c), first(harness::device(1), DType::kF64, c);
    const auto expected = apart.gradients(one_by_one(c, apart.in));
    const auto in_f64 = first.gradients(together(c, first.in));
    for (const int threads : {1, 2, 3}) {
      SCOPED_TRACE(threads);
      Pass pass(harness::device(threads), DType::kF32, c);
      const Var z = together(c, pass.in);
      if (pass.operations() == 1) ++fused;
      EXPECT_EQ(pass.gradients(z), expected);
      Pass other(harness::device(threads), DType::kF64, c);
      EXPECT_EQ(other.gradients(together(c, other.in)), in_f64);
    }
  }
  EXPECT_GE(fused, 12);
}

// Without a way back, and then together too.
TEST(ConvNormActOperation, ShowsWhatIsHidden) {
  for (const RowCase& c : kRows) {
    SCOPED_TRACE(c.text());
    for (const int threads : {1, 2, 3}) {
      Pass pass(harness::device(threads), DType::kF32, c);
      const NoGrad no_grad(pass.tape);
      std::vector<Var> shown, expected;
      const Var z = together(c, pass.in, &shown);
      one_by_one(c, pass.in, &expected);
      ASSERT_EQ(shown.size(), expected.size());
      for (std::size_t i = 0; i < shown.size(); ++i) {
        EXPECT_EQ(values_of(shown[i].value()), values_of(expected[i].value())) << i;
      }
      EXPECT_EQ(values_of(z.value()), values_of(shown.back().value()));
      EXPECT_EQ(values_of(together(c, pass.in).value()), values_of(z.value()));
    }
  }
}

// What a row shows is what shorter rows give; so on every device.
BACKEND_TEST(ConvNormActOperation, ShowsWhatShorterRowsGive) {
  const RowCase c{4, 64, 32, 5, 2, 3};
  Backend::for_devices([&](const Device& device, DType type) {
    Pass pass(device, type, c);
    const auto recorded = values_of(together(c, pass.in).value());
    const NoGrad no_grad(pass.tape);
    std::vector<Var> shown;
    together(c, pass.in, &shown);
    ASSERT_EQ(shown.size(), 3u);
    for (std::size_t i = 0; i < 3; ++i) {
      const std::span<const Var> inputs(pass.in.data(), 1 + 4 * (i + 1));
      EXPECT_EQ(values_of(shown[i].value()), values_of(together(c, inputs).value())) << i;
    }
    EXPECT_EQ(values_of(shown.back().value()), recorded);
  });
}

// Who looks at every operation sees each; who wants gradients of what is hidden gets them.
BACKEND_TEST(ConvNormActOperation, IsOneByOneWhereThatShows) {
  const RowCase c{4, 64, 32, 5, 2, 2};
  Backend::for_devices([&](const Device& device, DType type) {
    Pass watched(device, type, c), apart(device, type, c), hidden(device, type, c);
    int seen = 0;
    watched.tape.set_watch([&](const Var&, std::span<const Var>) { ++seen; });
    const auto expected = apart.gradients(one_by_one(c, apart.in));
    EXPECT_EQ(watched.gradients(together(c, watched.in)), expected);
    EXPECT_EQ(seen, 4);
    std::vector<Var> shown;
    EXPECT_EQ(hidden.gradients(together(c, hidden.in, &shown)), expected);
    EXPECT_EQ(hidden.operations(), 4u);
    EXPECT_TRUE(shown.front().requires_grad());
    Pass first(device, type, c), part(device, type, c);
    shown.clear();
    together(c, first.in, &shown);
    const RowCase one{4, 64, 32, 5, 2, 1};
    const auto of_first = first.gradients(shown.front());
    const auto of_part = part.gradients(one_by_one(one, std::span(part.in).first(5)));
    for (std::size_t i = 0; i < 6; ++i) EXPECT_EQ(of_first[i], of_part[i]) << i;
  });
}

// What no device computes together: statistics that gradients do not pass through.
BACKEND_TEST(ConvNormActOperation, IsOneByOneWhereStatisticsAreHeld) {
  Backend::for_devices([](const Device& device, DType type) {
    for (const auto& [mean, variance] :
         {std::pair{false, true}, std::pair{true, false}, std::pair{false, false}}) {
      const RowCase c{4, 64, 32, 5, 2, 2, 1, 1, kAll, true, mean, variance};
      SCOPED_TRACE(c.text());
      Pass pass(device, type, c), apart(device, type, c);
      const Var z = together(c, pass.in);
      EXPECT_EQ(pass.operations(), 4u);
      EXPECT_EQ(pass.gradients(z), apart.gradients(one_by_one(c, apart.in)));
    }
  });
}

// By the mean of squares: together on the CPU, one by one on CUDA, the same bits in f32.
BACKEND_TEST(ConvNormActOperation, TakesRmsStatistics) {
  const RowCase c{4, 64, 32, 5, 2, 2, 8, 1, kAll, false};
  Backend::for_devices([&](const Device& device, DType type) {
    if (type != DType::kF32) return;
    Pass pass(device, type, c), apart(device, type, c);
    EXPECT_EQ(pass.gradients(together(c, pass.in)), apart.gradients(one_by_one(c, apart.in)));
  });
}

// A tensor that is a parameter of two layers has the gradients of both.
BACKEND_TEST(ConvNormActOperation, AddsUpWhatLayersShare) {
  const RowCase c{4, 64, 32, 5, 2, 2};
  Backend::for_devices([&](const Device& device, DType type) {
    for (const std::size_t shared : {1, 2, 3, 4}) {
      SCOPED_TRACE(shared);
      const auto gradients = [&](bool fused) {
        Pass pass(device, type, c);
        std::vector<Var> in = pass.in;
        in[shared + 4] = in[shared];
        const Var z = fused ? together(c, in) : one_by_one(c, in);
        EXPECT_EQ(pass.operations(), 4u);
        return pass.gradients(z);
      };
      EXPECT_EQ(gradients(true), gradients(false));
    }
  });
}

// Weights that are kept, with biases that are not.
TEST(ConvNormActOperation, BiasesAloneHaveTheBitsOfTheOperations) {
  const RowCase c{4, 64, 32, 5, 2, 2};
  const auto gradients = [&](int threads, DType type, auto way) {
    Pass pass(harness::device(threads), type, c);
    pass.in[1] = pass.tape.constant(pass.in[1].value());
    return pass.gradients(way(c, pass.in));
  };
  const auto fused = [](const auto& of, const auto& in) { return together(of, in); };
  const auto apart = [](const auto& of, const auto& in) { return one_by_one(of, in); };
  for (const DType type : {DType::kF32, DType::kF64}) {
    const auto expected = gradients(1, type, apart);
    for (const int threads : {1, 2, 3}) EXPECT_EQ(gradients(threads, type, fused), expected);
  }
}

// x, a bias or gamma without a gradient: the others' are what they were.
BACKEND_TEST(ConvNormActOperation, LeavesOutConstants) {
  const RowCase c{4, 64, 32, 5, 2, 2};
  Backend::for_devices([&](const Device& device, DType type) {
    Pass whole(device, type, c);
    const auto expected = whole.gradients(together(c, whole.in));
    for (const std::size_t constant : {0, 6, 7}) {
      Pass pass(device, type, c);
      pass.in[constant] = pass.tape.constant(pass.in[constant].value());
      auto others = expected;
      others.erase(others.begin() + static_cast<std::ptrdiff_t>(constant) + 1);
      EXPECT_EQ(pass.gradients(together(c, pass.in)), others) << constant;
    }
  });
}

// x may begin anywhere in memory: on CUDA it is one by one then.
BACKEND_TEST(ConvNormActOperation, TakesASliceOfSomething) {
  const RowCase c{4, 64, 32, 5, 2, 2};
  Backend::for_devices([&](const Device& device, DType type) {
    const auto results = [&](std::int64_t shift, auto way) {
      Pass pass(device, type, c);
      const Tensor x = pass.in[0].value();
      const Tensor at = Tensor(device, type, {x.size() + shift}).slice(shift, x.size());
      at.copy_from(x.reshape({x.size()}));
      pass.in[0] = pass.tape.leaf(at.reshape(x.shape()));
      return pass.gradients(way(pass.in));
    };
    const auto fused = [&](const auto& in) { return together(c, in); };
    const auto apart = [&](const auto& in) { return one_by_one(c, in); };
    const bool on_cpu = std::is_same_v<Backend, harness::OnCpu>;
    EXPECT_EQ(results(1, fused), on_cpu ? results(0, fused) : results(1, apart));
  });
}

// Both ways sum y over the batch's sets: terms of at most the mean of |y|, in at most 170 roundings
// (tests/harness/norm_check.h), and a few for the averages.
BACKEND_TEST(ConvNormActOperation, MovesRunningStatistics) {
  for (const RowCase& c : {RowCase{4, 64, 32, 5, 2, 2}, RowCase{4, 64, 32, 5, 2, 3, 1, 2},
                           RowCase{4, 64, 32, 5, 2, 2, 1, 1, kOdd}}) {
    SCOPED_TRACE(c.text());
    Backend::for_devices([&](const Device& device, DType type) {
      const auto moved = [&](bool fused) {
        Pass pass(device, type, c);
        std::vector<RunningStatistics> running;
        for (std::int64_t i = 0; i < c.layers; ++i) {
          running.push_back(
              {Tensor(device, type, {c.channels}), Tensor(device, type, {c.channels})});
          running.back().mean.fill(0);
          running.back().variance.fill(1);
        }
        fused ? together(c, pass.in, nullptr, running) : one_by_one(c, pass.in, nullptr, running);
        std::vector<std::vector<double>> all;
        for (const RunningStatistics& one : running) {
          all.push_back(values_of(one.mean));
          all.push_back(values_of(one.variance));
        }
        return all;
      };
      const auto actual = moved(true), expected = moved(false);
      if (std::is_same_v<Backend, harness::OnCpu>) {
        EXPECT_EQ(actual, expected);
      }
      const double relative = 2 * harness::gamma_of<float>(180);
      for (std::size_t i = 0; i < actual.size(); i += 2) {
        for (std::size_t j = 0; j < actual[i].size(); ++j) {
          const double variance = expected[i + 1][j], mean = expected[i][j];
          EXPECT_NEAR(actual[i][j], mean, relative * (std::abs(mean) + variance));
          EXPECT_NEAR(actual[i + 1][j], variance, relative * variance);
          const bool still = !c.has_norm(static_cast<std::int64_t>(i) / 2);
          EXPECT_EQ(variance == 1 && mean == 0, still);
        }
      }
    });
  }
}

}  // namespace
}  // namespace sidechannel
