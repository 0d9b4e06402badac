#include "engine/arena.h"

#include <algorithm>
#include <cstdlib>

namespace sidechannel {
namespace {

constexpr std::size_t kAlignment = 64;
constexpr std::size_t kSmallestBlock = std::size_t{1} << 20;

std::size_t round_up(std::size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

std::shared_ptr<void> allocate_aligned(std::size_t bytes) {
  void* memory = std::aligned_alloc(kAlignment, round_up(bytes));
  SC_CHECK(memory != nullptr, "out of memory: could not get {:.1f} MiB",
           static_cast<double>(bytes) / (1 << 20));
  return {memory, [](void* p) { std::free(p); }};
}

Tensor Arena::allocate(DType dtype, Shape shape) {
  const std::size_t bytes =
      round_up(std::max<std::size_t>(1, static_cast<std::size_t>(shape.size()) * size_of(dtype)));
  while (at_.block < blocks_.size() && at_.used + bytes > blocks_[at_.block].bytes) {
    at_ = {at_.block + 1, 0};
  }
  if (at_.block == blocks_.size()) {
    const std::size_t size = std::max({bytes, kSmallestBlock, capacity()});
    blocks_.push_back({allocate_aligned(size), size});
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
    blocks_.push_back({allocate_aligned(total), total});
  }
  at_ = {};
}

std::size_t Arena::capacity() const {
  std::size_t total = 0;
  for (const Block& block : blocks_) total += block.bytes;
  return total;
}

}  // namespace sidechannel
