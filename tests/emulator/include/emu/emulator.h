#pragma once

// For tests: what the emulated machine is, what goes wrong in it, how it runs, and what happened.

#include <cstddef>
#include <cstdint>
#include <string>

namespace emu {

// --- The machine ---------------------------------------------------------------------------------

// What cudaGetDeviceProperties tells. Kernels that need more than the device has are refused: with
// compute_capability 75 there is no cp.async and no TF32, below 90 there are no clusters.
struct DeviceModel {
  std::string name = "emulated GPU";
  int compute_capability = 90;
  int multiprocessors = 132;
  std::size_t memory = std::size_t{4} << 30;
  std::size_t shared_per_block = 227 * 1024;
};
DeviceModel& device_model();

// What goes wrong. Everything is 0 or false in a healthy machine. Of a program that a test starts:
// SIDECHANNEL_EMULATOR_FAIL_ALLOCATION=n, SIDECHANNEL_EMULATOR_FAIL_LAUNCH=n in its environment.
struct Faults {
  bool no_driver = false;
  int driver_version = 0;  // one that is older than the runtime; 0: as new as the runtime
  bool no_device = false;
  bool no_code = false;              // the binary has no code for the device
  std::int64_t fail_allocation = 0;  // the n-th from now finds no memory
  std::int64_t fail_launch = 0;  // the n-th from now ends with an illegal address, asynchronously
};
Faults& faults();

// Puts the machine, faults, options and counters back to how a program finds them, and forgets
// errors that stuck. Live allocations stay.
void reset();

// --- How kernels are run -------------------------------------------------------------------------

// The order in which threads and blocks run that could run: as they came (close to lockstep), the
// last first (one warp runs ahead as far as it can), or any.
enum class Order : unsigned char { kFirstIn, kLastIn, kRandom };

// From the environment, read once: SIDECHANNEL_EMULATOR_ORDER=first-in|last-in|random,
// SIDECHANNEL_EMULATOR_SEED=n, SIDECHANNEL_EMULATOR_VERIFY=1, CUDA_LAUNCH_BLOCKING=1.
struct Options {
  Order order = Order::kFirstIn;
  std::uint64_t seed = 1;
  // Runs every launch in all three orders; all device memory must be the same to the bit.
  bool verify_orders = false;
  // Launches, copies and fills are done before the call returns.
  bool blocking = false;
};
Options& options();

// --- What happened -------------------------------------------------------------------------------

struct Counters {
  std::int64_t launches = 0;        // kernels that were run, those of graphs included
  std::int64_t graph_launches = 0;  // calls
};
const Counters& counters();

// Bytes of live allocations on the device.
std::size_t allocated_bytes();

// Whether this build checks every memory access of the kernels (the race check).
bool checks_accesses();

// Under the race check these bytes count as outside of the allocation that they lie in, for as long
// as it lives. Copies and fills may touch them.
void forbid_access(const void* p, std::size_t bytes);

}  // namespace emu
