#include "tests/harness/cuda_check.h"
#include "tests/harness/not_finite_check.h"

namespace sidechannel {
namespace {

class CudaNotFinite : public harness::CudaTest {};

TEST_F(CudaNotFinite, NaNAndInfinitySpoilWhatDependsOnThemAndNothingElse) {
  harness::check_not_finite(harness::cuda_device(), DType::kF32);
}

}  // namespace
}  // namespace sidechannel
