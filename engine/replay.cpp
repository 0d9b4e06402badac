#include "engine/replay.h"

#include <cstdlib>
#include <string_view>
#include <utility>

namespace sidechannel {
namespace {

constexpr int kEagerRuns = 2;

// A CPU launches nothing: there is nothing to record.
template <class Queue>
constexpr bool kRecords = requires(Queue queue) {
  queue.begin_capture();
};

}  // namespace

Replay::Replay(Device device) : device_(std::move(device)) {
  const char* const value = std::getenv("SIDECHANNEL_REPLAY");
  if (value != nullptr && std::string_view(value) == "off") return;
  on(device_, [this]<class Queue>([[maybe_unused]] Queue& queue) {
    if constexpr (kRecords<Queue>) recorded_ = !queue.blocking();
  });
}

void Replay::operator()(const std::function<void()>& body) {
  if (!recorded_ || runs_ < kEagerRuns) {
    ++runs_;
    return body();
  }
  on(device_, [&]<class Queue>([[maybe_unused]] Queue& queue) {
    if constexpr (kRecords<Queue>) {
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
      queue.launch(graph_);
    }
  });
}

}  // namespace sidechannel
