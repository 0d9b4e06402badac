// For builds without the CUDA backend.

#include "kernels/cuda_queue.h"

namespace sidechannel::kernels {

std::vector<CudaDeviceInfo> cuda_devices(std::string* why) {
  if (why != nullptr) *why = "this build has no CUDA backend";
  return {};
}

bool cuda_has_faulted() {
  return false;
}

}  // namespace sidechannel::kernels
