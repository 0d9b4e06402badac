#include "kernels/moments.h"

namespace sidechannel::kernels {

template <class T>
void moments_update(CpuQueue& queue, std::int64_t samples, std::int64_t length, const T* x,
                    const std::int64_t* halted, std::int64_t* count, double* mean, double* m2) {
  if (samples == 0 || (halted && *halted != 0)) return;
  const auto before = static_cast<double>(*count);
  const auto added = static_cast<double>(samples);
  const double total = before + added;
  queue.parallel_for(length, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t l = begin; l < end; ++l) {
      double sum = 0;
      for (std::int64_t n = 0; n < samples; ++n) sum += x[n * length + l];
      const double batch_mean = sum / added;
      double squares = 0;
      for (std::int64_t n = 0; n < samples; ++n) {
        const double deviation = x[n * length + l] - batch_mean;
        squares += deviation * deviation;
      }
      const double delta = batch_mean - mean[l];
      mean[l] += delta * added / total;
      m2[l] += squares + delta * delta * before * added / total;
    }
  });
  *count += samples;
}

template void moments_update(CpuQueue&, std::int64_t, std::int64_t, const float*,
                             const std::int64_t*, std::int64_t*, double*, double*);
template void moments_update(CpuQueue&, std::int64_t, std::int64_t, const double*,
                             const std::int64_t*, std::int64_t*, double*, double*);

}  // namespace sidechannel::kernels
