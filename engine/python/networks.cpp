#include <functional>

#include "engine/io/npy.h"
#include "engine/python/network.h"
#include "models/model_file.h"

namespace sidechannel::python {
namespace {

// --- Calls
// ----------------------------------------------------------------------------------------

using Compute = std::function<Var(std::vector<Var>* hidden)>;

// What a network gives, and what its layers do where that is asked for.
nb::object called(const PyNetwork& self, const PyVar& x, bool hidden, const Compute& f) {
  check_together("network", self.list(), x);
  std::vector<Var> seen;
  const PyVar y = operation("network", {&x}, [&] {
    if (x.tape) x.tape->keep(self.network);
    return f(hidden ? &seen : nullptr);
  });
  if (!hidden) return nb::cast(y);
  nb::list layers;
  for (const Var& layer : seen) layers.append(PyVar{layer, x.tape});
  return nb::make_tuple(y, layers);
}

// More of anything is a mistake, and would be found out by the memory.
constexpr std::int64_t kMostLayers = 1000;

nb::object call(const PyNetwork& self, const PyVar& x, const std::string& statistics, bool hidden) {
  const Statistics from = statistics_from(statistics);
  return called(self, x, hidden,
                [&](std::vector<Var>* seen) { return (*self.network)(x.var, from, seen); });
}

nb::object call_unet(const PyTemporalUnet& self, const PyVar& x, nb::handle steps,
                     const std::string& statistics, bool hidden) {
  if (steps.is_none()) return call(self, x, statistics, hidden);
  const Statistics from = statistics_from(statistics);
  if (nb::isinstance<PyVar>(steps)) {
    const PyVar& at = nb::cast<const PyVar&>(steps);
    check_operands("network", {&x, &at});
    return called(self, x, hidden,
                  [&](std::vector<Var>* seen) { return self.unet()(x.var, at.var, from, seen); });
  }
  const Tensor at = tensor_of(steps, wanted_by("network", x));
  return called(self, x, hidden, [&](std::vector<Var>* seen) {
    return self.unet()(x.var, x.var.tape().constant(at), from, seen);
  });
}

// Sequences [n, l, C] or, of one channel, [n, l]: the answers, in the same form.
nb::object predict(const PyNetwork& self, nb::handle input, const std::string& statistics) {
  const Statistics from = statistics_from(statistics);
  const std::int64_t channels = self.network->channels_in();
  HostArray x = numbers_from("predict", input, self.list().dtype());
  const bool flat = x.shape.rank() == 2 && channels == 1;
  SC_CHECK(flat || (x.shape.rank() == 3 && x.shape[2] == channels),
           "predict: expected sequences [n, l, {}]{}, got {}", channels,
           channels == 1 ? " or [n, l]" : "", x.shape.str());
  x.shape = {x.shape[0], x.shape[1], channels};
  Tape tape(self.device(), self.list().dtype());
  const NoGrad no_grad(tape);
  const Var answer = compute(self.device(), [&] {
    return (*self.network)(tape.constant(Tensor::from(self.device(), x)), from);
  });
  HostArray y = wait_for(self.device(), [&] { return answer.value().to_host(); });
  if (flat && y.shape[2] == 1) y.shape = {y.shape[0], y.shape[1]};
  return numpy_from(std::move(y));
}

// --- What a network says of itself
// ----------------------------------------------------------------

std::vector<std::pair<std::int64_t, std::int64_t>> field(const PyNetwork& self,
                                                         std::int64_t length) {
  require(length >= 0, fmt::format("length {}: expected 0 or more", length));
  const ReceptiveField heard = self.network->receptive_field(length);
  std::vector<std::pair<std::int64_t, std::int64_t>> intervals;
  for (std::int64_t i = 0; i < heard.length(); ++i) {
    intervals.emplace_back(heard[i].first, heard[i].last);
  }
  return intervals;
}

nb::list norms(const PyNetwork& self) {
  nb::list all;
  for (const Network::Norm& norm : self.network->norms()) {
    all.append(nb::make_tuple(norm.name, sidechannel::name_of(norm.kind), norm.options));
  }
  return all;
}

nb::dict config_of(const PyLocalizer& self) {
  const LocalizerConfig& config = self.localizer().config();
  nb::dict dict;
  dict["depth"] = config.depth;
  dict["channels"] = config.channels;
  dict["kernel_size"] = config.kernel_size;
  dict["norm"] = sidechannel::name_of(config.norm);
  dict["groups"] = config.groups;
  dict["samples_per_set"] = config.samples_per_set;
  dict["padding"] = sidechannel::name_of(config.padding);
  return dict;
}

nb::dict config_of_unet(const PyTemporalUnet& self) {
  const TemporalUnetConfig& config = self.unet().config();
  nb::dict dict;
  dict["transition"] = config.transition;
  dict["dim"] = config.dim;
  dict["multipliers"] = config.multipliers;
  dict["kernel_size"] = config.kernel_size;
  dict["steps"] = config.steps;
  dict["norm"] = sidechannel::name_of(config.norm);
  dict["groups"] = config.groups;
  dict["samples_per_set"] = config.samples_per_set;
  return dict;
}

// --- Files
// ----------------------------------------------------------------------------------------

void save(const PyNetwork& self, const std::filesystem::path& path) {
  check_replaceable(path);
  wait_for(self.device(), [&] { save_model(path, *self.network); });
}

nb::object load(const std::filesystem::path& path, const Device* device, nb::handle dtype,
                const std::string& norm, std::int64_t groups, std::int64_t samples_per_set,
                const std::string& padding) {
  const Device& where = or_default(device);
  const DType type = dtype_from(dtype);
  const ModelHints hints{norm, groups, samples_per_set, padding_from(padding)};
  return python_from(std::shared_ptr<Network>(
      compute(where, [&] { return load_network(path, where, type, hints); })));
}

void bind_localizer(nb::module_& m) {
  const auto packed = [](std::int64_t depth, std::int64_t channels, std::int64_t kernel_size,
                         std::uint64_t seed, const Device* device, nb::object dtype) {
    const Device& where = or_default(device);
    const DType type = dtype_from(dtype);
    return PyLocalizer{{compute(where, [&] {
      return std::make_shared<Localizer>(
          where, type, LocalizerConfig::packed(depth, channels, kernel_size), seed);
    })}};
  };
  nb::class_<PyLocalizer, PyNetwork>(m, "Localizer", R"(The network of the paper's Equation (1).

depth convolutions in all, of `channels` hidden channels and an odd kernel_size, with a
normalization and a ReLU between them: x [N, L, 1] -> [N, L, 1]. norm: none, instance, group,
group_population, layer, position, rms or batch. Initial weights are those of a program's run with
the same seed, to the bit.)")
      .def(
          "__init__",
          [](PyLocalizer* self, std::int64_t depth, std::int64_t channels, std::int64_t kernel_size,
             const std::string& norm, std::int64_t groups, std::int64_t samples_per_set,
             const std::string& padding, const std::string& biases, std::uint64_t seed,
             const Device* device, nb::object dtype) {
            require(depth <= kMostLayers,
                    fmt::format("depth {}: expected at most {}", depth, kMostLayers));
            LocalizerConfig config;
            config.depth = depth;
            config.channels = channels;
            config.kernel_size = kernel_size;
            config.norm = norm_kind_from(norm);
            config.groups = groups;
            config.samples_per_set = samples_per_set;
            config.padding = padding_from(padding);
            config.biases = biases_from(biases);
            const Device& where = or_default(device);
            const DType type = dtype_from(dtype);
            new (self) PyLocalizer{{compute(
                where, [&] { return std::make_shared<Localizer>(where, type, config, seed); })}};
          },
          "depth"_a = 8, "channels"_a = 32, "kernel_size"_a = 5, nb::kw_only(),
          "norm"_a = "instance", "groups"_a = 1, "samples_per_set"_a = 1, "padding"_a = "zeros",
          "initial_biases"_a = "uniform", "seed"_a = 0, "device"_a = nb::none(), "dtype"_a = "f32")
      .def_static("packed", packed, "depth"_a, "channels"_a, "kernel_size"_a, nb::kw_only(),
                  "seed"_a = 0, "device"_a = nb::none(), "dtype"_a = "f32",
                  "The network of Section 3.2, with PackNorm and no padding: pairs of sequences "
                  "[2 N, length, 1] -> [2 N, 1, 1], length = 1 + 2 R(depth).")
      .def_prop_ro("config", &config_of, "What it was made with, but for initial_biases.")
      .def_prop_ro(
          "radius",
          [](const PyLocalizer& self) { return self.localizer().config().receptive_field(); },
          "R(depth): how far to each side it hears through its layers.");
}

void bind_unet(nb::module_& m) {
  nb::class_<PyTemporalUnet, PyNetwork>(m, "TemporalUnet",
                                        R"(The temporal U-Net of Janner et al. (2022).

Trajectories x [N, L, transition], L a multiple of stride, and the step of the diffusion that each
stands at, [N] -> [N, L, transition]. multipliers of `dim`, for each level. Parameters have the
names of jannerm/diffuser.)")
      .def(
          "__init__",
          [](PyTemporalUnet* self, std::int64_t transition, std::int64_t dim,
             const std::vector<std::int64_t>& multipliers, std::int64_t kernel_size,
             std::int64_t steps, const std::string& norm, std::int64_t groups,
             std::int64_t samples_per_set, std::uint64_t seed, const Device* device,
             nb::object dtype) {
            const TemporalUnetConfig config{.transition = transition,
                                            .dim = dim,
                                            .multipliers = multipliers,
                                            .kernel_size = kernel_size,
                                            .steps = steps,
                                            .norm = norm_kind_from(norm),
                                            .groups = groups,
                                            .samples_per_set = samples_per_set};
            const Device& where = or_default(device);
            const DType type = dtype_from(dtype);
            new (self) PyTemporalUnet{{compute(
                where, [&] { return std::make_shared<TemporalUnet>(where, type, config, seed); })}};
          },
          "transition"_a = 6, "dim"_a = 32, "multipliers"_a = std::vector<std::int64_t>{1, 4, 8},
          "kernel_size"_a = 5, "steps"_a = 256, nb::kw_only(), "norm"_a = "group", "groups"_a = 8,
          "samples_per_set"_a = 1, "seed"_a = 0, "device"_a = nb::none(), "dtype"_a = "f32")
      .def(
          "__call__",
          [](const PyTemporalUnet& self, const PyVar& x, nb::handle steps,
             const std::string& statistics) {
            return nb::cast<PyVar>(call_unet(self, x, steps, statistics, false));
          },
          "x"_a, "steps"_a = nb::none(), nb::kw_only(), "statistics"_a = "training")
      .def("__call__", &call_unet, "x"_a, "steps"_a = nb::none(), nb::kw_only(),
           "statistics"_a = "training", "hidden"_a,
           "`steps` [N], whole numbers from 0, as an array or a variable; at `step` without.")
      .def_prop_ro("config", &config_of_unet, "What it was made with.")
      .def_prop_rw(
          "step", [](const PyTemporalUnet& self) { return self.unet().step(); },
          [](const PyTemporalUnet& self, std::int64_t step) { self.unet().set_step(step); },
          "Of the diffusion, that it is asked at where it is told none.");
}

}  // namespace

nb::object python_from(std::shared_ptr<Network> network) {
  if (dynamic_cast<Localizer*>(network.get())) return nb::cast(PyLocalizer{{std::move(network)}});
  return nb::cast(PyTemporalUnet{{std::move(network)}});
}

std::unique_ptr<Network> copied(const Network& network, const Device& device, DType dtype) {
  TensorMap tensors;
  network.parameters().save(tensors);
  for (auto& [name, array] : tensors) array = converted(array, dtype);
  if (const auto* localizer = dynamic_cast<const Localizer*>(&network)) {
    return std::make_unique<Localizer>(device, dtype, localizer->config(), tensors, "copy");
  }
  const auto& unet = dynamic_cast<const TemporalUnet&>(network);
  auto copy = std::make_unique<TemporalUnet>(device, dtype, unet.config(), tensors, "copy");
  copy->set_step(unet.step());
  return copy;
}

void bind_networks(nb::module_& m) {
  nb::class_<PyNetwork>(m, "Network", "A network of sequences: a Localizer or a TemporalUnet.")
      .def(
          "__call__",
          [](const PyNetwork& self, const PyVar& x, const std::string& statistics) {
            return nb::cast<PyVar>(call(self, x, statistics, false));
          },
          "x"_a, nb::kw_only(), "statistics"_a = "training")
      .def("__call__", &call, "x"_a, nb::kw_only(), "statistics"_a = "training", "hidden"_a,
           "x [N, L, channels_in] -> [N, L', C']. `statistics` of its norms: training (the "
           "batch's; running ones follow), minibatch (the batch's; nothing changes) or population "
           "(the running ones). With `hidden` a pair: the answer, and a list of what the layers "
           "give.")
      .def("predict", &predict, "x"_a, "statistics"_a = "minibatch",
           "Its answers to sequences [n, l, channels_in] (or [n, l] where that is 1) of any "
           "numbers, as an array of NumPy's; nothing is recorded. (A subclass's __call__ is not "
           "asked.)",
           nb::sig("def predict(self, x: object, statistics: str = 'minibatch') -> numpy.ndarray"))
      .def_prop_ro("parameters", &PyNetwork::parameters)
      .def_prop_ro("device", &PyNetwork::device, nb::rv_policy::copy)
      .def_prop_ro("dtype", [](const PyNetwork& self) { return text_of(self.list().dtype()); })
      .def_prop_ro("channels_in", [](const PyNetwork& self) { return self.network->channels_in(); })
      .def_prop_ro(
          "stride", [](const PyNetwork& self) { return self.network->stride(); },
          "Lengths are multiples of it, and shifts by it pass through.")
      .def_prop_ro(
          "reach",
          [](const PyNetwork& self) {
            const Network::Reach reach = self.network->reach();
            return std::pair(reach.left, reach.right);
          },
          "How far to the left and to the right it hears through its layers.")
      .def("receptive_field", &field, "length"_a,
           "For each position of its output, for an input of `length`, the first and the last "
           "position that it hears through its layers, statistics aside.")
      .def_prop_ro("norms", &norms, "Its normalizations in order: name, kind, NormOptions.")
      .def("save", &save, "path"_a,
           "Writes model.safetensors, as the programs do: the same bytes for the same weights.")
      .def("__repr__",
           [](const PyNetwork& self) { return fmt::format("<{}>", self.network->words()); });
  bind_localizer(m);
  bind_unet(m);
  m.def("load_model", &load, "path"_a, "device"_a = nb::none(), nb::kw_only(), "dtype"_a = "f32",
        "norm"_a = "", "groups"_a = 0, "samples_per_set"_a = 1, "padding"_a = "zeros",
        "The network in a file that a program or save() wrote, or PyTorch with the same names: "
        "a Localizer, packed or not, or a TemporalUnet. `norm` and what follows are for a file of "
        "PyTorch's, which does not say them.",
        nb::sig("def load_model(path: str | os.PathLike, device: Device | None = None, *, "
                "dtype: object = 'f32', norm: str = '', groups: int = 0, samples_per_set: int = 1, "
                "padding: str = 'zeros') -> Network"));
}

}  // namespace sidechannel::python
