#include "engine/replay.h"

namespace sidechannel {
namespace {

constexpr int kEagerRuns = 2;

}  // namespace

void Replay::operator()(const std::function<void()>& body) {
#if SIDECHANNEL_HAS_CUDA
  if (device_.is_cuda() && !device_.cuda_queue().blocking()) {
    kernels::CudaQueue& queue = device_.cuda_queue();
    if (runs_ < kEagerRuns) {
      ++runs_;
      return body();
    }
    if (!graph_) {
      queue.begin_capture();
      try {
        body();
        graph_ = queue.end_capture();
      } catch (...) {
        queue.abandon_capture();
        throw;
      }
    }
    return queue.launch(graph_);
  }
#endif
  body();  // a CPU launches nothing: there is nothing to record
}

}  // namespace sidechannel
