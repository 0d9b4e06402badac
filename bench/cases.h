#pragma once

// The list of cases: a kernel on one problem, for CpuQueue and CudaQueue alike. The shapes are the
// workloads' (workloads.h).
//
// What a case costs is counted by definition: the additions and multiplications of its products,
// and the bytes that must cross the memory's bus at least, each input read and each output written
// once.

#include <algorithm>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "bench/library.h"
#include "bench/workloads.h"
#include "engine/tensor.h"
#include "kernels/add.h"
#include "kernels/circular_pad.h"
#include "kernels/concat.h"
#include "kernels/conv1d.h"
#include "kernels/conv_norm_act.h"
#include "kernels/cuda/conv1d/variants.h"
#include "kernels/ema.h"
#include "kernels/gather.h"
#include "kernels/mlp.h"
#include "kernels/moments.h"
#include "kernels/norm_act.h"
#include "kernels/random.h"
#include "kernels/weighted_sum.h"
#include "kernels/windows.h"

namespace sidechannel::bench {

using namespace kernels;

// Memory for one case.
template <class Queue>
class Memory {
 public:
  Memory(const Device& device, Queue& queue) : device_(device), queue_(queue) {}

  Queue& queue() const { return queue_; }

  // Uniform on [-1, 1): never zeros, which a GPU computes with less power and a higher clock.
  float* random(std::int64_t size) {
    const auto number = static_cast<std::uint32_t>(tensors_.size());
    float* const data = floats(size);
    run(queue_, UniformFill<float>{
                    .random = {1, 0}, .step = number, .bound = 1.0, .size = size, .out = data});
    return data;
  }
  // All that was given out as floats, as it is now.
  std::vector<std::vector<float>> contents() const {
    std::vector<std::vector<float>> all;
    for (const Tensor& tensor : tensors_) {
      if (tensor.dtype() != DType::kF32) continue;
      const HostArray host = tensor.to_host();
      all.emplace_back(host.as<float>().begin(), host.as<float>().end());
    }
    return all;
  }
  float* ones(std::int64_t size) {
    float* const data = floats(size);
    fill(queue_, size, 1.0f, data);
    return data;
  }
  // One T, or several.
  template <class T>
  T* values(std::vector<T> host) {
    tensors_.emplace_back(device_, DType::kU8,
                          Shape{static_cast<std::int64_t>(host.size() * sizeof(T))});
    T* const data = reinterpret_cast<T*>(tensors_.back().template data<std::uint8_t>());
    queue_.copy_to_device(data, host.data(), host.size() * sizeof(T));
    return data;
  }

 private:
  float* floats(std::int64_t size) {
    tensors_.emplace_back(device_, DType::kF32, Shape{size});
    return tensors_.back().data<float>();
  }
  Device device_;
  Queue& queue_;
  std::vector<Tensor> tensors_;
};

// What is timed, again and again, and who computes it: a library, or one of several kernels.
struct Timed {
  std::function<void()> launch;
  std::string by;
};

struct Cost {
  double flops = 0;
  std::int64_t floats = 0;  // read or written
  bool products = false;    // computed in the queue's precision
  bool tf32_alone = false;  // on a GPU

  double bytes() const { return sizeof(float) * static_cast<double>(floats); }
};

template <class Queue>
struct Case {
  std::string name;
  Cost cost;
  bool has_variants;
  // Both allocate and fill what they work on. Ours is variant 0, the chosen one, or another; there
  // is nothing to launch beyond the last, or where a device has none.
  std::function<Timed(Memory<Queue>&, std::size_t variant)> ours;
  std::function<Timed(Memory<Queue>&)> library;  // empty where none has it
};

// An operation that runs the kernel of a name, too, says which names it has (variants_of).
template <class Queue, class Call>
concept HasVariants = requires(Queue& queue, const Call& call) {
  run(queue, call, "");
};

template <class Queue>
class Cases {
 public:
  Cases() {
    for (const Workload& workload : kWorkloads) convolutions(workload.name);
    norm("instance", "paper");
    norm("group", "paper");
    norm("layer", "paper");
    norm("instance", "demo");
    norm("batch", "paper-batch-norm");
    norm("pack", "overlap");
    population_norm("paper-batch-norm");
    rows("paper", 4);
    rows("demo", 6);
    elementwise("paper");
    ends("paper");
    ends("demo");
    windows("overlap");
    ring("demo");
    diffusion("demo");
    adam("paper");
    adam("demo");
    probe("paper");
    probe("demo");
  }

  // A copy, which outlives the builder in a loop over Cases<Queue>().list().
  std::vector<Case<Queue>> list() const { return list_; }

 private:
  // One kernel: `make(memory)` returns the call. Its library's counterpart, if there is one, is on
  // the same call; a convolution's is the product that it is of an unfolded matrix.
  template <class Make>
  void add(const std::string& name, const Cost& cost, const Make& make,
           const std::optional<MatmulDims>& unfolded = {}) {
    using Call = std::invoke_result_t<Make, Memory<Queue>&>;
    Case<Queue> added{name, cost, HasVariants<Queue, Call>, {}, {}};
    added.ours = [make](Memory<Queue>& m, std::size_t variant) -> Timed {
      Queue& queue = m.queue();
      const Call call = make(m);
      std::string by;
      if constexpr (HasVariants<Queue, Call>) {
        const std::vector<std::string> names = variants_of(queue.info(), queue.precision(), call);
        if (variant >= names.size()) return {};
        by = names[variant];
        if (variant > 0) return {[&queue, call, by] { run(queue, call, by.c_str()); }, by};
      } else if (variant > 0) {
        return {};
      }
      return {[&queue, call] { run(queue, call); }, by};
    };
    if (unfolded) {
      added.library = theirs([dims = *unfolded](auto& m) {
        return Product{dims, m.random(dims.m * dims.k), m.random(dims.k * dims.n),
                       m.random(dims.m * dims.n)};
      });
    } else if constexpr (requires(Queue & queue, const Call& call) { library(queue, call); }) {
      added.library = theirs(make);
    }
    list_.push_back(std::move(added));
  }
  template <class Make>
  static auto theirs(const Make& make) {
    return [make](Memory<Queue>& m) -> Timed {
      return {[&queue = m.queue(), call = make(m)] { library(queue, call); },
              library_of(m.queue())};
    };
  }

  // --- The problems

  // A workload's, perhaps with another kind of normalization.
  static Sizes sizes(std::string_view name, const char* norm = nullptr) {
    for (Workload workload : kWorkloads) {
      if (name != workload.name) continue;
      if (norm) workload.norm = norm;
      return with_settings(workload, [](const auto& s) { return sizes_of(s); });
    }
    throw Error("bench: there is no workload " + std::string(name));
  }

  void conv1d(const std::string& name, const Conv1dDims& dims, bool middle, bool input_gradient) {
    const std::int64_t positions = dims.batch * dims.length;
    const std::int64_t positions_out = dims.batch * dims.length_out();
    const std::int64_t x = positions * dims.channels_in;
    const std::int64_t y = positions_out * dims.channels_out;
    const std::int64_t b = dims.channels_out;
    const std::int64_t window_in = dims.kernel_size * dims.channels_in;
    const std::int64_t window_out = dims.kernel_size * dims.channels_out;
    const std::int64_t w = window_in * dims.channels_out;
    const double flops = 2.0 * static_cast<double>(positions_out * w);
    add(
        "conv1d_forward/" + name, {flops, x + w + b + y, middle},
        [=](auto& m) {
          return Conv1dForward<float>{
              .dims = dims, .x = m.random(x), .w = m.random(w), .b = m.random(b), .y = m.random(y)};
        },
        MatmulDims{positions_out, dims.channels_out, window_in});
    if (input_gradient) {
      add(
          "conv1d_backward_input/" + name, {flops, x + w + y, middle},
          [=](auto& m) {
            return Conv1dBackwardInput<float>{
                .dims = dims, .dy = m.random(y), .w = m.random(w), .dx = {m.random(x)}};
          },
          MatmulDims{positions, dims.channels_in, window_out});
    }
    add(
        "conv1d_backward_params/" + name, {flops, x + y + w + b, middle},
        [=](auto& m) {
          return Conv1dBackwardParams<float>{.dims = dims,
                                             .x = m.random(x),
                                             .dy = m.random(y),
                                             .dw = {m.random(w)},
                                             .db = {m.random(b)}};
        },
        MatmulDims{window_in, dims.channels_out, positions_out, true});
  }

  // Of valid convolutions the first, which is the largest.
  void convolutions(const std::string& name) {
    const Sizes s = sizes(name);
    const std::int64_t h = s.network.channels, k = s.network.kernel_size;
    const auto dims = [&](std::int64_t in, std::int64_t out) {
      return Conv1dDims{s.sequences, s.length, in,
                        out,         k,        s.network.padding == Padding::kNone ? 0 : k / 2};
    };
    conv1d(name, dims(h, h), true, true);
    conv1d(name + "/first", dims(1, h), false, false);
    conv1d(name + "/last", dims(h, 1), false, true);
  }

  static NormDims norm_dims(const Sizes& s) {
    const NormOptions sets = s.network.norm_options();
    return {s.sequences,          s.length,     s.network.channels, sets.channels_per_set,
            sets.samples_per_set, sets.epsilon, sets.activation};
  }

  void norm(const std::string& kind, const std::string& name) {
    const NormDims dims = norm_dims(sizes(name, kind.c_str()));
    const std::int64_t size = dims.size(), c = dims.channels, statistics = dims.groups() * c;
    add("norm_relu_forward/" + kind + "/" + name, {0, 2 * size}, [=](auto& m) {
      return NormForward<float>{
          .dims = dims,
          .x = m.random(size),
          .gamma = m.random(c),
          .beta = m.random(c),
          .y = m.random(size),
          .statistics = {m.random(statistics), m.random(statistics), m.random(statistics)}};
    });
    add("norm_relu_backward/" + kind + "/" + name, {0, 3 * size}, [=](auto& m) {
      return NormBackward<float>{
          .dims = dims,
          .x = m.random(size),
          .gamma = m.random(c),
          .beta = m.random(c),
          .statistics = {m.random(statistics), m.random(statistics), m.ones(statistics)},
          .dy = m.random(size),
          .dx = {m.random(size)},
          .dbeta = {m.random(c)},
          .dgamma = {m.random(c)}};
    });
  }

  // Hidden layers in a row, as a training step has them: y of each is kept for the way back.
  void rows(const std::string& name, int count) {
    const Sizes s = sizes(name);
    const NormDims norm = norm_dims(s);
    const std::int64_t c = norm.channels, k = s.network.kernel_size, size = norm.size();
    const Conv1dDims conv{norm.batch, norm.length, c, c, k, k / 2};
    const std::int64_t w = k * c * c, statistics = norm.groups() * c, parameters = w + 3 * c;
    const double flops = 2.0 * count * static_cast<double>(norm.batch * norm.length * w);
    struct Lists {
      std::vector<ConvNormActLayer<float>> layers;
      std::vector<ConvNormActGradients<float>> gradients;
    };
    const auto lists = [=](auto& m) {
      auto of = std::make_shared<Lists>();
      for (int i = 0; i < count; ++i) {
        of->layers.push_back(
            {.conv = conv,
             .norm = norm,
             .w = m.random(w),
             .b = m.random(c),
             .gamma = m.random(c),
             .beta = m.random(c),
             .y = m.random(size),
             .statistics = {m.random(statistics), m.random(statistics), m.ones(statistics)}});
        of->gradients.push_back({{m.random(w)}, {m.random(c)}, {m.random(c)}, {m.random(c)}});
      }
      return of;
    };
    const std::string text = fmt::format("{}/{} layers", name, count);
    add("conv_norm_act_forward/" + text, {flops, 2 * size + count * (size + parameters), true},
        [=](auto& m) {
          const auto of = lists(m);
          of->layers.back().z = m.random(size);
          return Row<ConvNormActForward<float>>{{.x = m.random(size), .layers = of->layers}, of};
        });
    add("conv_norm_act_backward/" + text,
        {2 * flops, 3 * size + count * (size + 2 * parameters), true}, [=](auto& m) {
          const auto of = lists(m);
          const std::int64_t workspace =
              conv_norm_act_workspace(m.queue(), View<ConvNormActLayer<float>>(of->layers));
          return Row<ConvNormActBackward<float>>{{.x = m.random(size),
                                                  .layers = of->layers,
                                                  .dz = m.random(size),
                                                  .dx = {m.random(size)},
                                                  .gradients = of->gradients,
                                                  .workspace = m.random(workspace)},
                                                 of};
        });
  }

  void population_norm(const std::string& name) {
    const NormDims dims = norm_dims(sizes(name));
    const std::int64_t size = dims.size(), c = dims.channels, statistics = dims.groups() * c;
    add("norm_relu_population_forward/" + name, {0, 2 * size}, [=](auto& m) {
      return NormPopulationForward<float>{.dims = dims,
                                          .x = m.random(size),
                                          .gamma = m.random(c),
                                          .beta = m.random(c),
                                          .mean = m.random(c),
                                          .variance = m.ones(c),
                                          .y = m.random(size)};
    });
    add("norm_relu_population_backward/" + name, {0, 3 * size}, [=](auto& m) {
      return NormPopulationBackward<float>{.dims = dims,
                                           .x = m.random(size),
                                           .gamma = m.random(c),
                                           .beta = m.random(c),
                                           .mean = m.random(c),
                                           .variance = m.ones(c),
                                           .dy = m.random(size),
                                           .dx = {m.random(size)},
                                           .dbeta = {m.random(c)},
                                           .dgamma = {m.random(c)}};
    });
    add("norm_update_running/" + name, {0, 2 * statistics + 4 * c}, [=](auto& m) {
      return NormUpdateRunning<float>{
          .dims = dims,
          .momentum = 0.1,
          .statistics = {m.random(statistics), m.random(statistics), m.ones(statistics)},
          .running_mean = m.random(c),
          .running_variance = m.ones(c)};
    });
  }

  void elementwise(const std::string& name) {
    const std::int64_t size = norm_dims(sizes(name)).size();
    add("relu_forward/" + name, {0, 2 * size}, [=](auto& m) {
      return ActivateForward<float>{.size = size, .x = m.random(size), .y = m.random(size)};
    });
    add("relu_backward/" + name, {0, 3 * size}, [=](auto& m) {
      return ActivateBackward<float>{
          .size = size, .kept = m.random(size), .dy = m.random(size), .dx = {m.random(size)}};
    });
    add("copy/" + name, {0, 2 * size}, [=](auto& m) {
      return Copy{size, m.random(size), m.random(size)};
    });
    add("fill/" + name, {0, size}, [=](auto& m) { return Fill{size, m.random(size)}; });
  }

  // The network's output [sequences, length], its noise, its loss and what is averaged over it.
  void ends(const std::string& name) {
    const Sizes s = sizes(name);
    const std::int64_t sequences = s.sequences, length = s.length, size = sequences * length;
    const MseDims dims{size, length};
    add("normal_fill/" + name, {0, size}, [=](auto& m) {
      return NormalFill<float>{.random = {1, 1},
                               .at = m.template values<RandomPosition>({{}}),
                               .samples = sequences,
                               .length = length,
                               .out = m.random(size)};
    });
    add("mse_forward/" + name, {0, size + length}, [=](auto& m) {
      return MseForward<float>{
          .dims = dims, .y = m.random(size), .target = m.random(length), .loss = m.random(1)};
    });
    add("mse_backward/" + name, {0, 2 * size + length}, [=](auto& m) {
      return MseBackward<float>{.dims = dims,
                                .y = m.random(size),
                                .target = m.random(length),
                                .dloss = m.ones(1),
                                .dy = {m.random(size)}};
    });
    const std::vector<double> zeros(static_cast<std::size_t>(length));
    add("moments_update/" + name, {0, size + 8 * length}, [=](auto& m) {  // doubles count twice
      return MomentsUpdate<float>{.samples = sequences,
                                  .length = length,
                                  .x = m.random(size),
                                  .count = m.template values<std::int64_t>({0}),
                                  .mean = m.values(zeros),
                                  .m2 = m.values(zeros)};
    });
  }

  // Pairs of sequences that share half of their positions.
  void windows(const std::string& name) {
    const Sizes s = sizes(name);
    const WindowsDims dims{s.sequences / 2, 2, s.length, s.length / 2};
    const std::int64_t x = dims.samples * dims.extent(), y = dims.size();
    add("windows_forward/" + name, {0, x + y}, [=](auto& m) {
      return WindowsForward<float>{.dims = dims, .x = m.random(x), .y = m.random(y)};
    });
    add("windows_backward/" + name, {0, x + y}, [=](auto& m) {
      return WindowsBackward<float>{.dims = dims, .dy = m.random(y), .dx = {m.random(x)}};
    });
  }

  // What a hidden layer reads, as a ring.
  void ring(const std::string& name) {
    const Sizes s = sizes(name);
    const std::int64_t padding = s.network.kernel_size / 2;
    const CircularPadDims dims{s.sequences, s.length, s.network.channels, padding, padding};
    const std::int64_t rows = s.sequences * s.network.channels;
    const std::int64_t x = rows * s.length, y = rows * dims.length_out();
    add("circular_pad_forward/" + name, {0, x + y}, [=](auto& m) {
      return CircularPadForward<float>{.dims = dims, .x = m.random(x), .y = m.random(y)};
    });
    add("circular_pad_backward/" + name, {0, x + y}, [=](auto& m) {
      return CircularPadBackward<float>{.dims = dims, .dy = m.random(y), .dx = {m.random(x)}};
    });
  }

  // What a diffusion model needs beside its layers, on sequences of a hidden layer's shape: sums
  // and skips, noise on samples whose first position is held, windows of a data set of ten times as
  // many sequences.
  void diffusion(const std::string& name) {
    const Sizes s = sizes(name);
    const std::int64_t n = s.sequences, length = s.length, c = s.network.channels;
    const std::int64_t sequence = length * c, size = n * sequence;
    const AddDims sums{n, length, c};
    add("add_forward/" + name, {0, 2 * size + n * c}, [=](auto& m) {
      return AddForward<float>{
          .dims = sums, .a = m.random(size), .b = m.random(n * c), .y = m.random(size)};
    });
    add("add_backward/" + name, {0, 2 * size + n * c}, [=](auto& m) {
      return AddBackward<float>{
          .dims = sums, .dy = m.random(size), .da = {m.random(size)}, .db = {m.random(n * c)}};
    });
    const ConcatDims skips{n * length, c, c};
    add("concat_forward/" + name, {0, 4 * size}, [=](auto& m) {
      return ConcatForward<float>{
          .dims = skips, .a = m.random(size), .b = m.random(size), .y = m.random(2 * size)};
    });
    add("concat_backward/" + name, {0, 4 * size}, [=](auto& m) {
      return ConcatBackward<float>{
          .dims = skips, .dy = m.random(2 * size), .da = {m.random(size)}, .db = {m.random(size)}};
    });
    std::vector<float> first(static_cast<std::size_t>(sequence));
    std::fill_n(first.begin(), c, 1.0f);
    const WeightedSumDims noising{n, sequence, 2};
    add("weighted_sum_forward/" + name, {0, 3 * size + sequence + 2 * n}, [=](auto& m) {
      float* const x = m.random(size);
      return WeightedSumForward<float>{.dims = noising,
                                       .w = {m.random(n), m.random(n)},
                                       .x = {x, m.random(size)},
                                       .held = m.values(first),
                                       .hold = x,
                                       .y = m.random(size)};
    });
    add("weighted_sum_backward/" + name, {0, 2 * size + sequence + n}, [=](auto& m) {
      return WeightedSumBackward<float>{.dims = noising,
                                        .w = {m.random(n), m.random(n)},
                                        .held = m.values(first),
                                        .dy = m.random(size),
                                        .dx = {{m.random(size)}}};
    });
    const GatherDims windows{n, sequence, 10 * n, 2 * sequence, length + 1, c};
    std::vector<float> places;
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t place = i * windows.places() / n;
      places.push_back(static_cast<float>(place));
    }
    add("gather/" + name, {0, 2 * size + n}, [=](auto& m) {
      return Gather<float>{.dims = windows,
                           .x = m.random(windows.sequences * windows.extent),
                           .index = m.values(places),
                           .y = m.random(size)};
    });
    add("integer_fill/" + name, {0, n}, [=](auto& m) {
      return IntegerFill<float>{.random = {1, 2},
                                .at = m.template values<RandomPosition>({{}}),
                                .samples = n,
                                .count = 20,
                                .out = m.random(n)};
    });
  }

  // All parameters of the network in one buffer.
  void adam(const std::string& name) {
    const std::int64_t size =
        Localizer(Device::cpu(1), DType::kF32, sizes(name).network, 0).parameters().size();
    add("sum_of_squares/" + name, {0, size}, [=](auto& m) {
      return SumOfSquares<float>{
          .size = size, .x = m.random(size), .result = m.template values<double>({0})};
    });
    add("ema_update/" + name, {0, 3 * size}, [=](auto& m) {
      return EmaUpdate<float>{
          .decay = 0.995, .size = size, .value = m.random(size), .average = m.random(size)};
    });
    add("adam/" + name, {0, 7 * size}, [=](auto& m) {
      const AdamRule rule{LearningRate{1e-9}};
      auto* const state = m.template values<AdamState>({{}});
      return AdamStep{.begin = {.rule = rule,
                                .sum_of_squares = m.template values<double>({1}),
                                .loss = m.ones(1),
                                .state = state},
                      .update = {.rule = rule,
                                 .state = state,
                                 .size = size,
                                 .g = m.random(size),
                                 .p = m.random(size),
                                 .m = m.random(size),
                                 .v = m.ones(size)}};
    });
  }

  void linear(const LinearDims& dims) {
    const std::int64_t x = dims.rows * dims.in, y = dims.rows * dims.out, w = dims.in * dims.out;
    const std::int64_t b = dims.out;
    const std::string name = fmt::format("{}x{}x{}", dims.rows, dims.in, dims.out);
    const double flops = 2.0 * static_cast<double>(dims.rows * w);
    add("linear_forward/" + name, {flops, x + w + b + y, true}, [=](auto& m) {
      return LinearForward<float>{
          .dims = dims, .x = m.random(x), .w = m.random(w), .b = m.random(b), .y = m.random(y)};
    });
    // The way back through a ReLU reads y, too.
    const std::int64_t read = dims.activation == Activation::kRelu ? 2 * y : y;
    add("linear_backward/" + name, {2 * flops, 2 * x + 2 * w + b + read, true}, [=](auto& m) {
      return LinearBackward<float>{.dims = dims,
                                   .x = m.random(x),
                                   .w = m.random(w),
                                   .y = m.random(y),
                                   .dy = m.random(y),
                                   .dx = {m.random(x)},
                                   .dw = {m.random(w)},
                                   .db = {m.random(b)}};
    });
  }

  // The three layers of a probe; and all probes at once, where a queue has kernels for that.
  void probe(const std::string& preset) {
    const auto s = experiments::settings_from_preset<experiments::LocalizationSettings>(preset);
    const std::int64_t rows = s.probe_batch * s.length;
    linear({rows, s.channels, s.probe_width, Activation::kRelu});
    linear({rows, s.probe_width, s.probe_width, Activation::kRelu});
    linear({rows, s.probe_width, 1, Activation::kNone});
    if constexpr (requires(Queue & queue, const MlpForward<float>& call) { run(queue, call); }) {
      mlp(std::ssize(s.probed_layers()), {rows, s.channels, s.probe_width});
    }
  }

  void mlp(std::int64_t count, const MlpDims& dims) {
    const std::int64_t x = count * dims.rows * dims.in, y = count * dims.rows;
    const std::int64_t w1 = dims.in * dims.width, w2 = dims.width * dims.width, b = dims.width;
    const std::int64_t parameters = count * (w1 + w2 + 3 * b + 1);
    const double flops = 2.0 * static_cast<double>(y * (w1 + w2 + b));
    struct Lists {
      std::vector<MlpNetwork<float>> networks;
      std::vector<MlpGradients<float>> gradients;
    };
    const auto lists = [=](auto& m) {
      auto of = std::make_shared<Lists>();
      for (std::int64_t i = 0; i < count; ++i) {
        of->networks.push_back({m.random(dims.rows * dims.in), m.random(w1), m.random(b),
                                m.random(w2), m.random(b), m.random(b), m.random(1)});
        of->gradients.push_back({{m.random(w1)},
                                 {m.random(b)},
                                 {m.random(w2)},
                                 {m.random(b)},
                                 {m.random(b)},
                                 {m.random(1)}});
      }
      return of;
    };
    const auto forward = [=](auto& m, const Lists& of, bool keeps) {
      const std::int64_t kept = keeps ? mlp_kept(dims, of.networks.size()) : 0;
      return MlpForward<float>{.dims = dims,
                               .networks = of.networks,
                               .y = m.random(y),
                               .kept = keeps ? m.random(kept) : nullptr};
    };
    const std::string name = fmt::format("{}x{}x{}x{}", count, dims.rows, dims.in, dims.width);
    for (const bool keeps : {false, true}) {
      add("mlp_forward/" + name + (keeps ? "/kept" : ""), {flops, x + y + parameters, true, true},
          [=](auto& m) {
            const auto of = lists(m);
            return Row<MlpForward<float>>{forward(m, *of, keeps), of};
          });
    }
    // Of the first layer no input gradient.
    const double of_first = 2.0 * static_cast<double>(y * w1);
    add("mlp_backward/" + name, {2 * flops - of_first, x + y + 2 * parameters, true, true},
        [=](auto& m) {
          const auto of = lists(m);
          const MlpForward<float> before = forward(m, *of, true);
          run(m.queue(), before);
          return Row<MlpBackward<float>>{{.dims = dims,
                                          .networks = of->networks,
                                          .kept = before.kept,
                                          .dy = m.random(y),
                                          .gradients = of->gradients},
                                         of};
        });
  }

  std::vector<Case<Queue>> list_;
};

}  // namespace sidechannel::bench
