#pragma once

// What the parts of the Python module share.
//
// A tensor of Python's shares its memory with NumPy, PyTorch and whoever else speaks DLPack. A
// variable's memory is its tape's, which uses it again after reset(): what leaves a variable is a
// copy.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "engine/io/file.h"
#include "engine/io/json.h"
#include "engine/modules.h"
#include "engine/tape.h"

namespace sidechannel::python {

namespace nb = nanobind;
using namespace nanobind::literals;

// --- The parts, each in a file of its own
// ---------------------------------------------------------

void bind_errors(nb::module_& m);
void bind_device(nb::module_& m);
void bind_tensor(nb::module_& m);
void bind_tape(nb::module_& m);
void bind_norm_options(nb::module_& m);
void bind_operations(nb::module_& m);
void bind_parameters(nb::module_& m);
void bind_modules(nb::module_& m);
void bind_adam(nb::module_& m);
void bind_networks(nb::module_& m);
void bind_calls(nb::module_& m);
void bind_training(nb::module_& m);
void bind_leak(nb::module_& m);

// --- Calls into the engine
// ------------------------------------------------------------------------

// While one lives other threads may run Python. Where Python is about to end, the end of one waits
// for ever, but in the main thread: to go back into it would end the process before its time.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  ~WithoutGil();
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  PyThreadState* state_;
};

// While one lives the engine may be called, for what lies on `device`, by one thread at a time. On
// the CPU that is without the GIL. On a GPU operations are launched and return, so they keep it,
// and other threads give no memory back meanwhile; what waits for the GPU does so without it.
class Entry {
 public:
  enum class Waits : bool { kNo, kYes };
  explicit Entry(const Device& device, Waits waits = Waits::kNo);

 private:
  std::optional<WithoutGil> released_;  // until the lock is given back
  std::unique_lock<std::recursive_mutex> alone_;
};

template <class F>
decltype(auto) compute(const Device& device, const F& f) {
  const Entry entry(device);
  return f();
}
// The same for what comes back to the host.
template <class F>
decltype(auto) wait_for(const Device& device, const F& f) {
  const Entry entry(device, Entry::Waits::kYes);
  return f();
}

// For calls that take long: throws what Python makes of Ctrl-C, a KeyboardInterrupt, and lets its
// other threads run. Asks no more than twenty times a second. With the GIL and without.
class SignalCheck {
 public:
  bool due() const { return Clock::now() >= next_; }
  void operator()();

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point next_ = Clock::now();
};

// --- Names
// ----------------------------------------------------------------------------------------

// The one of these that has the name; UsageError with all of their names.
template <class T>
T one_of(const char* what, const std::string& name,
         std::initializer_list<std::pair<const char*, T>> all) {
  std::vector<const char*> names;
  for (const auto& [known, value] : all) {
    if (name == known) return value;
    names.push_back(known);
  }
  throw UsageError(fmt::format("{} {}: expected {}", what, shown(name), listed(names)));
}

Activation activation_from(const std::string& name);
std::string name_of(Activation activation);
Statistics statistics_from(const std::string& name);
PaddingMode padding_mode_from(const std::string& name);
InitialBiases biases_from(const std::string& name);

// "f32", "float32", numpy.float32, torch.float32; UsageError for what is neither f32 nor f64.
DType dtype_from(nb::handle dtype);
inline std::string text_of(DType dtype) {
  return std::string(sidechannel::name_of(dtype));
}

// --- Devices
// --------------------------------------------------------------------------------------

// The CPU with all of its cores, which everything is on that is told of no other device.
const Device& default_device();
inline const Device& or_default(const Device* device) {
  return device != nullptr ? *device : default_device();
}
// Whether memory of the one can be used on the other: the CPU has many teams of threads, and one
// memory.
bool same_place(const Device& a, const Device& b);
// Whether nobody but its emulator may touch the device's memory.
bool is_emulated(const Device& device);

// --- Arrays
// ---------------------------------------------------------------------------------------

nb::tuple tuple_of(const Shape& shape);
Shape shape_from(const std::vector<std::int64_t>& dims);

// What an operation expects of an array: errors begin with `what`.
struct Wanted {
  const char* what;
  const Device& device;
  std::optional<DType> dtype = {};  // f32 or f64 without
  bool writable = false;
};
// A tensor, or an array of anybody's, which then shares its memory. Error, one sentence, for
// another type, another device, gaps between its elements, or memory that may not be written to;
// TypeError for what is no array.
Tensor tensor_of(nb::handle array, const Wanted& wanted);
// The same tensor as one of a device with which it shares its place.
Tensor on_device(const Tensor& tensor, const Device& device);
// With memory of its own, there.
Tensor copy_of(const Tensor& tensor, const Device& device);
// The same of what f() finds on the device, while nobody else works there.
template <class F>
Tensor copy_of_found(const Device& device, const F& f) {
  return compute(device, [&] {
    const Tensor found = f();
    Tensor copy(device, found.dtype(), found.shape());
    copy.copy_from(on_device(found, device));
    return copy;
  });
}

// Where its elements are.
const void* memory_of(const Tensor& tensor);

// Numbers of any kind, lists too, converted.
HostArray numbers_from(const char* what, nb::handle numbers, DType dtype);
// An array of NumPy's that owns what it holds, and one over memory that `owner` keeps.
nb::object numpy_from(HostArray array);
nb::object numpy_over(const void* data, DType dtype, const Shape& shape, nb::handle owner);
// What has __dlpack__, over a tensor that `owner` keeps.
nb::object dlpack_over(const Tensor& tensor, nb::handle owner);
// Error where its device shares memory with nobody.
void check_shares(const Tensor& tensor);
// The elements of an array of NumPy's or anybody's in host memory, of a type that files have.
HostArray host_array_from(const std::string& what, nb::handle array);

// Error for a name under which there is something else than a file: a device, a folder.
void check_replaceable(const std::filesystem::path& path);

// As the json module reads it.
nb::object python_from(const Json& json);
Json json_from(nb::handle object, const char* what);

// --- What Python holds
// ----------------------------------------------------------------------------

// A tape that keeps alive what was recorded on it, until reset().
class OwningTape : public Tape {
 public:
  using Tape::Tape;
  void keep(std::shared_ptr<const void> what) { kept_.insert(std::move(what)); }
  void forget() {
    reset();
    kept_.clear();
  }

 private:
  std::set<std::shared_ptr<const void>> kept_;
};

struct PyTape {
  std::shared_ptr<OwningTape> tape;
};

// A variable, and its tape, which lives as long.
struct PyVar {
  Var var;
  std::shared_ptr<OwningTape> tape;

  const Device& device() const { return var.device(); }
};

struct PyParameters {
  std::shared_ptr<ParameterList> list;
};

struct PyParameter {
  std::shared_ptr<ParameterList> list;
  Parameter* parameter;
};

// Error where variables are not of one tape, or one of them was reset away.
void check_operands(const char* name, std::initializer_list<const PyVar*> inputs);

// An operation on these, which must be all of its variables or have been checked.
template <class F>
PyVar operation(const char* name, std::initializer_list<const PyVar*> inputs, const F& f) {
  check_operands(name, inputs);
  const PyVar& first = **inputs.begin();
  return {compute(first.device(), f), first.tape};
}

// Error where a module's parameters and its input are not of one type and in one place.
void check_together(const char* name, const ParameterList& parameters, const PyVar& x);

// What an operation takes beside variables, for them.
inline Wanted wanted_by(const char* name, const PyVar& x) {
  return {name, x.device(), x.var.dtype()};
}

}  // namespace sidechannel::python
