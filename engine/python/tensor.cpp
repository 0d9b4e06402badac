#include "engine/tensor.h"

#include "engine/python/binding.h"

namespace sidechannel::python {
namespace {

void check_computes(const Device& device, DType dtype) {
  require(dtype == DType::kF32 || !device.is_cuda(),
          fmt::format("{}: computes in f32, not in {}", device.name(), text_of(dtype)));
}

Tensor zeros(const std::vector<std::int64_t>& dims, const Device* device, nb::handle dtype) {
  const Device& where = or_default(device);
  const DType type = dtype_from(dtype);
  check_computes(where, type);
  return compute(where, [&] { return Tensor::zeros(where, type, shape_from(dims)); });
}

// A copy of any numbers.
Tensor tensor(nb::handle values, const Device* device, nb::handle dtype) {
  const Device& where = or_default(device);
  if (nb::isinstance<Tensor>(values)) {
    const Tensor& given = nb::cast<const Tensor&>(values);
    SC_CHECK(given.dtype() == dtype_from(dtype), "tensor: expected {}, got {}",
             text_of(dtype_from(dtype)), text_of(given.dtype()));
    return copy_of(given, where);
  }
  const DType type = dtype_from(dtype);
  check_computes(where, type);
  const HostArray numbers = numbers_from("tensor", values, type);
  return compute(where, [&] { return Tensor::from(where, numbers); });
}

Tensor from_dlpack(nb::handle array, const Device* device) {
  return tensor_of(array, {"from_dlpack", or_default(device), std::nullopt, /*writable=*/true});
}

nb::object numpy_of(nb::handle self) {
  const Tensor& tensor = nb::cast<const Tensor&>(self);
  if (tensor.device().is_cuda()) {
    return numpy_from(wait_for(tensor.device(), [&] { return tensor.to_host(); }));
  }
  return numpy_over(memory_of(tensor), tensor.dtype(), tensor.shape(), self);
}

nb::object array_of(nb::handle self, nb::handle dtype, nb::handle copy) {
  nb::object array = numpy_of(self);
  if (!dtype.is_none()) array = array.attr("astype")(dtype, "copy"_a = false);
  return copy.is(nb::handle(Py_True)) ? array.attr("copy")() : array;
}

nb::object dlpack_of(nb::handle self, const nb::kwargs& kwargs) {
  nb::object kept = nb::borrow(self);
  nb::dict asked;
  for (const auto& [name, value] : kwargs) {
    if (nb::cast<std::string>(name) != "copy") {
      asked[name] = value;
    } else if (value.is(nb::handle(Py_True))) {
      const Tensor& tensor = nb::cast<const Tensor&>(self);
      kept = nb::cast(copy_of(tensor, tensor.device()));
    }
  }
  return dlpack_over(nb::cast<const Tensor&>(kept), kept).attr("__dlpack__")(**asked);
}

std::string words_of(const Tensor& tensor) {
  return fmt::format("Tensor({}, {}, {})", tensor.shape().str(), text_of(tensor.dtype()),
                     tensor.device().name());
}

}  // namespace

void bind_tensor(nb::module_& m) {
  nb::class_<Tensor>(m, "Tensor", R"(A contiguous array in f32 or f64 on a device.

Copies of the object see the same elements. On the CPU it shares them with numpy(), numpy.asarray()
and, by DLPack, with PyTorch and others: what is written there stands here. Made by tensor(), which
copies, from_dlpack(), which shares, and Tensor.zeros().)")
      .def_static("zeros", &zeros, "shape"_a, "device"_a = nb::none(), "dtype"_a = "f32",
                  "Of that shape, all 0.")
      .def_prop_ro("shape", [](const Tensor& self) { return tuple_of(self.shape()); })
      .def_prop_ro(
          "dtype", [](const Tensor& self) { return text_of(self.dtype()); }, "\"f32\" or \"f64\".")
      .def_prop_ro("device", [](const Tensor& self) { return self.device(); })
      .def_prop_ro("size", &Tensor::size, "The number of elements.")
      .def_prop_ro("nbytes", &Tensor::bytes)
      .def("numpy", &numpy_of,
           "As an array of NumPy's: the same memory on the CPU, a copy of a GPU's.")
      .def("__array__", &array_of, "dtype"_a = nb::none(), "copy"_a = nb::none())
      .def("__dlpack__", &dlpack_of, "kwargs"_a)
      .def("__dlpack_device__",
           [](const Tensor& self) {
             check_shares(self);
             const bool cuda = self.device().is_cuda();
             return std::pair(cuda ? nb::device::cuda::value : nb::device::cpu::value,
                              cuda ? self.device().cuda_queue().info().index : 0);
           })
      .def(
          "item",
          [](const Tensor& self) { return wait_for(self.device(), [&] { return self.item(); }); },
          "The only element of a tensor of size one.")
      .def("__float__",
           [](const Tensor& self) { return wait_for(self.device(), [&] { return self.item(); }); })
      .def(
          "copy", [](const Tensor& self) { return copy_of(self, self.device()); },
          "The same numbers in memory of their own.")
      .def(
          "to", [](const Tensor& self, const Device& device) { return copy_of(self, device); },
          "device"_a, "A copy on that device.")
      .def(
          "reshape",
          [](const Tensor& self, const std::vector<std::int64_t>& shape) {
            return self.reshape(shape_from(shape));
          },
          "shape"_a, "The same elements under another shape of the same size.")
      .def(
          "fill",
          [](const Tensor& self, double value) {
            compute(self.device(), [&] { self.fill(value); });
          },
          "value"_a, "Every element becomes `value`.")
      .def(
          "copy_from",
          [](const Tensor& self, nb::handle array) {
            const Tensor from = tensor_of(array, {"copy_from", self.device(), self.dtype()});
            compute(self.device(), [&] { self.copy_from(from); });
          },
          "array"_a, "Takes the numbers of a tensor or an array of the same shape and type.")
      .def("__len__",
           [](const Tensor& self) {
             if (self.shape().rank() == 0) throw nb::type_error("a tensor of rank 0 has no len()");
             return self.shape()[0];
           })
      .def("__repr__", &words_of);
  m.def("tensor", &tensor, "values"_a, "device"_a = nb::none(), "dtype"_a = "f32",
        "A copy of numbers (a list, an array of any type, a Tensor) as a Tensor.");
  m.def("from_dlpack", &from_dlpack, "array"_a, "device"_a = nb::none(),
        R"(A Tensor that shares its memory with an array of NumPy's, PyTorch's or anybody's.

The array must be contiguous, of f32 or f64, on `device` (the CPU, if not given), and may be
written to. Nothing is copied; the array's memory lives as long as the Tensor.)");
}

}  // namespace sidechannel::python
