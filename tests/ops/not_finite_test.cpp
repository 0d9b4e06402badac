#include "tests/harness/not_finite_check.h"

namespace sidechannel {
namespace {

TEST(NotFinite, NaNAndInfinitySpoilWhatDependsOnThemAndNothingElse) {
  harness::check_not_finite(harness::device(2), DType::kF32);
  harness::check_not_finite(harness::device(2), DType::kF64);
}

}  // namespace
}  // namespace sidechannel
