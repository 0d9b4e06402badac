#include "kernels/adam.h"

#include <gtest/gtest.h>

#include "tests/harness/cuda_check.h"

namespace sidechannel {
namespace {

using harness::cuda_queue;
using harness::DeviceBuffer;
using harness::Draw;
using kernels::AdamRule;
using kernels::AdamState;

class CudaAdam : public harness::CudaTest {};

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

AdamRule rule() {
  return {{3e-3, kernels::LearningRate::Schedule::kTail, 4, 100}};
}

// A training of a few steps on both devices. The CPU's kernel says by name where it fuses a
// multiply-add, and so does this one: where the CPU has the instruction, the bits are the same;
// where it multiplies and adds, each product rounds once more. The state goes through pow, which
// may be off by some units of double: nothing that a rounding to float shows, but for a tie.
void check_steps(std::int64_t size) {
  SCOPED_TRACE(size);
  Draw draw(static_cast<std::uint64_t>(size));
  auto p = draw.normals<float>(size), m = draw.normals<float>(size, 0, 0.3);
  auto v = draw.normals<float>(size, 0, 0.3);
  for (float& value : v) value *= value;
  AdamState state;
  state.steps = 7;
  DeviceBuffer<float> device_p(p), device_m(m), device_v(v);
  DeviceBuffer<AdamState> device_state(std::vector<AdamState>{state});
  for (int step = 0; step < 3; ++step) {
    const auto g = draw.normals<float>(size);
    const DeviceBuffer<float> device_g(g);
    const double squares = 2 + step;
    const float loss = 0.5f;
    const DeviceBuffer<double> device_squares(std::vector<double>{squares});
    const DeviceBuffer<float> device_loss(std::vector<float>{loss});
    run(harness::queue(),
        kernels::AdamBegin<float>{
            .rule = rule(), .sum_of_squares = &squares, .loss = &loss, .state = &state});
    run(harness::queue(), kernels::AdamUpdate<float>{.rule = rule(),
                                                     .state = &state,
                                                     .size = size,
                                                     .g = g.data(),
                                                     .p = p.data(),
                                                     .m = m.data(),
                                                     .v = v.data()});
    run(cuda_queue(), kernels::AdamBegin<float>{.rule = rule(),
                                                .sum_of_squares = device_squares.data(),
                                                .loss = device_loss.data(),
                                                .state = device_state.data()});
    run(cuda_queue(), kernels::AdamUpdate<float>{.rule = rule(),
                                                 .state = device_state.data(),
                                                 .size = size,
                                                 .g = device_g.data(),
                                                 .p = device_p.data(),
                                                 .m = device_m.data(),
                                                 .v = device_v.data()});
  }
  EXPECT_TRUE(device_p.walls_stand() && device_m.walls_stand() && device_v.walls_stand());
  EXPECT_TRUE(device_state.walls_stand());
  const AdamState after = device_state.value();
  EXPECT_EQ(after.steps, 10);
  EXPECT_EQ(after.halted, 0);
  EXPECT_DOUBLE_EQ(after.rate, state.rate);
  EXPECT_DOUBLE_EQ(after.correction, state.correction);
  EXPECT_EQ(after.sum_of_squares, state.sum_of_squares);
  EXPECT_EQ(after.loss, state.loss);
  // A few roundings a step, of terms as large as these.
  const double bound = harness::gamma_of<float>(3 * 8);
  const auto ps = device_p.values(), ms = device_m.values(), vs = device_v.values();
  for (std::size_t i = 0; i < p.size(); ++i) {
    ASSERT_NEAR(ms[i], m[i], bound * 2) << i;
    ASSERT_NEAR(vs[i], v[i], bound * (std::abs(v[i]) + 0.05)) << i;
    ASSERT_NEAR(ps[i], p[i], bound * (std::abs(p[i]) + 0.1)) << i;
  }
}

// One element; fewer than a thread's four; a block's 1024 and one more; several blocks.
TEST_F(CudaAdam, StepsAreTheCpus) {
  for (const std::int64_t size : {1, 3, 1024, 1025, 5000}) {
    check_steps(size);
    const DeviceBuffer<float>::Misaligned misaligned;
    check_steps(size);
  }
  run(cuda_queue(), kernels::AdamUpdate<float>{.rule = rule(), .size = 0});
}

// From the first loss or gradient that is not finite, nothing changes any more.
TEST_F(CudaAdam, HaltsBeforeWhatIsNotFinite) {
  struct Halt {
    double squares;
    float loss;
  };
  for (const Halt& halt :
       {Halt{kNan, 1}, Halt{kInfinity, 1}, Halt{1e39, 1}, Halt{1, float(kNan)}}) {
    const std::vector<float> ones(9, 1);
    DeviceBuffer<float> p(ones), m(ones), v(ones);
    const DeviceBuffer<float> g(ones);
    DeviceBuffer<AdamState> state(std::vector<AdamState>(1));
    const auto step = [&](double squares, float loss) {
      const DeviceBuffer<double> device_squares(std::vector<double>{squares});
      const DeviceBuffer<float> device_loss(std::vector<float>{loss});
      run(cuda_queue(), kernels::AdamBegin<float>{.rule = rule(),
                                                  .sum_of_squares = device_squares.data(),
                                                  .loss = device_loss.data(),
                                                  .state = state.data()});
      run(cuda_queue(), kernels::AdamUpdate<float>{.rule = rule(),
                                                   .state = state.data(),
                                                   .size = 9,
                                                   .g = g.data(),
                                                   .p = p.data(),
                                                   .m = m.data(),
                                                   .v = v.data()});
      cuda_queue().synchronize();  // before the two are gone
    };
    step(halt.squares, halt.loss);
    step(1, 1);
    EXPECT_EQ(state.value().halted, 1);
    EXPECT_EQ(state.value().steps, 0);
    for (const auto* values : {&p, &m, &v}) {
      for (const float value : values->values()) EXPECT_EQ(value, 1);
    }
  }
}

TEST_F(CudaAdam, NeedsNoLoss) {
  const DeviceBuffer<double> squares(std::vector<double>{4});
  DeviceBuffer<AdamState> state(std::vector<AdamState>(1));
  run(cuda_queue(), kernels::AdamBegin<float>{
                        .rule = rule(), .sum_of_squares = squares.data(), .state = state.data()});
  EXPECT_EQ(state.value().steps, 1);
  EXPECT_EQ(state.value().loss, 0);
}

}  // namespace
}  // namespace sidechannel
