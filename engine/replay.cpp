#include "engine/replay.h"

namespace sidechannel {

void Replay::operator()(const std::function<void()>& body) {
  body();  // a CPU launches nothing: there is nothing to record
}

}  // namespace sidechannel
