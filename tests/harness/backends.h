#pragma once

// Tests of kernels on every backend. After
//
//   BACKEND_TEST(Relu, AgreesWithTheDefinition) { ... }
//
// there are Relu.AgreesWithTheDefinition on the CPU and, where this build has the backend,
// CudaRelu.AgreesWithTheDefinition on a GPU or its emulation; in the body, Backend is OnCpu or
// OnCuda.

#include <gtest/gtest.h>

#include <string>

#include "tests/harness/op_check.h"
#if SIDECHANNEL_HAS_CUDA
#include "tests/harness/cuda_check.h"
#endif

namespace sidechannel::harness {

struct OnCpu {
  template <class T>
  using Buffer = Walled<T>;

  static bool is_there(std::string*) { return true; }
  static kernels::CpuQueue& queue() { return harness::queue(2); }
  // How many kernels the queue has launched: none here.
  static std::int64_t launches(const kernels::CpuQueue&) { return 0; }
  // Calls f.operator()<T>(queue) for each type of element that it computes in.
  template <class F>
  static void for_types(const F& f) {
    f.template operator()<float>(queue());
    f.template operator()<double>(queue());
  }
  // The same; on CUDA also with a queue whose products may be in TF32.
  template <class F>
  static void for_precisions(const F& f) {
    for_types(f);
  }
  // The same for operations: f(device, type).
  template <class F>
  static void for_devices(const F& f) {
    for (const int threads : {1, 3}) {
      for (const DType type : {DType::kF32, DType::kF64}) f(harness::device(threads), type);
    }
  }
  // Calls f() with buffers that vectors find aligned, and with ones that they do not. A Walled
  // never is.
  template <class F>
  static void for_alignments(const F& f) {
    f();
  }
  // `run`, which is given a queue, returns a vector of the same bits every time: twice with each of
  // 1, 2 and 3 threads; on CUDA three times in each precision.
  template <class F>
  static void expect_same_bits(std::string_view what, const F& run) {
    const auto first = run(harness::queue(1));
    for (const int threads : {1, 1, 2, 2, 3, 3}) {
      SCOPED_TRACE(testing::Message() << threads << " threads");
      expect_equal_bits(what, run(harness::queue(threads)), first);
    }
  }
};

#if SIDECHANNEL_HAS_CUDA
struct OnCuda {
  template <class T>
  using Buffer = DeviceBuffer<T>;

  static kernels::CudaQueue& queue() { return cuda_queue(); }
  static bool is_there(std::string* why) { return !kernels::cuda_devices(why).empty(); }
  static std::int64_t launches(const kernels::CudaQueue& queue) {
    return queue.counters().launches;
  }
  template <class F>
  static void for_types(const F& f) {
    f.template operator()<float>(queue());
  }
  template <class F>
  static void for_precisions(const F& f) {
    for (const Precision precision : {Precision::kFp32, Precision::kTf32}) {
      f.template operator()<float>(cuda_queue(precision));
    }
  }
  template <class F>
  static void for_devices(const F& f) {
    for (const Precision precision : {Precision::kFp32, Precision::kTf32}) {
      f(cuda_device(precision), DType::kF32);
    }
  }
  template <class F>
  static void for_alignments(const F& f) {
    f();
    const DeviceBuffer<float>::Misaligned misaligned;
    f();
  }
  template <class F>
  static void expect_same_bits(std::string_view what, const F& run) {
    for (const Precision precision : {Precision::kFp32, Precision::kTf32}) {
      const auto first = run(cuda_queue(precision));
      for (int i = 0; i < 2; ++i) expect_equal_bits(what, run(cuda_queue(precision)), first);
    }
  }
};
#endif

// Where a backend's kernels find their data.
template <class Backend, class T>
using BufferOn = typename Backend::template Buffer<T>;

// All elements of the buffers, one after the other.
template <class Buffer>
auto values_of_all(std::initializer_list<const Buffer*> buffers) {
  std::vector<typename Buffer::Element> all;
  for (const Buffer* buffer : buffers) {
    const auto values = buffer->values();
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

template <class Backend>
class BackendTest : public testing::Test {
 public:
  explicit BackendTest(void (*body)()) : body_(body) {}
  void TestBody() override {
    std::string why;
    if (!Backend::is_there(&why)) GTEST_SKIP() << why;
    body_();
  }

 private:
  void (*body_)();
};

template <class Backend>
bool add_test(const std::string& suite, const char* name, const char* file, int line,
              void (*body)()) {
  testing::RegisterTest(suite.c_str(), name, nullptr, nullptr, file, line,
                        [body]() -> testing::Test* { return new BackendTest<Backend>(body); });
  return true;
}

#if SIDECHANNEL_HAS_CUDA
#define SC_ADD_CUDA_TEST(suite, name)                                 \
  &&::sidechannel::harness::add_test<::sidechannel::harness::OnCuda>( \
      "Cuda" #suite, #name, __FILE__, __LINE__, suite##_##name<::sidechannel::harness::OnCuda>)
#else
#define SC_ADD_CUDA_TEST(suite, name)
#endif

#define BACKEND_TEST(suite, name)                                                           \
  template <class Backend>                                                                  \
  void suite##_##name();                                                                    \
  [[maybe_unused]] const bool k##suite##_##name =                                           \
      ::sidechannel::harness::add_test<::sidechannel::harness::OnCpu>(                      \
          #suite, #name, __FILE__, __LINE__, suite##_##name<::sidechannel::harness::OnCpu>) \
          SC_ADD_CUDA_TEST(suite, name);                                                    \
  template <class Backend>                                                                  \
  void suite##_##name()

}  // namespace sidechannel::harness
