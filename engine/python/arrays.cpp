// Arrays of NumPy's, PyTorch's and anybody's, in and out.

#include <cstring>

#include "engine/io/npy.h"
#include "engine/python/binding.h"

namespace sidechannel::python {
namespace {

using Array = nb::ndarray<nb::ro>;  // of any type, anywhere
using WritableArray = nb::ndarray<>;
using Code = nb::dlpack::dtype_code;

// --- What an array is
// -----------------------------------------------------------------------------

std::optional<DType> dtype_of(const nb::dlpack::dtype& type) {
  const auto is = [&](Code code, int bits) {
    return type.code == static_cast<std::uint8_t>(code) && type.bits == bits && type.lanes == 1;
  };
  if (is(Code::Float, 32)) return DType::kF32;
  if (is(Code::Float, 64)) return DType::kF64;
  if (is(Code::Int, 32)) return DType::kI32;
  if (is(Code::Int, 64)) return DType::kI64;
  if (is(Code::UInt, 8)) return DType::kU8;
  if (is(Code::Bool, 8)) return DType::kBool;
  return {};
}

nb::dlpack::dtype dlpack_of(DType dtype) {
  const Code code = dtype == DType::kBool                          ? Code::Bool
                    : dtype == DType::kU8                          ? Code::UInt
                    : dtype == DType::kI32 || dtype == DType::kI64 ? Code::Int
                                                                   : Code::Float;
  return {static_cast<std::uint8_t>(code), static_cast<std::uint8_t>(8 * size_of(dtype)), 1};
}

std::string words_of(const nb::dlpack::dtype& type) {
  if (const std::optional<DType> known = dtype_of(type)) return text_of(*known);
  const char* const kind = type.code == static_cast<std::uint8_t>(Code::Int)       ? "i"
                           : type.code == static_cast<std::uint8_t>(Code::UInt)    ? "u"
                           : type.code == static_cast<std::uint8_t>(Code::Float)   ? "f"
                           : type.code == static_cast<std::uint8_t>(Code::Bfloat)  ? "bf"
                           : type.code == static_cast<std::uint8_t>(Code::Complex) ? "complex"
                                                                                   : "type";
  return fmt::format("{}{}", kind, static_cast<int>(type.bits));
}

template <class A>
std::string place_of(const A& array) {
  const int type = array.device_type();
  if (type == nb::device::cpu::value || type == nb::device::cuda_host::value) return "cpu";
  const bool cuda = type == nb::device::cuda::value || type == nb::device::cuda_managed::value;
  return cuda ? fmt::format("cuda:{}", array.device_id())
              : fmt::format("a device of kind {}", type);
}

// Where such a device's arrays are.
std::string place_of(const Device& device) {
  return is_emulated(device) ? "cpu" : device.name();
}

template <class A>
bool is_contiguous(const A& array) {
  std::int64_t expected = 1;
  bool gaps = false, empty = false;
  for (std::size_t axis = array.ndim(); axis-- > 0;) {
    const auto dim = static_cast<std::int64_t>(array.shape(axis));
    empty = empty || dim == 0;
    gaps = gaps || (dim > 1 && array.stride(axis) != expected);
    expected *= dim;
  }
  return empty || !gaps;
}

template <class A>
std::span<const std::int64_t> dims_of(const A& array) {
  return {array.shape_ptr(), array.ndim()};
}

// --- In
// -------------------------------------------------------------------------------------------

// PyTorch's own words for it begin with version 2.
void refuse_gradient(const char* what, nb::handle object) {
  if (!nb::hasattr(object, "requires_grad") || !nb::cast<bool>(object.attr("requires_grad")))
    return;
  throw nb::type_error(
      fmt::format("{}: a tensor that asks for a gradient is not shared; give its detach()", what)
          .c_str());
}

[[noreturn]] void refuse(const char* what, nb::handle object) {
  refuse_gradient(what, object);
  if (nb::ndarray_check(object)) {
    const std::string of = nb::hasattr(object, "dtype")
                               ? fmt::format(", got {}", nb::str(object.attr("dtype")).c_str())
                               : std::string();
    throw nb::type_error(
        fmt::format("{}: expected an array of numbers in this machine's memory and byte order{}",
                    what, of)
            .c_str());
  }
  const std::string type = nb::cast<std::string>(nb::handle(object.type()).attr("__name__"));
  throw nb::type_error(
      fmt::format("{}: expected a Tensor or an array (NumPy, PyTorch, DLPack), got {}", what, type)
          .c_str());
}

// A GPU's array is ready by the time that our stream comes to it: whoever gives it sees to that.
nb::object given_for(nb::handle object, const Device& device) {
  if (!device.is_cuda() || is_emulated(device) || !nb::hasattr(object, "__dlpack_device__")) {
    return nb::borrow(object);
  }
  const auto place = nb::cast<std::pair<int, int>>(object.attr("__dlpack_device__")());
  if (place.first != nb::device::cuda::value) return nb::borrow(object);
  const auto stream = reinterpret_cast<std::intptr_t>(device.cuda_queue().stream());
  return object.attr("__dlpack__")("stream"_a = stream);
}

// A tensor over the array's memory, which it keeps alive.
template <class A>
Tensor shared(A array, DType dtype, const Device& device) {
  const Shape shape(dims_of(array));
  if (array.data() == nullptr) return {device, dtype, shape};  // an empty one has no memory
  void* const data = const_cast<void*>(static_cast<const void*>(array.data()));
  const std::shared_ptr<A> owner(new A(std::move(array)), [device](A* kept) {
    // Others may use a GPU's memory again at once.
    if (device.is_cuda()) {
      try {
        device.synchronize();
      } catch (const std::exception&) {  // which the next wait reports
      }
    }
    delete kept;
  });
  return {device, dtype, shape, owner, data};
}

template <class A>
Tensor tensor_from(A array, const Wanted& wanted) {
  const std::optional<DType> dtype = dtype_of(array.dtype());
  const bool computes = dtype == DType::kF32 || dtype == DType::kF64;
  SC_CHECK(computes && (!wanted.dtype || *dtype == *wanted.dtype), "{}: expected {}, got {}",
           wanted.what, wanted.dtype ? text_of(*wanted.dtype) : "f32 or f64",
           words_of(array.dtype()));
  SC_CHECK(place_of(array) == place_of(wanted.device),
           "{}: expected an array on {}, got one on {} (tensor(array, device) copies it there)",
           wanted.what, wanted.device.name(), place_of(array));
  SC_CHECK(is_contiguous(array),
           "{}: expected a contiguous array, got one of shape [{}] with strides [{}] "
           "(numpy.ascontiguousarray copies it)",
           wanted.what, fmt::join(dims_of(array), ", "),
           fmt::join(std::span(array.stride_ptr(), array.ndim()), ", "));
  SC_CHECK(reinterpret_cast<std::uintptr_t>(array.data()) % size_of(*dtype) == 0,
           "{}: the array's elements are not aligned in memory (numpy.copy aligns them)",
           wanted.what);
  if (!is_emulated(wanted.device)) return shared(std::move(array), *dtype, wanted.device);
  return compute(wanted.device, [&] {
    Tensor copy(wanted.device, *dtype, Shape(dims_of(array)));
    wanted.device.copy_from_host(const_cast<void*>(memory_of(copy)), array.data(), copy.bytes());
    return copy;
  });
}

}  // namespace

const void* memory_of(const Tensor& tensor) {
  return tensor.dtype() == DType::kF64 ? static_cast<const void*>(tensor.data<double>())
                                       : tensor.data<float>();
}

Tensor on_device(const Tensor& tensor, const Device& device) {
  if (tensor.device() == device) return tensor;
  const auto owner = std::make_shared<Tensor>(tensor);
  return {device, tensor.dtype(), tensor.shape(), owner, const_cast<void*>(memory_of(tensor))};
}

Tensor tensor_of(nb::handle array, const Wanted& wanted) {
  if (nb::isinstance<Tensor>(array)) {
    const Tensor& tensor = nb::cast<const Tensor&>(array);
    SC_CHECK(!wanted.dtype || tensor.dtype() == *wanted.dtype, "{}: expected {}, got {}",
             wanted.what, text_of(*wanted.dtype), text_of(tensor.dtype()));
    SC_CHECK(same_place(tensor.device(), wanted.device),
             "{}: expected a tensor on {}, got one on {} (Tensor.to copies it there)", wanted.what,
             wanted.device.name(), tensor.device().name());
    return on_device(tensor, wanted.device);
  }
  if (nb::isinstance<PyVar>(array)) {
    throw nb::type_error(
        fmt::format("{}: expected a Tensor or an array, got a variable (Var.value is a Tensor)",
                    wanted.what)
            .c_str());
  }
  if (!nb::ndarray_check(array)) refuse(wanted.what, array);
  refuse_gradient(wanted.what, array);
  const nb::object given = given_for(array, wanted.device);
  WritableArray writable;
  if (nb::try_cast(given, writable, false)) return tensor_from(std::move(writable), wanted);
  Array read_only;
  if (!nb::try_cast(given, read_only, false)) refuse(wanted.what, array);
  SC_CHECK(!wanted.writable, "{}: the array may not be written to (tensor(array) copies it)",
           wanted.what);
  return tensor_from(std::move(read_only), wanted);
}

Tensor copy_of(const Tensor& tensor, const Device& device) {
  if (same_place(tensor.device(), device)) {
    return copy_of_found(device, [&] { return tensor; });
  }
  const HostArray host = wait_for(tensor.device(), [&] { return tensor.to_host(); });
  return compute(device, [&] { return Tensor::from(device, host); });
}

HostArray host_array_from(const std::string& what, nb::handle array) {
  const nb::module_ numpy = nb::module_::import_("numpy");
  const nb::object all = numpy.attr("asarray")(array);
  const nb::object shape = all.attr("shape");  // which the next makes longer where there is none
  const nb::object contiguous = numpy.attr("ascontiguousarray")(all);
  nb::ndarray<nb::ro, nb::device::cpu> given;
  if (!nb::try_cast(contiguous, given, false)) refuse(what.c_str(), array);
  const std::optional<DType> dtype = dtype_of(given.dtype());
  SC_CHECK(dtype, "{}: expected f32, f64, i32, i64, u8 or bool, got {}", what,
           words_of(given.dtype()));
  HostArray result(*dtype, shape_from(nb::cast<std::vector<std::int64_t>>(shape)));
  if (!result.bytes.empty()) {
    std::memcpy(result.bytes.data(), given.data(), result.bytes.size());
  }
  return result;
}

HostArray numbers_from(const char* what, nb::handle numbers, DType dtype) {
  const nb::object array = nb::module_::import_("numpy").attr("asarray")(
      numbers, "dtype"_a = dtype == DType::kF64 ? "float64" : "float32");
  return host_array_from(what, array);
}

// --- Out
// ------------------------------------------------------------------------------------------

nb::object numpy_over(const void* data, DType dtype, const Shape& shape, nb::handle owner) {
  std::vector<std::size_t> dims(shape.begin(), shape.end());
  return nb::cast(nb::ndarray<nb::numpy>(const_cast<void*>(data), dims.size(), dims.data(), owner,
                                         nullptr, dlpack_of(dtype), nb::device::cpu::value));
}

nb::object numpy_from(HostArray array) {
  auto kept = std::make_unique<HostArray>(std::move(array));
  if (kept->bytes.empty()) kept->bytes.resize(1);  // for an empty one to lie somewhere
  const HostArray& held = *kept;
  const nb::capsule owner(kept.get(), [](void* p) noexcept { delete static_cast<HostArray*>(p); });
  static_cast<void>(kept.release());
  return numpy_over(held.bytes.data(), held.dtype, held.shape, owner);
}

void check_replaceable(const std::filesystem::path& path) {
  std::error_code unknown;
  SC_CHECK(
      !std::filesystem::exists(path, unknown) || std::filesystem::is_regular_file(path, unknown),
      "cannot write {}: is no file", path.string());
}

void check_shares(const Tensor& tensor) {
  SC_CHECK(!is_emulated(tensor.device()), "{} is emulated, and shares its memory with nobody",
           tensor.device().name());
}

nb::object dlpack_over(const Tensor& tensor, nb::handle owner) {
  check_shares(tensor);
  wait_for(tensor.device(), [&] { tensor.device().synchronize(); });
  std::vector<std::size_t> dims(tensor.shape().begin(), tensor.shape().end());
  const bool cuda = tensor.device().is_cuda();
  return nb::cast(nb::ndarray<nb::array_api>(
      const_cast<void*>(memory_of(tensor)), dims.size(), dims.data(), owner, nullptr,
      dlpack_of(tensor.dtype()), cuda ? nb::device::cuda::value : nb::device::cpu::value,
      cuda ? tensor.device().cuda_queue().info().index : 0));
}

}  // namespace sidechannel::python
