#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "engine/device_value.h"
#include "engine/io/tensor_map.h"

namespace sidechannel {

// Mean and variance of each position over a stream of samples, in double. They are kept and counted
// on the device: adding may be part of a step that repeats itself, reading waits for the device.
class StreamingMoments {
 public:
  StreamingMoments(const Device& device, std::int64_t length);

  // Adds the rows of x, [samples, length] or [samples, length, 1]. Nothing once the training that
  // `halted` belongs to has halted (Adam::halted_flag), where it is given.
  void add(const Tensor& x, const std::int64_t* halted = nullptr);
  // Adds x[i], [samples * length], to each of several of one length: x [streams, ...].
  static void add_to_each(std::span<StreamingMoments> streams, const Tensor& x);
  void clear();

  std::int64_t count() const { return count_.get(); }
  HostArray mean() const { return mean_.to_host(); }  // [length]
  HostArray variance() const;                         // [length], unbiased; 0 for a single sample

  // State for exact resume: PREFIX.mean, PREFIX.m2 and PREFIX.count, which must be `count`: what
  // was added by then. `source`, the file's name, begins the message of the Error for what does not
  // fit.
  void save(TensorMap& tensors, const std::string& prefix) const;
  void load(const TensorMap& tensors, const std::string& source, const std::string& prefix,
            std::int64_t count);

 private:
  Tensor mean_;
  Tensor m2_;
  DeviceValue<std::int64_t> count_;
};

}  // namespace sidechannel
