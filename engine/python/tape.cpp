#include "engine/tape.h"

#include "engine/ops.h"
#include "engine/python/binding.h"

namespace sidechannel::python {
namespace {

// --- Random numbers
// -------------------------------------------------------------------------------

struct PyRandom {
  Device device;
  Random random;

  PyRandom(const Device& where, std::uint64_t seed)
      : device(where), random(compute(where, [&] { return Random(where, seed); })) {}
};

// --- The tape
// -------------------------------------------------------------------------------------

// While entered, a switch of a tape's is another way.
class Switched {
 public:
  Switched(const PyTape& tape, bool (Tape::*get)() const, void (Tape::*set)(bool), bool to)
      : tape_(tape.tape), get_(get), set_(set), to_(to) {}

  void enter() {
    SC_CHECK(!before_, "a with block of the tape is entered already");
    before_ = ((*tape_).*get_)();
    ((*tape_).*set_)(to_);
  }
  void exit() {
    if (before_) ((*tape_).*set_)(*before_);
    before_.reset();
  }

 private:
  std::shared_ptr<OwningTape> tape_;
  bool (Tape::*get_)() const;
  void (Tape::*set_)(bool);
  bool to_;
  std::optional<bool> before_;
};

PyTape make_tape(const Device* device, nb::handle dtype) {
  const Device& where = or_default(device);
  const DType type = dtype_from(dtype);
  require(type == DType::kF32 || !where.is_cuda(),
          fmt::format("tape: {} computes in f32, not in {}", where.name(), text_of(type)));
  return {std::make_shared<OwningTape>(where, type)};
}

Wanted wanted_by(const char* name, const PyTape& tape) {
  return {name, tape.tape->device(), tape.tape->dtype()};
}

PyVar constant(const PyTape& self, nb::handle array) {
  const Tensor value = tensor_of(array, wanted_by("constant", self));
  return {compute(self.tape->device(), [&] { return self.tape->constant(value); }), self.tape};
}

PyVar leaf(const PyTape& self, nb::handle array) {
  const Tensor value = tensor_of(array, wanted_by("leaf", self));
  return {compute(self.tape->device(), [&] { return self.tape->leaf(value); }), self.tape};
}

PyVar parameter(const PyTape& self, const PyParameter& parameter) {
  const Tensor& value = parameter.parameter->value;
  SC_CHECK(value.dtype() == self.tape->dtype() && same_place(value.device(), self.tape->device()),
           "parameter: {} is {} on {}, the tape {} on {}", parameter.parameter->name,
           text_of(value.dtype()), value.device().name(), text_of(self.tape->dtype()),
           self.tape->device().name());
  return {compute(self.tape->device(),
                  [&] {
                    self.tape->keep(parameter.list);
                    return self.tape->parameter(*parameter.parameter);
                  }),
          self.tape};
}

void check_random(const char* name, const PyTape& tape, const PyRandom& random) {
  SC_CHECK(same_place(tape.tape->device(), random.device),
           "{}: the generator is on {}, the tape on {}", name, random.device.name(),
           tape.tape->device().name());
}

PyVar normal(const PyTape& self, const std::vector<std::int64_t>& shape, const PyRandom& random,
             std::uint32_t stream) {
  check_random("normal", self, random);
  return {compute(self.tape->device(),
                  [&] {
                    return self.tape->normal(shape_from(shape), static_cast<Stream>(stream),
                                             random.random);
                  }),
          self.tape};
}

PyVar uniform_integers(const PyTape& self, std::int64_t samples, std::int64_t count,
                       const PyRandom& random, std::uint32_t stream) {
  check_random("uniform_integers", self, random);
  return {compute(self.tape->device(),
                  [&] {
                    return self.tape->uniform_integers(samples, count, static_cast<Stream>(stream),
                                                       random.random);
                  }),
          self.tape};
}

void backward(const PyTape& self, const PyVar& output, nb::handle cotangent, bool accumulate) {
  Tensor seed;
  if (!cotangent.is_none()) seed = tensor_of(cotangent, wanted_by("backward", self));
  compute(self.tape->device(), [&] {
    self.tape->backward(output.var, seed,
                        accumulate ? kernels::Write::kAccumulate : kernels::Write::kOverwrite);
  });
}

Tensor gradient(const PyTape& self, const PyVar& leaf) {
  return copy_of_found(self.tape->device(), [&] { return self.tape->gradient(leaf.var); });
}

// --- Variables
// ------------------------------------------------------------------------------------

Tensor value_of(const PyVar& self) {
  return copy_of_found(self.device(), [&] { return self.var.value(); });
}

nb::object numpy_of(const PyVar& self) {
  return numpy_from(wait_for(self.device(), [&] { return self.var.value().to_host(); }));
}

nb::object array_of(const PyVar& self, nb::handle dtype, nb::handle) {
  const nb::object array = numpy_of(self);
  return dtype.is_none() ? array : array.attr("astype")(dtype, "copy"_a = false);
}

double item_of(const PyVar& self) {
  return wait_for(self.device(), [&] { return self.var.value().item(); });
}

std::string words_of(const PyVar& self) {
  return fmt::format("Var({}, {}, {}{})", self.var.shape().str(), text_of(self.var.dtype()),
                     self.device().name(), self.var.requires_grad() ? ", with a gradient" : "");
}

void bind_random(nb::module_& m) {
  m.attr("WEIGHTS") = static_cast<std::uint32_t>(Stream::kWeights);
  m.attr("NOISE") = static_cast<std::uint32_t>(Stream::kNoise);
  nb::class_<PyRandom>(m, "Random", R"(The generator of a run: a seed, and where it stands.

What is drawn depends on the seed, the stream, and the step and the sample that it stands at, alone:
the same bits on every device. Streams are independent of each other: WEIGHTS (0) and NOISE (1) are
the engine's, any other number is yours.)")
      .def(
          "__init__",
          [](PyRandom* self, std::uint64_t seed, const Device* device) {
            new (self) PyRandom(or_default(device), seed);
          },
          "seed"_a = 0, "device"_a = nb::none(), "Stands at step 0, sample 0.")
      .def_prop_ro("seed", [](const PyRandom& self) { return self.random.seed(); })
      .def(
          "seek",
          [](PyRandom& self, std::uint32_t step, std::uint32_t first_sample) {
            compute(self.device, [&] { self.random.seek(step, first_sample); });
          },
          "step"_a, "first_sample"_a = 0, "Stands there.")
      .def(
          "advance",
          [](PyRandom& self, std::uint32_t steps, std::uint32_t samples) {
            compute(self.device, [&] { self.random.advance(steps, samples); });
          },
          "steps"_a = 1, "samples"_a = 0, "Stands so much further on.");
}

void bind_var(nb::module_& m) {
  nb::class_<PyVar>(m, "Var", R"(A tensor on a tape: what operations take and return.

Valid until the tape's reset(): an Error afterwards. Its memory is the tape's, and used again then,
so that numpy(), value and item() are copies.)")
      .def_prop_ro("shape", [](const PyVar& self) { return tuple_of(self.var.shape()); })
      .def_prop_ro(
          "dtype", [](const PyVar& self) { return text_of(self.var.dtype()); },
          "\"f32\" or \"f64\".")
      .def_prop_ro("device", [](const PyVar& self) { return self.device(); })
      .def_prop_ro(
          "size", [](const PyVar& self) { return self.var.size(); }, "The number of elements.")
      .def_prop_ro(
          "requires_grad", [](const PyVar& self) { return self.var.requires_grad(); },
          "Whether backward() computes a gradient for it.")
      .def_prop_ro("tape", [](const PyVar& self) { return PyTape{self.tape}; })
      .def_prop_ro("value", &value_of, "A Tensor with a copy of the numbers, on the device.")
      .def("numpy", &numpy_of, "An array of NumPy's with a copy of the numbers.",
           nb::sig("def numpy(self) -> numpy.ndarray"))
      .def("__array__", &array_of, "dtype"_a = nb::none(), "copy"_a = nb::none())
      .def("item", &item_of, "The only element of a variable of size one.")
      .def("__float__", &item_of)
      .def(
          "backward",
          [](const PyVar& self, nb::object cotangent, bool accumulate) {
            backward({self.tape}, self, cotangent, accumulate);
          },
          "cotangent"_a = nb::none(), nb::kw_only(), "accumulate"_a = false,
          "Tape.backward() of this variable.")
      .def(
          "__add__",
          [](const PyVar& a, const PyVar& b) {
            return operation("add", {&a, &b}, [&] { return add(a.var, b.var); });
          },
          nb::is_operator())
      .def("__repr__", &words_of)
      // Or NumPy would take it for an array: array + variable, the other way round, is an error.
      .attr("__array_ufunc__") = nb::none();
}

}  // namespace

void check_operands(const char* name, std::initializer_list<const PyVar*> inputs) {
  const PyVar& first = **inputs.begin();
  for (const PyVar* input : inputs) {
    static_cast<void>(input->var.tape());  // or its Error
    SC_CHECK(input->tape == first.tape, "{}: the inputs of an operation are of different tapes",
             name);
  }
}

void bind_tape(nb::module_& m) {
  bind_random(m);
  nb::class_<Switched>(m, "TapeBlock", "A with block, in which a tape records otherwise.")
      .def("__enter__",
           [](nb::handle self) {
             nb::cast<Switched&>(self).enter();
             return self;
           })
      .def(
          "__exit__", [](Switched& self, const nb::args&) { self.exit(); }, "exception"_a);
  nb::class_<PyTape>(m, "Tape",
                     R"(A record of the operations of one step, and the way back through them.

Variables (Var) and gradients live in its memory until reset(), which uses it again for the next
step. Everything on a tape is of one type (f32, or f64 on the CPU) and on one device. What was
recorded (networks, parameters, arrays) lives until reset(), too.)")
      .def(
          "__init__",
          [](PyTape* self, const Device* device, nb::object dtype) {
            new (self) PyTape(make_tape(device, dtype));
          },
          "device"_a = nb::none(), "dtype"_a = "f32")
      .def_prop_ro("device", [](const PyTape& self) { return self.tape->device(); })
      .def_prop_ro("dtype", [](const PyTape& self) { return text_of(self.tape->dtype()); })
      .def("constant", &constant, "array"_a,
           "An input without a gradient: a Tensor or an array, whose memory is shared.")
      .def("leaf", &leaf, "array"_a,
           "An input with a gradient, for gradient() after backward(); shared as by constant().")
      .def("parameter", &parameter, "parameter"_a,
           "A parameter; backward() leaves its gradient in Parameter.grad.")
      .def("normal", &normal, "shape"_a, "random"_a,
           "stream"_a = static_cast<std::uint32_t>(Stream::kNoise),
           "Standard normal noise, [samples, length, 1] or [samples, length]: the numbers of a "
           "sample depend on where `random` stands and on the sample, not on how many there are.")
      .def("uniform_integers", &uniform_integers, "samples"_a, "count"_a, "random"_a,
           "stream"_a = static_cast<std::uint32_t>(Stream::kNoise),
           "Whole numbers, uniform on 0 .. count - 1, [samples]; count is 1 to 2^24.")
      .def("backward", &backward, "output"_a, "cotangent"_a = nb::none(), nb::kw_only(),
           "accumulate"_a = false,
           "Computes the gradients of everything that `output` depends on, given that of output "
           "itself (1 if absent; output must then be a single number). Gradients of parameters are "
           "overwritten, or added to what is there.")
      .def("gradient", &gradient, "leaf"_a,
           "Of a leaf or a parameter's variable, after backward(): a copy.")
      .def(
          "reset",
          [](const PyTape& self) { compute(self.tape->device(), [&] { self.tape->forget(); }); },
          "Forgets everything, and takes the memory back: variables from before are errors.")
      .def(
          "no_grad",
          [](const PyTape& self) {
            return Switched(self, &Tape::recording, &Tape::set_recording, false);
          },
          "with tape.no_grad(): operations compute and record nothing.")
      .def(
          "hold_parameters",
          [](const PyTape& self) {
            return Switched(self, &Tape::holds_parameters, &Tape::set_holds_parameters, true);
          },
          "with tape.hold_parameters(): parameters come onto the tape as constants.")
      .def(
          "__eq__", [](const PyTape& self, const PyTape& other) { return self.tape == other.tape; },
          nb::is_operator())
      .def("__hash__", [](const PyTape& self) { return std::hash<const void*>()(self.tape.get()); })
      .def("__repr__", [](const PyTape& self) {
        return fmt::format("Tape({}, {})", self.tape->device().name(), text_of(self.tape->dtype()));
      });
  bind_var(m);
}

}  // namespace sidechannel::python
