#pragma once

// Which kernels conv1d has for a problem, for tests that run every one of them and benchmarks that
// compare them. Programs let conv1d choose.

#include <string>
#include <vector>

#include "kernels/conv1d.h"
#include "kernels/cuda_queue.h"

namespace sidechannel::kernels {

enum class Conv1dPass { kForward, kBackwardInput, kBackwardParams };

// The names of all kernels that can compute this pass on such a device, of buffers that are aligned
// to 16 bytes; first the one that conv1d chooses. Never empty.
std::vector<std::string> conv1d_variants(const CudaDeviceInfo& device, Precision precision,
                                         Conv1dPass pass, const Conv1dDims& dims);

// While one of these lives, a pass is computed by the kernel of that name, and refuses problems
// that this kernel cannot compute: std::logic_error.
class ForceConv1dVariant {
 public:
  explicit ForceConv1dVariant(std::string name);
  ~ForceConv1dVariant();
  ForceConv1dVariant(const ForceConv1dVariant&) = delete;
  ForceConv1dVariant& operator=(const ForceConv1dVariant&) = delete;
};

}  // namespace sidechannel::kernels
