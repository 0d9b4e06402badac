#pragma once

// The SIMD layer of the CPU kernels: Google Highway, for the instruction set that this file is
// compiled for (SIDECHANNEL_ARCH). Kernels are written once over a tag D of L = Lanes(D) elements
// of type T; what does not fill whole vectors is done with narrower tags, down to a single lane.
//
// Results have the same bits for every instruction set. So nothing may depend on L but the speed: a
// sum over lanes is one of FixedSum's, and a condition that chooses between formulas names numbers
// of elements, not of vectors. Approximate instructions (reciprocals) and the C library's
// elementary functions, which differ by processor, are not used.

#define HWY_COMPILE_ONLY_STATIC
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2)  // their vectors cannot stand in arrays
// Highway takes AVX2 and AVX-512 only together with AES, which x86-64-v3 and -v4 leave out.
#if !defined(__AES__) || !defined(__PCLMUL__)
#define HWY_DISABLE_PCLMUL_AES
#endif
#include <hwy/highway.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <type_traits>

namespace sidechannel::kernels::simd {

// Highway's operations, with multiply-adds that round once everywhere. Only what has the
// instruction (AVX2, AVX-512, NEON) is fast; Highway's own round twice where it is missing.
namespace hn {

using namespace hwy::HWY_NAMESPACE;

#if !(HWY_ARCH_ARM_A64 || (HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2))
template <class V>
HWY_INLINE V MulAdd(V a, V b, V c) {
  constexpr std::size_t lanes = MaxLanes(DFromV<V>());
  const DFromV<V> d;
  TFromV<V> x[lanes], y[lanes], z[lanes];
  StoreU(a, d, x);
  StoreU(b, d, y);
  StoreU(c, d, z);
  for (std::size_t i = 0; i < lanes; ++i) z[i] = std::fma(x[i], y[i], z[i]);
  return LoadU(d, z);
}
template <class V>
HWY_INLINE V NegMulAdd(V a, V b, V c) {
  return hn::MulAdd(Neg(a), b, c);
}
template <class V>
HWY_INLINE V MulSub(V a, V b, V c) {
  return hn::MulAdd(a, b, Neg(c));
}
#endif

}  // namespace hn

template <class T>
using Full = hn::ScalableTag<T>;
template <class T, std::size_t kLanes>
using Capped = hn::CappedTag<T, kLanes>;
template <class D>
using Vec = hn::Vec<D>;
template <class D>
inline constexpr std::int64_t kLanes = static_cast<std::int64_t>(hn::MaxLanes(D()));

// Whether there are 32 vector registers (AVX-512, NEON) or 16 (SSE, AVX2).
#if HWY_TARGET == HWY_NEON || (HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3)
inline constexpr bool kManyRegisters = true;
#else
inline constexpr bool kManyRegisters = false;
#endif

// The larger of value and floor; NaN in value stays NaN. Of that Highway's Max says nothing, but
// x86's vector instruction gives its second operand where one is NaN, in a third of the time.
template <class V>
HWY_INLINE V at_least(V value, V floor) {
#if HWY_ARCH_X86 && HWY_TARGET != HWY_SCALAR
  return hn::Max(floor, value);
#else
  return hn::IfThenElse(hn::Lt(value, floor), floor, value);
#endif
}

// Numbers as doubles, for a tag of doubles.
template <class D, class V>
HWY_INLINE Vec<D> widened(D d, V value) {
  if constexpr (sizeof(hn::TFromV<V>) == sizeof(double))
    return value;
  else
    return hn::PromoteTo(d, value);
}
template <class D, class T>
HWY_INLINE Vec<D> load_double(D d, const T* from) {
  return widened(d, hn::LoadU(hn::Rebind<T, D>(), from));
}
// Doubles rounded to T; returns what was stored.
template <class D, class T>
HWY_INLINE Vec<D> store_rounded(D d, Vec<D> value, T* to) {
  if constexpr (sizeof(T) == sizeof(double)) {
    hn::StoreU(value, d, to);
    return value;
  } else {
    const hn::Rebind<T, D> narrow;
    const auto rounded = hn::DemoteTo(narrow, value);
    hn::StoreU(rounded, narrow, to);
    return hn::PromoteTo(d, rounded);
  }
}

// Calls f(tag, first) for consecutive pieces of [begin, end): whole vectors first, then halves and
// so on down to one lane.
template <class T, std::size_t kCap = static_cast<std::size_t>(kLanes<Full<T>>), class F>
inline void for_vectors(std::int64_t begin, std::int64_t end, F&& f) {
  const Capped<T, kCap> d;
  for (; begin + kLanes<Capped<T, kCap>> <= end; begin += kLanes<Capped<T, kCap>>) f(d, begin);
  if constexpr (kCap > 1) {
    if (begin < end) for_vectors<T, kCap / 2>(begin, end, f);
  }
}

// The same for rows of neighbouring vectors: calls f(tag, n, first), where n is a constant (4, 2 or
// 1) and the piece holds n vectors.
template <class T, class F>
inline void for_vector_rows(std::int64_t begin, std::int64_t end, F&& f) {
  const Full<T> d;
  constexpr std::int64_t lanes = kLanes<Full<T>>;
  for (; begin + 4 * lanes <= end; begin += 4 * lanes)
    f(d, std::integral_constant<int, 4>(), begin);
  for (; begin + 2 * lanes <= end; begin += 2 * lanes)
    f(d, std::integral_constant<int, 2>(), begin);
  for_vectors<T>(begin, end, [&](auto narrow, std::int64_t first) {
    f(narrow, std::integral_constant<int, 1>(), first);
  });
}

// A sum over many terms with vectors along the sum: 2 * 64 bytes of running sums, whatever the
// width of a vector, which total() adds in one order.
template <class T>
class FixedSum {
 public:
  static constexpr std::int64_t kTerms = 2 * 64 / sizeof(T);  // of one call of add_products

  FixedSum() {
    for (V& sum : sums_) sum = hn::Zero(D());
  }

  void add_products(const T* HWY_RESTRICT a, const T* HWY_RESTRICT b) {
#pragma GCC unroll 16
    for (std::int64_t i = 0; i < kVectors; ++i) {
      V& sum = sums_[i];
      sum = hn::MulAdd(hn::LoadU(D(), a + i * kWidth), hn::LoadU(D(), b + i * kWidth), sum);
    }
  }

  // Halves are added to each other until one number is left.
  T total() {
#pragma GCC unroll 8
    for (std::int64_t half = kVectors / 2; half > 0; half /= 2) {
#pragma GCC unroll 16
      for (std::int64_t i = 0; i < half; ++i) sums_[i] = hn::Add(sums_[i], sums_[i + half]);
    }
    return halved(D(), sums_[0]);
  }

 private:
  using D = Full<T>;
  using V = Vec<D>;
  static constexpr std::int64_t kWidth = kLanes<D>;
  static constexpr std::int64_t kVectors = kTerms / kWidth;

  template <class AnyD>
  static HWY_INLINE T halved(AnyD, Vec<AnyD> v) {
    if constexpr (kLanes<AnyD> == 1) {
      return hn::GetLane(v);
    } else {
      const hn::Half<AnyD> half;  // without hn:: because Highway's scalar target has no UpperHalf
      return halved(half, hn::Add(LowerHalf(half, v), UpperHalf(half, v)));
    }
  }

  V sums_[kVectors];
};

// to [columns, rows] = transpose of from [rows, columns]; floats in blocks of 4 x 4 where both
// divide.
template <class T>
inline void transpose(const T* from, std::int64_t rows, std::int64_t columns, T* to) {
#if HWY_TARGET != HWY_SCALAR
  if constexpr (sizeof(T) == 4) {
    if (rows % 4 == 0 && columns % 4 == 0) {
      const Capped<T, 4> d;
      const hn::Repartition<double, decltype(d)> pairs;
      for (std::int64_t r = 0; r < rows; r += 4) {
        for (std::int64_t c = 0; c < columns; c += 4) {
          const T* f = from + r * columns + c;
          const auto a = hn::LoadU(d, f);
          const auto b = hn::LoadU(d, f + columns);
          const auto x = hn::LoadU(d, f + 2 * columns);
          const auto y = hn::LoadU(d, f + 3 * columns);
          const auto ab0 = hn::BitCast(pairs, hn::InterleaveLower(d, a, b));
          const auto ab1 = hn::BitCast(pairs, hn::InterleaveUpper(d, a, b));
          const auto xy0 = hn::BitCast(pairs, hn::InterleaveLower(d, x, y));
          const auto xy1 = hn::BitCast(pairs, hn::InterleaveUpper(d, x, y));
          T* t = to + c * rows + r;
          hn::StoreU(hn::BitCast(d, hn::InterleaveLower(pairs, ab0, xy0)), d, t);
          hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(pairs, ab0, xy0)), d, t + rows);
          hn::StoreU(hn::BitCast(d, hn::InterleaveLower(pairs, ab1, xy1)), d, t + 2 * rows);
          hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(pairs, ab1, xy1)), d, t + 3 * rows);
        }
      }
      return;
    }
  }
#endif
  for (std::int64_t c = 0; c < columns; ++c) {
    for (std::int64_t r = 0; r < rows; ++r) to[c * rows + r] = from[r * columns + c];
  }
}

// Memory that begins on a cache line and grows with need.
template <class T>
class AlignedBuffer {
 public:
  // At least `count` elements, with no particular content.
  T* get(std::size_t count) {
    if (count > count_) {
      const std::size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
      memory_.reset(static_cast<T*>(std::aligned_alloc(64, bytes)));
      if (memory_ == nullptr) throw std::bad_alloc();
      count_ = count;
    }
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(T* memory) const { std::free(memory); }
  };
  std::unique_ptr<T, Free> memory_;
  std::size_t count_ = 0;
};

}  // namespace sidechannel::kernels::simd
