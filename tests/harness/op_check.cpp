#include "tests/harness/op_check.h"

#include <gtest/gtest-spi.h>

#include <algorithm>
#include <array>

namespace sidechannel::harness {

const Device& device(int threads) {
  static const std::array<Device, 3> devices = {Device::cpu(1), Device::cpu(2), Device::cpu(3)};
  return devices.at(static_cast<std::size_t>(threads - 1));
}

kernels::CpuQueue& queue(int threads) {
  return device(threads).cpu_queue();
}

Tensor Draw::tensor(Shape shape, double mean, double deviation) {
  return tensor_of(normals<double>(shape.size(), mean, deviation), shape);
}

Tensor tensor_of(const std::vector<double>& values, Shape shape) {
  return Tensor::from(device(), HostArray::from<double>(values, shape));
}

HostArray array_of(const std::vector<double>& values, DType dtype, Shape shape) {
  if (dtype == DType::kF64) return HostArray::from<double>(values, shape);
  return HostArray::from<float>(narrowed<float>(values), shape);
}

std::vector<double> values_of(const Tensor& tensor) {
  const HostArray array = tensor.to_host();
  return array.dtype == DType::kF32 ? widened(array.as<float>()) : widened(array.as<double>());
}

double relative_difference(std::span<const double> a, std::span<const double> b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double difference = 0;
  double norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(difference) / std::max(std::sqrt(norm), std::numeric_limits<double>::min());
}

double clear_of(std::vector<double> taken) {
  std::sort(taken.begin(), taken.end());
  const std::size_t n = taken.size();
  double widest = 1e-3;
  double clear = taken.back() + 0.5;  // where there is no gap: one value, or all of them equal
  for (std::size_t i = n / 4; i + 1 < n && i <= 3 * n / 4; ++i) {
    if (taken[i + 1] - taken[i] <= widest) continue;
    widest = taken[i + 1] - taken[i];
    clear = (taken[i] + taken[i + 1]) / 2;
  }
  return clear;
}

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "no error";
}

void Reference::add_all(std::span<const double> before) {
  for (std::size_t i = 0; i < before.size(); ++i) add(static_cast<std::int64_t>(i), before[i]);
}

int failures_of(const std::function<void()>& checks) {
  // Where the mutation tests end a test at its first failure, these are none.
  struct Unbroken {
    bool before = GTEST_FLAG_GET(break_on_failure);
    Unbroken() { GTEST_FLAG_SET(break_on_failure, false); }
    ~Unbroken() { GTEST_FLAG_SET(break_on_failure, before); }
  } const unbroken;
  testing::TestPartResultArray results;
  const testing::ScopedFakeTestPartResultReporter reporter(
      testing::ScopedFakeTestPartResultReporter::INTERCEPT_ONLY_CURRENT_THREAD, &results);
  checks();
  return results.size();
}

}  // namespace sidechannel::harness
