#include "kernels/mse.h"

#include <algorithm>

#include "kernels/cpu/blocked_sum.h"

namespace sidechannel::kernels {

template <class T>
void mse_forward(CpuQueue& queue, const MseDims& dims, const T* y, const T* target, T* loss) {
  const double sum = blocked_sum(queue, dims.size, [=](std::int64_t i) {
    const double error =
        static_cast<double>(y[i]) - static_cast<double>(target[i % dims.target_size]);
    return error * error;
  });
  *loss = static_cast<T>(sum / static_cast<double>(std::max<std::int64_t>(dims.size, 1)));
}

template <class T>
void mse_backward(CpuQueue& queue, const MseDims& dims, const T* y, const T* target, const T* dloss,
                  GradOut<T> dy) {
  if (!dy.data) return;
  const T scale = *dloss * T(2) / static_cast<T>(dims.size);
  const bool accumulate = dy.write == Write::kAccumulate;
  queue.parallel_for(dims.size, 4096, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const T gradient = scale * (y[i] - target[i % dims.target_size]);
      dy.data[i] = accumulate ? dy.data[i] + gradient : gradient;
    }
  });
}

#define SIDECHANNEL_INSTANTIATE(T)                                              \
  template void mse_forward(CpuQueue&, const MseDims&, const T*, const T*, T*); \
  template void mse_backward(CpuQueue&, const MseDims&, const T*, const T*, const T*, GradOut<T>);
SIDECHANNEL_INSTANTIATE(float)
SIDECHANNEL_INSTANTIATE(double)
#undef SIDECHANNEL_INSTANTIATE

}  // namespace sidechannel::kernels
