#pragma once

// A product by wgmma, of operands that a cluster's bulk copies and a block's threads bring, and
// what may be wrong with it.

#include "kernels/cuda_queue.h"

namespace sidechannel::test {

enum class Bug {
  kNone,
  kNoBarrier,           // the mbarrier was not initialized
  kBarrierTwice,        // or once more,
  kBarrierOverwritten,  // or is written over
  kBarrierNotShown,     // nobody waits until it is initialized
  kTooManyArrivals,
  kTooFewArrivals,
  kTooManyBytes,    // are copied, beside what is expected
  kTooFewBytes,     // are copied
  kMisalignedCopy,  // from an address that is no multiple of 16
  kCopyFromTheHost,
  kCopyBeyondTheCluster,
  kNoWait,        // for the operands
  kNoProxyFence,  // after writing an operand
  kNoWgmmaFence,
  kNoWgmmaWait,  // and the sums are read
  kDifferentOperands,
  kUnroundedOperand,
  kSwizzle,  // that the emulator does not have
};

// y [2, 64, 64] = a [64, 16] * b of each of two blocks, which lies as [2, 64 columns, 16], with
// nothing of `a` in the order of memory: a[row][k] is a[k / 4][row][k % 4].
void hopper_product(kernels::CudaQueue& queue, Bug bug, const float* a, const float* b, float* y);

}  // namespace sidechannel::test
