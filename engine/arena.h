#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "engine/tensor.h"

namespace sidechannel {

// Memory for the tensors of one training step: allocation moves a pointer, everything is given back
// at once. A step that repeats itself gets the same addresses every time from its second run on,
// which is what lets it be captured as a CUDA graph.
class Arena {
 public:
  // How far the arena is filled; rewind() returns to it.
  struct Mark {
    std::size_t block = 0;
    std::size_t used = 0;
  };

  explicit Arena(Device device) : device_(std::move(device)) {}

  // Elements are not initialized. The memory stays valid as long as the tensor lives, but is handed
  // out again after reset() or rewind().
  Tensor allocate(DType dtype, Shape shape);

  Mark mark() const { return at_; }
  void rewind(Mark mark) { at_ = mark; }
  // Starts again, in one block that is as large as everything needed so far.
  void reset();

  std::size_t capacity() const;

 private:
  struct Block {
    std::shared_ptr<void> memory;
    std::size_t bytes;
  };
  Device device_;
  std::vector<Block> blocks_;
  Mark at_;
};

}  // namespace sidechannel
