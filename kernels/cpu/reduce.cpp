#include "kernels/reduce.h"

#include "kernels/cpu/blocked_sum.h"

namespace sidechannel::kernels {

template <class T>
void run(CpuQueue& queue, const SumOfSquares<T>& call) {
  *call.result = blocked_sum(queue, call.size, [x = call.x](std::int64_t i) {
    const double value = x[i];
    return value * value;
  });
}

template <class T>
void run(CpuQueue& queue, View<SumOfSquares<T>> calls) {
  for (const SumOfSquares<T>& call : calls) run(queue, call);
}

template void run(CpuQueue&, const SumOfSquares<float>&);
template void run(CpuQueue&, const SumOfSquares<double>&);
template void run(CpuQueue&, View<SumOfSquares<float>>);
template void run(CpuQueue&, View<SumOfSquares<double>>);

}  // namespace sidechannel::kernels
