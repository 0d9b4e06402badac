#include "experiments/localization/probing.h"

#include <cmath>
#include <optional>

#include "engine/finite.h"
#include "engine/io/npy.h"
#include "engine/moments.h"
#include "engine/optim/adam.h"
#include "engine/replay.h"
#include "experiments/localization/input.h"
#include "experiments/localization/training.h"
#include "experiments/localization/welch.h"

namespace sidechannel::experiments {
namespace {

constexpr std::int64_t kMapBatch = 32;           // sequences in one forward pass of the map
constexpr std::int64_t kSamplePredictions = 32;  // predictions kept for the figure

class ProbeTraining {
 public:
  ProbeTraining(const LocalizationSettings& settings, const Localizer& network, Probes& probes,
                RunFolder& folder)
      : settings_(settings),
        network_(network),
        probes_(probes),
        folder_(folder),
        device_(probes.parameters().device()),
        tape_(device_),
        random_(device_, static_cast<std::uint64_t>(settings.seed)),
        input_(device_, input_from(settings.input), settings.probe_batch, settings.length,
               kProbeNoise),
        adam_(probes.parameters(), {settings.probe_rate()}),
        target_(Tensor::from(device_, target_positions(settings.length))),
        losses_(device_, DType::kF32, {1, static_cast<std::int64_t>(probes.size())}),
        window_(device_, losses_.size()),
        replay_(device_) {}

  double run() {
    Phase phase(settings_, "probe", "probes_checkpoint.safetensors", "it",
                settings_.probe_iterations);
    phase.save = [this](SafetensorsFile& state) {
      look();
      probes_.parameters().save(state.tensors);
      adam_.save(state.tensors, "adam");
      window_.save(state.tensors, "window");
    };
    phase.load = [this](const SafetensorsFile& state, const std::string& source,
                        std::int64_t step) {
      probes_.parameters().load(state.tensors, source, LoadUnknown::kIgnore);
      adam_.load(state.tensors, source, "adam", step, step);
      window_.load(state.tensors, source, "window",
                   steps_since_line(step, settings_.probe_iterations, settings_.log_every));
      random_.seek(static_cast<std::uint32_t>(step));
    };
    phase.step = [this](std::int64_t step) { do_step(step); };
    phase.details = [this] {
      look();
      if (probes_.size() == 0) return std::string("no hidden layers");
      const std::vector<double> losses = window_.count() > 0 ? mean_losses() : shown_;
      return fmt::format("loss {} at the first layer, {} at the last",
                         number_text(losses.front(), 4), number_text(losses.back(), 4));
    };
    return run_phase(folder_, phase);
  }

 private:
  std::vector<double> mean_losses() const {
    const HostArray means = window_.mean();
    const auto values = means.as<double>();
    return {values.begin(), values.end()};
  }

  // Whether all steps so far could be made: asked before anything of them is shown or kept.
  void look() {
    const AdamState adam = adam_.state();
    if (adam.halted == 0) return;
    random_.seek(static_cast<std::uint32_t>(adam.steps));
    const std::string what = first_not_finite(
        tape_, {&network_.parameters(), &probes_.parameters()}, [this] { run_step(); });
    throw Error(fmt::format("probe step {}: gradient norm {}{}; stopped before the update",
                            adam.steps, number_text(std::abs(adam.gradient_norm()), 5),
                            what.empty() ? ", whose square is beyond f32" : "; first " + what));
  }

  // What repeats itself (see Replay).
  void run_step() {
    tape_.reset();
    std::vector<Var> hidden;
    {
      const NoGrad frozen(tape_);
      const Var x = input_(tape_, random_, settings_.probe_batch);
      network_(x, settings_.evaluation_statistics(), &hidden);
    }
    const Tape::Mark mark = tape_.mark();
    for (std::size_t probe = 0; probe < probes_.size(); ++probe) {
      const Var loss = mse(probes_[probe](probes_.input(probe, hidden)), target_);
      tape_.backward(loss);
      losses_.slice(static_cast<std::int64_t>(probe), 1).copy_from(loss.value());
      tape_.rewind(mark);
    }
    adam_.step();
    window_.add(losses_, adam_.halted_flag());
    random_.advance(1);
  }

  void do_step(std::int64_t step) {
    replay_([this] { run_step(); });
    const std::int64_t done = step + 1;
    if (done % settings_.log_every != 0 && done != settings_.probe_iterations) return;
    look();
    shown_ = mean_losses();
    Json line;
    line["phase"] = "probe";
    line["step"] = done;
    line["losses"] = shown_;
    folder_.log(line);
    window_.clear();
  }

  const LocalizationSettings& settings_;
  const Localizer& network_;
  Probes& probes_;
  RunFolder& folder_;
  Device device_;
  Tape tape_;
  Random random_;
  InputSource input_;
  Adam adam_;
  Tensor target_;
  Tensor losses_;            // of the last step, [1, probes]
  StreamingMoments window_;  // their averages since the last line of metrics.jsonl
  Replay replay_;
  std::vector<double> shown_;  // the averages in that line
};

// Streams the moments of every layer's predictions.
class Map {
 public:
  Map(const LocalizationSettings& settings, const Localizer& network, Probes& probes,
      RunFolder& folder)
      : settings_(settings),
        network_(network),
        probes_(probes),
        folder_(folder),
        device_(probes.parameters().device()),
        tape_(device_),
        random_(device_, static_cast<std::uint64_t>(settings.seed)),
        finite_(device_, settings.depth + static_cast<std::int64_t>(probes.size())),
        replay_(device_) {
    const LocalizerConfig config = settings.network();
    const std::int64_t per_set = config.norm == NormKind::kBatch ? config.samples_per_set : 1;
    batch_ = (kMapBatch + per_set - 1) / per_set * per_set;
    input_.emplace(device_, input_from(settings.input), batch_, settings.length, kEvaluationNoise);
    kept_ = std::min(kSamplePredictions, settings.map_samples);
    samples_ = HostArray(DType::kF32, {kept_, settings.length});
    layers_ = settings.probed_layers();
    layers_.push_back(config.depth);
    for (std::size_t row = 0; row < layers_.size(); ++row) {
      moments_.emplace_back(device_, settings.length);
    }
  }

  double run() {
    Phase phase(settings_, "map", "map_checkpoint.safetensors", "batches",
                (settings_.map_samples + batch_ - 1) / batch_);
    phase.save = [this](SafetensorsFile& state) {
      state.tensors["samples"] = samples_;
      for (std::size_t row = 0; row < moments_.size(); ++row) {
        moments_[row].save(state.tensors, fmt::format("layers.{}", layers_[row]));
      }
    };
    phase.load = [this](const SafetensorsFile& state, const std::string& source,
                        std::int64_t step) {
      samples_ =
          tensor_in(state.tensors, source, "samples", DType::kF32, {kept_, settings_.length});
      const std::int64_t count = std::min(step * batch_, settings_.map_samples);
      for (std::size_t row = 0; row < moments_.size(); ++row) {
        moments_[row].load(state.tensors, source, fmt::format("layers.{}", layers_[row]), count);
      }
      random_.seek(0, static_cast<std::uint32_t>(count));
    };
    phase.step = [this](std::int64_t step) { do_step(step); };
    phase.details = [this] { return fmt::format("{} sequences", moments_.back().count()); };
    const double seconds = run_phase(folder_, phase);
    write();
    return seconds;
  }

 private:
  void do_step(std::int64_t step) {
    const std::int64_t count = count_of(step);
    if (count == batch_) {
      replay_([this] { add(batch_); });
    } else {
      add(count);  // the last batch, a smaller one, is not a repetition
    }
    look(step);
    if (step * batch_ < kept_) keep(step * batch_, predictions_.to_host());
  }

  // Sequences in a batch.
  std::int64_t count_of(std::int64_t step) const {
    return std::min(batch_, settings_.map_samples - step * batch_);
  }

  // Error, where a layer's activations or predictions are not finite: nothing of them is to be
  // counted. What the output does not show counts too: a ReLU makes 0 of an infinity.
  void look(std::int64_t step) {
    if (finite_.finite()) return;
    random_.seek(0, static_cast<std::uint32_t>(step * batch_));
    throw Error(fmt::format("map, batch {}: {}; nothing is mapped", step,
                            first_not_finite(tape_, {&network_.parameters(), &probes_.parameters()},
                                             [&] { add(count_of(step)); })));
  }

  void add(std::int64_t count) {
    tape_.reset();
    const NoGrad frozen(tape_);
    std::vector<Var> hidden;
    const Var x = (*input_)(tape_, random_, count);
    const Var y = network_(x, settings_.evaluation_statistics(), &hidden);
    predictions_ = y.value();
    moments_.back().add(predictions_);
    std::int64_t looked = 0;
    for (const Var& z : hidden) finite_.look(looked++, z.value());
    finite_.look(looked++, predictions_);
    const Tape::Mark mark = tape_.mark();
    for (std::size_t probe = 0; probe < probes_.size(); ++probe) {
      const Var answers = probes_[probe](probes_.input(probe, hidden));
      moments_[probe].add(answers.value());
      finite_.look(looked++, answers.value());
      tape_.rewind(mark);
    }
    random_.advance(0, static_cast<std::uint32_t>(count));
  }

  void keep(std::int64_t first, const HostArray& predictions) {
    const auto from = predictions.as<float>();
    const auto to =
        samples_.as<float>().subspan(static_cast<std::size_t>(first * settings_.length));
    std::copy_n(from.begin(), std::min(from.size(), to.size()), to.begin());
  }

  void write() {
    const auto rows = static_cast<std::int64_t>(moments_.size());
    const Shape shape{rows, settings_.length};
    HostArray mean(DType::kF64, shape);
    HostArray variance(DType::kF64, shape);
    HostArray p_max(DType::kF64, shape);
    HostArray localized(DType::kBool, shape);
    for (std::size_t row = 0; row < moments_.size(); ++row) {
      const HostArray row_mean = moments_[row].mean();
      const HostArray row_variance = moments_[row].variance();
      std::vector<SampleMoments> indices;
      for (std::int64_t i = 0; i < settings_.length; ++i) {
        const auto at = static_cast<std::size_t>(i);
        indices.push_back({row_mean.as<double>()[at], row_variance.as<double>()[at],
                           static_cast<double>(moments_[row].count())});
      }
      const std::vector<double> p = largest_p_values(indices);
      for (std::size_t i = 0; i < p.size(); ++i) {
        const std::size_t at = row * p.size() + i;
        mean.as<double>()[at] = indices[i].mean;
        variance.as<double>()[at] = indices[i].variance;
        p_max.as<double>()[at] = p[i];
        localized.as<bool>()[at] = p[i] < settings_.p_threshold;
      }
    }
    write_npy(folder_.file("layer_mean.npy"), mean);
    write_npy(folder_.file("layer_variance.npy"), variance);
    write_npy(folder_.file("p_max.npy"), p_max);
    write_npy(folder_.file("predictions_mean.npy"), moments_.back().mean());
    write_npy(folder_.file("predictions_sample.npy"), samples_);
    write_npy(folder_.file("localized.npy"), localized);
  }

  const LocalizationSettings& settings_;
  const Localizer& network_;
  Probes& probes_;
  RunFolder& folder_;
  Device device_;
  Tape tape_;
  Random random_;
  std::optional<InputSource> input_;
  FiniteCheck finite_;  // of the last batch: z(1) .. z(d-1), the output, the probes' answers
  Replay replay_;
  Tensor predictions_;  // the network's, of the last batch
  std::int64_t batch_ = 0;
  std::int64_t kept_ = 0;
  HostArray samples_;                      // the first predictions, [kept_, length]
  std::vector<std::int64_t> layers_;       // i of each row: the probed z(i), then d, the output
  std::vector<StreamingMoments> moments_;  // of each row's predictions
};

// The share of true values in row `row`, indices [begin, end).
double fraction(const HostArray& localized, std::int64_t row, std::int64_t begin,
                std::int64_t end) {
  const std::int64_t length = localized.shape[1];
  std::int64_t count = 0;
  for (std::int64_t i = begin; i < end; ++i) {
    count += localized.as<bool>()[static_cast<std::size_t>(row * length + i)] ? 1 : 0;
  }
  return static_cast<double>(count) / static_cast<double>(end - begin);
}

// Appendix D's, in row `row`: the largest distance such that every index up to it, from both edges,
// is localized. Misses in the noisy zone around R count as misses.
std::int64_t localization_distance(const HostArray& localized, std::int64_t row) {
  const std::int64_t length = localized.shape[1];
  const bool* is = &localized.as<bool>()[static_cast<std::size_t>(row * length)];
  std::int64_t distance = 0;
  while (distance < (length + 1) / 2 && is[distance] && is[length - 1 - distance]) ++distance;
  return distance;
}

}  // namespace

Probes::Probes(const LocalizationSettings& settings, const Device& device)
    : parameters_(std::make_unique<ParameterList>(
          device, DType::kF32, static_cast<std::uint64_t>(settings.seed), kProbeWeights)) {
  layers_ = settings.probed_layers();
  for (const std::int64_t layer : layers_) {
    probes_.emplace_back(*parameters_, fmt::format("layers.{}", layer), settings.channels,
                         settings.probe_width);
  }
}

double train_probes(const LocalizationSettings& settings, const Localizer& network, Probes& probes,
                    RunFolder& folder) {
  const double seconds = ProbeTraining(settings, network, probes, folder).run();
  SafetensorsFile file;
  probes.parameters().save(file.tensors);
  file.metadata["format"] = "pt";
  write_safetensors(folder.file("probes.safetensors"), file);  // whatever lies there
  return seconds;
}

double make_map(const LocalizationSettings& settings, const Localizer& network, Probes& probes,
                RunFolder& folder) {
  return Map(settings, network, probes, folder).run();
}

Json summarize(const LocalizationSettings& settings, RunFolder& folder, double seconds) {
  const HostArray localized = read_npy(folder.file("localized.npy"));
  const HostArray mean = read_npy(folder.file("predictions_mean.npy"));
  const HostArray variance = read_npy(folder.file("layer_variance.npy"));
  const LocalizerConfig config = settings.network();
  const std::int64_t length = settings.length;
  const std::int64_t radius = config.receptive_field();
  const auto target = target_positions(length);
  std::vector<std::int64_t> rows = settings.probed_layers();  // the layer of each row
  const auto output = static_cast<std::int64_t>(rows.size());
  rows.push_back(config.depth);

  // E (f - y)^2 = (E f - y)^2 + Var f, averaged over the positions.
  double loss = 0;
  double spread = 0;
  for (std::int64_t i = 0; i < length; ++i) {
    const auto at = static_cast<std::size_t>(i);
    const double v = variance.as<double>()[static_cast<std::size_t>(output * length + i)];
    const double bias = mean.as<double>()[at] - static_cast<double>(target.as<float>()[at]);
    loss += bias * bias + v;
    spread += std::sqrt(v);
  }
  const double slope = interior_slope(mean, radius);
  Json layers = Json::array();
  Json interior = Json::array();
  Json outside_cone = Json::array();
  Json distances = Json::array();
  for (std::int64_t row = 0; row <= output; ++row) {
    const std::int64_t cone = config.receptive_field(rows[static_cast<std::size_t>(row)]);
    layers.push_back(fraction(localized, row, 0, length));
    interior.push_back(length > 2 * radius ? Json(fraction(localized, row, radius, length - radius))
                                           : Json());
    outside_cone.push_back(length > 2 * cone ? Json(fraction(localized, row, cone, length - cone))
                                             : Json());
    distances.push_back(localization_distance(localized, row));
  }

  Json json;
  json["norm"] = settings.norm;
  json["input"] = settings.input;
  json["length"] = length;
  json["depth"] = config.depth;
  json["channels"] = config.channels;
  json["receptive_field"] = radius;
  json["seed"] = settings.seed;
  json["eval_statistics"] = settings.eval_statistics;
  json["final_loss"] = loss / static_cast<double>(length);
  json["interior_slope"] = std::isfinite(slope) ? Json(slope) : Json();
  json["output_std"] = spread / static_cast<double>(length);
  json["localized_fraction"] = layers;
  json["interior_localized_fraction"] = interior;
  json["outside_cone_localized_fraction"] = outside_cone;
  json["localization_distance"] = distances.back();
  json["layers"] = rows;  // of the lists' entries; the last is the output
  json["localization_distances"] = distances;
  json["samples"] = settings.map_samples;
  json["seconds"] = std::round(seconds * 1000) / 1000;
  return json;
}

}  // namespace sidechannel::experiments
