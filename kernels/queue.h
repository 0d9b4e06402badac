#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>

namespace sidechannel::kernels {

// Where CUDA kernels run: kernels/cuda_queue.h.
class CudaQueue;

// How the gradients of convolutions are computed on the CPU.
enum class ConvGradients : unsigned char {
  kFastest,  // where it is faster, by minimal filtering, which leaves roundings beyond the taps
  kDirect,   // by the definition: a result depends on nothing that it does not name
};

// Where CPU kernels run: a fixed team of threads that all work on one kernel at a time.
//
// Kernels split their work with parallel_for and must compute each index the same way whatever
// range it falls into, so that results do not depend on the number of threads, to the bit.
// Not thread-safe: one kernel at a time runs on a queue.
class CpuQueue {
 public:
  static constexpr int kMostThreads = 1024;

  // `threads` >= 1, the caller's included; 0 takes every core that this process may use. Fewer, as
  // threads() tells, beyond kMostThreads and where the system makes no more.
  explicit CpuQueue(int threads = 0, ConvGradients gradients = ConvGradients::kFastest);
  ~CpuQueue();
  CpuQueue(const CpuQueue&) = delete;
  CpuQueue& operator=(const CpuQueue&) = delete;

  int threads() const { return threads_; }
  ConvGradients conv_gradients() const { return conv_gradients_; }

  // Calls body(begin, end) on disjoint ranges that cover [0, count), and returns when all are done.
  // Range i belongs to thread i, so that neighbouring kernels find their data in the same core's
  // cache; but the caller takes it when that thread has not begun with it in time.
  // Ranges hold at least `grain` indices, so that little work is not split at all.
  template <class Body>
  void parallel_for(std::int64_t count, std::int64_t grain, Body&& body) {
    using B = std::remove_reference_t<Body>;
    run(
        count, grain,
        [](void* b, std::int64_t begin, std::int64_t end) { (*static_cast<B*>(b))(begin, end); },
        const_cast<std::remove_const_t<B>*>(&body));
  }

  // The same as CudaQueue has, for memory of the host: allocate() aligns to 64 bytes and throws
  // std::bad_alloc, the copies are done when they return.
  std::shared_ptr<void> allocate(std::size_t bytes);
  void copy_to_device(void* to, const void* from, std::size_t bytes) { copy(to, from, bytes); }
  void copy_to_host(void* to, const void* from, std::size_t bytes) { copy(to, from, bytes); }
  void copy_on_device(void* to, const void* from, std::size_t bytes) { copy(to, from, bytes); }
  void synchronize() {}

  // Scratch memory of at least `bytes`, 64-byte aligned, valid until the next call; for the kernel
  // that runs, before it goes parallel.
  void* scratch(std::size_t bytes);

 private:
  using Function = void (*)(void* body, std::int64_t begin, std::int64_t end);
  static void copy(void* to, const void* from, std::size_t bytes);
  void run(std::int64_t count, std::int64_t grain, Function function, void* body);

  struct Team;
  int threads_ = 1;
  ConvGradients conv_gradients_;
  std::unique_ptr<Team> team_;
};

}  // namespace sidechannel::kernels
