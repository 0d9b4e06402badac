#include "engine/moments.h"

#include <algorithm>

#include "kernels/moments.h"

namespace sidechannel {

StreamingMoments::StreamingMoments(const Device& device, std::int64_t length)
    : mean_(Tensor::zeros(device, DType::kF64, {length})),
      m2_(Tensor::zeros(device, DType::kF64, {length})),
      count_(device) {}

void StreamingMoments::add(const Tensor& x, const std::int64_t* halted) {
  const std::int64_t length = mean_.size();
  SC_CHECK(x.shape().rank() >= 2 && x.size() == x.shape()[0] * length,
           "moments: expected samples of {} positions, got {}", length, x.shape().str());
  on(x.device(), x.dtype(), [&](auto& queue, auto zero) {
    moments_update(queue, x.shape()[0], length, x.data<decltype(zero)>(), halted, count_.data(),
                   mean_.data<double>(), m2_.data<double>());
  });
}

void StreamingMoments::clear() {
  mean_.fill(0);
  m2_.fill(0);
  count_.set(0);
}

HostArray StreamingMoments::variance() const {
  HostArray variance = m2_.to_host();
  const auto freedom = static_cast<double>(std::max<std::int64_t>(count() - 1, 1));
  for (double& value : variance.as<double>()) value /= freedom;
  return variance;
}

void StreamingMoments::save(std::map<std::string, HostArray>& tensors,
                            const std::string& prefix) const {
  const std::int64_t count = count_.get();
  tensors[prefix + ".mean"] = mean_.to_host();
  tensors[prefix + ".m2"] = m2_.to_host();
  tensors[prefix + ".count"] = HostArray::from<std::int64_t>(std::span(&count, 1), Shape{});
}

void StreamingMoments::load(const std::map<std::string, HostArray>& tensors,
                            const std::string& source, const std::string& prefix) {
  const auto take = [&](const char* name, DType dtype, Shape shape) -> const HostArray& {
    const auto found = tensors.find(prefix + name);
    SC_CHECK(found != tensors.end(), "{}: has no tensor {}{}", source, prefix, name);
    SC_CHECK(found->second.dtype == dtype && found->second.shape == shape,
             "{}: {}{} is {} {}, expected {} {}", source, prefix, name,
             name_of(found->second.dtype), found->second.shape.str(), name_of(dtype), shape.str());
    return found->second;
  };
  const HostArray& mean = take(".mean", DType::kF64, mean_.shape());
  const HostArray& m2 = take(".m2", DType::kF64, m2_.shape());
  const HostArray& count = take(".count", DType::kI64, Shape{});
  mean_.copy_from(mean);
  m2_.copy_from(m2);
  count_.set(count.as<std::int64_t>()[0]);
}

}  // namespace sidechannel
