#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/ops.h"

namespace sidechannel::experiments {

// What a network hears (the setting `input`), from what tells places apart to what does not
// (Section 3.2: overlapping receptive fields carry a message where their pattern is unique). Every
// kind looks the same from everywhere: a stretch of it has one distribution, wherever it stands, so
// that what a network knows of its place it knows by its edges or through its norms. Values have
// variance 1 but for the constant, and each sequence is drawn for itself.
//
//   noise     x_i independent and standard normal (Problem 2.1)
//   low-rank  x = sum over j < rank of a_j u_j, with standard normal a_j: of the numbers of a
//             sequence so many are free, the others follow. u are cosines and sines of rank / 2
//             frequencies from 0 to 1/2, the same in every sequence, with no period in common; of
//             odd ranks one u is a constant
//   periodic  x_i = n_(i mod period), of a pattern of standard normal numbers n that comes back
//   constant  x_i = 1 everywhere and always, which tells nothing
struct InputOptions {
  std::string kind = "noise";
  std::int64_t period = 0;  // of periodic input, >= 1
  std::int64_t rank = 0;    // of low-rank input, >= 1
};
std::vector<const char*> input_names();

// u of low-rank input, scaled so that x has variance 1: [length, rank], from position 0 on.
HostArray low_rank_basis(std::int64_t length, std::int64_t rank);

// Batches of it, fresh in every step. Drawing may be part of a step that repeats itself.
class InputSource {
 public:
  // Of at most `batch` sequences; what is drawn comes from `stream`.
  InputSource(const Device& device, const InputOptions& input, std::int64_t batch,
              std::int64_t length, Stream stream);

  // The sequences where `random` stands, [samples, length, 1].
  Var operator()(Tape& tape, const Random& random, std::int64_t samples) const;

 private:
  InputOptions input_;
  std::int64_t length_;
  Stream stream_;
  Tensor constant_;      // [batch * length] of constant input
  Tensor basis_, bias_;  // of low-rank input: [length, rank], and [length] zeros
};

}  // namespace sidechannel::experiments
