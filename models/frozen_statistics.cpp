#include "models/frozen_statistics.h"

#include "engine/io/npy.h"

namespace sidechannel {
namespace {

FixedStatistics statistics_of(const Tensor& x, const NormOptions& sets) {
  const std::int64_t channels = x.shape()[2], together = sets.channels_per_set;
  const HostArray array = converted(x.to_host(), DType::kF64);
  const auto values = array.as<double>();
  HostArray mean(DType::kF64, {channels}), variance(DType::kF64, {channels});
  for (std::int64_t first = 0; first < channels; first += together) {
    // f(value) for all values of a set, averaged.
    const auto average = [&](const auto& f) {
      double sum = 0;
      for (std::int64_t row = 0; row < x.size(); row += channels) {
        for (std::int64_t c = first; c < first + together; ++c) {
          sum += f(values[static_cast<std::size_t>(row + c)]);
        }
      }
      const std::int64_t rows = x.size() / channels;
      return sum / static_cast<double>(rows * together);
    };
    const double m = sets.centred ? average([](double v) { return v; }) : 0;
    const double s = average([m](double v) { return (v - m) * (v - m); });
    for (std::int64_t c = first; c < first + together; ++c) {
      mean.as<double>()[static_cast<std::size_t>(c)] = m;
      variance.as<double>()[static_cast<std::size_t>(c)] = s;
    }
  }
  return {Tensor::from(x.device(), converted(mean, x.dtype())),
          Tensor::from(x.device(), converted(variance, x.dtype()))};
}

}  // namespace

std::vector<NormHook::Layer> statistics_of(const NormHook& seen) {
  std::vector<NormHook::Layer> all;
  for (std::size_t i = 0; i < seen.inputs.size(); ++i) {
    const Tensor& x = seen.inputs[i].value();
    const NormOptions& sets = seen.sets[i];
    SC_CHECK(x.shape()[0] == sets.samples_per_set,
             "frozen statistics: expected the {} sequences of one set, got {}",
             sets.samples_per_set, x.shape()[0]);
    SC_CHECK(sets.positions_per_set <= 1,
             "frozen statistics: a layer over sets of {} positions has several for a channel",
             sets.positions_per_set);
    all.emplace_back();
    if (sets.positions_per_set == 0) all.back().fixed = statistics_of(x, sets);
  }
  return all;
}

std::vector<NormHook::Layer> statistics_of(const Network& network, const Tensor& x) {
  Tape tape(x.device(), x.dtype());
  const NoGrad frozen(tape);
  NormHook hook;
  network(tape.constant(x), Statistics::kMinibatch, nullptr, &hook);
  return statistics_of(hook);
}

}  // namespace sidechannel
