#include "tests/harness/norm_accuracy.h"

namespace sidechannel {
namespace {

TEST(NormAccuracy, IsNeverWorseThanPyTorchs) {
  harness::check_norm_accuracy<harness::Walled>(harness::queue(2), 100000);
}

TEST(NormAccuracy, ConstantSetsBecomeExactlyBeta) {
  harness::check_constant_sets<harness::Walled>(harness::queue(2));
}

TEST(NormAccuracy, BeyondTheRangeOfSquaresIsNaN) {
  harness::check_range<harness::Walled>(harness::queue(2));
}

}  // namespace
}  // namespace sidechannel
