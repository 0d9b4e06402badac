// Row products of conv1d on tensor cores: C_in = C_out = h, 3 or 5 taps, TF32 operands, fp32 sums.
// The problem is defined in kernels.h, the kernel in device/rows_mma.cuh.

#include "kernels/cuda/conv1d/device/rows_mma.cuh"

#include "kernels/cuda/conv1d/kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/sizes.h"

namespace sidechannel::kernels {
namespace {

using device::PlainSink;
using device::PlainSource;
using device::RowShape;

template <class S>
constexpr std::size_t kShared = sizeof(device::RowMemory<S, PlainSource, PlainSink>);

template <class S>
void mma_rows(CudaQueue& queue, const NarrowProduct& p) {
  Launch how;
  how.grid = Grid{std::int64_t{p.batch} * ceil_div(p.length_out, S::kPositions)};
  how.block = dim3(S::kThreads);
  how.dynamic_shared = kShared<S>;
  launch(queue, "conv1d rows, TF32",
         p.flip ? device::mma_rows_kernel<S, true, PlainSource, PlainSink>
                : device::mma_rows_kernel<S, false, PlainSource, PlainSink>,
         how, p, PlainSource(), PlainSink());
}

template <class S>
constexpr RowVariant variant(const char* name) {
  return {name, Needs::hidden(S::kChannels, S::kTaps, Precision::kTf32, kShared<S>), S::kPositions,
          1, mma_rows<S>};
}

}  // namespace

// The widest tile reads the fewest bytes of shared memory for each product; the narrow ones are for
// short sequences and small batches.
const RowVariant kMmaRows[10] = {
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
};

}  // namespace sidechannel::kernels
