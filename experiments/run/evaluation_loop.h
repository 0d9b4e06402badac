#pragma once

#include <span>
#include <string>
#include <vector>

#include "engine/finite.h"
#include "engine/moments.h"
#include "engine/ops.h"
#include "engine/replay.h"
#include "experiments/run/phase.h"

namespace sidechannel::experiments {

// The loop of an evaluation: frozen networks answer fresh samples, batch by batch, and the moments
// of their answers are streamed. An answer that is not finite ends it with an Error that says where
// it came from: nothing of it is counted.
class EvaluationLoop : public Phase {
 protected:
  struct Plan {
    std::int64_t samples;
    std::int64_t batch;
    std::int64_t looked;                       // tensors of a batch that are looked at
    std::vector<const ParameterList*> frozen;  // parameters of the networks
  };
  EvaluationLoop(const RunSettings& settings, RunFolder& folder, std::string name,
                 std::string state_file, Plan plan);

  const Device& device() const { return tape_.device(); }
  // The moments of answers [samples, size]; states have them under `name`.
  void add_moments(std::string name, std::int64_t size);
  StreamingMoments& moments(std::size_t index) { return moments_[index]; }
  std::span<StreamingMoments> moments(std::size_t first, std::size_t count) {
    return std::span(moments_).subspan(first, count);
  }
  const StreamingMoments& moments(std::size_t index) const { return moments_[index]; }

 private:
  // Answers `count` samples that are drawn where `random` stands, adds the answers to moments(),
  // and looks at what must be finite.
  virtual void answer(Tape& tape, const Random& random, std::int64_t count,
                      FiniteCheck& finite) = 0;
  // After a batch: what of it is kept on the host. `first` is its first sample.
  virtual void keep(std::int64_t /*first*/) {}
  virtual void save_kept(TensorMap& /*tensors*/) const {}
  virtual void load_kept(const TensorMap& /*tensors*/, const std::string& /*source*/) {}
  // The message about batch `batch`, in which `what` was the first that was not finite.
  virtual std::string failure(std::int64_t batch, const std::string& what) const = 0;

  void step(std::int64_t step) final;
  void save(SafetensorsFile& state) final;
  void load(const SafetensorsFile& state, const std::string& source, std::int64_t step) final;
  void add(std::int64_t count);

  Plan plan_;
  Tape tape_;
  Random random_;
  FiniteCheck finite_;  // of the last batch
  Replay replay_;
  std::vector<std::string> names_;
  std::vector<StreamingMoments> moments_;
};

}  // namespace sidechannel::experiments
