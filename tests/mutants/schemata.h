#pragma once

// All mutants of a kernel in one program, and one of them switched on when it starts (mutant
// schemata: Untch, Offutt & Harrold 1993). mutate.py writes, in a copy of the kernels,
//
//   a + b                for mutant 17    a + ::mutants::Add{17} + b
//   sum += x                      18      sum += ::mutants::AddTo{18} += x
//   a && b                        19      (::mutants::on(19) ? (a || b) : (a && b))
//   __syncthreads();              20      ::mutants::on(20) ? void() : void(__syncthreads());
//
// so that precedence and association stay what they are. Constant expressions keep the original
// operator; mutants of these are built one by one.

#include <cstdio>
#include <cstdlib>
#include <type_traits>
#include <utility>

namespace mutants {

// SIDECHANNEL_MUTANT: the number of the mutant that is switched on.
// SIDECHANNEL_MUTANTS_REACHED: a file for the numbers of all that the program came by.
enum State : unsigned char { kOff, kOn, kWatched };
constexpr int kMost = 1 << 16;
inline unsigned char state[kMost] = {};
inline bool reached[kMost] = {};

struct Environment {
  Environment() {
    if (const char* number = std::getenv("SIDECHANNEL_MUTANT")) state[std::atoi(number)] = kOn;
    if (std::getenv("SIDECHANNEL_MUTANTS_REACHED") == nullptr) return;
    for (unsigned char& s : state) s = kWatched;
  }
  ~Environment() {
    const char* path = std::getenv("SIDECHANNEL_MUTANTS_REACHED");
    std::FILE* file = path != nullptr ? std::fopen(path, "w") : nullptr;
    if (file == nullptr) return;
    for (int id = 0; id < kMost; ++id) {
      if (reached[id]) std::fprintf(file, "%d\n", id);
    }
    std::fclose(file);
  }
};
inline const Environment environment;

// Out of sight of the race check: it is no access of the kernel's.
#if defined(__SANITIZE_THREAD__)
__attribute__((no_sanitize("thread"), noinline))
#endif
inline bool
switched(int id) {
  if (__builtin_expect(state[id] == kOff, 1)) return false;
  if (state[id] == kOn) return true;
  reached[id] = true;
  state[id] = kOff;
  return false;
}

__attribute__((always_inline)) constexpr bool on(int id) {
  return __builtin_is_constant_evaluated() ? false : switched(id);
}

// a Op b, or what the mutant makes of it, where the types have that.
template <class Op, class A, class B>
__attribute__((always_inline)) constexpr auto apply(int id, A a, B b) {
  using Result = decltype(Op::original(a, b));
  if constexpr (std::is_invocable_r_v<Result, typename Op::Mutated, A, B>) {
    if (on(id)) return static_cast<Result>(typename Op::Mutated()(a, b));
  }
  return Op::original(a, b);
}

template <class Op, class A>
struct WithLeft {
  int id;
  A a;
};
template <class Op, class B>
struct WithRight {
  int id;
  B b;
};

#define MUTANTS_OPERATOR(Name, op, other)                                                    \
  struct Name {                                                                              \
    int id;                                                                                  \
    template <class A, class B>                                                              \
    __attribute__((always_inline)) static constexpr auto original(A a, B b) {                \
      return a op b;                                                                         \
    }                                                                                        \
    struct Mutated {                                                                         \
      template <class A, class B>                                                            \
      __attribute__((always_inline)) constexpr auto operator()(A a, B b) const               \
          -> decltype(a other b) {                                                           \
        return a other b;                                                                    \
      }                                                                                      \
    };                                                                                       \
  };                                                                                         \
  template <class A>                                                                         \
  __attribute__((always_inline)) constexpr WithLeft<Name, A> operator op(A a, Name mutant) { \
    return {mutant.id, a};                                                                   \
  }                                                                                          \
  template <class A, class B>                                                                \
  __attribute__((always_inline)) constexpr auto operator op(WithLeft<Name, A> left, B b) {   \
    return apply<Name>(left.id, left.a, b);                                                  \
  }
MUTANTS_OPERATOR(Add, +, -)
MUTANTS_OPERATOR(Subtract, -, +)
MUTANTS_OPERATOR(Multiply, *, +)
MUTANTS_OPERATOR(Divide, /, *)
MUTANTS_OPERATOR(Modulo, %, /)
MUTANTS_OPERATOR(Less, <, <=)
MUTANTS_OPERATOR(LessEqual, <=, <)
MUTANTS_OPERATOR(Greater, >, >=)
MUTANTS_OPERATOR(GreaterEqual, >=, >)
MUTANTS_OPERATOR(Equal, ==, !=)
MUTANTS_OPERATOR(NotEqual, !=, ==)
#undef MUTANTS_OPERATOR

#define MUTANTS_ASSIGNMENT(Name, op, other)                                                   \
  struct Name {                                                                               \
    int id;                                                                                   \
  };                                                                                          \
  template <class B>                                                                          \
  __attribute__((always_inline)) constexpr WithRight<Name, B> operator op(Name mutant, B b) { \
    return {mutant.id, b};                                                                    \
  }                                                                                           \
  template <class A, class B>                                                                 \
  __attribute__((always_inline)) constexpr A& operator op(A& a, WithRight<Name, B> right) {   \
    return on(right.id) ? a other right.b : a op right.b;                                     \
  }
MUTANTS_ASSIGNMENT(AddTo, +=, -=)
MUTANTS_ASSIGNMENT(SubtractFrom, -=, +=)
MUTANTS_ASSIGNMENT(MultiplyBy, *=, /=)
MUTANTS_ASSIGNMENT(DivideBy, /=, *=)
#undef MUTANTS_ASSIGNMENT

}  // namespace mutants
