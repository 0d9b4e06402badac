#include "experiments/localization/paths.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>
#include <random>
#include <span>

#include "engine/io/npy.h"
#include "experiments/localization/memory.h"
#include "experiments/run/flags.h"
#include "models/frozen_statistics.h"

namespace sidechannel::experiments {
namespace {

constexpr Stream kPathNoise{5};
constexpr std::int64_t kAtOnce = 32;  // changed sequences in one forward pass

// The same network in the type that the device measures in.
Localizer in_type(const Localizer& network, DType dtype) {
  TensorMap tensors;
  network.parameters().save(tensors);
  for (auto& [name, array] : tensors) array = converted(array, dtype);
  return {network.parameters().device(), dtype, network.config(), tensors, "the network"};
}

// Sums over sequences, of one change each: delta^2, and by norm the others, of which the last two
// are those of the whole change alone.
struct Sums {
  double change = 0;
  std::vector<double> carried, alone, lost;
};

// In an order that depends on the seed alone, whatever the library.
std::vector<std::size_t> shuffled(std::size_t count, std::mt19937_64& random) {
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), std::size_t{0});
  for (std::size_t i = count; i > 1; --i) std::swap(order[i - 1], order[random() % i]);
  return order;
}

class Measurement {
 public:
  Measurement(const PathsSettings& settings, const Localizer& network)
      : settings_(settings),
        device_(network.parameters().device()),
        dtype_(device_.is_cuda() ? DType::kF32 : DType::kF64),
        network_(in_type(network, dtype_)),
        set_(network.config().norm_options().samples_per_set),
        tape_(device_, dtype_),
        random_(device_, settings.random_seed()),
        orders_(settings.random_seed()) {
    const std::int64_t listener = settings.listener(), reach = network.config().receptive_field();
    for (std::int64_t i = 0; i < settings.length; ++i) {
      std::int64_t distance = std::abs(i - listener);
      if (network.config().padding == Padding::kCircular) {
        distance = std::min(distance, settings.length - distance);
      }
      if (distance > reach) outside_.push_back(i);
    }
    // The last change is that of all positions at once.
    sums_.resize(outside_.size() + 1);
  }

  // One sequence more. The others of its set stay as they are.
  void add() {
    const std::int64_t length = settings_.length;
    Tape tape(device_);
    const HostArray noise = tape.normal({set_ + 1, length}, kPathNoise, random_).value().to_host();
    random_.advance(0, static_cast<std::uint32_t>(set_ + 1));
    const auto drawn = noise.as<float>();
    const std::vector<double> x(drawn.begin(), drawn.begin() + set_ * length);
    const auto anew = drawn.subspan(static_cast<std::size_t>(set_ * length));
    const Held fixed = statistics_of(network_, tensor_of(x));
    const std::size_t norms = fixed.size();
    for (Sums& sums : sums_) sums.carried.resize(norms);
    sums_.back().alone.resize(norms);
    sums_.back().lost.resize(norms);
    const std::vector<std::size_t> order = shuffled(norms, orders_);

    const auto redrawn = [&](std::span<const std::int64_t> positions) {
      std::vector<double> changed = x;
      for (const std::int64_t i : positions) {
        changed[static_cast<std::size_t>(i)] = anew[static_cast<std::size_t>(i)];
      }
      return changed;
    };
    std::vector<double> whole;
    const auto count = static_cast<std::int64_t>(sums_.size());
    for (std::int64_t first = 0; first < count; first += kAtOnce) {
      const std::int64_t last = std::min(count, first + kAtOnce);
      std::vector<double> batch = x;  // first as it is
      for (std::int64_t change = first; change < last; ++change) {
        const auto positions = std::span(outside_);
        const std::vector<double> one =
            redrawn(change + 1 < count ? positions.subspan(static_cast<std::size_t>(change), 1)
                                       : positions);
        batch.insert(batch.end(), one.begin(), one.end());
      }
      const Tensor changed = tensor_of(batch);
      for (const double delta : changes(changed, fixed)) {
        all_fixed_ = std::max(all_fixed_, std::abs(delta));
      }
      whole = changes(changed, {});
      for (std::size_t i = 0; i < whole.size(); ++i) at(first, i).change += whole[i] * whole[i];
      add_in_order(order.begin(), order.end(), first, changed, fixed, whole);
      add_in_order(order.rbegin(), order.rend(), first, changed, fixed, whole);
    }
    std::vector<double> both = x;
    const std::vector<double> whole_change = redrawn(outside_);
    both.insert(both.end(), whole_change.begin(), whole_change.end());
    add_ends(tensor_of(both), fixed, whole.back());
    ++sequences_;
  }

  const std::vector<std::int64_t>& outside() const { return outside_; }
  const Sums& sums(std::size_t change) const { return sums_[change]; }
  double all_fixed() const { return all_fixed_; }
  double sequences() const { return static_cast<double>(sequences_); }
  DType dtype() const { return dtype_; }

 private:
  // By norm: its statistics, or its own where it is free.
  using Held = std::vector<NormHook::Layer>;

  Sums& at(std::int64_t first, std::size_t i) { return sums_[static_cast<std::size_t>(first) + i]; }

  // Frees one norm after the other; half of what each adds, as there is an order and its reverse.
  template <class Iterator>
  void add_in_order(Iterator norm, Iterator end, std::int64_t first, const Tensor& changed,
                    Held fixed, const std::vector<double>& whole) {
    std::vector<double> before(whole.size());
    for (; norm != end; ++norm) {
      fixed[*norm] = {};
      // With the last one all are free.
      const std::vector<double> now = std::next(norm) == end ? whole : changes(changed, fixed);
      for (std::size_t i = 0; i < whole.size(); ++i) {
        at(first, i).carried[*norm] += 0.5 * (now[i] - before[i]) * whole[i];
      }
      before = now;
    }
  }

  // Of the whole change: each norm freed alone, and each held alone.
  void add_ends(const Tensor& changed, const Held& fixed, double whole) {
    Sums& sums = sums_.back();
    for (std::size_t norm = 0; norm < fixed.size(); ++norm) {
      Held others = fixed, one(fixed.size());
      others[norm] = {};
      one[norm] = fixed[norm];
      sums.alone[norm] += changes(changed, others)[0] * whole;
      sums.lost[norm] += (whole - changes(changed, one)[0]) * whole;
    }
  }

  Tensor tensor_of(const std::vector<double>& values) const {
    const Shape shape{static_cast<std::int64_t>(values.size()) / settings_.length, settings_.length,
                      1};
    return Tensor::from(device_, converted(HostArray::from<double>(values, shape), dtype_));
  }

  // By how much the listener's output differs from that of the first set.
  std::vector<double> changes(const Tensor& x, Held fixed) {
    tape_.reset();
    const NoGrad frozen(tape_);
    NormHook hook{std::move(fixed)};
    const HostArray y = converted(
        network_(tape_.constant(x), Statistics::kMinibatch, nullptr, &hook).value().to_host(),
        DType::kF64);
    std::vector<double> deltas;
    const auto listener = static_cast<std::size_t>(settings_.listener());
    const auto stride = static_cast<std::size_t>(set_ * settings_.length);
    const auto values = y.as<double>();
    for (std::size_t i = stride; i < values.size(); i += stride) {
      deltas.push_back(values[i + listener] - values[listener]);
    }
    return deltas;
  }

  const PathsSettings& settings_;
  Device device_;
  DType dtype_;
  Localizer network_;
  std::int64_t set_;  // sequences that share statistics
  Tape tape_;         // of passes through the network
  Random random_;
  std::mt19937_64 orders_;
  std::vector<std::int64_t> outside_;
  std::vector<Sums> sums_;
  double all_fixed_ = 0;
  std::int64_t sequences_ = 0;
};

}  // namespace

std::vector<Setting> PathsSettings::flags() {
  static const std::vector<std::string> names = {
      "length",          "depth", "channels",  "kernel_size", "padding",   "norm",   "groups",
      "samples_per_set", "index", "sequences", "seed",        "precision", "device", "threads"};
  return settings_named<PathsSettings>(names);
}

void PathsSettings::check() const {
  LocalizationSettings::check();
  require(index <= length, fmt::format("--index {}: expected at most --length {}", index, length));
}

MemoryNeed memory_of_paths(const PathsSettings& settings, bool on_gpu) {
  const LocalizerConfig network = settings.localizer();
  const double sets = static_cast<double>(kAtOnce + 1);
  // In f64, where it is, each number is two.
  MemoryNeed need =
      memory_of(network, (on_gpu ? 1 : 2) * sets * d(network.norm_options().samples_per_set),
                d(settings.length));
  const double sums = 3 * sizeof(double) * d(settings.depth) * d(settings.length);
  need.front().push_back({"what each norm carried", "--length or --depth", 0, 0, sums});
  return need;
}

Json measure_paths(const PathsSettings& settings, const Localizer& network, RunFolder& folder) {
  Measurement measurement(settings, network);
  for (std::int64_t i = 0; i < settings.sequences; ++i) measurement.add();
  const std::int64_t length = settings.length;
  const Sums& all = measurement.sums(measurement.outside().size());
  const auto norms = static_cast<std::int64_t>(all.alone.size());
  HostArray change(DType::kF64, {length}), carried(DType::kF64, {norms, length});
  for (std::size_t i = 0; i < measurement.outside().size(); ++i) {
    const Sums& sums = measurement.sums(i);
    const auto at = static_cast<std::size_t>(measurement.outside()[i]);
    change.as<double>()[at] = sums.change / measurement.sequences();
    for (std::size_t norm = 0; norm < sums.carried.size(); ++norm) {
      carried.as<double>()[norm * static_cast<std::size_t>(length) + at] =
          sums.carried[norm] / measurement.sequences();
    }
  }
  write_npy(folder.file("change.npy"), change);
  write_npy(folder.file("carried.npy"), carried);

  const auto shares = [&](const std::vector<double>& values) {  // null where nothing gets there
    Json list = Json::array();
    for (const double sum : values) {
      list.push_back(all.change > 0 ? Json(sum / all.change) : Json());
    }
    return list;
  };
  Json layers = Json::array();  // the norm of z(i), i from 2
  for (std::int64_t norm = 0; norm < norms; ++norm) layers.push_back(norm + 2);
  Json summary = {{"norm", settings.norm},
                  {"padding", settings.padding},
                  {"length", length},
                  {"depth", settings.depth},
                  {"channels", settings.channels},
                  {"receptive_field", network.config().receptive_field()},
                  {"index", settings.listener() + 1},
                  {"sequences", settings.sequences},
                  {"seed", settings.seed},
                  {"type", std::string(name_of(measurement.dtype()))},
                  {"positions_outside", measurement.outside().size()},
                  {"rms_change", std::sqrt(all.change / measurement.sequences())},
                  {"largest_change_all_fixed", measurement.all_fixed()},
                  {"layers", layers},
                  {"carried", shares(all.carried)},
                  {"carried_alone", shares(all.alone)},
                  {"lost_without", shares(all.lost)}};
  folder.write_json("summary.json", summary);
  return summary;
}

}  // namespace sidechannel::experiments
