#include "kernels/moments.h"

namespace sidechannel::kernels {

template <class T>
void run(CpuQueue& queue, const MomentsUpdate<T>& call) {
  const std::int64_t samples = call.samples;
  if (samples == 0 || (call.halted && *call.halted != 0)) return;
  const auto before = static_cast<double>(*call.count);
  const auto added = static_cast<double>(samples);
  const double total = before + added;
  queue.parallel_for(call.length, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t l = begin; l < end; ++l) {
      double sum = 0;
      for (std::int64_t n = 0; n < samples; ++n) sum += call.x[n * call.length + l];
      const double batch_mean = sum / added;
      double squares = 0;
      for (std::int64_t n = 0; n < samples; ++n) {
        const double deviation = call.x[n * call.length + l] - batch_mean;
        squares += deviation * deviation;
      }
      const double delta = batch_mean - call.mean[l];
      call.mean[l] += delta * added / total;
      call.m2[l] += squares + delta * delta * before * added / total;
    }
  });
  *call.count += samples;
}

template <class T>
void run(CpuQueue& queue, View<MomentsUpdate<T>> calls) {
  for (const MomentsUpdate<T>& call : calls) run(queue, call);
}

template void run(CpuQueue&, const MomentsUpdate<float>&);
template void run(CpuQueue&, const MomentsUpdate<double>&);
template void run(CpuQueue&, View<MomentsUpdate<float>>);
template void run(CpuQueue&, View<MomentsUpdate<double>>);

}  // namespace sidechannel::kernels
