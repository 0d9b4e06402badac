#include "experiments/run/device_choice.h"

#include "engine/say.h"

namespace sidechannel::experiments {
namespace {

constexpr int kFirstWithTf32 = 80;  // compute capability 8.0

}  // namespace

Device choose_device(RunSettings& settings, bool quiet) {
  const Precision wish =
      settings.precision == "auto" ? Precision::kTf32 : precision_from(settings.precision);
  std::string why;
  Device device =
      Device::from_name(settings.device, static_cast<int>(settings.threads), wish, &why);
  if (!why.empty() && !quiet) note("device: {}\n", why);
  const int capability = device.is_cuda() ? device.cuda_queue().info().compute_capability : 0;
  if (capability < kFirstWithTf32 && wish == Precision::kTf32) {
    if (settings.precision != "auto") {
      throw UsageError(device.is_cuda()
                           ? fmt::format("precision tf32: {} has compute capability {}.{}, tf32 "
                                         "needs 8.0",
                                         device.description(), capability / 10, capability % 10)
                           : "precision tf32: the CPU computes in fp32");
    }
    if (device.is_cuda()) device = Device::cuda(device.cuda_queue().info().index, Precision::kFp32);
  }
  settings.precision =
      device.is_cuda() ? name_of(device.cuda_queue().precision()) : name_of(Precision::kFp32);
  return device;
}

}  // namespace sidechannel::experiments
