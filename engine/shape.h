#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <span>
#include <string>
#include <utility>

#include "engine/error.h"

namespace sidechannel {

// The dimensions of a tensor, outermost first, at most kMaxRank of them. Rank 0 is a scalar.
//
// Whatever they are multiplied by each other and by the width of an element, the product can be
// represented: shapes of more than 2^63 - 1 bytes at the widest type are refused (a dimension of 0
// counts as 1 there), so that nobody else needs to ask.
class Shape {
 public:
  static constexpr int kMaxRank = 4;

  Shape() = default;
  Shape(std::initializer_list<std::int64_t> dims) : Shape(std::span(dims.begin(), dims.size())) {}
  // Of any integers, such as a file's, which may be larger than a dimension can be.
  template <std::integral T, std::size_t kExtent>
  explicit Shape(std::span<T, kExtent> dims) {
    SC_CHECK(dims.size() <= kMaxRank, "shape: at most {} dimensions, got {}", kMaxRank,
             dims.size());
    std::int64_t most = kMaxBytes / kMaxWidth;  // what the dimensions to come may multiply to
    for (const T dim : dims) {
      SC_CHECK(!std::cmp_less(dim, 0), "shape: dimensions must not be negative, got {}", dim);
      SC_CHECK(!std::cmp_greater(dim, most),
               "shape [{}]: expected at most {} bytes, at {} an element", fmt::join(dims, ", "),
               kMaxBytes, kMaxWidth);
      dims_[static_cast<std::size_t>(rank_++)] = static_cast<std::int64_t>(dim);
      most /= std::max<std::int64_t>(static_cast<std::int64_t>(dim), 1);
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

  // "[1, 0, 4]" for an element of a row-major array of this shape.
  std::string place_of(std::int64_t index) const {
    Shape place = *this;
    for (std::size_t axis = static_cast<std::size_t>(rank_); axis-- > 0; index /= dims_[axis]) {
      place.dims_[axis] = index % dims_[axis];
    }
    return place.str();
  }

 private:
  static constexpr std::int64_t kMaxBytes = std::numeric_limits<std::int64_t>::max();
  static constexpr std::int64_t kMaxWidth = 8;  // of an element, in bytes

  std::array<std::int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

}  // namespace sidechannel
