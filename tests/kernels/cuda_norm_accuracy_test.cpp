#include "tests/harness/cuda_check.h"
#include "tests/harness/norm_accuracy.h"

namespace sidechannel {
namespace {

class CudaNormAccuracy : public harness::CudaTest {};

TEST_F(CudaNormAccuracy, IsNeverWorseThanPyTorchs) {
  harness::check_norm_accuracy<harness::DeviceBuffer>(harness::cuda_queue(), 100000);
}

TEST_F(CudaNormAccuracy, ConstantSetsBecomeExactlyBeta) {
  harness::check_constant_sets<harness::DeviceBuffer>(harness::cuda_queue());
}

TEST_F(CudaNormAccuracy, BeyondTheRangeOfSquaresIsNaN) {
  harness::check_range<harness::DeviceBuffer>(harness::cuda_queue());
}

}  // namespace
}  // namespace sidechannel
