#include "models/frozen_statistics.h"

#include "engine/io/npy.h"

namespace sidechannel {

std::vector<FixedStatistics> statistics_of(const Localizer& network, const Tensor& x) {
  const NormOptions sets = network.config().norm_options();
  SC_CHECK(x.shape()[0] == sets.samples_per_set,
           "frozen statistics: expected the {} sequences of one set, got {}", sets.samples_per_set,
           x.shape()[0]);
  Tape tape(x.device(), x.dtype());
  const NoGrad frozen(tape);
  NormHook hook;
  network(tape.constant(x), Statistics::kMinibatch, nullptr, &hook);
  std::vector<FixedStatistics> all;
  for (const Var& input : hook.inputs) {
    all.emplace_back();
    if (sets.positions_per_set != 0) continue;
    const std::int64_t channels = input.shape()[2], together = sets.channels_per_set;
    const HostArray array = converted(input.value().to_host(), DType::kF64);
    const auto values = array.as<double>();
    HostArray mean(DType::kF64, {channels}), variance(DType::kF64, {channels});
    for (std::int64_t first = 0; first < channels; first += together) {
      // f(value) for all values of a set, summed.
      const auto average = [&](const auto& f) {
        double sum = 0;
        for (std::int64_t row = 0; row < input.size(); row += channels) {
          for (std::int64_t c = first; c < first + together; ++c) {
            sum += f(values[static_cast<std::size_t>(row + c)]);
          }
        }
        const std::int64_t rows = input.size() / channels;
        return sum / static_cast<double>(rows * together);
      };
      const double m = average([](double v) { return v; });
      const double s = average([m](double v) { return (v - m) * (v - m); });
      for (std::int64_t c = first; c < first + together; ++c) {
        mean.as<double>()[static_cast<std::size_t>(c)] = m;
        variance.as<double>()[static_cast<std::size_t>(c)] = s;
      }
    }
    all.back() = {Tensor::from(x.device(), converted(mean, x.dtype())),
                  Tensor::from(x.device(), converted(variance, x.dtype()))};
  }
  return all;
}

}  // namespace sidechannel
