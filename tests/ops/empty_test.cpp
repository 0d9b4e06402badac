#include "tests/harness/empty_check.h"

namespace sidechannel {
namespace {

// Nothing in, nothing out; sums over nothing are 0; no crash, no NaN.
TEST(Empty, EveryOperationTakesTensorsWithoutElements) {
  for (const int threads : {1, 3}) {
    harness::check_empty_operations(harness::device(threads), DType::kF32);
    harness::check_empty_operations(harness::device(threads), DType::kF64);
  }
}

}  // namespace
}  // namespace sidechannel
