#pragma once

// What the CUDA files of mlp share.

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/sizes.h"
#include "kernels/mlp.h"

namespace sidechannel::kernels {

inline constexpr int kMlpWidth = 256;         // of the hidden layers
inline constexpr int kMlpRows = 128;          // of a tile
inline constexpr std::size_t kMostMlps = 32;  // of a launch, whose arguments are 4 KB at most

// What is kept for the way back, for each network over whole tiles of rows:
//
//   hidden  [rows, width] h1, rounded to TF32
//   above   [2 layers, rows / 8, 64] words: which values of h1 and of h2 are above 0. Bit 4 * g + t
//           of word (8 * e + p) * 4 + i is row t + 4 * e of the eight, unit 32 * p + 4 * g + i: one
//           bit of each lane that holds a product (device/mlp.cuh).
struct MlpKept {
  std::int64_t rows;

  explicit MlpKept(const MlpDims& dims) : rows(ceil_div(dims.rows, kMlpRows) * kMlpRows) {}

  std::int64_t above_words() const { return rows / 8 * 64; }
  std::int64_t floats() const { return rows * kMlpWidth + 2 * above_words(); }  // of a network
};

}  // namespace sidechannel::kernels
