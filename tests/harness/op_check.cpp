#include "tests/harness/op_check.h"

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

std::vector<double> numbers_of(const Tensor& tensor) {
  const HostArray host = tensor.to_host();
  if (host.dtype == DType::kF64) return {host.as<double>().begin(), host.as<double>().end()};
  return {host.as<float>().begin(), host.as<float>().end()};
}

std::vector<double> values_of(const Tensor& tensor) {
  const HostArray array = tensor.to_host();
  if (array.dtype == DType::kF32) {
    const auto values = array.as<float>();
    return {values.begin(), values.end()};
  }
  const auto values = array.as<double>();
  return {values.begin(), values.end()};
}

std::vector<double> widened(const std::vector<float>& values) {
  return {values.begin(), values.end()};
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

void expect_same_bits(std::string_view what,
                      const std::function<std::vector<float>(kernels::CpuQueue&)>& run) {
  const std::vector<float> first = run(queue(1));
  for (int threads = 1; threads <= 3; ++threads) {
    for (int repeat = 0; repeat < 2; ++repeat) {
      const std::vector<float> again = run(queue(threads));
      ASSERT_EQ(again.size(), first.size()) << what;
      EXPECT_EQ(std::memcmp(again.data(), first.data(), first.size() * sizeof(float)), 0)
          << what << " with " << threads << " threads";
    }
  }
}

}  // namespace sidechannel::harness
