#include "kernels/fill.h"

#include <algorithm>

namespace sidechannel::kernels {

template <class T>
void fill(CpuQueue& queue, std::int64_t size, T value, T* x) {
  queue.parallel_for(size, 65536, [=](std::int64_t begin, std::int64_t end) {
    std::fill(x + begin, x + end, value);
  });
}

template void fill(CpuQueue&, std::int64_t, float, float*);
template void fill(CpuQueue&, std::int64_t, double, double*);

}  // namespace sidechannel::kernels
