#pragma once

#include <cstdint>
#include <vector>

namespace sidechannel {

// Which positions of its input a network's output hears through its layers, the statistics of
// normalizations aside: for each position of a sequence the first and the last position that
// reaches it (between them all do). Layers take one as they take a sequence and return that of
// their output:
//
//   const ReceptiveField field = conv_out(blocks(conv_in(ReceptiveField(length))));
//
// It is not the same for all positions: ends cut it off, and where a layer has a stride it depends
// on the phase.
class ReceptiveField {
 public:
  struct Interval {
    std::int64_t first, last;  // both included
    bool operator==(const Interval&) const = default;
  };

  // Of the input itself: each position hears itself.
  explicit ReceptiveField(std::int64_t length);

  std::int64_t length() const { return static_cast<std::int64_t>(heard_.size()); }
  // Of the input.
  std::int64_t input_length() const { return input_length_; }
  // May lie beyond the input's ends where it is a ring.
  const Interval& operator[](std::int64_t position) const {
    return heard_[static_cast<std::size_t>(position)];
  }
  // Whether a position of the output hears one of the input.
  bool holds(std::int64_t output, std::int64_t input) const;

  // Behind such a layer; Error where it does not fit, or hears positions with gaps between them.
  // `circular`: see PaddingMode.
  ReceptiveField conv1d(std::int64_t kernel_size, std::int64_t padding, std::int64_t stride,
                        bool circular) const;
  ReceptiveField conv_transpose1d(std::int64_t kernel_size, std::int64_t padding,
                                  std::int64_t stride) const;
  // Behind a layer that reads both at each position, a sum or a concatenation of channels.
  ReceptiveField united(const ReceptiveField& other) const;

 private:
  ReceptiveField(const ReceptiveField& before, std::vector<Interval> heard)
      : input_length_(before.input_length_), ring_(before.ring_), heard_(std::move(heard)) {}

  std::int64_t input_length_;
  bool ring_ = false;  // positions are counted around it
  std::vector<Interval> heard_;
};

}  // namespace sidechannel
