#include "experiments/localization/probing.h"

#include <algorithm>
#include <cmath>

#include "engine/io/npy.h"
#include "experiments/localization/training.h"
#include "experiments/localization/welch.h"
#include "experiments/run/evaluation_loop.h"
#include "experiments/run/progress.h"
#include "experiments/run/training_loop.h"

namespace sidechannel::experiments {
namespace {

constexpr std::int64_t kMapBatch = 32;           // sequences in one forward pass of the map
constexpr std::int64_t kSamplePredictions = 32;  // predictions kept for the figure

// One forward pass of the frozen network feeds all probes.
class ProbeStep : public TrainingStep {
 public:
  ProbeStep(const LocalizationSettings& settings, const Network& network, Probes& probes)
      : TrainingStep(probes.parameters(), settings.probe_rate(), settings.random_seed(),
                     {&network.parameters()}),
        settings_(settings),
        network_(network),
        probes_(probes),
        input_(probes.parameters().device(), settings.input_options(), settings.probe_batch,
               settings.length, kProbeNoise),
        target_(Tensor::from(probes.parameters().device(), target_positions(settings.length))),
        losses_(target_.device(), DType::kF32, {1, static_cast<std::int64_t>(probes.size())}),
        ones_(target_.device(), DType::kF32, {losses_.size()}),
        window_(target_.device(), losses_.size()) {
    ones_.fill(1);
    set_averages({{"window", &window_, 1}});
  }

  // The probes' losses.
  std::vector<double> measures() const override {
    const HostArray means = window_.mean();
    const auto values = means.as<double>();
    return {values.begin(), values.end()};
  }
  Json line(const std::vector<double>& losses, const AdamState& /*adam*/) const override {
    return Json::object({{"losses", losses}});
  }
  std::string words(const std::vector<double>& losses) const override {
    return fmt::format("loss {} at the first layer, {} at the last", number_text(losses.front(), 4),
                       number_text(losses.back(), 4));
  }

 private:
  void compute(Tape& tape, const Random& random, Adam& adam) override {
    std::vector<Var> hidden;
    {
      const NoGrad frozen(tape);
      const Var x = input_(tape, random, settings_.probe_batch);
      network_(x, settings_.evaluation_statistics(), &hidden);
    }
    const Tape::Mark mark = tape.mark();
    for (std::int64_t first = 0; first < losses_.size();) {
      const Var losses =
          mse_of_each(probes_.answers(static_cast<std::size_t>(first), hidden), target_);
      const std::int64_t count = losses.size();
      tape.backward(losses, ones_.slice(0, count));
      losses_.slice(first, count).copy_from(losses.value());
      tape.rewind(mark);
      first += count;
    }
    adam.step();
    window_.add(losses_, adam.halted_flag());
  }

  const LocalizationSettings& settings_;
  const Network& network_;
  Probes& probes_;
  InputSource input_;
  Tensor target_;
  Tensor losses_;            // of the last step, [1, probes]
  Tensor ones_;              // the gradient of each by itself, [probes]
  StreamingMoments window_;  // of them
};

// Sequences in a batch of the map: whole sets of those that share statistics.
std::int64_t map_batch(const LocalizationSettings& settings) {
  const std::int64_t per_set = settings.samples_of_set();
  return (kMapBatch + per_set - 1) / per_set * per_set;
}

// Streams the moments of every layer's predictions: of the probed z(i), then of the output.
class Map : public EvaluationLoop {
 public:
  Map(const LocalizationSettings& settings, const Network& network, Probes& probes,
      RunFolder& folder)
      : EvaluationLoop(settings, folder, "map", "map_checkpoint.safetensors",
                       {.samples = settings.map_samples,
                        .batch = map_batch(settings),
                        .looked = settings.activations() + static_cast<std::int64_t>(probes.size()),
                        .frozen = {&network.parameters(), &probes.parameters()}}),
        settings_(settings),
        network_(network),
        probes_(probes),
        input_(device(), settings.input_options(), map_batch(settings), settings.length,
               kEvaluationNoise),
        samples_(DType::kF32,
                 {std::min(kSamplePredictions, settings.map_samples), settings.length}) {
    for (const std::int64_t layer : settings.probed_layers()) {
      add_moments(fmt::format("layers.{}", layer), settings.length);
    }
    add_moments(fmt::format("layers.{}", settings.output_layer()), settings.length);
  }

  // The map, from the moments of all samples.
  void write() {
    const auto rows = static_cast<std::int64_t>(probes_.size()) + 1;
    const Shape shape{rows, settings_.length};
    HostArray mean(DType::kF64, shape);
    HostArray variance(DType::kF64, shape);
    HostArray p_max(DType::kF64, shape);
    HostArray localized(DType::kBool, shape);
    for (std::size_t row = 0; row <= probes_.size(); ++row) {
      const HostArray row_mean = moments(row).mean();
      const HostArray row_variance = moments(row).variance();
      const auto count = static_cast<double>(moments(row).count());
      std::vector<SampleMoments> indices;
      for (std::size_t i = 0; i < row_mean.as<double>().size(); ++i) {
        indices.push_back({row_mean.as<double>()[i], row_variance.as<double>()[i], count});
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
    write_npy(folder().file("layer_mean.npy"), mean);
    write_npy(folder().file("layer_variance.npy"), variance);
    write_npy(folder().file("p_max.npy"), p_max);
    write_npy(folder().file("predictions_mean.npy"), moments(probes_.size()).mean());
    write_npy(folder().file("predictions_sample.npy"), samples_);
    write_npy(folder().file("localized.npy"), localized);
  }

 private:
  // What the output does not show is looked at, too: a ReLU makes 0 of an infinity.
  void answer(Tape& tape, const Random& random, std::int64_t count, FiniteCheck& finite) override {
    std::vector<Var> hidden;
    const Var x = input_(tape, random, count);
    predictions_ = network_(x, settings_.evaluation_statistics(), &hidden).value();
    moments(probes_.size()).add(predictions_);
    finite.look(0, hidden);
    auto looked = static_cast<std::int64_t>(hidden.size());
    finite.look(looked++, predictions_);
    const Tape::Mark mark = tape.mark();
    for (std::size_t first = 0; first < probes_.size();) {
      const Tensor answers = probes_.answers(first, hidden).value();
      const auto answered = static_cast<std::size_t>(answers.shape()[0]);
      StreamingMoments::add_to_each(moments(first, answered), answers);
      finite.look(looked++, answers);
      tape.rewind(mark);
      first += answered;
    }
  }

  void keep(std::int64_t first) override {
    if (first >= samples_.shape[0]) return;
    const HostArray predictions = predictions_.to_host();
    const auto from = predictions.as<float>();
    const auto to =
        samples_.as<float>().subspan(static_cast<std::size_t>(first * settings_.length));
    std::copy_n(from.begin(), std::min(from.size(), to.size()), to.begin());
  }
  void save_kept(TensorMap& tensors) const override { tensors["samples"] = samples_; }
  void load_kept(const TensorMap& tensors, const std::string& source) override {
    samples_ = tensor_in(tensors, source, "samples", DType::kF32, samples_.shape);
  }

  std::string details() override {
    return fmt::format("{} sequences", moments(probes_.size()).count());
  }
  std::string failure(std::int64_t batch, const std::string& what) const override {
    return fmt::format("map, batch {}: {}; nothing is mapped", batch, what);
  }

  const LocalizationSettings& settings_;
  const Network& network_;
  Probes& probes_;
  InputSource input_;
  Tensor predictions_;  // the network's, of the last batch
  HostArray samples_;   // the first of them, [n, length]
};

// The share of true values in row `row`, but for `margin` indices at both ends; null where nothing
// is left.
Json fraction(const HostArray& localized, std::int64_t row, std::int64_t margin) {
  const std::int64_t length = localized.shape[1], size = length - 2 * margin;
  if (size <= 0) return {};
  const auto inner = localized.as<bool>().subspan(static_cast<std::size_t>(row * length + margin),
                                                  static_cast<std::size_t>(size));
  return static_cast<double>(std::ranges::count(inner, true)) / static_cast<double>(size);
}

// Appendix D's, in row `row`: the largest distance from the nearest edge of an index that is
// localized.
std::int64_t localization_distance(const HostArray& localized, std::int64_t row) {
  const std::int64_t length = localized.shape[1];
  const bool* is = &localized.as<bool>()[static_cast<std::size_t>(row * length)];
  std::int64_t distance = (length + 1) / 2;
  while (distance > 0 && !is[distance - 1] && !is[length - distance]) --distance;
  return distance;
}

// The largest distance up to which every index, from both edges, is localized: misses in the noisy
// zone around R end it.
std::int64_t unbroken_distance(const HostArray& localized, std::int64_t row) {
  const std::int64_t length = localized.shape[1];
  const bool* is = &localized.as<bool>()[static_cast<std::size_t>(row * length)];
  std::int64_t distance = 0;
  while (distance < (length + 1) / 2 && is[distance] && is[length - 1 - distance]) ++distance;
  return distance;
}

}  // namespace

Probes::Probes(const LocalizationSettings& settings, const Device& device)
    : parameters_(std::make_unique<ParameterList>(device, DType::kF32, settings.random_seed(),
                                                  kProbeWeights)) {
  layers_ = settings.probed_layers();
  for (const std::int64_t layer : layers_) {
    probes_.emplace_back(*parameters_, fmt::format("layers.{}", layer), settings.channels,
                         settings.probe_width);
  }
}

Var Probes::answers(std::size_t first, const std::vector<Var>& hidden) const {
  std::vector<Var> inputs;
  for (std::size_t i = first; i < size(); ++i) {
    inputs.push_back(hidden[static_cast<std::size_t>(layers_[i] - 1)]);
  }
  return Probe::answers(std::span(probes_).subspan(first), inputs);
}

double train_probes(const LocalizationSettings& settings, const Network& network, Probes& probes,
                    RunFolder& folder) {
  TrainingLoop loop(settings, folder,
                    {.phase = "probe",
                     .state_file = kProbesCheckpoint,
                     .steps = settings.probe_iterations,
                     .keeps_failure = false,
                     .make_step = [&](std::int64_t /*first*/) {
                       return std::make_unique<ProbeStep>(settings, network, probes);
                     }});
  const double seconds = loop.run();
  SafetensorsFile file;
  probes.parameters().save(file.tensors);
  file.metadata["format"] = "pt";
  write_safetensors(folder.file(kProbesFile), file);  // whatever lies there
  return seconds;
}

double make_map(const LocalizationSettings& settings, const Network& network, Probes& probes,
                RunFolder& folder) {
  Map map(settings, network, probes, folder);
  const double seconds = map.run();
  map.write();
  return seconds;
}

Json summarize(const LocalizationSettings& settings, RunFolder& folder, double seconds) {
  const HostArray localized = read_npy(folder.file("localized.npy"));
  const HostArray mean = read_npy(folder.file("predictions_mean.npy"));
  const HostArray variance = read_npy(folder.file("layer_variance.npy"));
  const std::int64_t length = settings.length;
  const std::int64_t radius = settings.radius();
  const auto target = target_positions(length);
  std::vector<std::int64_t> rows = settings.probed_layers();  // the layer of each row
  const auto output = static_cast<std::int64_t>(rows.size());
  rows.push_back(settings.output_layer());

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
  Json layers = Json::array();
  Json interior = Json::array();
  Json outside_cone = Json::array();
  Json distances = Json::array();
  Json unbroken = Json::array();
  for (std::int64_t row = 0; row <= output; ++row) {
    const std::int64_t layer = rows[static_cast<std::size_t>(row)];
    const std::int64_t cone = row == output ? radius : settings.localizer().receptive_field(layer);
    layers.push_back(fraction(localized, row, 0));
    interior.push_back(fraction(localized, row, radius));
    outside_cone.push_back(fraction(localized, row, cone));
    distances.push_back(localization_distance(localized, row));
    unbroken.push_back(unbroken_distance(localized, row));
  }

  return {{"norm", settings.norm},
          {"padding", settings.padding},
          {"input", settings.input},
          {"length", length},
          {"network", settings.network},
          {"depth", settings.output_layer()},
          {"channels", settings.channels},
          {"receptive_field", radius},
          {"seed", settings.seed},
          {"eval_statistics", settings.eval_statistics},
          {"final_loss", loss / static_cast<double>(length)},
          {"interior_slope", finite_or_null(interior_slope(mean, radius))},
          {"output_std", spread / static_cast<double>(length)},
          {"localized_fraction", layers},
          {"interior_localized_fraction", interior},
          {"outside_cone_localized_fraction", outside_cone},
          {"localization_distance", distances.back()},
          {"unbroken_distance", unbroken.back()},
          // Of the lists' entries; the last is the output.
          {"layers", rows},
          {"localization_distances", distances},
          {"unbroken_distances", unbroken},
          {"samples", settings.map_samples},
          {"seconds", std::round(seconds * 1000) / 1000}};
}

}  // namespace sidechannel::experiments
