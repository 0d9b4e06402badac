#include "kernels/reduce.h"

#include "kernels/cpu/blocked_sum.h"

namespace sidechannel::kernels {

template <class T>
void sum_of_squares(CpuQueue& queue, std::int64_t size, const T* x, double* result) {
  *result = blocked_sum(queue, size, [x](std::int64_t i) {
    const double value = x[i];
    return value * value;
  });
}

template void sum_of_squares(CpuQueue&, std::int64_t, const float*, double*);
template void sum_of_squares(CpuQueue&, std::int64_t, const double*, double*);

}  // namespace sidechannel::kernels
