#include "engine/modules.h"

#include "engine/python/binding.h"

namespace sidechannel::python {
namespace {

// A module, and the parameters that it refers to.
template <class Module>
struct PyModule {
  std::shared_ptr<ParameterList> list;
  Module module;
};

// What `f` computes of the module, on a tape that keeps its parameters.
template <class Module, class F>
PyVar call(const char* name, const PyModule<Module>& self, const PyVar& x, const F& f) {
  check_together(name, *self.list, x);
  return operation(name, {&x}, [&] {
    if (x.tape) x.tape->keep(self.list);
    return f(self.module);
  });
}

template <class Module, class... Arguments>
void make(PyModule<Module>* self, const PyParameters& parameters, Arguments&&... arguments) {
  new (self) PyModule<Module>{parameters.list, compute(parameters.list->device(), [&] {
                                return Module(*parameters.list, arguments...);
                              })};
}

using PyConv1d = PyModule<Conv1d>;
using PyConvTranspose1d = PyModule<ConvTranspose1d>;
using PyLinear = PyModule<Linear>;
using PyNormAct = PyModule<NormAct>;
using PyConvNormAct = PyModule<ConvNormAct>;

void bind_convolutions(nb::module_& m) {
  nb::class_<PyConv1d>(m, "Conv1d",
                       "x [N, L, C_in] -> [N, (L + 2 padding - k) / stride + 1, "
                       "C_out]. Parameters NAME.weight and NAME.bias.")
      .def(
          "__init__",
          [](PyConv1d* self, const PyParameters& parameters, const std::string& name,
             std::int64_t channels_in, std::int64_t channels_out, std::int64_t kernel_size,
             std::int64_t padding, std::int64_t stride, const std::string& mode,
             const std::string& biases) {
            make(self, parameters, name, channels_in, channels_out, kernel_size, padding,
                 ConvOptions{padding_mode_from(mode), biases_from(biases), stride});
          },
          "parameters"_a, "name"_a, "channels_in"_a, "channels_out"_a, "kernel_size"_a,
          "padding"_a = 0, nb::kw_only(), "stride"_a = 1, "padding_mode"_a = "zeros",
          "initial_biases"_a = "uniform")
      .def(
          "__call__",
          [](const PyConv1d& self, const PyVar& x) {
            return call("conv1d", self, x, [&](const Conv1d& conv) { return conv(x.var); });
          },
          "x"_a);
  nb::class_<PyConvTranspose1d>(m, "ConvTranspose1d",
                                "x [N, L, C_in] -> [N, (L - 1) stride - 2 padding + k, C_out]. "
                                "Parameters NAME.weight and NAME.bias.")
      .def(
          "__init__",
          [](PyConvTranspose1d* self, const PyParameters& parameters, const std::string& name,
             std::int64_t channels_in, std::int64_t channels_out, std::int64_t kernel_size,
             std::int64_t padding, std::int64_t stride, const std::string& biases) {
            make(self, parameters, name, channels_in, channels_out, kernel_size, padding, stride,
                 biases_from(biases));
          },
          "parameters"_a, "name"_a, "channels_in"_a, "channels_out"_a, "kernel_size"_a,
          "padding"_a = 0, nb::kw_only(), "stride"_a = 1, "initial_biases"_a = "uniform")
      .def(
          "__call__",
          [](const PyConvTranspose1d& self, const PyVar& x) {
            return call("conv_transpose1d", self, x,
                        [&](const ConvTranspose1d& conv) { return conv(x.var); });
          },
          "x"_a);
}

void bind_norms(nb::module_& m) {
  nb::class_<PyNormAct>(m, "NormAct",
                        "Normalization with an activation, x [N, L, C] -> the same. "
                        "Parameters NAME.weight (gamma) and NAME.bias (beta); with "
                        "running statistics NAME.running_mean and NAME.running_var.")
      .def(
          "__init__",
          [](PyNormAct* self, const PyParameters& parameters, const std::string& name,
             std::int64_t channels, const NormOptions& options, bool track_running) {
            make(self, parameters, name, channels, options, track_running);
          },
          "parameters"_a, "name"_a, "channels"_a, "options"_a = NormOptions(), nb::kw_only(),
          "track_running"_a = false)
      .def(
          "__call__",
          [](const PyNormAct& self, const PyVar& x, const std::string& statistics) {
            const Statistics from = statistics_from(statistics);
            return call("norm_act", self, x,
                        [&](const NormAct& norm) { return norm(x.var, from); });
          },
          "x"_a, "statistics"_a = "training",
          "`statistics`: training (the batch's; running ones follow), minibatch (the batch's; "
          "nothing changes) or population (the running ones).");
  nb::class_<PyConvNormAct>(m, "ConvNormAct",
                            "Layers in a row, x [N, L, C] -> [N, L', C]: a convolution each, a "
                            "normalization where `norm` is given, and an activation. Parameters "
                            "NAME.{i}.conv.* and NAME.{i}.norm.*, i from 0.")
      .def(
          "__init__",
          [](PyConvNormAct* self, const PyParameters& parameters, const std::string& name,
             std::int64_t layers, std::int64_t channels, std::int64_t kernel_size,
             std::int64_t padding, const std::optional<NormOptions>& norm, bool track_running,
             const std::string& mode, const std::string& biases) {
            make(self, parameters, name, layers, channels, kernel_size, padding, norm,
                 track_running, ConvOptions{padding_mode_from(mode), biases_from(biases)});
          },
          "parameters"_a, "name"_a, "layers"_a, "channels"_a, "kernel_size"_a, "padding"_a = 0,
          "norm"_a = nb::none(), nb::kw_only(), "track_running"_a = false,
          "padding_mode"_a = "zeros", "initial_biases"_a = "uniform")
      .def(
          "__call__",
          [](const PyConvNormAct& self, const PyVar& x, const std::string& statistics) {
            const Statistics from = statistics_from(statistics);
            return call("conv_norm_act", self, x,
                        [&](const ConvNormAct& layers) { return layers(x.var, from); });
          },
          "x"_a, "statistics"_a = "training", "`statistics` as of NormAct.");
}

}  // namespace

void bind_modules(nb::module_& m) {
  bind_convolutions(m);
  bind_norms(m);
  nb::class_<PyLinear>(m, "Linear",
                       "x [rows, in] -> [rows, out]. Parameters NAME.weight and "
                       "NAME.bias.")
      .def(
          "__init__",
          [](PyLinear* self, const PyParameters& parameters, const std::string& name,
             std::int64_t in, std::int64_t out) { make(self, parameters, name, in, out); },
          "parameters"_a, "name"_a, "channels_in"_a, "channels_out"_a)
      .def(
          "__call__",
          [](const PyLinear& self, const PyVar& x, const std::string& name) {
            const Activation activation = activation_from(name);
            return call("linear", self, x,
                        [&](const Linear& layer) { return layer(x.var, activation); });
          },
          "x"_a, "activation"_a = "none", "`activation`: none, relu or mish.");
}

}  // namespace sidechannel::python
