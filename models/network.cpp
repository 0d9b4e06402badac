#include "models/network.h"

namespace sidechannel {

Network::Reach Network::reach() const {
  constexpr std::int64_t kLongest = std::int64_t{1} << 20;
  for (std::int64_t length = shortest();; length *= 2) {
    const ReceptiveField field = receptive_field(length);
    const std::int64_t ahead = (length - field.length()) / 2;  // of the first output's place
    Reach reach = {0, 0};
    for (std::int64_t i = 0; i < field.length(); ++i) {
      reach.left = std::max(reach.left, i + ahead - field[i].first);
      reach.right = std::max(reach.right, field[i].last - i - ahead);
    }
    if (2 * (reach.left + reach.right + 1) <= length || length >= kLongest) return reach;
  }
}

}  // namespace sidechannel
