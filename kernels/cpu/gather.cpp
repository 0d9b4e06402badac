#include "kernels/gather.h"

#include <algorithm>

namespace sidechannel::kernels {

template <class T>
void run(CpuQueue& queue, const Gather<T>& call) {
  const GatherDims dims = call.dims;
  const std::int64_t grain = 4096 / (dims.width + 1) + 1;
  queue.parallel_for(dims.rows, grain, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      std::copy_n(call.x + dims.begin_of(call.index[n]), dims.width, call.y + n * dims.width);
    }
  });
}

template void run(CpuQueue&, const Gather<float>&);
template void run(CpuQueue&, const Gather<double>&);

}  // namespace sidechannel::kernels
