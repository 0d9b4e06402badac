// Runs the blocks of a grid, cluster by cluster, in the order that the options say.

#include <cstdlib>
#include <cstring>
#include <numeric>

#include "machine.h"

namespace emu {

const void* running_kernel = nullptr;
std::uint32_t launch_time = 0;
const unsigned char* arguments_begin = nullptr;
const unsigned char* arguments_end = nullptr;

namespace {

uint3 index_in(std::uint64_t number, dim3 extent) {
  return {static_cast<unsigned>(number % extent.x),
          static_cast<unsigned>(number / extent.x % extent.y),
          static_cast<unsigned>(number / extent.x / extent.y)};
}

// What stays the same for all blocks of the launch.
void set_up_cluster(const LaunchShape& shape) {
  const auto threads = static_cast<unsigned>(volume(shape.block));
  const auto blocks = static_cast<unsigned>(volume(shape.cluster));
  cluster.blocks.resize(blocks);
  cluster.threads.resize(std::size_t{threads} * blocks);
  for (unsigned b = 0; b < blocks; ++b) {
    Block& block = cluster.blocks[b];
    block.in_cluster = b;
    block.threads = &cluster.threads[std::size_t{b} * threads];
    block.shared = shared_base + b * kSharedStride;
    block.meetings.resize((threads + 31) / 32);
    for (unsigned t = 0; t < threads; ++t) {
      Thread& thread = block.threads[t];
      thread.place = {t, t % 32, t / 32, b};
      thread.block = &block;
      thread.index = index_in(t, shape.block);
    }
  }
}

// The cluster takes the place of the `number`-th one of the grid.
void move_cluster(const LaunchShape& shape, std::uint64_t number) {
  const dim3 clusters(shape.grid.x / shape.cluster.x, shape.grid.y / shape.cluster.y,
                      shape.grid.z / shape.cluster.z);
  const uint3 at = index_in(number, clusters);
  ++logical_time;
  cluster.arrived = 0;
  cluster.barrier = 0;
  cluster.barrier_time = logical_time;
  cluster.waiting.clear();
  for (Block& block : cluster.blocks) {
    const uint3 within = index_in(block.in_cluster, shape.cluster);
    block.index = {at.x * shape.cluster.x + within.x, at.y * shape.cluster.y + within.y,
                   at.z * shape.cluster.z + within.z};
    block.number = block.index.x + shape.grid.x * (block.index.y + shape.grid.y * block.index.z);
    block.exited = 0;
    block.arrived = 0;
    block.barrier = 0;
    block.barrier_time = logical_time;
    block.waiting.clear();
    for (std::vector<WarpMeeting>& meetings : block.meetings) meetings.clear();
    block.mbarriers.clear();
    block.warpgroups.clear();
    poison_shared_memory(block);
  }
  for (Thread& thread : cluster.threads) {
    thread.fiber = nullptr;
    thread.done = false;
    thread.blocked = false;
    thread.arrived_at_cluster_barrier = false;
    thread.copies.clear();
    thread.copy_groups = 0;
    thread.wgmmas.clear();
    thread.wgmma_groups = 0;
    thread.wgmma_fenced = false;
    thread.met.clear();
    thread.proxy_fence = 0;
    if (check_access != nullptr) thread.seen.assign(32, logical_time);
  }
}

// Says what runs, for messages and the race check.
class Running {
 public:
  explicit Running(const KernelCall& call) {
    running_kernel = call.function();
    arguments_begin = reinterpret_cast<const unsigned char*>(&call);
    arguments_end = arguments_begin + call.bytes();
  }
  ~Running() { running_kernel = nullptr; }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;
};

Options options_from_environment() {
  Options result;
  const auto variable = [](const char* name) {
    const char* const value = std::getenv(name);
    return std::string(value == nullptr ? "" : value);
  };
  const std::string order = variable("SIDECHANNEL_EMULATOR_ORDER");
  if (order == "last-in") {
    result.order = Order::kLastIn;
  } else if (order == "random") {
    result.order = Order::kRandom;
  } else if (!order.empty() && order != "first-in") {
    throw Error("SIDECHANNEL_EMULATOR_ORDER=" + order + ": expected first-in, last-in or random");
  }
  const std::string seed = variable("SIDECHANNEL_EMULATOR_SEED");
  if (!seed.empty()) result.seed = std::strtoull(seed.c_str(), nullptr, 10);
  result.verify_orders = variable("SIDECHANNEL_EMULATOR_VERIFY") == "1";
  result.blocking = variable("CUDA_LAUNCH_BLOCKING") == "1";
  return result;
}

// All that stands in device memory.
using Image = std::vector<std::vector<unsigned char>>;

Image save_memory() {
  Image image;
  heap_each([&](const Allocation& allocation) {
    image.emplace_back(allocation.begin, allocation.begin + allocation.bytes);
  });
  return image;
}

void restore_memory(const Image& image) {
  std::size_t i = 0;
  heap_each([&](const Allocation& allocation) {
    if (allocation.bytes > 0) std::memcpy(allocation.begin, image[i].data(), allocation.bytes);
    ++i;
  });
}

void compare_memory(const Image& expected, const char* order) {
  std::size_t i = 0;
  heap_each([&](const Allocation& allocation) {
    const std::vector<unsigned char>& wanted = expected[i++];
    if (std::memcmp(wanted.data(), allocation.begin, allocation.bytes) == 0) return;
    std::size_t at = 0;
    while (wanted[at] == allocation.begin[at]) ++at;
    throw Error(
        format("the result depends on the order of threads: byte %zu of an allocation of "
               "%zu bytes differs when they run %s; kernel %s",
               at, allocation.bytes, order, kernel_name(running_kernel).c_str()));
  });
}

}  // namespace

Options& options() {
  static Options the_options = options_from_environment();
  return the_options;
}

const Counters& counters() {
  return counts;
}

bool checks_accesses() {
  return check_access != nullptr;
}
void forbid_access(const void* p, std::size_t bytes) {
  if (note_forbidden != nullptr) note_forbidden(p, bytes);
}

void reset_options() {
  options() = options_from_environment();
}

namespace {

void run_grid(const LaunchShape& shape, const KernelCall& call) {
  seed_order(options().seed);
  gridDim = shape.grid;
  blockDim = shape.block;
  grid_view.blocks_per_cluster = static_cast<unsigned>(volume(shape.cluster));
  grid_view.dynamic_shared = shape.dynamic_shared;
  ++grid_view.launch;
  launch_time = ++logical_time;
  begin_shared_memory(shape.dynamic_shared, grid_view.blocks_per_cluster);
  set_up_cluster(shape);

  std::vector<std::uint64_t> order(volume(shape.grid) / grid_view.blocks_per_cluster);
  std::iota(order.begin(), order.end(), std::uint64_t{0});
  if (options().order == Order::kLastIn) std::reverse(order.begin(), order.end());
  if (options().order == Order::kRandom) shuffle_order(order);
  for (const std::uint64_t number : order) {
    move_cluster(shape, number);
    run_cluster(call);
  }
  ++counts.launches;
}

}  // namespace

void run_launch(const LaunchShape& shape, const KernelCall& call) {
  const Running running(call);
  if (!options().verify_orders) return run_grid(shape, call);

  struct KeepOptions {
    Options kept = options();
    ~KeepOptions() { options() = kept; }
  } keep;
  const Image before = save_memory();
  options().order = Order::kFirstIn;
  run_grid(shape, call);
  const Image expected = save_memory();
  for (const Order order : {Order::kLastIn, Order::kRandom}) {
    restore_memory(before);
    options().order = order;
    run_grid(shape, call);
    compare_memory(expected, order == Order::kLastIn ? "last in, first out" : "in a random order");
  }
  counts.launches -= 2;  // from the program's point of view it was one
}

}  // namespace emu
