#include "kernels/weighted_sum.h"

#include <gtest/gtest.h>

#include "tests/harness/backends.h"

namespace sidechannel {
namespace {

using harness::BufferOn;
using harness::Draw;
using harness::error_of;
using harness::Reference;
using harness::tensor_of;
using harness::values_of;
using kernels::GradOut;
using kernels::kMostTerms;
using kernels::WeightedSumDims;

TEST(WeightedSum, MixesSamplesAndHoldsPositions) {
  Tape tape(harness::device(), DType::kF64);
  const auto constant = [&](const std::vector<double>& values, Shape shape) {
    return tape.constant(tensor_of(values, shape));
  };
  const Var x0 = constant({1, 2, 3, 4, 5, 6, 7, 8}, {2, 2, 2});
  const Var noise = constant({1, 1, 1, 1, -1, -1, -1, -1}, {2, 2, 2});
  const WeightedTerm terms[] = {{constant({1, 10}, {2}), x0}, {constant({100, 1000}, {2}), noise}};
  EXPECT_EQ(values_of(weighted_sum(terms).value()),
            (std::vector<double>{101, 102, 103, 104, -950, -940, -930, -920}));
  // Inpainting: the first position is what it was, and another number than 0 holds it.
  const Tensor first = tensor_of({1, -0.5, 0, 0}, {2, 2});
  EXPECT_EQ(values_of(weighted_sum(terms, {first, x0}).value()),
            (std::vector<double>{1, 2, 103, 104, 5, 6, -930, -920}));
  const WeightedTerm three[] = {terms[0], terms[1], {constant({0, 1}, {2}), x0}};
  EXPECT_EQ(values_of(weighted_sum(three).value()),
            (std::vector<double>{101, 102, 103, 104, -945, -934, -923, -912}));
}

struct Problem {
  WeightedSumDims dims;
  bool held;

  std::int64_t size() const { return dims.batch * dims.size; }
};

// Each is here for a reason; generated ones follow.
std::vector<Problem> problems(int count) {
  std::vector<Problem> all;
  for (const int terms : {1, 2, 3}) {
    for (const bool held : {false, true}) {
      all.insert(all.end(), {{{1, 1, terms}, held},     // the smallest
                             {{2, 4, terms}, held},     // a vector for each sample
                             {{3, 7, terms}, held},     // vectors of several samples
                             {{33, 64, terms}, held},   // several blocks
                             {{2, 4099, terms}, held},  // long samples
                             {{0, 5, terms}, held},     // nothing
                             {{5, 0, terms}, held}});   //
    }
  }
  Draw draw(7);
  while (static_cast<int>(all.size()) < count) {
    all.push_back({{draw.integer(1, 9), draw.integer(1, 99), int(draw.integer(1, kMostTerms))},
                   draw.integer(0, 1) == 1});
  }
  return all;
}

// Inputs, and what comes of them by the definition. Everything that must not be read for an output
// is NaN: x where y is held, values to hold where it is not.
template <class T>
struct Case {
  Problem p;
  std::vector<T> w[kMostTerms], x[kMostTerms], held, hold, dy;
  Reference y, dx[kMostTerms], dhold;

  explicit Case(const Problem& problem)
      : p(problem),
        y(p.size()),
        dx{Reference(p.size()), Reference(p.size()), Reference(p.size())},
        dhold(p.size()) {
    constexpr T kNaN = std::numeric_limits<T>::quiet_NaN();
    Draw draw(static_cast<std::uint64_t>(p.size()));
    for (int j = 0; j < p.dims.terms; ++j) {
      w[j] = draw.normals<T>(p.dims.batch);
      x[j] = draw.normals<T>(p.size());
    }
    hold = draw.normals<T>(p.size());
    dy = draw.normals<T>(p.size());
    for (std::int64_t i = 0; i < p.dims.size; ++i) {
      held.push_back(static_cast<T>(draw.pick({0, 0, 0, 1, -2})));
    }
    for (std::int64_t i = 0; i < p.size(); ++i) {
      const auto at = static_cast<std::size_t>(i);
      const auto n = static_cast<std::size_t>(i / p.dims.size);
      if (p.held && held[static_cast<std::size_t>(i % p.dims.size)] != 0) {
        y.add(i, double(hold[at]));
        dhold.add(i, double(dy[at]));
        for (int j = 0; j < p.dims.terms; ++j) x[j][at] = kNaN;
        continue;
      }
      for (int j = 0; j < p.dims.terms; ++j) {
        y.add(i, double(w[j][n]) * double(x[j][at]));
        dx[j].add(i, double(w[j][n]) * double(dy[at]));
      }
      hold[at] = kNaN;
    }
  }
};

// A case's inputs where the kernels find them, and its calls.
template <class Backend, class T>
struct Inputs {
  Problem p;
  std::vector<BufferOn<Backend, T>> w, x;
  BufferOn<Backend, T> held, hold, dy;

  explicit Inputs(const Case<T>& c) : p(c.p), held(c.held), hold(c.hold), dy(c.dy) {
    for (int j = 0; j < p.dims.terms; ++j) {
      w.emplace_back(c.w[j]);
      x.emplace_back(c.x[j]);
    }
  }
  kernels::WeightedSumForward<T> forward(T* y) const {
    kernels::WeightedSumForward<T> call{.dims = p.dims, .y = y};
    for (std::size_t j = 0; j < w.size(); ++j) {
      call.w[j] = w[j].data();
      call.x[j] = x[j].data();
    }
    if (p.held) {
      call.held = held.data();
      call.hold = hold.data();
    }
    return call;
  }
  kernels::WeightedSumBackward<T> backward() const {
    kernels::WeightedSumBackward<T> call{.dims = p.dims, .dy = dy.data()};
    for (std::size_t j = 0; j < w.size(); ++j) call.w[j] = w[j].data();
    if (p.held) call.held = held.data();
    return call;
  }
};

// `change` makes a wrong variant of the calls.
template <class Backend, class T, class Change>
void check_kernels(auto& queue, const Problem& p, const Change& change) {
  SCOPED_TRACE(fmt::format("N={} size={} terms={} held={}", p.dims.batch, p.dims.size, p.dims.terms,
                           p.held));
  const Case<T> c(p);
  const Inputs<Backend, T> in(c);
  using Buffer = BufferOn<Backend, T>;
  Buffer y(p.size());
  auto forward = in.forward(y.data());
  change(forward);
  run(queue, forward);
  harness::expect_near<T>("y", y.values(), c.y, p.dims.terms);
  EXPECT_TRUE(y.walls_stand());
  auto backward = in.backward();
  change(backward);
  run(queue, backward);  // nobody asked
  for (int j = 0; j < p.dims.terms; ++j) {
    harness::expect_gradient<Buffer>("dx", c.dx[j], 1, [&](GradOut<T> to) {
      auto call = backward;
      call.dx[j] = to;
      run(queue, call);
    });
  }
  if (!p.held) return;
  harness::expect_gradient<Buffer>("dhold", c.dhold, 0, [&](GradOut<T> to) {
    auto call = backward;
    call.dhold = to;
    run(queue, call);
  });
}

BACKEND_TEST(WeightedSum, AgreesWithTheDefinition) {
  for (const Problem& p : problems(80)) {
    Backend::for_types([&]<class T>(auto& queue) {
      Backend::for_alignments([&] { check_kernels<Backend, T>(queue, p, [](auto&) {}); });
    });
  }
}

// Known-wrong variants: weights in another order, a term that is left out, nothing held.
BACKEND_TEST(WeightedSum, WrongSumsAreFound) {
  Backend::for_types([]<class T>(auto& queue) {
    const auto failures = [&](const auto& change) {
      return harness::failures_of([&] {
        check_kernels<Backend, T>(queue, {{3, 40, 2}, true}, change);
      });
    };
    EXPECT_EQ(failures([](auto&) {}), 0);
    EXPECT_GE(failures([](auto& call) { std::swap(call.w[0], call.w[1]); }), 5);
    EXPECT_GE(failures([](auto& call) { call.dims.terms = 1; }), 3);
    EXPECT_GE(failures([](auto& call) { call.held = nullptr; }), 5);
  });
}

BACKEND_TEST(WeightedSum, SameBitsEveryTime) {
  using Buffer = BufferOn<Backend, float>;
  const Problem p{{7, 2003, 3}, true};
  const Case<float> c(p);
  const Inputs<Backend, float> in(c);
  Backend::expect_same_bits("weighted sum", [&](auto& queue) {
    Buffer y(p.size()), dx0(p.size()), dx1(p.size()), dx2(p.size()), dhold(p.size());
    run(queue, in.forward(y.data()));
    auto call = in.backward();
    call.dx[0] = {dx0.data()};
    call.dx[1] = {dx1.data()};
    call.dx[2] = {dx2.data()};
    call.dhold = {dhold.data()};
    run(queue, call);
    return harness::values_of_all({&y, &dx0, &dx1, &dx2, &dhold});
  });
}

// Terms of their own; and one that is held, or comes twice.
TEST(WeightedSum, Gradients) {
  Draw draw(3);
  for (std::uint64_t i = 0; i < 120; ++i) {
    const Shape shape{draw.integer(1, 4), draw.integer(1, 6), draw.integer(1, 5)};
    const auto terms = static_cast<std::size_t>(draw.integer(1, kMostTerms));
    std::vector<Tensor> weights, inputs;
    for (std::size_t j = 0; j < kMostTerms; ++j) weights.push_back(draw.tensor({shape[0]}));
    for (std::size_t j = 0; j < kMostTerms + 1; ++j) inputs.push_back(draw.tensor(shape));
    std::vector<double> where;
    for (std::int64_t k = 0; k < shape[1] * shape[2]; ++k) {
      where.push_back(static_cast<double>(draw.integer(0, 1)));
    }
    const Tensor held = tensor_of(where, {shape[1], shape[2]});
    harness::expect_gradients(
        [&](Tape& tape, std::span<const Var> in) {
          std::vector<WeightedTerm> all;
          for (std::size_t j = 0; j < terms; ++j) {
            all.push_back({tape.constant(weights[j]), in[i % 5 == 0 ? 0 : j]});
          }
          if (i % 3 == 0) return weighted_sum(all);
          return weighted_sum(all, {held, in[i % 3 == 1 ? 0 : kMostTerms]});
        },
        inputs, {.seed = i, .max_elements = 64});
  }
}

TEST(WeightedSum, RefusesWhatDoesNotFit) {
  Tape tape(harness::device(), DType::kF64);
  const Var w = tape.make({2}), x = tape.make({2, 5, 3});
  const auto sum = [&](const std::vector<WeightedTerm>& terms, const Held& held = {}) {
    return error_of([&] { weighted_sum(terms, held); });
  };
  const auto zeros = [](Shape shape, DType dtype = DType::kF64) {
    return Tensor::zeros(harness::device(), dtype, shape);
  };
  const WeightedTerm one{w, x};
  EXPECT_EQ(sum({one, one, one}), "no error");
  EXPECT_EQ(sum({}), "weighted_sum: expected 1 to 3 terms, got 0");
  EXPECT_EQ(sum({one, one, one, one}), "weighted_sum: expected 1 to 3 terms, got 4");
  EXPECT_EQ(sum({{w, tape.make({2, 5})}}),
            "weighted_sum: expected x of shape [N, L, C], got [2, 5]");
  EXPECT_EQ(sum({one, {w, tape.make({2, 5, 4})}}),
            "weighted_sum: expected x of shape [2, 5, 3], got [2, 5, 4]");
  EXPECT_EQ(sum({{tape.make({5}), x}}), "weighted_sum: expected weights of shape [2], got [5]");
  EXPECT_EQ(sum({{tape.leaf(zeros({2})), x}}), "weighted_sum: no gradient goes to weights");
  EXPECT_EQ(sum({one}, {zeros({5, 3}), x}), "no error");
  EXPECT_EQ(sum({one}, {zeros({5}), x}),
            "weighted_sum: expected what is held of shape [5, 3], got [5]");
  EXPECT_EQ(sum({one}, {zeros({5, 3}), w}),
            "weighted_sum: expected values that are held of shape [2, 5, 3], got [2]");
  EXPECT_EQ(sum({one}, {zeros({5, 3}, DType::kF32), x}),
            "weighted_sum: expected what is held in f64 on cpu, as x is");
}

}  // namespace
}  // namespace sidechannel
