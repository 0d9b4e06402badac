#include <algorithm>
#include <functional>

#include "engine/python/network.h"
#include "experiments/leak/inputs.h"
#include "experiments/leak/measure.h"
#include "experiments/leak/memory.h"
#include "experiments/run/domain.h"

namespace sidechannel::python {
namespace {

using namespace experiments;

// A network that asks, whenever it is called, whether Ctrl-C was pressed.
class Interruptible : public Network {
 public:
  explicit Interruptible(const Network& network) : network_(network) {}

  Var operator()(const Var& x, Statistics statistics, std::vector<Var>* hidden,
                 NormHook* hook) const override {
    check_();
    return network_(x, statistics, hidden, hook);
  }
  ReceptiveField receptive_field(std::int64_t length) const override {
    return network_.receptive_field(length);
  }
  std::vector<Norm> norms() const override { return network_.norms(); }
  std::int64_t channels_in() const override { return network_.channels_in(); }
  std::int64_t stride() const override { return network_.stride(); }
  std::int64_t shortest() const override { return network_.shortest(); }
  std::string words() const override { return network_.words(); }
  const ParameterList& parameters() const override { return network_.parameters(); }

 private:
  const Network& network_;
  mutable SignalCheck check_;
};

struct Asked {
  std::int64_t length, inputs, outputs, tile, halo, pad;
  std::uint64_t seed;
  bool layers, causal;
};

void check(const Asked& asked) {
  const auto expect = [](const char* name, std::int64_t value, std::int64_t least) {
    require(value >= least && value <= kMostLength,
            fmt::format("{} {}: expected {} to {}", name, value, least, kMostLength));
  };
  expect("length", asked.length, 0);
  expect("inputs", asked.inputs, 1);
  expect("outputs", asked.outputs, 1);
  expect("tile", asked.tile, 0);
  expect("halo", asked.halo, 0);
  expect("pad", asked.pad, 0);
  require(asked.halo == 0 || asked.tile > 0, "halo: has no effect without tile");
}

// Sizes of sequences [n, l, C], or [n, l] of one channel, or of noise without.
LeakSize size_of(const Network& network, DType dtype, const std::optional<HostArray>& x,
                 const Asked& asked) {
  LeakSize size{.dtype = dtype,
                .inputs = asked.inputs,
                .samples = samples_of_set(network),
                .length = asked.length > 0 ? asked.length : natural_length(network),
                .channels = network.channels_in(),
                .given_model = true,
                .given_inputs = x.has_value()};
  if (x) take_shape(x->shape, "leak", size);
  const std::string wrong = objection(network, size.length);
  require(wrong.empty(), fmt::format("leak: a length of {}: {}", size.length, wrong));
  const std::int64_t positions = network.receptive_field(size.length).length();
  size.rows = std::min(asked.outputs, positions) * size.channels;
  if (asked.layers) size.norms = std::ssize(network.norms());
  if (asked.tile > 0 || asked.pad > 0) size.longest = size.length + asked.pad;
  return size;
}

// As the program carries it out.
Json report_of(const Network& given, const Device& device, DType dtype,
               const std::optional<HostArray>& x, const Asked& asked) {
  check_parts(given, {{"tile", asked.tile}, {"halo", asked.halo}, {"pad", asked.pad}});
  const LeakSize size = size_of(given, dtype, x, asked);
  require_memory(memory_of(given, size), device);
  const std::unique_ptr<Network> copy = copied(given, device, dtype);
  const Interruptible network(*copy);
  const Shape shape{size.samples, size.length, size.channels};
  const std::vector<Tensor> inputs = x ? sets_of(device, dtype, *x, shape, "leak")
                                       : noise_sets(device, dtype, shape, size.inputs, asked.seed);
  LeakOptions options;
  options.layers = asked.layers;
  options.causal = asked.causal;
  options.asked = evenly_spaced(network.receptive_field(size.length).length(), asked.outputs);
  Json report = measure_leak(network, inputs, options);
  if (asked.tile > 0) {
    report["tiles"] = measure_tiles(network, inputs.front(), asked.tile, asked.halo);
  }
  if (asked.pad > 0) report["pads"] = measure_padding(network, inputs.front(), asked.pad);
  return report;
}

nb::object leak(const PyNetwork& network, nb::handle x, std::int64_t length, std::int64_t inputs,
                std::int64_t outputs, bool layers, bool causal, std::int64_t tile,
                std::int64_t halo, std::int64_t pad, std::uint64_t seed, nb::handle dtype) {
  const Asked asked{length, inputs, outputs, tile, halo, pad, seed, layers, causal};
  check(asked);
  const Device& its = network.device();
  const DType type = !dtype.is_none() ? dtype_from(dtype)
                     : its.is_cuda()  ? DType::kF32
                                      : DType::kF64;
  require(type == DType::kF32 || !its.is_cuda(), "dtype f64: the CPU alone computes in it");
  std::optional<HostArray> sequences;
  if (!x.is_none()) {
    require(length == 0, "length: an input that is given has its own");
    sequences = numbers_from("leak", x, DType::kF64);
  }
  const Device device = compute(its, [&] { return without_shortcuts(its); });
  return python_from(
      compute(device, [&] { return report_of(*network.network, device, type, sequences, asked); }));
}

}  // namespace

void bind_leak(nb::module_& m) {
  m.def("leak", &leak, "network"_a, "x"_a = nb::none(), nb::kw_only(), "length"_a = 0,
        "inputs"_a = 4, "outputs"_a = 16, "layers"_a = true, "causal"_a = false, "tile"_a = 0,
        "halo"_a = 0, "pad"_a = 0, "seed"_a = 0, "dtype"_a = nb::none(),
        R"(How much a network hears from beyond its receptive field, and through which norm: a dict.

On sequences x [n, l, C] or, without, on `inputs` sets of noise of `length` positions (twice what
the network hears, if 0); `outputs` positions are asked, evenly spaced. The report is that of the
program `leak measure`, whose docs/leak.md says what is in it; `tile` with `halo`, and `pad`, compare
whole inputs with cut and padded ones. In f64 on the CPU, if not told otherwise.)");
}

}  // namespace sidechannel::python
