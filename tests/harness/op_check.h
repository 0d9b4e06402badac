#pragma once

// What the tests of operations share: seeded contents, brute-force references with an error bound
// derived from them, walls around buffers, and reruns that must agree to the bit.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <limits>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/gradcheck.h"
#include "engine/io/tensor_map.h"
#include "engine/tensor.h"
#include "kernels/activation.h"
#include "kernels/queue.h"
#include "kernels/write.h"

namespace sidechannel::harness {

using enum kernels::Activation;

// A device and a queue of `threads` threads, one each for the whole program.
const Device& device(int threads = 1);
kernels::CpuQueue& queue(int threads = 1);

// Seeded draws, so that a failing case comes back with the next run.
class Draw {
 public:
  explicit Draw(std::uint64_t seed) : random_(seed) {}

  std::int64_t integer(std::int64_t low, std::int64_t high) {  // both included
    return std::uniform_int_distribution<std::int64_t>(low, high)(random_);
  }
  std::int64_t pick(std::initializer_list<std::int64_t> values) {
    return values.begin()[integer(0, static_cast<std::int64_t>(values.size()) - 1)];
  }
  double normal(double mean = 0, double deviation = 1) {
    return std::normal_distribution<double>(mean, deviation)(random_);
  }
  template <class T>
  std::vector<T> normals(std::int64_t size, double mean = 0, double deviation = 1) {
    std::vector<T> values(static_cast<std::size_t>(size));
    for (T& value : values) value = static_cast<T>(normal(mean, deviation));
    return values;
  }
  // In f64.
  Tensor tensor(Shape shape, double mean = 0, double deviation = 1);

 private:
  std::mt19937_64 random_;
};

Tensor tensor_of(const std::vector<double>& values, Shape shape);  // in f64
HostArray array_of(const std::vector<double>& values, DType dtype, Shape shape);
std::vector<double> values_of(const Tensor& tensor);  // of either type
template <class Values>
std::vector<double> widened(const Values& values) {
  return {values.begin(), values.end()};
}
template <class T>
std::vector<T> narrowed(const std::vector<double>& values) {
  return {values.begin(), values.end()};
}

// ||a - b|| / max(||b||, tiny), Euclidean.
double relative_difference(std::span<const double> a, std::span<const double> b);

// A number clear of all `taken` ones: the middle of the widest gap near their middle. As the bias
// before a ReLU (with what the bias is added to, negated, as `taken`) it lets about half of the
// values through while none comes near the kink: not by a step of finite differences, and not by
// rounding in f32.
double clear_of(std::vector<double> taken);

// What something that is kept in files saves, by name.
template <class Saves, class... Prefix>
TensorMap saved(const Saves& saves, const Prefix&... prefix) {
  TensorMap tensors;
  saves.save(tensors, prefix...);
  return tensors;
}

// The message of the Error that `action` throws; "no error" when it does not.
std::string error_of(const std::function<void()>& action);

// How many expectations fail in `checks`: of a wrong rule, which a test must find.
int failures_of(const std::function<void()>& checks);

// That a function's gradients are those of finite differences; `what` names the case. `inputs` are
// tensors, or the parameters that the function takes.
template <class F, class Inputs>
void expect_gradients(const F& f, Inputs&& inputs, const GradientCheckOptions& options = {},
                      std::string_view what = "") {
  const GradientCheck check = check_gradients(f, inputs, options);
  EXPECT_TRUE(check.passed()) << what << "\n" << check.message();
}

// --- Tolerances ---------------------------------------------------------------------------------

// Half the relative spacing of T's numbers: the largest relative error of one rounding.
template <class T>
inline constexpr double kUnitRoundoff = std::numeric_limits<T>::epsilon() / 2;

// The relative error that n roundings can add up to (Higham 2002, Lemma 3.1):
// |(1 + d_1) ... (1 + d_n) - 1| <= n u / (1 - n u) =: gamma_n for all |d_i| <= u.
//
// From it follows the bound that all sums here are held to: a sum of n products, computed in T in
// whatever order and with or without fused multiply-adds, is off by at most
//
//   gamma_n * (sum of the absolute values of its terms)
//
// (Section 3.1 there: each term passes one multiplication and at most n - 1 additions). The bound
// holds always, not just probably: a failure is an error of the kernel, never bad luck. Wrong terms
// are larger than it by orders of magnitude: a term's share is 1 / n of the sum, the bound n * 6e-8
// of it in f32.
template <class T>
double gamma_of(std::int64_t roundings) {
  const double nu = static_cast<double>(roundings) * kUnitRoundoff<T>;
  return nu / (1 - nu);
}

// An output as its definition gives it, in double, and what it may be off by.
struct Reference {
  std::vector<double> value;
  std::vector<double> magnitude;  // the sum of the absolute values of each element's terms

  explicit Reference(std::int64_t size)
      : value(static_cast<std::size_t>(size)), magnitude(static_cast<std::size_t>(size)) {}
  void add(std::int64_t at, double term) { add(at, term, std::abs(term)); }
  // A term that is off by as many roundings of something larger.
  void add(std::int64_t at, double term, double its_magnitude) {
    value[static_cast<std::size_t>(at)] += term;
    magnitude[static_cast<std::size_t>(at)] += its_magnitude;
  }
  // What accumulation makes of it.
  void add_all(std::span<const double> before);
};

// Every element within gamma(roundings) * magnitude of its reference, whose own roundings in double
// count too.
template <class T>
void expect_near(std::string_view what, std::span<const T> actual, const Reference& expected,
                 std::int64_t roundings) {
  ASSERT_EQ(actual.size(), expected.value.size()) << what;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double bound =
        (gamma_of<T>(roundings) + gamma_of<double>(roundings)) * expected.magnitude[i] +
        static_cast<double>(std::numeric_limits<T>::min());
    // Not <=, so that NaN fails too.
    ASSERT_TRUE(std::abs(static_cast<double>(actual[i]) - expected.value[i]) <= bound)
        << what << "[" << i << "] is " << actual[i] << ", expected " << expected.value[i]
        << " within " << bound;
  }
}

// --- Buffers ------------------------------------------------------------------------------------

// NaN where T has one: who reads it finds it in the result.
template <class T>
T new_wall() {
  T value = std::numeric_limits<T>::quiet_NaN();
  if constexpr (!std::numeric_limits<T>::has_quiet_NaN) {
    std::memset(static_cast<void*>(&value), 0x7b, sizeof value);
  }
  return value;
}

// Elements between two walls of NaN. A kernel that reads outside gets NaN into its result; one that
// writes outside breaks the wall. New elements are NaN too, so that what is never written shows.
// They begin at an odd element: vectors find no alignment that they could silently rely on.
template <class T>
class Walled {
 public:
  using Element = T;

  explicit Walled(std::int64_t size)
      : wall_(new_wall<T>()), memory_(static_cast<std::size_t>(size) + 2 * kWall, wall_) {}
  explicit Walled(const std::vector<T>& values) : Walled(static_cast<std::int64_t>(values.size())) {
    std::copy(values.begin(), values.end(), memory_.begin() + kWall);
  }

  T* data() { return memory_.data() + kWall; }
  const T* data() const { return memory_.data() + kWall; }
  std::span<const T> values() const { return {data(), memory_.size() - 2 * kWall}; }
  T value() const { return values()[0]; }
  void set(const std::vector<T>& values) {
    std::copy(values.begin(), values.end(), memory_.begin() + kWall);
  }

  bool walls_stand() const {
    for (std::size_t i = 0; i < kWall; ++i) {
      if (std::memcmp(&memory_[i], &wall_, sizeof(T)) != 0) return false;
      if (std::memcmp(&memory_[memory_.size() - 1 - i], &wall_, sizeof(T)) != 0) return false;
    }
    return true;
  }

 private:
  static constexpr std::size_t kWall = 67;
  T wall_;
  std::vector<T> memory_;
};

// Runs `run(out)` for an output that is overwritten and for one that is accumulated to, and holds
// both to the reference (`roundings` of the plain sum; one more where it is added to something).
// Buffer is where the output lies: a Walled, or a DeviceBuffer of cuda_check.h.
template <class Buffer, class T = typename Buffer::Element>
void expect_gradient(std::string_view what, const Reference& expected, std::int64_t roundings,
                     const std::function<void(kernels::GradOut<typename Buffer::Element>)>& run) {
  const auto size = static_cast<std::int64_t>(expected.value.size());
  Buffer out(size);
  run({out.data(), kernels::Write::kOverwrite});
  expect_near<T>(what, out.values(), expected, roundings);
  EXPECT_TRUE(out.walls_stand()) << what;

  const std::vector<T> before = Draw(11).normals<T>(size);
  Reference total = expected;
  total.add_all(widened(before));
  out.set(before);
  run({out.data(), kernels::Write::kAccumulate});
  expect_near<T>(std::string(what) + ", accumulated", out.values(), total, roundings + 1);
  EXPECT_TRUE(out.walls_stand()) << what;
}

// Of two vectors or spans.
template <class A, class B>
void expect_equal_bits(std::string_view what, const A& a, const B& b) {
  ASSERT_EQ(a.size(), b.size()) << what;
  if (std::empty(a)) return;  // memcmp takes no null pointers
  EXPECT_EQ(std::memcmp(a.data(), b.data(), std::span(a).size_bytes()), 0) << what;
}

}  // namespace sidechannel::harness
