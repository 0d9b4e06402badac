#include "tests/harness/cuda_check.h"
#include "tests/harness/empty_check.h"

namespace sidechannel {
namespace {

class CudaEmpty : public harness::CudaTest {};

TEST_F(CudaEmpty, EveryOperationTakesTensorsWithoutElements) {
  for (const Precision precision : {Precision::kFp32, Precision::kTf32}) {
    harness::check_empty_operations(harness::cuda_device(precision), DType::kF32);
  }
}

}  // namespace
}  // namespace sidechannel
