#include "experiments/leak/measure.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "engine/finite.h"
#include "engine/io/npy.h"
#include "engine/jacobian.h"
#include "models/frozen_statistics.h"

namespace sidechannel::experiments {
namespace {

// Of a mass, in absolute values and in squares, the part that lies in one place.
class Share {
 public:
  void add(double value, bool there) {
    const double of[] = {std::abs(value), value * value};
    for (int i = 0; i < 2; ++i) {
      all_[i] += of[i];
      if (there) part_[i] += of[i];
    }
  }
  double l1() const { return all_[0] > 0 ? part_[0] / all_[0] : 0; }
  double squared() const { return all_[1] > 0 ? part_[1] / all_[1] : 0; }
  double all_squared() const { return all_[1]; }
  Json json() const { return {{"l1", l1()}, {"squared", squared()}}; }

 private:
  double part_[2] = {}, all_[2] = {};
};

// The shape of what the network answers to x. Error with what of its pass was first NaN or
// infinite: derivatives may well be 0 there, or finite.
Shape checked_pass(const Network& network, const Tensor& x) {
  Tape tape(x.device(), x.dtype());
  const NoGrad no_grad(tape);
  Shape shape;
  const std::string first = first_not_finite(tape, {&network.parameters()}, [&] {
    shape = network(tape.constant(x), Statistics::kMinibatch).shape();
  });
  SC_CHECK(first.empty(), "{}: {}", network.words(), first);
  return shape;
}

// Which statistics of a norm are held.
struct Held {
  bool mean, variance;
};
constexpr Held kLive = {false, false}, kHeld = {true, true};
constexpr Held kVarianceHeld = {false, true}, kMeanHeld = {true, false};

// The Jacobian with some of the statistics held, summed over inputs.
struct Reading {
  std::vector<Held> held;  // by norm
  Share outside = {}, future = {};
  double difference = 0;  // |J - J_frozen|^2
  std::vector<double> profile = {};
};

// The readings of a report.
struct Readings {
  Reading frozen, live, mean, variance;
  struct Layer {
    Reading without, alone, mean, variance;
  };
  std::vector<Layer> layers;

  // A norm of each position alone carries nothing and is never held: what it does is the layer's.
  Readings(const std::vector<Network::Norm>& norms, bool by_layer) {
    const auto but = [&](Reading reading, std::size_t norm, Held held) {
      reading.held[norm] = norms[norm].options.positions_per_set == 0 ? held : kLive;
      return reading;
    };
    const auto all = [&](Held held) {
      Reading reading{std::vector<Held>(norms.size(), kLive)};
      for (std::size_t i = 0; i < norms.size(); ++i) reading = but(reading, i, held);
      return reading;
    };
    frozen = all(kHeld);
    live = all(kLive);
    mean = all(kVarianceHeld);
    variance = all(kMeanHeld);
    for (std::size_t i = 0; by_layer && i < norms.size(); ++i) {
      layers.push_back({but(live, i, kHeld), but(frozen, i, kLive), but(frozen, i, kVarianceHeld),
                        but(frozen, i, kMeanHeld)});
    }
  }
  // All but the frozen one.
  template <class F>
  void each(const F& f) {
    for (Reading* reading : {&live, &mean, &variance}) f(*reading);
    for (Layer& layer : layers) {
      for (Reading* reading : {&layer.without, &layer.alone, &layer.mean, &layer.variance}) {
        f(*reading);
      }
    }
  }
};

class Meter {
 public:
  Meter(const Network& network, const LeakOptions& options, std::int64_t length)
      : network_(network),
        asked_(options.asked),
        field_(network.receptive_field(length)),
        ahead_((length - field_.length()) / 2),
        readings_(network.norms(), options.layers) {
    for (const std::int64_t position : asked_) {
      SC_CHECK(position >= 0 && position < field_.length(),
               "leak: no position {} in an output of {}", position, field_.length());
    }
  }

  void add(const Tensor& x) {
    output_ = checked_pass(network_, x);
    SC_CHECK(output_[1] == field_.length(), "leak: an output of {}, where its field is of {}",
             output_.str(), field_.length());
    std::vector<std::vector<double>> frozen;
    const auto keep = [&](std::size_t, std::span<const double> row) {
      frozen.emplace_back(row.begin(), row.end());
    };
    read(x, readings_.frozen, keep);
    readings_.each([&](Reading& reading) {
      read(x, reading, [&](std::size_t row, std::span<const double> values) {
        for (std::size_t i = 0; i < values.size(); ++i) {
          const double d = values[i] - frozen[row][i];
          reading.difference += d * d;
        }
      });
    });
  }

  const Readings& readings() const { return readings_; }
  const ReceptiveField& field() const { return field_; }
  const Shape& output() const { return output_; }
  // Where an output position stands in the input.
  std::int64_t place_of(std::int64_t position) const { return position + ahead_; }

 private:
  using Visit = std::function<void(std::size_t row, std::span<const double> values)>;

  void read(const Tensor& x, Reading& reading, const Visit& visit) {
    const std::int64_t length = x.shape()[1], channels = x.shape()[2];
    reading.profile.resize(static_cast<std::size_t>(2 * length - 1));
    std::vector<std::int64_t> outputs;
    for (const std::int64_t position : asked_) {
      for (std::int64_t c = 0; c < output_[2]; ++c) outputs.push_back(position * output_[2] + c);
    }
    const auto answer = [&](const Var& copies) {
      NormHook hook;
      for (const Held& held : reading.held) {
        hook.layers.push_back({.through_mean = !held.mean, .through_variance = !held.variance});
      }
      return network_(copies, Statistics::kMinibatch, nullptr, &hook);
    };
    jacobian_rows(x, answer, outputs, [&](std::size_t row, std::span<const double> values) {
      const std::int64_t position = outputs[row] / output_[2], place = place_of(position);
      for (const double value : values) {
        SC_CHECK(std::isfinite(value * value), "{}: a derivative of output position {} is {:.3g}",
                 network_.words(), position, value);
      }
      for (std::size_t i = 0; i < values.size(); ++i) {
        const auto at = static_cast<std::int64_t>(i) / channels;
        const std::int64_t sample = at / length, input = at % length;
        const bool mine = sample == 0;
        reading.outside.add(values[i], !mine || !field_.holds(position, input));
        reading.future.add(values[i], mine && input > place);
        if (mine) {
          reading.profile[static_cast<std::size_t>(place - input + length - 1)] +=
              std::abs(values[i]);
        }
      }
      visit(row, values);
    });
  }

  const Network& network_;
  std::vector<std::int64_t> asked_;
  ReceptiveField field_;
  std::int64_t ahead_;  // positions of the input before the first of the output
  Shape output_;
  Readings readings_;
};

// [N, L, C] as PyTorch says it.
Json shape_of(const Shape& shape) {
  return {shape[0], shape[2], shape[1]};
}

// The mean of |J| over the pairs that lie so far apart, from the first distance on.
Json profile_of(const Meter& meter, const LeakOptions& options, const Reading& reading,
                std::int64_t length, double inputs, std::int64_t channels) {
  std::vector<double> pairs(reading.profile.size());
  for (const std::int64_t position : options.asked) {
    for (std::int64_t input = 0; input < length; ++input) {
      pairs[static_cast<std::size_t>(meter.place_of(position) - input + length - 1)] += 1;
    }
  }
  Json profile = Json::array();
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    const double all = pairs[i] * inputs * static_cast<double>(channels);
    profile.push_back(all > 0 ? Json(reading.profile[i] / all) : Json());
  }
  return profile;
}

// a - b in terms of a's deviation, where it has one.
double distance(std::span<const double> a, std::span<const double> b) {
  double mean = 0, deviation = 0, difference = 0;
  for (const double value : a) mean += value / static_cast<double>(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    deviation += (a[i] - mean) * (a[i] - mean);
    difference += (a[i] - b[i]) * (a[i] - b[i]);
  }
  return std::sqrt(deviation > 0 ? difference / deviation : difference);
}

// The network's answer to values [L, C] as one sequence, by its own statistics or by these.
std::vector<double> answer(const Network& network, const Tensor& like,
                           std::span<const double> values,
                           const std::vector<NormHook::Layer>& held) {
  const std::int64_t channels = like.shape()[2];
  const HostArray array =
      HostArray::from(values, {1, static_cast<std::int64_t>(values.size()) / channels, channels});
  NormHook hook{.layers = held};
  Tape tape(like.device(), like.dtype());
  const NoGrad no_grad(tape);
  const Var x = tape.constant(Tensor::from(like.device(), converted(array, like.dtype())));
  const Var y = network(x, Statistics::kMinibatch, nullptr, &hook);
  const HostArray answered = converted(y.value().to_host(), DType::kF64);
  const std::string wrong = first_not_finite(answered);
  SC_CHECK(wrong.empty(), "{}: the answer is {}", network.words(), wrong);
  return {answered.as<double>().begin(), answered.as<double>().end()};
}

// The differences between the answers to all of x, to its parts with x's statistics, and to the
// parts with their own. `in_parts` answers x's values with these statistics, part by part.
Json compare(
    const Network& network, const Tensor& x,
    const std::function<std::vector<double>(std::span<const double> values,
                                            const std::vector<NormHook::Layer>& held)>& in_parts) {
  SC_CHECK(x.shape().rank() == 3 && x.shape()[0] == 1, "leak: expected one sequence, got {}",
           x.shape().str());
  const HostArray array = converted(x.to_host(), DType::kF64);
  const auto values = array.as<double>();
  const std::vector<double> whole = answer(network, x, values, {});
  const std::vector<double> held = in_parts(values, statistics_of(network, x));
  const std::vector<double> own = in_parts(values, {});
  SC_CHECK(own.size() == whole.size(),
           "leak: a network whose output is shorter than its input "
           "cannot be compared in parts");
  return {{"total", distance(whole, own)},
          {"norm", distance(held, own)},
          {"padding", distance(whole, held)}};
}

void require_multiple(const Network& network, const char* what, std::int64_t value) {
  require(value % network.stride() == 0,
          fmt::format("{} {}: expected a multiple of {}, the network's stride", what, value,
                      network.stride()));
}

}  // namespace

Json measure_leak(const Network& network, std::span<const Tensor> inputs,
                  const LeakOptions& options) {
  SC_CHECK(!inputs.empty(), "leak: no input");
  const Tensor& first = inputs.front();
  const std::int64_t length = first.shape()[1];
  Meter meter(network, options, length);
  for (const Tensor& x : inputs) meter.add(x);

  const Readings& r = meter.readings();
  const double all = r.live.outside.all_squared();
  const auto against = [&](double difference) { return all > 0 ? difference / all : 0; };
  std::int64_t inside = 0;
  for (const std::int64_t position : options.asked) {
    for (std::int64_t i = 0; i < length; ++i) inside += meter.field().holds(position, i);
  }
  const Network::Reach reach = network.reach();
  Json layers = Json::array();
  const std::vector<Network::Norm> norms = network.norms();
  for (std::size_t i = 0; i < r.layers.size(); ++i) {
    const Readings::Layer& layer = r.layers[i];
    layers.push_back({{"name", norms[i].name},
                      {"kind", name_of(norms[i].kind)},
                      {"without", layer.without.outside.json()},
                      {"alone", layer.alone.outside.json()},
                      {"mean", layer.mean.outside.json()},
                      {"variance", layer.variance.outside.json()},
                      {"difference", against(layer.alone.difference)}});
    if (options.causal) layers.back()["future"] = layer.alone.future.json();
  }
  const auto profile = [&](const Reading& reading) {
    return profile_of(meter, options, reading, length, static_cast<double>(inputs.size()),
                      meter.output()[2] * first.shape()[2]);
  };
  return {{"schema", 1},
          {"network", network.words()},
          {"input", shape_of(first.shape())},
          {"output", shape_of(meter.output())},
          {"dtype", std::string(name_of(first.dtype()))},
          {"inputs", inputs.size()},
          {"asked", options.asked},
          {"receptive_field",
           {{"left", {reach.left}},
            {"right", {reach.right}},
            {"inside", static_cast<double>(inside) /
                           static_cast<double>(std::ssize(options.asked) * length)}}},
          {"live", r.live.outside.json()},
          {"frozen", r.frozen.outside.json()},
          {"mean", r.mean.outside.json()},
          {"variance", r.variance.outside.json()},
          {"difference", against(r.live.difference)},
          {"future", {{"live", r.live.future.json()}, {"frozen", r.frozen.future.json()}}},
          {"layers", layers},
          {"profile",
           {{"first", 1 - length}, {"live", profile(r.live)}, {"frozen", profile(r.frozen)}}},
          {"leaks", (options.causal ? r.live.future : r.live.outside).l1() > 0}};
}

Device without_shortcuts(const Device& device) {
  return device.is_cuda() ? device
                          : Device::cpu(device.cpu_queue().threads(), ConvGradients::kDirect);
}

std::vector<std::int64_t> evenly_spaced(std::int64_t positions, std::int64_t count) {
  std::vector<std::int64_t> all;
  count = std::min(count, positions);
  for (std::int64_t i = 0; i < count; ++i) all.push_back((2 * i + 1) * positions / (2 * count));
  return all;
}

Json measure_tiles(const Network& network, const Tensor& x, std::int64_t tile, std::int64_t halo) {
  require(tile >= 1 && halo >= 0,
          fmt::format("tile {}, halo {}: expected 1 and 0 at least", tile, halo));
  require_multiple(network, "tile", tile);
  require_multiple(network, "halo", halo);
  const std::int64_t length = x.shape()[1], channels = x.shape()[2];
  Json result = {{"tile", tile}, {"halo", halo}};
  result.update(compare(network, x, [&](std::span<const double> values, const auto& statistics) {
    std::vector<double> all;
    for (std::int64_t begin = 0; begin < length; begin += tile) {
      const std::int64_t end = std::min(begin + tile, length);
      const std::int64_t from = std::max<std::int64_t>(begin - halo, 0);
      const std::int64_t to = std::min(end + halo, length);
      const std::vector<double> y =
          answer(network, x,
                 values.subspan(static_cast<std::size_t>(from * channels),
                                static_cast<std::size_t>((to - from) * channels)),
                 statistics);
      const std::int64_t width = std::ssize(y) / (to - from);  // channels of the output
      all.insert(all.end(), y.begin() + (begin - from) * width, y.begin() + (end - from) * width);
    }
    return all;
  }));
  return result;
}

Json measure_padding(const Network& network, const Tensor& x, std::int64_t zeros) {
  require(zeros >= 0, fmt::format("pad {}: expected 0 at least", zeros));
  require_multiple(network, "pad", zeros);
  const std::int64_t length = x.shape()[1], channels = x.shape()[2];
  Json result = {{"pad", zeros}};
  result.update(compare(network, x, [&](std::span<const double> values, const auto& statistics) {
    std::vector<double> padded(values.size() + static_cast<std::size_t>(zeros * channels));
    std::ranges::copy(values, padded.begin());
    std::vector<double> y = answer(network, x, padded, statistics);
    const std::int64_t kept = std::ssize(y) / (length + zeros) * length;
    y.erase(y.begin() + kept, y.end());
    return y;
  }));
  return result;
}

}  // namespace sidechannel::experiments
