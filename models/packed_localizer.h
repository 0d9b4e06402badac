#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/checked.h"
#include "engine/modules.h"

namespace sidechannel {

// What the network of Section 3.2 leaves free.
struct PackedLocalizerConfig {
  std::int64_t depth = 8;        // d, all convolutions counted, C_in and C_out too
  std::int64_t channels = 32;    // h
  std::int64_t kernel_size = 5;  // k, odd

  // UsageError for what cannot be built.
  void check() const;

  // R(d) = floor(k / 2) * d
  std::int64_t receptive_field() const {
    return checked_product("receptive field", kernel_size / 2, depth);
  }
  // l = 1 + 2 R(d): what valid convolutions take down to one position.
  std::int64_t length() const {
    return checked_sum("length", 1, checked_product("length", 2, receptive_field()));
  }
};

// The network of the paper's Section 3.2. Two sequences x and x~ go through the same weights, and
// hear each other through the statistics of PackNorm alone:
//
//   z(1) = C_in(x),  z(i) = relu(PackNorm(C_i(z(i-1)))) for i = 2 .. d-1,  f = C_out(z(d-1))
//
// and the same for x~, where PackNorm is InstanceNorm over both sequences end to end. Convolutions
// have no padding, so l = 1 + 2 R(d) positions come down to one.
//
// Parameters, named as the localizer's: conv_in.*, blocks.{i}.conv.*, blocks.{i}.norm.*, conv_out.*
class PackedLocalizer {
 public:
  PackedLocalizer(const Device& device, DType dtype, const PackedLocalizerConfig& config,
                  std::uint64_t seed);

  // [2 N, l, 1] -> [2 N, 1, 1]: N pairs, the two of a pair side by side.
  Var operator()(const Var& x) const;

  const PackedLocalizerConfig& config() const { return config_; }
  ParameterList& parameters() { return *parameters_; }
  const ParameterList& parameters() const { return *parameters_; }

 private:
  struct Block {
    Conv1d conv;
    NormRelu norm;
  };
  PackedLocalizerConfig config_;
  std::unique_ptr<ParameterList> parameters_;
  std::optional<Conv1d> conv_in_;
  std::vector<Block> blocks_;
  std::optional<Conv1d> conv_out_;
};

}  // namespace sidechannel
