#pragma once

// The CUDA device language as plain C++17, so that .cu files compile with g++ or clang and run on
// the CPU. For correctness only: nothing that is timed under it means anything.

#include <math.h>  // overloads of sqrt, fabs, ... in the global namespace, as CUDA has them

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __shared__                                                            \
  _Pragma(                                                                    \
      "GCC error \"__shared__ cannot be emulated: use static_shared<T>() or " \
      "dynamic_shared<T>()\"")

// --- Vector types -------------------------------------------------------------------------------

#define EMU_VECTOR_TYPES(T, name)                                   \
  struct alignas(2 * sizeof(T)) name##2 {                           \
    T x, y;                                                         \
  };                                                                \
  struct name##3 {                                                  \
    T x, y, z;                                                      \
  };                                                                \
  struct alignas(4 * sizeof(T) > 16 ? 16 : 4 * sizeof(T)) name##4 { \
    T x, y, z, w;                                                   \
  };                                                                \
  constexpr name##2 make_##name##2(T x, T y) {                      \
    return {x, y};                                                  \
  }                                                                 \
  constexpr name##3 make_##name##3(T x, T y, T z) {                 \
    return {x, y, z};                                               \
  }                                                                 \
  constexpr name##4 make_##name##4(T x, T y, T z, T w) {            \
    return {x, y, z, w};                                            \
  }
EMU_VECTOR_TYPES(float, float)
EMU_VECTOR_TYPES(double, double)
EMU_VECTOR_TYPES(int, int)
EMU_VECTOR_TYPES(unsigned, uint)
#undef EMU_VECTOR_TYPES

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
};

// --- What a kernel's calls come to ---------------------------------------------------------------

namespace emu {

// A mistake that the emulator found, in one line: what, where in the source, which kernel, which
// thread. Thrown by the runtime call that let the kernel run: the launch itself where
// CUDA_LAUNCH_BLOCKING=1, otherwise whatever waits next.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The place in the source of a call that other threads meet in. As a default argument it is the
// place of the caller.
struct Site {
  const char* file = nullptr;
  int line = 0;
  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
  bool operator==(const Site& other) const {
    return line == other.line && (file == other.file || std::strcmp(file, other.file) == 0);
  }
};

// The running thread: its place in the block and warp, its block's place in the cluster.
struct ThreadPlace {
  unsigned rank = 0;
  unsigned lane = 0;
  unsigned warp = 0;
  unsigned block_in_cluster = 0;
};
extern ThreadPlace self;

// The running grid.
struct GridView {
  unsigned blocks_per_cluster = 1;
  std::size_t dynamic_shared = 0;
  std::uint64_t launch = 0;  // counts launches
};
extern GridView grid_view;

// Ends the kernel with an Error that names the running thread.
[[noreturn]] void device_fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Waits for the block; returns the vote over all of its threads.
enum class Vote : unsigned char { kNone, kCount, kAll, kAny };
int sync_block(Vote vote, int predicate, Site site);

// Waits for the lanes in `mask`; the last to come calls `function` with what each of them passed as
// `mine`. Lanes meet when they come from the same site with the same mask and function.
using WarpFunction = void (*)(void** lanes, unsigned mask);
void warp_collective(unsigned mask, void* mine, WarpFunction function, Site site,
                     bool orders_memory);

void cluster_arrive(Site site);
void cluster_wait(Site site);

// Shared memory that is declared in a function: one for each instantiation of static_shared.
struct SharedKey {
  std::uint64_t launch = 0;  // the launch that `offset` was given out in
  std::size_t offset = 0;
};
void* static_shared(SharedKey& key, std::size_t bytes, std::size_t alignment);
void* dynamic_shared();
void* map_shared_rank(const void* p, unsigned block_in_cluster);

// For the race check, which sees no atomics otherwise.
void note_atomic(const void* p, std::size_t bytes);

template <class T>
struct ShuffleArguments {
  T in;
  T out;
  unsigned source;
};

template <class T>
T shuffle(unsigned mask, T value, unsigned source, Site site) {
  static_assert(std::is_trivially_copyable_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
  ShuffleArguments<T> arguments{value, value, source};
  warp_collective(
      mask, &arguments,
      [](void** lanes, unsigned present) {
        for (unsigned lane = 0; lane < 32; ++lane) {
          if ((present >> lane & 1) == 0) continue;
          auto* const to = static_cast<ShuffleArguments<T>*>(lanes[lane]);
          if ((present >> to->source & 1) == 0) {
            device_fail("shuffle: lane %u reads lane %u, which mask 0x%08x does not name", lane,
                        to->source, present);
          }
          to->out = static_cast<ShuffleArguments<T>*>(lanes[to->source])->in;
        }
      },
      site, false);
  return arguments.out;
}

template <class To, class From>
To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

}  // namespace emu

// Globals that the scheduler sets whenever another thread goes on: all emulated threads run on one
// thread of the system.
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;
constexpr int warpSize = 32;

// --- Barriers and warp functions -----------------------------------------------------------------

inline void __syncthreads(emu::Site site = emu::Site::here()) {
  emu::sync_block(emu::Vote::kNone, 0, site);
}
inline int __syncthreads_count(int predicate, emu::Site site = emu::Site::here()) {
  return emu::sync_block(emu::Vote::kCount, predicate, site);
}
inline int __syncthreads_and(int predicate, emu::Site site = emu::Site::here()) {
  return emu::sync_block(emu::Vote::kAll, predicate, site);
}
inline int __syncthreads_or(int predicate, emu::Site site = emu::Site::here()) {
  return emu::sync_block(emu::Vote::kAny, predicate, site);
}
inline void __syncwarp(unsigned mask = 0xffffffffu, emu::Site site = emu::Site::here()) {
  emu::warp_collective(mask, nullptr, nullptr, site, true);
}
inline void __threadfence() {}
inline void __threadfence_block() {}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              emu::Site site = emu::Site::here()) {
  const auto w = static_cast<unsigned>(width);
  const unsigned first = emu::self.lane & ~(w - 1);
  return emu::shuffle(mask, value, first | (static_cast<unsigned>(source) & (w - 1)), site);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 emu::Site site = emu::Site::here()) {
  const unsigned lane = emu::self.lane;
  const unsigned first = lane & ~(static_cast<unsigned>(width) - 1);
  return emu::shuffle(mask, value, lane < first + delta ? lane : lane - delta, site);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   emu::Site site = emu::Site::here()) {
  const unsigned lane = emu::self.lane;
  const unsigned last = lane | (static_cast<unsigned>(width) - 1);
  return emu::shuffle(mask, value, lane + delta > last ? lane : lane + delta, site);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                  emu::Site site = emu::Site::here()) {
  const unsigned lane = emu::self.lane;
  const unsigned last = lane | (static_cast<unsigned>(width) - 1);
  const unsigned source = lane ^ static_cast<unsigned>(lane_mask);
  return emu::shuffle(mask, value, source > last ? lane : source, site);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, emu::Site site = emu::Site::here()) {
  struct Ballot {
    bool vote;
    unsigned all;
  } ballot{predicate != 0, 0};
  emu::warp_collective(
      mask, &ballot,
      [](void** lanes, unsigned present) {
        unsigned all = 0;
        for (unsigned lane = 0; lane < 32; ++lane) {
          if ((present >> lane & 1) != 0 && static_cast<Ballot*>(lanes[lane])->vote) {
            all |= 1u << lane;
          }
        }
        for (unsigned lane = 0; lane < 32; ++lane) {
          if ((present >> lane & 1) != 0) static_cast<Ballot*>(lanes[lane])->all = all;
        }
      },
      site, false);
  return ballot.all;
}
inline int __any_sync(unsigned mask, int predicate, emu::Site site = emu::Site::here()) {
  return __ballot_sync(mask, predicate, site) != 0;
}
inline int __all_sync(unsigned mask, int predicate, emu::Site site = emu::Site::here()) {
  return __ballot_sync(mask, predicate, site) == mask;
}

// --- Atomics: nothing interrupts an emulated thread between two barriers -------------------------

#define EMU_ATOMIC(name, result)                                                           \
  template <class T>                                                                       \
  __attribute__((no_sanitize("thread"), noinline)) T name(T* p, std::common_type_t<T> v) { \
    emu::note_atomic(p, sizeof(T));                                                        \
    const T old = *p;                                                                      \
    *p = result;                                                                           \
    return old;                                                                            \
  }
EMU_ATOMIC(atomicAdd, static_cast<T>(old + v))
EMU_ATOMIC(atomicSub, static_cast<T>(old - v))
EMU_ATOMIC(atomicMax, old < v ? v : old)
EMU_ATOMIC(atomicMin, v < old ? v : old)
EMU_ATOMIC(atomicOr, static_cast<T>(old | v))
EMU_ATOMIC(atomicAnd, static_cast<T>(old& v))
EMU_ATOMIC(atomicExch, v)
#undef EMU_ATOMIC
template <class T>
__attribute__((no_sanitize("thread"), noinline)) T atomicCAS(T* p, std::common_type_t<T> compare,
                                                             std::common_type_t<T> v) {
  emu::note_atomic(p, sizeof(T));
  const T old = *p;
  if (old == compare) *p = v;
  return old;
}

// --- Arithmetic ----------------------------------------------------------------------------------

#define EMU_FUNCTION(T, name, parameters, value) \
  inline T name parameters {                     \
    return value;                                \
  }
EMU_FUNCTION(float, rsqrtf, (float x), 1.0f / std::sqrt(x))
EMU_FUNCTION(double, rsqrt, (double x), 1.0 / std::sqrt(x))
EMU_FUNCTION(float, __expf, (float x), std::exp(x))
EMU_FUNCTION(float, __logf, (float x), std::log(x))
EMU_FUNCTION(float, __fadd_rn, (float a, float b), a + b)
EMU_FUNCTION(float, __fsub_rn, (float a, float b), a - b)
EMU_FUNCTION(float, __fmul_rn, (float a, float b), (a * b))
EMU_FUNCTION(float, __fdiv_rn, (float a, float b), a / b)
EMU_FUNCTION(float, __fmaf_rn, (float a, float b, float c), std::fma(a, b, c))
EMU_FUNCTION(unsigned, __umulhi, (unsigned a, unsigned b),
             static_cast<unsigned>(static_cast<std::uint64_t>(a) * b >> 32))
EMU_FUNCTION(unsigned, __float_as_uint, (float x), emu::bits_as<unsigned>(x))
EMU_FUNCTION(int, __float_as_int, (float x), emu::bits_as<int>(x))
EMU_FUNCTION(float, __uint_as_float, (unsigned x), emu::bits_as<float>(x))
EMU_FUNCTION(float, __int_as_float, (int x), emu::bits_as<float>(x))
EMU_FUNCTION(int, __popc, (unsigned x), __builtin_popcount(x))
EMU_FUNCTION(int, __ffs, (int x), __builtin_ffs(x))
EMU_FUNCTION(int, __clz, (int x), x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)))
#undef EMU_FUNCTION

// Two arguments of different types are allowed, as in CUDA.
using std::max;  // NOLINT(google-global-names-in-headers)
using std::min;  // NOLINT(google-global-names-in-headers)
template <class A, class B, class = std::enable_if_t<!std::is_same_v<A, B>>>
constexpr std::common_type_t<A, B> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  return std::max(static_cast<T>(a), static_cast<T>(b));
}
template <class A, class B, class = std::enable_if_t<!std::is_same_v<A, B>>>
constexpr std::common_type_t<A, B> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  return std::min(static_cast<T>(a), static_cast<T>(b));
}

template <class T>
T __ldg(const T* p) {
  return *p;
}

[[noreturn]] inline void __trap() {
  emu::device_fail("__trap()");
}
