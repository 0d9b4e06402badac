#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "engine/tensor.h"

namespace sidechannel {

// Mean and variance of each position over a stream of samples, in double.
class StreamingMoments {
 public:
  StreamingMoments(const Device& device, std::int64_t length);

  // Adds the rows of x, [samples, length] or [samples, length, 1].
  void add(const Tensor& x);
  void clear();

  std::int64_t count() const { return count_; }
  HostArray mean() const { return mean_.to_host(); }  // [length]
  HostArray variance() const;                         // [length], unbiased; 0 for a single sample

  // State for exact resume: PREFIX.mean, PREFIX.m2 and PREFIX.count.
  void save(std::map<std::string, HostArray>& tensors, const std::string& prefix) const;
  void load(const std::map<std::string, HostArray>& tensors, const std::string& prefix);

 private:
  Tensor mean_;
  Tensor m2_;
  std::int64_t count_ = 0;
};

}  // namespace sidechannel
