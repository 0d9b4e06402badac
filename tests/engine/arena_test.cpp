#include "engine/arena.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/harness/op_check.h"

namespace sidechannel {
namespace {

const void* address(const Tensor& tensor) {
  return tensor.data<float>();
}

// Tensors of one step that outgrow the first block.
std::vector<const void*> step(Arena& arena) {
  arena.reset();
  std::vector<const void*> addresses;
  for (std::int64_t size : {10, 100000, 1, 300000, 0, 500000, 7}) {
    const Tensor tensor = arena.allocate(DType::kF32, {size});
    tensor.fill(1);  // a sanitizer sees it when the memory is not there
    addresses.push_back(address(tensor));
  }
  return addresses;
}

TEST(Arena, GivesTheSameAddressesFromTheSecondStepOn) {
  Arena arena(harness::device());
  step(arena);
  const auto second = step(arena);
  const std::size_t capacity = arena.capacity();
  for (int i = 0; i < 5; ++i) EXPECT_EQ(step(arena), second);
  EXPECT_EQ(arena.capacity(), capacity);
}

TEST(Arena, BecomesOneBlockAfterTheFirstStep) {
  Arena arena(harness::device());
  step(arena);
  const std::size_t capacity = arena.capacity();
  arena.reset();
  // Only a block of its own size has room for all of it.
  arena.allocate(DType::kF32, {static_cast<std::int64_t>(capacity / sizeof(float))}).fill(1);
  EXPECT_EQ(arena.capacity(), capacity);
}

TEST(Arena, TensorsAreAlignedAndApart) {
  Arena arena(harness::device());
  std::vector<Tensor> tensors;
  for (std::int64_t size : {1, 3, 16, 17, 1000, 400000, 5}) {
    tensors.push_back(arena.allocate(DType::kF32, {size}));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(address(tensors.back())) % 64, 0u);
    tensors.back().fill(static_cast<double>(tensors.size()));
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    for (double value : harness::values_of(tensors[i])) {
      ASSERT_EQ(value, static_cast<double>(i + 1));
    }
  }
}

TEST(Arena, RewindHandsTheMemoryOutAgain) {
  Arena arena(harness::device());
  const Tensor kept = arena.allocate(DType::kF64, {5});
  const Arena::Mark mark = arena.mark();
  const Tensor first = arena.allocate(DType::kF32, {1000});
  arena.allocate(DType::kF32, {1000000});  // in another block
  arena.rewind(mark);
  EXPECT_EQ(address(arena.allocate(DType::kF32, {10})), address(first));
  EXPECT_NE(static_cast<const void*>(kept.data<double>()), address(first));
  const std::size_t capacity = arena.capacity();
  arena.rewind(mark);
  for (int i = 0; i < 3; ++i) {
    arena.allocate(DType::kF32, {1000000});
    arena.rewind(mark);
  }
  EXPECT_EQ(arena.capacity(), capacity);
}

TEST(Arena, TensorsOutliveIt) {
  Tensor tensor;
  {
    Arena arena(harness::device());
    tensor = arena.allocate(DType::kF32, {3});
    tensor.fill(4);
  }
  EXPECT_EQ(harness::values_of(tensor), (std::vector<double>{4, 4, 4}));
}

#if !defined(__SANITIZE_ADDRESS__)  // which ends the program instead
TEST(Arena, NamesTheSizeThatItCouldNotGet) {
  Arena arena(harness::device());
  EXPECT_EQ(harness::error_of([&] { arena.allocate(DType::kF64, {std::int64_t{1} << 57}); }),
            "out of memory: could not get 1.0 EiB");
}
#endif

}  // namespace
}  // namespace sidechannel
