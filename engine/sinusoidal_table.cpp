#include "engine/sinusoidal_table.h"

#include <cmath>
#include <vector>

namespace sidechannel {

Tensor sinusoidal_table(const Device& device, DType dtype, std::int64_t steps, std::int64_t dim) {
  SC_CHECK(dim >= 4 && dim % 2 == 0,
           "sinusoidal_table: expected an even number of dimensions from 4 on, got {}", dim);
  const Shape shape{steps, dim};
  const std::int64_t half = dim / 2;
  std::vector<double> values(static_cast<std::size_t>(shape.size()));
  for (std::int64_t i = 0; i < half; ++i) {
    const double frequency =
        std::exp(-static_cast<double>(i) * std::log(10000.0) / static_cast<double>(half - 1));
    for (std::int64_t t = 0; t < steps; ++t) {
      const double angle = static_cast<double>(t) * frequency;
      values[static_cast<std::size_t>(t * dim + i)] = std::sin(angle);
      values[static_cast<std::size_t>(t * dim + half + i)] = std::cos(angle);
    }
  }
  if (dtype == DType::kF64) return Tensor::from(device, HostArray::from<double>(values, shape));
  const std::vector<float> rounded(values.begin(), values.end());
  return Tensor::from(device, HostArray::from<float>(rounded, shape));
}

}  // namespace sidechannel
