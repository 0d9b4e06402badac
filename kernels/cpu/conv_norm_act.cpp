// Layers of convolution, normalization and activation in a row, on the CPU.
//
// What shares statistics, a group of samples, goes through the layers without the others: a thread
// takes a group from layer to layer, so that what one pass leaves is in its core's L2 cache for the
// next, and no thread waits for another between layers. The passes are those of the single
// operations, each on a queue of the thread's own, and give the same bits.
//
// On the way back a thread takes the samples of a slice of the weight gradients' sums
// (conv1d_winograd.h), layer by layer: group after group it computes dy, adds to the slice's sums,
// and computes the dz of the layer below.

#include "kernels/conv_norm_act.h"

#include <algorithm>
#include <type_traits>

#include "kernels/activate.h"
#include "kernels/cpu/conv1d_winograd.h"
#include "kernels/cpu/norm_act.h"

namespace sidechannel::kernels {
namespace {

// A thread's own, in a parallel part.
CpuQueue& alone() {
  thread_local CpuQueue queue(1);
  return queue;
}

template <class T>
using Layers = View<ConvNormActLayer<T>>;

// Elements of a sample of x and of y.
std::int64_t sample_in(const Conv1dDims& dims) {
  return dims.length * dims.channels_in;
}
std::int64_t sample_out(const Conv1dDims& dims) {
  return dims.length_out() * dims.channels_out;
}

// The part of a layer that computes a group: samples that share statistics.
template <class T>
struct Group {
  Conv1dDims conv;
  NormDims norm;
  std::int64_t index, first;  // the group's, and its first sample
  NormStatistics<T> statistics;

  Group(const ConvNormActLayer<T>& layer, std::int64_t index_)
      : conv(layer.conv),
        norm(layer.norm),
        index(index_),
        first(index * layer.norm.samples_per_set) {
    conv.batch = norm.batch = norm.samples_per_set;
    // The groups of the normalization itself, of several to a sample where sets are positions.
    const std::int64_t at = index * norm.groups() * norm.channels;
    const NormStatistics<T>& all = layer.statistics;
    statistics = {all.mean + at, all.mean_rest + at, all.rstd + at};
  }
  std::int64_t in() const { return first * sample_in(conv); }
  std::int64_t out() const { return first * sample_out(conv); }

  // z from y, with new statistics or with those that are there.
  void forward(const ConvNormActLayer<T>& layer, const T* y, T* z, bool new_statistics) const {
    if (layer.gamma == nullptr) {
      return run(alone(), ActivateForward<T>{norm.size(), norm.activation, y, z});
    }
    const NormForward<T> call{norm, y, layer.gamma, layer.beta, z, statistics};
    new_statistics ? run(alone(), call) : apply_statistics(alone(), call);
  }
  // dy from dz, and the group's part of the sums.
  void backward(const ConvNormActLayer<T>& layer, const T* dz, T* dy, double* partial) const {
    const T* y = layer.y + out();
    if (layer.gamma == nullptr) {
      return run(alone(), ActivateBackward<T>{norm.size(), norm.activation, y, dz, {dy}});
    }
    backward_of_groups(
        alone(), NormBackward<T>{norm, y, layer.gamma, layer.beta, statistics, dz, {dy}}, partial);
  }
};

template <class T>
std::int64_t groups_of(Layers<T> layers) {
  return layers[0].norm.batch / layers[0].norm.samples_per_set;
}
// The most that a group has at once of x, y or z.
template <class T>
std::size_t group_size(Layers<T> layers) {
  std::int64_t most = 0;
  for (const ConvNormActLayer<T>& layer : layers) {
    most = std::max({most, sample_in(layer.conv), sample_out(layer.conv)});
  }
  return static_cast<std::size_t>(most * layers[0].norm.samples_per_set);
}

}  // namespace

template <class T>
void run(CpuQueue& queue, const ConvNormActForward<T>& call) {
  const Layers<T> layers = call.layers;
  queue.parallel_for(groups_of(layers), 1, [&](std::int64_t begin, std::int64_t end) {
    thread_local simd::AlignedBuffer<T> of_y, of_z;
    T *own_y = of_y.get(group_size(layers)), *own_z = of_z.get(group_size(layers));
    for (std::int64_t index = begin; index < end; ++index) {
      const T* x = call.x + Group<T>(layers[0], index).in();
      for (const ConvNormActLayer<T>& layer : layers) {
        const Group<T> group(layer, index);
        T* y = layer.y ? layer.y + group.out() : own_y;
        T* z = layer.z ? layer.z + group.out() : own_z;
        run(alone(), Conv1dForward<T>{group.conv, x, layer.w, layer.b, y});
        group.forward(layer, y, z, true);
        x = z;
      }
    }
  });
}

namespace {

// What a backward call holds in the queue's scratch memory, for each layer.
template <class T>
struct Sums {
  std::int64_t slices;
  std::vector<T*> weights;       // [slices, slice_sums]
  std::vector<double*> partial;  // [groups, 2, channels]

  Sums(CpuQueue& queue, Layers<T> layers) : slices(winograd::slices_of(layers[0].conv)) {
    const auto partial_size = [&](const ConvNormActLayer<T>& layer) {
      return static_cast<std::size_t>(groups_of(layers) * 2 * layer.norm.channels);
    };
    const auto weights_size = [&](const ConvNormActLayer<T>& layer) {
      return static_cast<std::size_t>(slices * winograd::slice_sums(layer.conv));
    };
    std::size_t bytes = 0;
    for (const auto& layer : layers) {
      bytes += partial_size(layer) * sizeof(double) + weights_size(layer) * sizeof(T);
    }
    auto* doubles = static_cast<double*>(queue.scratch(bytes));
    for (const auto& layer : layers) {
      partial.push_back(doubles);
      doubles += partial_size(layer);
    }
    T* rest = reinterpret_cast<T*>(doubles);
    for (const auto& layer : layers) {
      weights.push_back(rest);
      rest += weights_size(layer);
    }
  }
};

// One slice's samples, from the last layer to the first.
template <class T>
void backward_slice(const ConvNormActBackward<T>& call, const Sums<T>& sums, std::int64_t slice) {
  const Layers<T> layers = call.layers;
  const std::int64_t groups = groups_of(layers) / sums.slices;  // of the slice
  thread_local simd::AlignedBuffer<T> of_dz, of_dy, of_z;
  const std::size_t size = group_size(layers);
  T* own_dz = of_dz.get(static_cast<std::size_t>(groups) * size);
  T *dy = of_dy.get(size), *own_z = of_z.get(size);
  for (std::size_t i = layers.size(); i-- > 0;) {
    const ConvNormActLayer<T>& layer = layers[i];
    const bool last = i + 1 == layers.size();
    RowProduct<T> p = row_product(
        Conv1dBackwardInput<T>{.dims = Group<T>(layer, 0).conv,
                               .dy = dy,
                               .w = layer.w,
                               .dx = {call.dx.data, i == 0 ? call.dx.write : Write::kOverwrite}});
    const bool needs_dx = i > 0 || call.dx.data;
    const T* u = needs_dx ? winograd::transformed_weights(p) : nullptr;
    winograd::SliceSum<T> sum(layer.conv.channels_in, layer.conv.channels_out,
                              sums.weights[i] + slice * winograd::slice_sums(layer.conv));
    for (std::int64_t g = 0; g < groups; ++g) {
      const Group<T> group(layer, slice * groups + g);
      T* dz = own_dz + static_cast<std::size_t>(g) * size;
      group.backward(layer, last ? call.dz + group.out() : dz, dy,
                     sums.partial[i] + group.index * 2 * layer.norm.channels);
      const T* x = call.x + group.in();
      if (i > 0) {
        const ConvNormActLayer<T>& below = layers[i - 1];
        Group<T>(below, group.index).forward(below, below.y + group.in(), own_z, false);
        x = own_z;
      }
      const Conv1dBackwardParams<T> params{.dims = group.conv, .x = x, .dy = dy};
      for (std::int64_t n = 0; n < group.conv.batch; ++n) {
        for (std::int64_t l = 0; l < group.conv.length_out(); l += winograd::kOutputs) {
          sum.add(params, n, l);
        }
      }
      if (!needs_dx) continue;
      p.y = i == 0 ? call.dx.data + group.in() : dz;
      winograd::multiply(p, u);
    }
    sum.finish();
  }
}

}  // namespace

template <class T>
void run(CpuQueue& queue, const ConvNormActBackward<T>& call) {
  const Layers<T> layers = call.layers;
  const Sums<T> sums(queue, layers);
  queue.parallel_for(sums.slices, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t slice = begin; slice < end; ++slice) backward_slice(call, sums, slice);
  });
  const auto count = static_cast<std::int64_t>(layers.size());
  queue.parallel_for(count, 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
      const ConvNormActGradients<T>& out = call.gradients[i];
      const std::int64_t size = winograd::slice_sums(layers[i].conv);
      const std::int64_t channels = layers[i].conv.channels_out;
      const auto add = [&](std::int64_t first, std::int64_t many, GradOut<T> to) {
        if (!to.data) return;
        clear_unless_accumulating(to, many);
        winograd::add_slices(sums.weights[i] + first, sums.slices, size, 0, many, to.data);
      };
      add(0, size - channels, out.dw);
      add(size - channels, channels, out.db);
      if (layers[i].gamma) finish_params(layers[i].norm, sums.partial[i], out.dgamma, out.dbeta);
    }
  });
}

template <class T>
bool computes(const CpuQueue& queue, const ConvNormActForward<T>& call, bool backward) {
  const Layers<T> layers = call.layers;
  const NormDims& first = layers[0].norm;
  if (first.size() == 0) return false;
  const std::int64_t groups = groups_of(layers);
  if (std::any_of(layers.begin(), layers.end(), [&](const ConvNormActLayer<T>& layer) {
        return layer.norm.samples_per_set != first.samples_per_set || layer.conv.stride != 1;
      })) {
    return false;
  }
  // As many groups as keep all threads busy; but the two ways differ in the bits of a gradient in
  // double, and results must not depend on the threads.
  const bool by_threads = std::is_same_v<T, float> || !backward;
  if (by_threads && groups % queue.threads() != 0 && groups < 4 * queue.threads()) return false;
  if (!backward) return true;
  if (queue.conv_gradients() == ConvGradients::kDirect) return false;
  const std::int64_t slices = winograd::slices_of(layers[0].conv);
  if (by_threads && slices % queue.threads() != 0) return false;
  if (groups % slices != 0 || first.positions_per_set > 0) return false;
  return std::all_of(layers.begin(), layers.end(), [&](const ConvNormActLayer<T>& layer) {
    return winograd::slices_of(layer.conv) == slices &&
           winograd::suits(row_product(Conv1dForward<T>{layer.conv})) &&
           winograd::suits(row_product(Conv1dBackwardInput<T>{layer.conv}));
  });
}

template <class T>
std::int64_t conv_norm_act_workspace(const CpuQueue&, Layers<T>) {
  return 0;  // threads have their own
}

template bool computes(const CpuQueue&, const ConvNormActForward<float>&, bool);
template bool computes(const CpuQueue&, const ConvNormActForward<double>&, bool);
template std::int64_t conv_norm_act_workspace(const CpuQueue&, Layers<float>);
template std::int64_t conv_norm_act_workspace(const CpuQueue&, Layers<double>);
template void run(CpuQueue&, const ConvNormActForward<float>&);
template void run(CpuQueue&, const ConvNormActForward<double>&);
template void run(CpuQueue&, const ConvNormActBackward<float>&);
template void run(CpuQueue&, const ConvNormActBackward<double>&);

}  // namespace sidechannel::kernels
