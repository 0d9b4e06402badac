#include "engine/receptive_field.h"

#include <algorithm>
#include <utility>

#include "engine/error.h"

namespace sidechannel {
namespace {

using Interval = ReceptiveField::Interval;

// What positions that hear these hear together.
Interval hull(const Interval& a, const Interval& b) {
  return {std::min(a.first, b.first), std::max(a.last, b.last)};
}

}  // namespace

ReceptiveField::ReceptiveField(std::int64_t length)
    : input_length_(length), heard_(static_cast<std::size_t>(length)) {
  for (std::int64_t i = 0; i < length; ++i) heard_[static_cast<std::size_t>(i)] = {i, i};
}

bool ReceptiveField::holds(std::int64_t output, std::int64_t input) const {
  const auto& [first, last] = (*this)[output];
  if (!ring_) return first <= input && input <= last;
  const std::int64_t after = ((input - first) % input_length_ + input_length_) % input_length_;
  return after <= last - first;
}

ReceptiveField ReceptiveField::conv1d(std::int64_t kernel_size, std::int64_t padding,
                                      std::int64_t stride, bool circular) const {
  const std::int64_t positions = length() + 2 * padding - kernel_size;
  SC_CHECK(positions >= 0,
           "receptive field: a kernel of {} with padding {} does not fit into a sequence of {}",
           kernel_size, padding, length());
  SC_CHECK(stride >= 1 && stride <= kernel_size,
           "receptive field: a kernel of {} with stride {} leaves gaps", kernel_size, stride);
  SC_CHECK(!circular || stride == 1 || length() % stride == 0,
           "receptive field: a stride of {} does not divide a ring of {}", stride, length());
  std::vector<Interval> heard;
  for (std::int64_t l = 0; l <= positions / stride; ++l) {
    const std::int64_t first = l * stride - padding, last = first + kernel_size - 1;
    if (!circular) {
      heard.push_back(hull((*this)[std::clamp<std::int64_t>(first, 0, length() - 1)],
                           (*this)[std::clamp<std::int64_t>(last, 0, length() - 1)]));
      continue;
    }
    // Position i of a ring, once more around: what it hears lies a ring further on.
    const auto around = [&](std::int64_t i) {
      const std::int64_t turns = (i >= 0 ? i : i - length() + 1) / length();
      const Interval at = (*this)[i - turns * length()];
      return Interval{at.first + turns * input_length_, at.last + turns * input_length_};
    };
    heard.push_back(hull(around(first), around(last)));
  }
  ReceptiveField field(*this, std::move(heard));
  field.ring_ = ring_ || circular;
  return field;
}

ReceptiveField ReceptiveField::conv_transpose1d(std::int64_t kernel_size, std::int64_t padding,
                                                std::int64_t stride) const {
  const std::int64_t positions = (length() - 1) * stride - 2 * padding + kernel_size;
  SC_CHECK(
      positions >= 1 && length() >= 1,
      "receptive field: a transposed kernel of {} with padding {} leaves nothing of a sequence "
      "of {}",
      kernel_size, padding, length());
  SC_CHECK(stride >= 1 && stride <= kernel_size,
           "receptive field: a transposed kernel of {} with stride {} leaves gaps", kernel_size,
           stride);
  std::vector<Interval> heard;
  for (std::int64_t q = 0; q < positions; ++q) {
    // Position l of the input reaches l stride - padding + t for the taps t.
    const std::int64_t last = (q + padding) / stride;
    const std::int64_t first = (q + padding - kernel_size + stride) / stride;
    heard.push_back(hull((*this)[std::clamp<std::int64_t>(first, 0, length() - 1)],
                         (*this)[std::clamp<std::int64_t>(last, 0, length() - 1)]));
  }
  return {*this, std::move(heard)};
}

ReceptiveField ReceptiveField::united(const ReceptiveField& other) const {
  SC_CHECK(length() == other.length() && input_length_ == other.input_length_,
           "receptive field: sequences of {} and {} do not go together", length(), other.length());
  std::vector<Interval> heard;
  for (std::int64_t i = 0; i < length(); ++i) heard.push_back(hull((*this)[i], other[i]));
  ReceptiveField field(*this, std::move(heard));
  field.ring_ = ring_ || other.ring_;
  return field;
}

}  // namespace sidechannel
