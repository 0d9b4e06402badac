#pragma once

// What the tensor-core kernels of row products (rows_mma.cuh, rows_wgmma.cuh) have in common: what
// their rows are and what becomes of their sums, two policies, and how helpers bring the rows. S is
// a kernel's shape.

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/conv1d/device/index.cuh"
#include "kernels/cuda/conv1d/device/mma.cuh"
#include "kernels/cuda/conv1d/device/stage.cuh"
#include "kernels/cuda/conv1d/kernels.h"

namespace sidechannel::kernels::device {

// What a block's rows are: a Source, of which the helpers load kArrays numbers for each that they
// put. This one is x as it stands.
struct PlainSource {
  static constexpr int kArrays = 1;
  struct Memory {};  // shared, of the block

  // The whole block's part, before anything is put: may have barriers.
  template <class S>
  __device__ void begin(const NarrowProduct&, const RowTile&, Memory&) const {}
  // `at` counts from p.x on.
  __device__ __forceinline__ void load(const NarrowProduct& p, std::int64_t at,
                                       float4 (&to)[kArrays]) const {
    to[0] = load4(p.x + at);
  }
  // What becomes of four neighbouring channels, from `channel` on.
  struct Constants {
    __device__ Constants(const Memory&, int /*channel*/) {}
    __device__ __forceinline__ float4 value(const float4 (&from)[kArrays]) const { return from[0]; }
  };
  // Shown each row of the block's own positions once: it may go to memory.
  __device__ __forceinline__ void keep(std::int64_t /*at*/, float4 /*value*/) const {}
};

// What becomes of the sums: a Sink. `each` calls its argument with (slot, position, column, sums)
// for what a thread has, an S::Columns of a position of the tile at a time; helpers have nothing.
// This one stores.
struct PlainSink {
  struct Memory {};
  // A helper's part, at the start.
  template <class S>
  __device__ void begin(const NarrowProduct&, const RowTile&, int /*helper*/, Memory&) const {}
  // The whole block's part, at the end.
  template <class S, class Each>
  __device__ void finish(const NarrowProduct& p, const RowTile& tile, Memory&, Each each) const {
    each([&](int, int position, int column, const auto& sum) {
      store(p, (std::int64_t{tile.n} * p.length_out + tile.first + position) * S::kChannels, column,
            sum);
    });
  }
};

// The helpers' part: 16 channels of the rows, on their way to shared memory. All loads are begun
// before the first result is needed.
template <class S, class Source>
struct BroughtRows {
  using X = Planes<kStageChannels, S::kPositions + S::kTaps - 1>;
  float4 x[X::template kPasses<S::kRowHelpers>][Source::kArrays];

  // Calls visit(pass, shared, at, inside) for each chunk of the rows that is the helper's.
  template <class Visit>
  static __device__ __forceinline__ void for_own(const NarrowProduct& p, const RowTile& tile,
                                                 int helper, int c0, X& to, Visit visit) {
    to.template for_own_chunks<S::kRowHelpers, S::kChannels>(
        helper, p.x + std::int64_t{tile.n} * p.length * S::kChannels, p.length, c0,
        tile.first - p.offset, tile.count + S::kTaps - 1,
        [&](int pass, float* shared, const float* global, bool inside) {
          visit(pass, shared, global - p.x, inside);
        });
  }
  __device__ __forceinline__ void load(const NarrowProduct& p, const Source& source,
                                       const RowTile& tile, int helper, int c0, X& to) {
    for_own(p, tile, helper, c0, to, [&](int pass, float*, std::int64_t at, bool inside) {
      if (inside) source.load(p, at, x[pass]);
    });
  }
  __device__ __forceinline__ void put(const NarrowProduct& p, const Source& source,
                                      const typename Source::Memory& memory, const RowTile& tile,
                                      int helper, int c0, X& to) const {
    const typename Source::Constants constants(memory, c0 + 4 * X::own_quad(helper));
    const std::int64_t first =
        (std::int64_t{tile.n} * p.length + tile.first) * S::kChannels;  // of the block's own rows
    const std::int64_t last = first + std::int64_t{tile.count} * S::kChannels;
    for_own(p, tile, helper, c0, to, [&](int pass, float* shared, std::int64_t at, bool inside) {
      float4 value = make_float4(0, 0, 0, 0);
      if (inside) {
        value = constants.value(x[pass]);
        if (at >= first && at < last) source.keep(at, value);
      }
      const float4 big = to_tf32(value);
      if constexpr (S::kImages == 1) {
        *reinterpret_cast<float4*>(shared) = big;
      } else {
        const float4 small = small_of_tf32(value, big);
        store4(shared, big.x, big.y, small.x, small.y);
        store4(shared + sizeof(X) / sizeof(float), big.z, big.w, small.z, small.w);
      }
    });
  }
};

}  // namespace sidechannel::kernels::device
