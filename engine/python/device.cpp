#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <thread>

#include "engine/python/binding.h"

namespace sidechannel::python {
namespace {

// Queues work on one kernel at a time.
std::recursive_mutex& mutex_of(const Device& device) {
  static std::array<std::recursive_mutex, 61> mutexes;
  const void* const queue = device.is_cuda() ? static_cast<const void*>(&device.cuda_queue())
                                             : static_cast<const void*>(&device.cpu_queue());
  const auto address = reinterpret_cast<std::uintptr_t>(queue);
  return mutexes[address / alignof(std::max_align_t) % mutexes.size()];
}

// Whether Python is about to end, and how many threads wait for the GIL to go back into it.
std::atomic<bool> ending = false;
std::atomic<int> waiting = 0;

// While one lives its thread waits for the GIL. Where Python is about to end, it never begins to.
class WaitsForGil {
 public:
  WaitsForGil() {
    const bool is_main = ::gettid() == ::getpid();
    ++waiting;  // before the look: end() does it the other way round
    if (!ending || is_main) return;
    --waiting;
    for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
  }
  ~WaitsForGil() { --waiting; }
  WaitsForGil(const WaitsForGil&) = delete;
  WaitsForGil& operator=(const WaitsForGil&) = delete;
};

// Lets those through that wait already, in whose frames Python would end the process.
void end() {
  ending = true;
  PyThreadState* const state = PyEval_SaveThread();
  while (waiting > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  PyEval_RestoreThread(state);
}

// What makes an equal one.
std::string named(const Device& device) {
  return device.is_cuda()
             ? fmt::format("Device(\"{}\", precision=\"{}\")", device.name(),
                           sidechannel::name_of(device.cuda_queue().precision()))
             : fmt::format("Device(\"cpu\", threads={})", device.cpu_queue().threads());
}

Device opened(const std::string& name, int threads, const std::string& precision) {
  require(threads >= 0, fmt::format("threads {}: expected 0, for every core, or more", threads));
  return Device::from_name(name, threads, precision_from(precision));
}

}  // namespace

WithoutGil::~WithoutGil() {
  const WaitsForGil waits;
  PyEval_RestoreThread(state_);
}

Entry::Entry(const Device& device, Waits waits) : alone_(mutex_of(device), std::defer_lock) {
  const bool launches = device.is_cuda() && waits == Waits::kNo;
  if (launches && alone_.try_lock()) return;
  // Before the lock, or who has the lock would wait for the GIL, and we for the lock.
  released_.emplace();
  alone_.lock();
}

void SignalCheck::operator()() {
  if (!due()) return;
  std::optional<WaitsForGil> waits;
  if (PyGILState_Check() == 0) waits.emplace();
  const nb::gil_scoped_acquire python;
  waits.reset();
  if (PyErr_CheckSignals() != 0) throw nb::python_error();
  const WithoutGil others;
  next_ = Clock::now() + std::chrono::milliseconds(50);
}

const Device& default_device() {
  static const Device device = Device::cpu();
  return device;
}

bool same_place(const Device& a, const Device& b) {
  return a == b || (!a.is_cuda() && !b.is_cuda());
}

bool is_emulated(const Device& device) {
  return device.is_cuda() && device.cuda_queue().info().emulated;
}

void bind_device(nb::module_& m) {
  nb::module_::import_("atexit").attr("register")(nb::cpp_function(&end));
  // The threads that waited are the parent's.
  nb::module_::import_("os").attr("register_at_fork")("after_in_child"_a =
                                                          nb::cpp_function([] { waiting = 0; }));
  nb::class_<Device>(m, "Device", R"(Where tensors live and operations run.

Device("cpu", threads=2), Device("cuda:0", precision="fp32"), or Device("auto"): a GPU where one is
usable, else the CPU. An explicit wish never falls back to another device: UsageError for an unknown
name or a build without CUDA, Error for a GPU that cannot be used. Where a device may be given and
is not, it is the CPU with all of its cores.)")
      .def(
          "__init__",
          [](Device* self, const std::string& name, int threads, const std::string& precision) {
            new (self) Device(opened(name, threads, precision));
          },
          "name"_a = "cpu", nb::kw_only(), "threads"_a = 0, "precision"_a = "tf32",
          "`threads` of a CPU, 0 for every core; `precision` of a GPU's products, tf32 or fp32.")
      .def_prop_ro("name", &Device::name, "\"cpu\" or \"cuda:N\".")
      .def_prop_ro("description", &Device::description,
                   "The name of the GPU, and that it is emulated where it is; \"cpu\" otherwise.")
      .def_prop_ro("is_cuda", &Device::is_cuda, "Whether it is a GPU.")
      .def_prop_ro(
          "threads",
          [](const Device& self) { return self.is_cuda() ? 0 : self.cpu_queue().threads(); },
          "Of a CPU; 0 of a GPU.")
      .def(
          "synchronize", [](const Device& self) { wait_for(self, [&] { self.synchronize(); }); },
          "Waits for every operation so far. What went wrong in one shows here, or where numbers "
          "come back.")
      .def(
          "__eq__",
          [](const Device& self, const Device& other) { return named(self) == named(other); },
          nb::is_operator())
      .def("__hash__", [](const Device& self) { return std::hash<std::string>()(named(self)); })
      .def("__repr__", &named);
  nb::implicitly_convertible<const char*, Device>();
}

}  // namespace sidechannel::python
