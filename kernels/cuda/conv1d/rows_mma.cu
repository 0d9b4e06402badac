// Row products of conv1d on tensor cores: C_in = C_out = h, 3 or 5 taps, fp32 sums, operands
// rounded to TF32 or, for fp32, split. The problem is defined in kernels.h, the kernel in
// device/rows_mma.cuh.

#include "kernels/cuda/conv1d/device/rows_mma.cuh"

#include "kernels/cuda/conv1d/kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/sizes.h"

namespace sidechannel::kernels {
namespace {

using device::PlainSink;
using device::PlainSource;
using device::RowShape;
using device::Split;

template <class S>
constexpr std::size_t kShared = sizeof(device::RowMemory<S, PlainSource, PlainSink>);

template <class S>
void mma_rows(CudaQueue& queue, const NarrowProduct& p) {
  Launch how;
  how.grid = Grid{std::int64_t{p.batch} * ceil_div(p.length_out, S::kPositions)};
  how.block = dim3(S::kThreads);
  how.dynamic_shared = kShared<S>;
  launch(queue, S::kImages == 2 ? "conv1d rows, split TF32" : "conv1d rows, TF32",
         p.flip ? device::mma_rows_kernel<S, true, PlainSource, PlainSink>
                : device::mma_rows_kernel<S, false, PlainSource, PlainSink>,
         how, p, PlainSource(), PlainSink());
}

template <class S>
constexpr RowVariant variant(const char* name) {
  constexpr bool kSplit = S::kImages == 2;
  return {name, Needs::tensor_cores(S::kChannels, S::kTaps, kSplit, kShared<S>), S::kPositions,
          kSplit ? 2 : 1, mma_rows<S>};
}

}  // namespace

// The widest tile reads the fewest bytes of shared memory for each product; the narrow ones are for
// short sequences and small batches.
const RowVariant kMmaRows[19] = {
    variant<RowShape<64, 5, 5>>("TF32 h = 64, 160 positions"),
    variant<RowShape<64, 5, 2>>("TF32 h = 64, 64 positions"),
    variant<RowShape<64, 5, 1>>("TF32 h = 64, 32 positions"),
    variant<RowShape<32, 5, 5>>("TF32 h = 32, 160 positions"),
    variant<RowShape<32, 5, 2>>("TF32 h = 32, 64 positions"),
    variant<RowShape<32, 5, 1>>("TF32 h = 32, 32 positions"),
    variant<RowShape<64, 3, 5>>("TF32 h = 64, 3 taps, 160 positions"),
    variant<RowShape<64, 3, 1>>("TF32 h = 64, 3 taps, 32 positions"),
    variant<RowShape<32, 3, 5>>("TF32 h = 32, 3 taps, 160 positions"),
    variant<RowShape<32, 3, 1>>("TF32 h = 32, 3 taps, 32 positions"),
    // Split ones in the shapes of conv_norm_act/: three products for each operand that is read
    // leave more time to wait for, and more warps to use it.
    variant<Split<RowShape<64, 5, 5, 2, true, 2>>>("split TF32 h = 64, 160 positions"),
    variant<Split<RowShape<64, 5, 2, 2, true>>>("split TF32 h = 64, 64 positions"),
    variant<Split<RowShape<64, 5, 1, 2, true>>>("split TF32 h = 64, 32 positions"),
    variant<Split<RowShape<32, 5, 5, 1, true>>>("split TF32 h = 32, 160 positions"),
    variant<Split<RowShape<32, 5, 1, 1, true>>>("split TF32 h = 32, 32 positions"),
    variant<Split<RowShape<64, 3, 5, 2, true, 2>>>("split TF32 h = 64, 3 taps, 160 positions"),
    variant<Split<RowShape<64, 3, 1, 2, true>>>("split TF32 h = 64, 3 taps, 32 positions"),
    variant<Split<RowShape<32, 3, 5, 1, true>>>("split TF32 h = 32, 3 taps, 160 positions"),
    variant<Split<RowShape<32, 3, 1, 1, true>>>("split TF32 h = 32, 3 taps, 32 positions"),
};

}  // namespace sidechannel::kernels
