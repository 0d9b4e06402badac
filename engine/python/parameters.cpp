#include "engine/parameter.h"

#include "engine/finite.h"
#include "engine/io/safetensors.h"
#include "engine/python/binding.h"

namespace sidechannel::python {
namespace {

PyParameters make_list(const Device* device, nb::handle dtype, std::uint64_t seed,
                       std::uint32_t stream) {
  const Device& where = or_default(device);
  const DType type = dtype_from(dtype);
  require(type == DType::kF32 || !where.is_cuda(),
          fmt::format("parameters: {} computes in f32, not in {}", where.name(), text_of(type)));
  return {std::make_shared<ParameterList>(where, type, seed, static_cast<Stream>(stream))};
}

Parameter* find(const PyParameters& self, const std::string& name) {
  for (Parameter& parameter : self.list->parameters()) {
    if (parameter.name == name) return &parameter;
  }
  return nullptr;
}

PyParameter get(const PyParameters& self, const std::string& name) {
  Parameter* const found = find(self, name);
  if (found == nullptr) throw nb::key_error(name.c_str());
  return {self.list, found};
}

std::vector<PyParameter> all(const PyParameters& self) {
  std::vector<PyParameter> parameters;
  for (Parameter& parameter : self.list->parameters())
    parameters.push_back({self.list, &parameter});
  return parameters;
}

PyParameter add_uniform(const PyParameters& self, const std::string& name,
                        const std::vector<std::int64_t>& shape, double bound) {
  return {self.list, compute(self.list->device(), [&] {
            return &self.list->add_uniform(name, shape_from(shape), bound);
          })};
}

PyParameter add_filled(const PyParameters& self, const std::string& name,
                       const std::vector<std::int64_t>& shape, double value) {
  return {self.list, compute(self.list->device(), [&] {
            return &self.list->add_filled(name, shape_from(shape), value);
          })};
}

TensorMap tensors_of(const PyParameters& self) {
  return wait_for(self.list->device(), [&] {
    TensorMap tensors;
    self.list->save(tensors);
    return tensors;
  });
}

nb::dict state_dict(const PyParameters& self) {
  nb::dict state;
  for (auto& [name, array] : tensors_of(self)) {
    state[nb::str(name.c_str())] = numpy_from(std::move(array));
  }
  return state;
}

void take(const PyParameters& self, const TensorMap& tensors, const std::string& source) {
  check_finite(tensors, source);
  compute(self.list->device(), [&] { self.list->load(tensors, source); });
}

void load_state_dict(const PyParameters& self, const nb::dict& state) {
  TensorMap tensors;
  for (const auto& [key, value] : state) {
    if (!nb::isinstance<nb::str>(key)) {
      throw nb::type_error("load_state_dict: expected names of tensors for keys");
    }
    const auto name = nb::cast<std::string>(key);
    tensors[name] = host_array_from("load_state_dict: " + name, value);
  }
  take(self, tensors, "load_state_dict");
}

void save(const PyParameters& self, const std::filesystem::path& path) {
  SafetensorsFile file;
  file.tensors = tensors_of(self);
  file.metadata = {{"format", "pt"}};
  const WithoutGil others;
  check_replaceable(path);
  write_safetensors(path, file);
}

void load(const PyParameters& self, const std::filesystem::path& path) {
  SafetensorsFile file;
  {
    const WithoutGil others;
    file = read_safetensors(path);
  }
  take(self, file.tensors, path.string());
}

}  // namespace

void check_together(const char* name, const ParameterList& parameters, const PyVar& x) {
  SC_CHECK(parameters.dtype() == x.var.dtype() && same_place(parameters.device(), x.device()),
           "{}: its parameters are {} on {}, its input {} on {}", name, text_of(parameters.dtype()),
           parameters.device().name(), text_of(x.var.dtype()), x.device().name());
}

void bind_parameters(nb::module_& m) {
  nb::class_<PyParameter>(m, "Parameter", R"(A learnable tensor and its gradient.

value and grad are the parameter's own memory, laid out as the engine has it: a convolution's weight
is [k, C_in, C_out]. An Adam moves both when it is made: take them after that.)")
      .def_prop_ro("name", [](const PyParameter& self) { return self.parameter->name; })
      .def_prop_ro("value", [](const PyParameter& self) { return self.parameter->value; })
      .def_prop_ro("grad", [](const PyParameter& self) { return self.parameter->grad; })
      .def_prop_ro("shape",
                   [](const PyParameter& self) { return tuple_of(self.parameter->value.shape()); })
      .def("__repr__", [](const PyParameter& self) {
        return fmt::format("Parameter({}, {})", self.parameter->name,
                           self.parameter->value.shape().str());
      });
  nb::class_<PyParameters>(m, "ParameterList", R"(The named tensors of a model.

Modules add theirs when they are made; random initial values are drawn from (seed, stream), in the
order in which parameters are added. In state dicts and files tensors have PyTorch's layouts.)")
      .def(
          "__init__",
          [](PyParameters* self, const Device* device, nb::object dtype, std::uint64_t seed,
             std::uint32_t stream) {
            new (self) PyParameters(make_list(device, dtype, seed, stream));
          },
          "device"_a = nb::none(), "dtype"_a = "f32", nb::kw_only(), "seed"_a = 0, "stream"_a = 0)
      .def_prop_ro("device", [](const PyParameters& self) { return self.list->device(); })
      .def_prop_ro("dtype", [](const PyParameters& self) { return text_of(self.list->dtype()); })
      .def_prop_ro(
          "size", [](const PyParameters& self) { return self.list->size(); },
          "Learnable numbers in all.")
      .def("add_uniform", &add_uniform, "name"_a, "shape"_a, "bound"_a,
           "A parameter of one's own, uniform on [-bound, bound).")
      .def("add_filled", &add_filled, "name"_a, "shape"_a, "value"_a,
           "A parameter of one's own, all of one value.")
      .def("names",
           [](const PyParameters& self) {
             std::vector<std::string> names;
             for (const Parameter& one : self.list->parameters()) names.push_back(one.name);
             return names;
           })
      .def("__len__", [](const PyParameters& self) { return self.list->parameters().size(); })
      .def("__iter__", [](const PyParameters& self) { return nb::iter(nb::cast(all(self))); })
      .def("__getitem__", &get, "name"_a)
      .def("__contains__", [](const PyParameters& self,
                              const std::string& name) { return find(self, name) != nullptr; })
      .def(
          "zero_grad",
          [](const PyParameters& self) {
            compute(self.list->device(), [&] { self.list->zero_grad(); });
          },
          "Sets all gradients to 0. backward() overwrites those of the parameters that its output "
          "depends on, and leaves the others as they are: for steps that leave some out.")
      .def("state_dict", &state_dict,
           "Arrays of NumPy's by name, running statistics too: copies, as PyTorch has them.",
           nb::sig("def state_dict(self) -> dict[str, numpy.ndarray]"))
      .def("load_state_dict", &load_state_dict, "state"_a,
           "Takes what state_dict() gives, or a PyTorch module's. Error where a tensor is missing, "
           "too many, of another shape or type, or not finite; then nothing is taken.")
      .def("save", &save, "path"_a, "Writes a .safetensors file, which PyTorch's reader takes.")
      .def("load", &load, "path"_a, "Reads one, as load_state_dict().")
      .def("__repr__", [](const PyParameters& self) {
        return fmt::format("ParameterList of {} numbers in {} parameters", self.list->size(),
                           self.list->parameters().size());
      });
}

}  // namespace sidechannel::python
