#include "engine/python/binding.h"

namespace sidechannel::python {
namespace {

// The classes of Python's exceptions: of the module, which keeps them.
struct Classes {
  PyObject *error, *usage, *machine, *memory;
};

Classes classes = {};

PyObject* exception(nb::module_& m, const char* name, nb::handle bases, const char* doc) {
  const std::string full = fmt::format("{}.{}", nb::cast<std::string>(m.attr("__name__")), name);
  const nb::object made =
      nb::steal(PyErr_NewExceptionWithDoc(full.c_str(), doc, bases.ptr(), nullptr));
  if (!made.is_valid()) nb::raise_python_error();
  m.attr(name) = made;
  return made.ptr();
}

void translate(const std::exception_ptr& thrown, void*) {
  try {
    std::rethrow_exception(thrown);
  } catch (const OutOfMemory& error) {
    PyErr_SetString(classes.memory, error.what());
  } catch (const MachineError& error) {
    PyErr_SetString(classes.machine, error.what());
  } catch (const UsageError& error) {
    PyErr_SetString(classes.usage, error.what());
  } catch (const Error& error) {
    PyErr_SetString(classes.error, error.what());
  }
}

}  // namespace

void bind_errors(nb::module_& m) {
  classes.error = exception(m, "Error", PyExc_RuntimeError,
                            "Something failed: a shape, a file, a device, a number. One line.");
  classes.usage =
      exception(m, "UsageError", nb::make_tuple(m.attr("Error"), nb::handle(PyExc_ValueError)),
                "The caller asked for something impossible.");
  classes.machine = exception(m, "MachineError", m.attr("Error"),
                              "No fault of what was asked for: a device that fails.");
  classes.memory = exception(m, "OutOfMemory",
                             nb::make_tuple(m.attr("MachineError"), nb::handle(PyExc_MemoryError)),
                             "A device, or the machine, had not the memory that was asked for.");
  nb::register_exception_translator(translate);
}

}  // namespace sidechannel::python
