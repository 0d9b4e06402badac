// The module sidechannel._core.

#include "engine/python/binding.h"
#include "experiments/run/build_info.h"
#include "kernels/cuda_queue.h"

namespace sidechannel::python {
namespace {

nb::dict build_info() {
  const experiments::BuildInfo build = experiments::build_info();
  std::string why;
  const std::vector<kernels::CudaDeviceInfo> gpus = kernels::cuda_devices(&why);
  nb::list names;
  bool emulated = false;
  for (const kernels::CudaDeviceInfo& gpu : gpus) {
    names.append(gpu.name);
    emulated = emulated || gpu.emulated;
  }
  nb::dict info;
  info["version"] = build.version;
  info["commit"] = build.commit;
  info["modified"] = build.modified;
  info["compiler"] = build.compiler;
  info["flags"] = build.flags;
  info["cuda"] = !kHasCuda ? "no" : emulated ? "emulated" : "yes";
  info["gpus"] = names;
  info["why_no_gpu"] = gpus.empty() ? nb::object(nb::str(why.c_str())) : nb::none();
  return info;
}

}  // namespace
}  // namespace sidechannel::python

NB_MODULE(_core, m) {
  using namespace sidechannel::python;
  m.doc() = "The engine of sidechannel.";
#ifdef NDEBUG
  nb::set_leak_warnings(false);  // of what a notebook still holds when it ends
#endif
  const std::string missing = sidechannel::experiments::missing_cpu_features();
  if (!missing.empty()) {
    throw nb::import_error(
        fmt::format("sidechannel was built for a processor with {}, which this one has not; build "
                    "it with --config-settings=cmake.define.SIDECHANNEL_ARCH=x86-64-v3 or x86-64",
                    missing)
            .c_str());
  }
  bind_errors(m);
  bind_device(m);
  bind_tensor(m);
  bind_tape(m);
  bind_norm_options(m);
  bind_operations(m);
  bind_parameters(m);
  bind_modules(m);
  bind_adam(m);
  bind_networks(m);
  bind_calls(m);
  bind_training(m);
  bind_leak(m);
  m.def("build_info", &build_info,
        "What this build is: version, commit, compiler, flags; cuda is \"no\" (built without a "
        "compiler for it: the CPU alone), \"yes\" or \"emulated\"; gpus are their names, and "
        "why_no_gpu says why there is none.");
}
