#include "engine/moments.h"

#include <algorithm>

#include "kernels/moments.h"

namespace sidechannel {

StreamingMoments::StreamingMoments(const Device& device, std::int64_t length)
    : mean_(Tensor::zeros(device, DType::kF64, {length})),
      m2_(Tensor::zeros(device, DType::kF64, {length})) {}

void StreamingMoments::add(const Tensor& x) {
  const std::int64_t length = mean_.size();
  SC_CHECK(x.shape().rank() >= 2 && x.size() == x.shape()[0] * length,
           "moments: expected samples of {} positions, got {}", length, x.shape().str());
  on(x.device(), x.dtype(), [&](auto& queue, auto zero) {
    kernels::moments_update(queue, x.shape()[0], length, x.data<decltype(zero)>(), count_,
                            mean_.data<double>(), m2_.data<double>());
  });
  count_ += x.shape()[0];
}

void StreamingMoments::clear() {
  mean_.fill(0);
  m2_.fill(0);
  count_ = 0;
}

HostArray StreamingMoments::variance() const {
  HostArray variance = m2_.to_host();
  const auto freedom = static_cast<double>(std::max<std::int64_t>(count_ - 1, 1));
  for (double& value : variance.as<double>()) value /= freedom;
  return variance;
}

void StreamingMoments::save(std::map<std::string, HostArray>& tensors,
                            const std::string& prefix) const {
  tensors[prefix + ".mean"] = mean_.to_host();
  tensors[prefix + ".m2"] = m2_.to_host();
  tensors[prefix + ".count"] = HostArray::from<std::int64_t>(std::span(&count_, 1), Shape{});
}

void StreamingMoments::load(const std::map<std::string, HostArray>& tensors,
                            const std::string& prefix) {
  mean_.copy_from(tensors.at(prefix + ".mean"));
  m2_.copy_from(tensors.at(prefix + ".m2"));
  count_ = tensors.at(prefix + ".count").as<std::int64_t>()[0];
}

}  // namespace sidechannel
