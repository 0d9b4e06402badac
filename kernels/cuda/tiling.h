#pragma once

// How matrices [positions, channels] are cut for the threads of kernels that sum over positions:
// the host's part. The device's part is device/tile.cuh.

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <type_traits>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/sizes.h"

namespace sidechannel::kernels {

// `groups` matrices [positions, channels] one after the other, each cut into `chunks` tiles along
// the positions. A kernel's argument.
struct Tiling {
  std::int64_t positions = 0;
  int channels = 0;
  int chunk = 0;  // positions in a tile (the last one may have fewer)
  int chunks = 0;
};

// Threads are (columns, rows): x along the channels, `vec` neighbouring ones each, so that a warp
// reads whole sectors of memory; y along the positions, with up to `items` of them each, `rows`
// apart. Blocks are (group and chunk, tile of channels).
struct TilePlan {
  Tiling tiling;
  int vec = 1;      // 1 or 4
  int columns = 1;  // a power of two, at most 32
  int rows = 1;
  int items = 1;
  std::int64_t groups = 1;

  int tile_channels() const { return columns * vec; }
  dim3 block() const { return dim3(static_cast<unsigned>(columns), static_cast<unsigned>(rows)); }
  Grid grid() const { return {groups * tiling.chunks, ceil_div(tiling.channels, tile_channels())}; }
};

// For __launch_bounds__(kMaxTileThreads, 1): one block is enough on a multiprocessor. Without the 1
// ptxas aims at more of them, and spills registers where they do not suffice.
constexpr int kMaxTileThreads = 512;

// Whether Packs of four can be moved from and to all of these addresses.
inline bool packable(std::initializer_list<const void*> addresses) {
  return std::all_of(addresses.begin(), addresses.end(), [](const void* address) {
    return reinterpret_cast<std::uintptr_t>(address) % 16 == 0;
  });
}

// Channels that a thread moves at once, of matrices [.., channels] at these addresses.
inline int pack_size(std::int64_t channels, std::initializer_list<const void*> addresses) {
  return channels % 4 == 0 && packable(addresses) ? 4 : 1;
}

// Tiles of a fixed number of positions: as many blocks as there is work, in whatever shape.
inline TilePlan cut_in_chunks(std::int64_t groups, std::int64_t positions, std::int64_t channels,
                              int vec) {
  constexpr int kThreads = 256;
  TilePlan plan;
  plan.groups = groups;
  plan.vec = vec;
  while (plan.columns < 32 && plan.tile_channels() < channels) plan.columns *= 2;
  plan.rows = kThreads / plan.columns;
  plan.items = 8;
  const std::int64_t chunk = std::int64_t{plan.rows} * plan.items;
  plan.tiling = {positions, narrow(channels), narrow(chunk), narrow(ceil_div(positions, chunk))};
  return plan;
}

// Calls launch(vec, items) with the plan's two numbers as types.
template <int... kItems, class Launch>
void with_constants(const TilePlan& plan, const Launch& launch) {
  const auto with_items = [&](auto items) {
    if (plan.items != items()) return false;
    if (plan.vec == 4) {
      launch(std::integral_constant<int, 4>(), items);
    } else {
      launch(std::integral_constant<int, 1>(), items);
    }
    return true;
  };
  if (!(with_items(std::integral_constant<int, kItems>()) || ...)) {
    throw std::logic_error("no kernel was compiled for this tile");
  }
}

}  // namespace sidechannel::kernels
