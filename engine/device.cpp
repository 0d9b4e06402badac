#include "engine/device.h"

namespace sidechannel {

Device Device::cpu(int threads) {
  return Device(std::make_shared<kernels::CpuQueue>(threads));
}

Device Device::from_name(const std::string& name, int threads) {
  if (name == "cpu" || name == "auto") return cpu(threads);
  if (name == "cuda" || name.starts_with("cuda:")) {
    throw UsageError(
        fmt::format("--device {}: this build has no CUDA backend; use --device cpu", name));
  }
  throw UsageError(fmt::format("--device {}: expected auto, cpu or cuda[:N]", name));
}

}  // namespace sidechannel
