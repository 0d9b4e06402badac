#include "engine/python/binding.h"

namespace sidechannel::python {
namespace {

constexpr std::initializer_list<std::pair<const char*, Activation>> kActivations = {
    {"none", Activation::kNone}, {"relu", Activation::kRelu}, {"mish", Activation::kMish}};

}  // namespace

Activation activation_from(const std::string& name) {
  return one_of("activation", name, kActivations);
}

std::string name_of(Activation activation) {
  for (const auto& [name, known] : kActivations) {
    if (known == activation) return name;
  }
  return "?";
}

Statistics statistics_from(const std::string& name) {
  return one_of<Statistics>("statistics", name,
                            {{"training", Statistics::kTraining},
                             {"minibatch", Statistics::kMinibatch},
                             {"population", Statistics::kPopulation}});
}

PaddingMode padding_mode_from(const std::string& name) {
  return one_of<PaddingMode>(
      "padding_mode", name, {{"zeros", PaddingMode::kZeros}, {"circular", PaddingMode::kCircular}});
}

InitialBiases biases_from(const std::string& name) {
  return one_of<InitialBiases>(
      "initial_biases", name,
      {{"uniform", InitialBiases::kUniform}, {"zero", InitialBiases::kZero}});
}

DType dtype_from(nb::handle dtype) {
  // A type of NumPy's says its name elsewhere than its dtypes do.
  const nb::object text = nb::hasattr(dtype, "__name__") ? nb::object(dtype.attr("__name__"))
                                                         : nb::object(nb::str(dtype));
  std::string name = nb::cast<std::string>(text);
  if (name.starts_with("torch.")) name.erase(0, 6);
  if (name == "float32") name = "f32";
  if (name == "float64") name = "f64";
  return one_of<DType>("dtype", name, {{"f32", DType::kF32}, {"f64", DType::kF64}});
}

nb::tuple tuple_of(const Shape& shape) {
  nb::list dims;
  for (const std::int64_t dim : shape) dims.append(dim);
  return nb::tuple(dims);
}

Shape shape_from(const std::vector<std::int64_t>& dims) {
  return Shape(std::span<const std::int64_t>(dims));
}

nb::object python_from(const Json& json) {
  return nb::module_::import_("json").attr("loads")(json_text(json));
}

Json json_from(nb::handle object, const char* what) {
  const nb::object text = nb::module_::import_("json").attr("dumps")(object);
  return parse_json_object(nb::cast<std::string>(text), what);
}

}  // namespace sidechannel::python
