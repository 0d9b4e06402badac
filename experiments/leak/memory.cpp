#include "experiments/leak/memory.h"

#include <algorithm>

#include "engine/jacobian.h"

namespace sidechannel::experiments {
namespace {

constexpr const char* kInput = "the sequences in --input";
constexpr double kDouble = 8;  // bytes

template <class Config>
MemoryNeed need(const Config& network, double parameters, double table, const LeakSize& s) {
  const auto width = static_cast<double>(size_of(s.dtype));
  const double floats = width / 4;  // for a number, as arenas are counted
  const double of_input = d(s.samples) * d(s.length) * d(s.channels);
  const double copies = std::min(d(s.rows), d(kJacobianRowsAtOnce));
  const MemoryPart weights = {"the network's weights", "--dim, --multipliers or --kernel-size",
                              2 * width * parameters, 0, 0};
  const MemoryPart steps = {"the embedding of the diffusion's steps", "--step or --dim",
                            width * table, 0, 0};
  // As a file's data, and in the type that is measured in.
  MemoryPart loading = weights;
  loading.host = s.given_model ? 2 * width * parameters : 0;
  MemoryPart embedding = steps;
  embedding.host = (kDouble + width) * table;
  const double all = d(s.inputs) * of_input;
  const MemoryPart inputs = {"the inputs", s.given_inputs ? kInput : "--inputs or --length",
                             width * all, 0, 0};
  MemoryPart reading = inputs;
  reading.host = s.given_inputs ? (kDouble + width) * all : 0;
  const char* smaller = s.given_inputs  ? kInput
                        : s.given_model ? "--length"
                                        : "--length, --samples-per-set, --dim or --multipliers";
  // The copies of x, and what was asked of each and comes back. Layer by layer, as statistics are
  // held, each activation has a gradient beside it.
  const MemoryPart tape =
      arena_memory("the activations of the Jacobian's rows", smaller,
                   floats * (2 * activations(network, copies * d(s.samples), d(s.length), false) +
                             3 * copies * of_input));
  const double profiles = 2 * d(s.length) * kDouble * (4 + 4 * d(s.norms));
  constexpr double kReport = 400;  // bytes a position: its numbers, and their text
  const MemoryPart rows = {
      "the Jacobian", s.given_inputs ? "--outputs" : "--outputs or --length", 0, 0,
      kDouble * d(s.rows) * of_input + (2 * kDouble + 2 * width) * copies * of_input + profiles +
          kReport * d(s.length)};
  MemoryNeed all_phases = {
      {loading, embedding}, {weights, steps, reading}, {weights, steps, inputs, tape, rows}};
  if (s.longest > 0) {
    constexpr double kAnswers = 8;  // arrays of the host
    const double values = d(s.longest) * d(s.channels);
    MemoryPart answers = arena_memory("the activations of the answer to all of the input", smaller,
                                      floats * activations(network, 1, d(s.longest), false));
    answers.host = kAnswers * kDouble * values;
    all_phases.push_back({weights, steps, inputs, answers});
  }
  return all_phases;
}

}  // namespace

MemoryNeed memory_of(const LocalizerConfig& network, const LeakSize& size) {
  return need(network, parameters_of(network), 0, size);
}

MemoryNeed memory_of(const TemporalUnetConfig& network, const LeakSize& size) {
  return need(network, unet_size(network, d(size.length)).parameters,
              d(network.steps) * d(network.dim), size);
}

MemoryNeed memory_of(const Network& network, const LeakSize& size) {
  const auto* unet = dynamic_cast<const TemporalUnet*>(&network);
  return unet ? memory_of(unet->config(), size)
              : memory_of(dynamic_cast<const Localizer&>(network).config(), size);
}

}  // namespace sidechannel::experiments
