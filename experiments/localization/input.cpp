#include "experiments/localization/input.h"

#include <algorithm>
#include <cmath>

#include "engine/io/file.h"

namespace sidechannel::experiments {

std::vector<const char*> input_names() {
  return {"noise", "constant", "periodic", "low-rank"};
}

namespace {

// One in each of `count` bands of (0, 1/2), cycles a position, away from the others': the places
// within the bands are roots of primes, modulo 1, of which none is made of the others, so that the
// waves have no period in common.
std::vector<double> frequencies(std::int64_t count) {
  std::vector<double> all;
  for (std::int64_t n = 2; static_cast<std::int64_t>(all.size()) < count; ++n) {
    bool prime = true;
    for (std::int64_t i = 2; i * i <= n; ++i) prime = prime && n % i != 0;
    if (!prime) continue;
    const double root = std::sqrt(static_cast<double>(n));
    const double place = 0.25 + 0.5 * (root - std::floor(root));
    all.push_back((static_cast<double>(all.size()) + place) / static_cast<double>(2 * count));
  }
  return all;
}

}  // namespace

HostArray low_rank_basis(std::int64_t length, std::int64_t rank) {
  HostArray basis(DType::kF32, {length, rank});
  const auto values = basis.as<float>();
  const auto scale = static_cast<float>(std::sqrt(2.0 / static_cast<double>(rank)));
  const std::vector<double> waves = frequencies(rank / 2);
  for (std::int64_t i = 0; i < length; ++i) {
    float* row = &values[static_cast<std::size_t>(i * rank)];
    for (const double frequency : waves) {
      const double turns = frequency * static_cast<double>(i);
      const auto [cosine, sine] = cos_sin_of_turns(static_cast<float>(turns - std::floor(turns)));
      *row++ = scale * cosine;
      *row++ = scale * sine;
    }
    if (rank % 2 == 1) *row = scale * std::sqrt(0.5F);
  }
  return basis;
}

InputSource::InputSource(const Device& device, const InputOptions& input, std::int64_t batch,
                         std::int64_t length, Stream stream)
    : input_(input), length_(length), stream_(stream) {
  if (input.kind == "constant") {
    constant_ = Tensor(device, DType::kF32, {batch * length});
    constant_.fill(1);
  } else if (input.kind == "low-rank") {
    require(input.rank >= 1, fmt::format("rank {}: expected at least 1", input.rank));
    basis_ = Tensor::from(device, low_rank_basis(length, input.rank));
    bias_ = Tensor::zeros(device, DType::kF32, {length});
  } else if (input.kind == "periodic") {
    require(input.period >= 1, fmt::format("period {}: expected at least 1", input.period));
  } else {
    require(input.kind == "noise",
            fmt::format("input {}: expected {}", shown(input.kind), listed(input_names())));
  }
}

Var InputSource::operator()(Tape& tape, const Random& random, std::int64_t samples) const {
  const Shape shape{samples, length_, 1};
  if (constant_) return tape.constant(constant_.slice(0, samples * length_).reshape(shape));
  if (basis_) {
    const Var a = tape.normal({samples, input_.rank}, stream_, random);
    return reshape(linear(a, tape.constant(basis_), tape.constant(bias_)), shape);
  }
  const bool repeats = input_.kind == "periodic" && input_.period < length_;
  if (!repeats) return tape.normal(shape, stream_, random);
  const Var pattern = tape.normal({samples, input_.period, 1}, stream_, random);
  return circular_pad(pattern, 0, length_ - input_.period);
}

}  // namespace sidechannel::experiments
