#pragma once

#include <cstddef>
#include <iterator>

namespace sidechannel::kernels {

// Neighbouring elements that somebody else holds: what std::span<const T> is, for CUDA's files too,
// which are C++17.
template <class T>
class View {
 public:
  View(const T* first, std::size_t count) : first_(first), count_(count) {}
  template <class Container>
  View(const Container& all) : View(std::data(all), std::size(all)) {}

  const T* begin() const { return first_; }
  const T* end() const { return first_ + count_; }
  std::size_t size() const { return count_; }
  const T& operator[](std::size_t i) const { return first_[i]; }
  View part(std::size_t first, std::size_t count) const { return {first_ + first, count}; }
  // Calls f(part) for one part after the other, of `most` elements each but for the last: what the
  // arguments of a launch have room for.
  template <class F>
  void for_parts(std::size_t most, const F& f) const {
    for (std::size_t first = 0; first < count_; first += most) {
      f(part(first, count_ - first < most ? count_ - first : most));
    }
  }

 private:
  const T* first_;
  std::size_t count_;
};

}  // namespace sidechannel::kernels
