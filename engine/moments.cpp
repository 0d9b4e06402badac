#include "engine/moments.h"

#include <algorithm>
#include <vector>

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
  on(x.device(), x.dtype(), [&]<class T>(auto& queue) {
    run(queue, kernels::MomentsUpdate<T>{.samples = x.shape()[0],
                                         .length = length,
                                         .x = x.data<T>(),
                                         .halted = halted,
                                         .count = count_.data(),
                                         .mean = mean_.data<double>(),
                                         .m2 = m2_.data<double>()});
  });
}

void StreamingMoments::add_to_each(std::span<StreamingMoments> streams, const Tensor& x) {
  if (streams.empty()) return;
  const auto count = static_cast<std::int64_t>(streams.size());
  const std::int64_t length = streams[0].mean_.size();
  const std::int64_t samples = length > 0 ? x.size() / (count * length) : 0;
  SC_CHECK(x.shape().rank() >= 1 && x.shape()[0] == count && x.size() == count * samples * length,
           "moments: expected samples of {} positions for {} streams, got {}", length, count,
           x.shape().str());
  on(x.device(), x.dtype(), [&]<class T>(auto& queue) {
    std::vector<kernels::MomentsUpdate<T>> calls;
    const T* from = x.data<T>();
    for (StreamingMoments& stream : streams) {
      SC_CHECK(stream.mean_.size() == length, "moments: expected streams of {} positions, got {}",
               length, stream.mean_.size());
      calls.push_back({.samples = samples,
                       .length = length,
                       .x = from,
                       .count = stream.count_.data(),
                       .mean = stream.mean_.data<double>(),
                       .m2 = stream.m2_.data<double>()});
      from += samples * length;
    }
    run(queue, kernels::View<kernels::MomentsUpdate<T>>(calls));
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

void StreamingMoments::save(TensorMap& tensors, const std::string& prefix) const {
  tensors[prefix + ".mean"] = mean_.to_host();
  tensors[prefix + ".m2"] = m2_.to_host();
  tensors[prefix + ".count"] = scalar(count_.get());
}

void StreamingMoments::load(const TensorMap& tensors, const std::string& source,
                            const std::string& prefix, std::int64_t count) {
  const HostArray& mean = tensor_in(tensors, source, prefix + ".mean", DType::kF64, mean_.shape());
  const HostArray& m2 = tensor_in(tensors, source, prefix + ".m2", DType::kF64, m2_.shape());
  check_not_negative(m2, source, prefix + ".m2");
  whole_number_in(tensors, source, prefix + ".count", count, count);
  mean_.copy_from(mean);
  m2_.copy_from(m2);
  count_.set(count);
}

}  // namespace sidechannel
