#pragma once

// Random numbers of one counter, for every backend: a .cpp and a .cu that include this file draw
// the same bits. The functions are written in additions, multiplications and square roots, which
// IEEE 754 rounds the same way everywhere; compilers must not contract them to fused multiply-adds
// (-ffp-contract=off here, -fmad=false for nvcc).

#include <Random123/philox.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/host_device.h"

namespace sidechannel::kernels {

// Four words of Philox4x32-10.
SC_HOST_DEVICE inline void philox(std::uint64_t seed, std::uint32_t stream, std::uint32_t step,
                                  std::uint32_t sample, std::uint32_t block, std::uint32_t out[4]) {
  const r123::Philox4x32::ctr_type counter = {{block, sample, step, stream}};
  const r123::Philox4x32::key_type key = {
      {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)}};
  const auto words = r123::Philox4x32()(counter, key);
  for (int i = 0; i < 4; ++i) out[i] = words[static_cast<std::size_t>(i)];
}

// ln(u) for u in (0, 1], error below 2 ulp (the polynomial of Cephes' logf).
SC_HOST_DEVICE inline float log_of_unit(float u) {
  std::uint32_t bits;
  std::memcpy(&bits, &u, sizeof bits);
  // u = m * 2^e with m in [sqrt(1/2), sqrt(2))
  const std::uint32_t shifted = bits - 0x3f3504f3u;
  const std::int32_t e = static_cast<std::int32_t>(shifted) >> 23;
  const std::uint32_t mantissa = (shifted & 0x007fffffu) + 0x3f3504f3u;
  float m;
  std::memcpy(&m, &mantissa, sizeof m);
  const float x = m - 1.0f;
  const float z = x * x;
  float p = 7.0376836292e-2f;
  p = p * x - 1.1514610310e-1f;
  p = p * x + 1.1676998740e-1f;
  p = p * x - 1.2420140846e-1f;
  p = p * x + 1.4249322787e-1f;
  p = p * x - 1.6668057665e-1f;
  p = p * x + 2.0000714765e-1f;
  p = p * x - 2.4999993993e-1f;
  p = p * x + 3.3333331174e-1f;
  const float exponent = static_cast<float>(e);
  float y = x * z * p;
  y = y + exponent * -2.12194440e-4f;
  y = y - 0.5f * z;
  return (x + y) + exponent * 0.693359375f;
}

// cos and sin of 2 pi v for v in [0, 1): by the quarter turn, then the polynomials of Cephes.
SC_HOST_DEVICE inline void cos_sin_of_turns(float v, float* cosine, float* sine) {
  const int quarter = static_cast<int>(v * 4.0f + 0.5f);
  const float r = (v - static_cast<float>(quarter) * 0.25f) * 6.28318530717958648f;
  const float z = r * r;
  const float s = ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z * r + r;
  const float c =
      ((2.443315711809948e-5f * z - 1.388731625493765e-3f) * z + 4.166664568298827e-2f) * z * z -
      0.5f * z + 1.0f;
  const bool swap = (quarter & 1) != 0;
  const float a = swap ? s : c;
  const float b = swap ? c : s;
  *cosine = ((quarter + 1) & 2) != 0 ? -a : a;
  *sine = (quarter & 2) != 0 ? -b : b;
}

// Four standard normals from four words (Box & Muller 1958): two pairs of a radius and an angle.
SC_HOST_DEVICE inline void normals(const std::uint32_t words[4], float out[4]) {
  for (int i = 0; i < 4; i += 2) {
    const float u = (static_cast<float>(words[i] >> 9) + 0.5f) * 1.1920928955078125e-7f;  // 2^-23
    const float v = static_cast<float>(words[i + 1] >> 8) * 5.9604644775390625e-8f;       // 2^-24
    const float radius = std::sqrt(-2.0f * log_of_unit(u));
    float cosine;
    float sine;
    cos_sin_of_turns(v, &cosine, &sine);
    out[i] = radius * cosine;
    out[i + 1] = radius * sine;
  }
}

// Uniform on [-1, 1), 24 bits.
SC_HOST_DEVICE inline float uniform(std::uint32_t word) {
  return static_cast<float>(word >> 8) * 1.1920928955078125e-7f - 1.0f;
}

// Uniform on {0, ..., count - 1}, of the first two words: the whole part of count times the
// fraction 0.words of 64 bits. So each number has floor(2^64 / count) of the fractions, or one
// more.
SC_HOST_DEVICE inline std::uint32_t below(std::uint32_t count, const std::uint32_t words[4]) {
  const std::uint64_t high = std::uint64_t{words[0]} * count;
  const std::uint64_t low = std::uint64_t{words[1]} * count;
  return static_cast<std::uint32_t>((high + (low >> 32)) >> 32);
}

}  // namespace sidechannel::kernels
