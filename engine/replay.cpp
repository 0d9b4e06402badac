#include "engine/replay.h"

#include <cstdlib>
#include <string_view>
#include <utility>

namespace sidechannel {
namespace {

[[maybe_unused]] constexpr int kEagerRuns = 2;

[[maybe_unused]] bool environment_says_off() {
  const char* const value = std::getenv("SIDECHANNEL_REPLAY");
  return value != nullptr && std::string_view(value) == "off";
}

}  // namespace

Replay::Replay(Device device) : device_(std::move(device)) {
#if SIDECHANNEL_HAS_CUDA
  recorded_ = device_.is_cuda() && !device_.cuda_queue().blocking() && !environment_says_off();
#endif
}

void Replay::operator()(const std::function<void()>& body) {
#if SIDECHANNEL_HAS_CUDA
  if (recorded_) {
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
