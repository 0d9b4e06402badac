#pragma once

#include <fmt/format.h>

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

#include "engine/error.h"

namespace sidechannel {

// The dimensions of a tensor, outermost first, at most kMaxRank of them. Rank 0 is a scalar.
class Shape {
 public:
  static constexpr int kMaxRank = 4;

  Shape() = default;
  Shape(std::initializer_list<std::int64_t> dims) : Shape(std::span(dims.begin(), dims.size())) {}
  explicit Shape(std::span<const std::int64_t> dims) {
    SC_CHECK(dims.size() <= kMaxRank, "shape: at most {} dimensions, got {}", kMaxRank,
             dims.size());
    for (std::int64_t dim : dims) {
      SC_CHECK(dim >= 0, "shape: dimensions must not be negative, got {}", dim);
      dims_[static_cast<std::size_t>(rank_++)] = dim;
    }
  }

  int rank() const { return rank_; }
  std::int64_t operator[](int i) const { return dims_[static_cast<std::size_t>(i)]; }
  const std::int64_t* begin() const { return dims_.data(); }
  const std::int64_t* end() const { return dims_.data() + rank_; }

  // The number of elements; 1 for a scalar.
  std::int64_t size() const {
    std::int64_t n = 1;
    for (std::int64_t dim : *this) n *= dim;
    return n;
  }

  bool operator==(const Shape& other) const {
    return std::equal(begin(), end(), other.begin(), other.end());
  }

  // "[32, 600, 64]"
  std::string str() const { return fmt::format("[{}]", fmt::join(begin(), end(), ", ")); }

 private:
  std::array<std::int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

}  // namespace sidechannel
