#include "engine/arena.h"

#include <algorithm>

namespace sidechannel {
namespace {

constexpr std::size_t kAlignment = 64;
constexpr std::size_t kSmallestBlock = std::size_t{1} << 20;

std::size_t round_up(std::size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

Tensor Arena::allocate(DType dtype, Shape shape) {
  const std::size_t bytes =
      round_up(std::max<std::size_t>(1, static_cast<std::size_t>(shape.size()) * size_of(dtype)));
  while (at_.block < blocks_.size() && at_.used + bytes > blocks_[at_.block].bytes) {
    at_ = {at_.block + 1, 0};
  }
  if (at_.block == blocks_.size()) {
    const std::size_t size = std::max({bytes, kSmallestBlock, capacity()});
    blocks_.push_back({device_.allocate(size), size});
  }
  const Block& block = blocks_[at_.block];
  void* data = static_cast<std::byte*>(block.memory.get()) + at_.used;
  at_.used += bytes;
  return {device_, dtype, shape, block.memory, data};
}

void Arena::reset() {
  if (blocks_.size() > 1) {
    const std::size_t total = capacity();
    blocks_.clear();
    blocks_.push_back({device_.allocate(total), total});
  }
  at_ = {};
}

std::size_t Arena::capacity() const {
  std::size_t total = 0;
  for (const Block& block : blocks_) total += block.bytes;
  return total;
}

}  // namespace sidechannel
