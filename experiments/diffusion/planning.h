#pragma once

#include <memory>

#include "engine/optim/ema.h"
#include "experiments/diffusion/settings.h"
#include "experiments/run/training_step.h"
#include "models/noise_schedule.h"

namespace sidechannel::experiments {

// A diffusion's schedule where the network is, for its tables to be read by the steps of samples.
class NoiseTables {
 public:
  NoiseTables(const Device& device, const NoiseSchedule& schedule);

  // x_t of each sample, at its own step [N], from x_0 and noise, [N, L, C] both; where `held`
  // [L, C] is not 0 it stays x_0.
  Var noised(const Var& start, const Var& noise, const Var& steps, const Tensor& held) const;

 private:
  Tensor signal_, noise_;  // [T]
};

// A step of training a temporal U-Net as a planner (Janner et al. 2022): windows of walks are
// noised, each to a step of its own, but for their first and last positions; the network is taught
// to answer what they were. Loss: the mean squared error over what was noised.
class DiffusionStep : public TrainingStep {
 public:
  DiffusionStep(const DiffusionSettings& settings, TemporalUnet& network,
                const Corridors& corridors);

  // The average of the weights, for `done` steps that have been made.
  void average(std::int64_t done);
  const Ema& ema() const { return ema_; }

  std::vector<double> measures() const override;
  Json line(const std::vector<double>& measures, const AdamState& adam) const override;
  std::string words(const std::vector<double>& measures) const override;

 private:
  void compute(Tape& tape, const Random& random, Adam& adam) override;
  void save_more(TensorMap& tensors) const override { ema_.save(tensors, "ema"); }
  void load_more(const TensorMap& tensors, const std::string& source) override {
    ema_.load(tensors, source, "ema");
  }

  const DiffusionSettings& settings_;
  TemporalUnet& network_;
  NoiseTables tables_;
  Tensor walks_;    // [walks, length, 2]
  Tensor windows_;  // [count], those that may be seen
  Tensor held_;     // [horizon, 2]
  Tensor weights_;  // the same, of the loss
  Ema ema_;
  StreamingMoments losses_;
};

// [horizon, 2], 1 at the positions that a plan is given: its first and its last.
HostArray held_positions(std::int64_t horizon);

// Plans between ends that are given, ends [N, 4]: x and y of the start and of the goal. As Janner
// et al. sample: from noise, the ends overwritten before each answer of the network and after it.
// [N, horizon, 2].
HostArray sample_plans(const TemporalUnet& network, const NoiseSchedule& schedule,
                       const HostArray& ends, std::int64_t horizon, Statistics statistics,
                       std::uint64_t seed);

}  // namespace sidechannel::experiments
