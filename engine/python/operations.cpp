#include <algorithm>
#include <iterator>

#include "engine/ops.h"
#include "engine/python/binding.h"

namespace sidechannel::python {
namespace {

using Vars = std::vector<PyVar>;

// --- Convolutions
// ---------------------------------------------------------------------------------

PyVar conv1d_of(const PyVar& x, const PyVar& w, const PyVar& b, std::int64_t padding,
                std::int64_t stride, const std::string& mode) {
  const Conv1dOptions options{padding_mode_from(mode), stride};
  return operation("conv1d", {&x, &w, &b},
                   [&] { return conv1d(x.var, w.var, b.var, padding, options); });
}

PyVar conv_transpose1d_of(const PyVar& x, const PyVar& w, const PyVar& b, std::int64_t padding,
                          std::int64_t stride) {
  return operation("conv_transpose1d", {&x, &w, &b},
                   [&] { return conv_transpose1d(x.var, w.var, b.var, padding, stride); });
}

PyVar circular_pad_of(const PyVar& x, std::int64_t before, std::int64_t after) {
  return operation("circular_pad", {&x}, [&] { return circular_pad(x.var, before, after); });
}

// --- Normalization
// --------------------------------------------------------------------------------

PyVar norm_act_of(const PyVar& x, const PyVar& gamma, const PyVar& beta, NormOptions options,
                  nb::handle running_mean, nb::handle running_variance, double momentum) {
  SC_CHECK(running_mean.is_none() == running_variance.is_none(),
           "norm_act: expected running_mean and running_variance, or neither");
  RunningStatistics running{{}, {}, momentum};
  if (!running_mean.is_none()) {
    Wanted wanted = wanted_by("norm_act", x);
    wanted.writable = true;
    running.mean = tensor_of(running_mean, wanted);
    running.variance = tensor_of(running_variance, wanted);
    options.update = &running;
  }
  return operation("norm_act", {&x, &gamma, &beta},
                   [&] { return norm_act(x.var, gamma.var, beta.var, options); });
}

PyVar norm_act_population_of(const PyVar& x, const PyVar& gamma, const PyVar& beta, nb::handle mean,
                             nb::handle variance, const NormOptions& options) {
  const Wanted wanted = wanted_by("norm_act_population", x);
  const Tensor fixed_mean = tensor_of(mean, wanted), fixed_variance = tensor_of(variance, wanted);
  return operation("norm_act_population", {&x, &gamma, &beta}, [&] {
    return norm_act_population(x.var, gamma.var, beta.var, fixed_mean, fixed_variance, options);
  });
}

PyVar conv_norm_act_of(const PyVar& x, const std::vector<Vars>& layers, std::int64_t padding,
                       const NormOptions& options) {
  std::vector<ConvNormActParameters> parameters;
  for (const Vars& layer : layers) {
    SC_CHECK(layer.size() == 2 || layer.size() == 4,
             "conv_norm_act: expected layers of w and b, or of w, b, gamma and beta, got one of {}",
             layer.size());
    for (const PyVar& var : layer) check_operands("conv_norm_act", {&x, &var});
    ConvNormActParameters& one = parameters.emplace_back();
    one.w = layer[0].var;
    one.b = layer[1].var;
    if (layer.size() == 4) one.norm = {layer[2].var, layer[3].var};
  }
  return operation("conv_norm_act", {&x},
                   [&] { return conv_norm_act(x.var, parameters, padding, options); });
}

// --- Element by element, and dense layers
// ---------------------------------------------------------

PyVar activate_of(const PyVar& x, const std::string& name) {
  const Activation activation = activation_from(name);
  return operation("activate", {&x}, [&] { return activate(x.var, activation); });
}

PyVar relu_of(const PyVar& x) {
  return operation("relu", {&x}, [&] { return relu(x.var); });
}

PyVar linear_of(const PyVar& x, const PyVar& w, const PyVar& b, const std::string& name) {
  const Activation activation = activation_from(name);
  return operation("linear", {&x, &w, &b}, [&] { return linear(x.var, w.var, b.var, activation); });
}

PyVar mlp_of(const Vars& x, const std::vector<std::array<PyVar, 6>>& networks) {
  SC_CHECK(!x.empty() && x.size() == networks.size(),
           "mlp: expected as many networks as inputs, and at least one, got {} and {}",
           networks.size(), x.size());
  std::vector<Var> inputs;
  std::vector<MlpParameters> parameters;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto& [w1, b1, w2, b2, w3, b3] = networks[i];
    check_operands("mlp", {&x[0], &x[i], &w1, &b1, &w2, &b2, &w3, &b3});
    inputs.push_back(x[i].var);
    parameters.push_back({w1.var, b1.var, w2.var, b2.var, w3.var, b3.var});
  }
  return operation("mlp", {&x[0]}, [&] { return mlp(inputs, parameters); });
}

PyVar add_of(const PyVar& a, const PyVar& b) {
  return operation("add", {&a, &b}, [&] { return add(a.var, b.var); });
}

PyVar concat_of(const PyVar& a, const PyVar& b) {
  return operation("concat", {&a, &b}, [&] { return concat(a.var, b.var); });
}

PyVar weighted_sum_of(const std::vector<std::pair<PyVar, PyVar>>& terms, nb::handle where,
                      const PyVar* held) {
  SC_CHECK(!terms.empty(), "weighted_sum: expected at least one term");
  SC_CHECK(where.is_none() == (held == nullptr),
           "weighted_sum: expected where and held, or neither");
  const PyVar& first = terms[0].second;
  std::vector<WeightedTerm> all;
  for (const auto& [w, x] : terms) {
    check_operands("weighted_sum", {&first, &w, &x});
    all.push_back({w.var, x.var});
  }
  Held kept;
  if (held != nullptr) {
    kept = {tensor_of(where, wanted_by("weighted_sum", first)), held->var};
    check_operands("weighted_sum", {&first, held});
  }
  return operation("weighted_sum", {&first}, [&] { return weighted_sum(all, kept); });
}

// --- Rows, windows and shapes
// ---------------------------------------------------------------------

PyVar gather_of(nb::handle x, const PyVar& index) {
  const Tensor table = tensor_of(x, wanted_by("gather", index));
  return operation("gather", {&index}, [&] { return gather(table, index.var); });
}

PyVar gather_windows_of(nb::handle x, const PyVar& index, std::int64_t length) {
  const Tensor sequences = tensor_of(x, wanted_by("gather_windows", index));
  return operation("gather_windows", {&index},
                   [&] { return gather_windows(sequences, index.var, length); });
}

PyVar reshape_of(const PyVar& x, const std::vector<std::int64_t>& shape) {
  return operation("reshape", {&x}, [&] { return reshape(x.var, shape_from(shape)); });
}

PyVar windows_of(const PyVar& x, std::int64_t count, std::int64_t length, std::int64_t stride) {
  return operation("windows", {&x}, [&] { return windows(x.var, count, length, stride); });
}

// --- Losses
// ---------------------------------------------------------------------------------------

// The engine lets numbers repeat whatever the shapes; here a mistake would be no error. `part` is
// the last axes of y, or all of them; axes of one aside.
void check_end_of(const PyVar& y, const char* what, const Tensor& part) {
  const auto squeezed = [](const Shape& shape) {
    std::vector<std::int64_t> dims;
    std::ranges::copy_if(shape, std::back_inserter(dims),
                         [](std::int64_t dim) { return dim != 1; });
    return dims;
  };
  static_cast<void>(y.var.tape());  // or its Error
  const std::vector<std::int64_t> end = squeezed(part.shape());
  const std::vector<std::int64_t> dims = squeezed(y.var.shape());
  SC_CHECK(end.size() <= dims.size() && std::equal(end.rbegin(), end.rend(), dims.rbegin()),
           "mse: {} of {}, expected the shape of the prediction, {}, or of its last axes", what,
           part.shape().str(), y.var.shape().str());
}

PyVar mse_of(const PyVar& y, nb::handle target, nb::handle weights) {
  const Tensor wanted = tensor_of(target, wanted_by("mse", y));
  check_end_of(y, "a target", wanted);
  Tensor weighted;
  if (!weights.is_none()) {
    weighted = tensor_of(weights, wanted_by("mse", y));
    check_end_of(y, "weights", weighted);
  }
  return operation("mse", {&y}, [&] { return mse(y.var, wanted, weighted); });
}

PyVar mse_of_each_of(const PyVar& y, nb::handle target) {
  const Tensor wanted = tensor_of(target, wanted_by("mse_of_each", y));
  return operation("mse_of_each", {&y}, [&] { return mse_of_each(y.var, wanted); });
}

}  // namespace

void bind_operations(nb::module_& m) {
  m.def("conv1d", &conv1d_of, "x"_a, "w"_a, "b"_a, "padding"_a = 0, nb::kw_only(), "stride"_a = 1,
        "padding_mode"_a = "zeros",
        "Convolution: x [N, L, C_in], w [k, C_in, C_out], b [C_out] -> [N, (L + 2 padding - k) / "
        "stride + 1, C_out]. Beyond both ends of x stand zeros, or (\"circular\") x once more.");
  m.def("conv_transpose1d", &conv_transpose1d_of, "x"_a, "w"_a, "b"_a, "padding"_a = 0,
        nb::kw_only(), "stride"_a = 1,
        "A convolution led backwards (PyTorch's ConvTranspose1d): x [N, L, C_in], w [k, C_out, "
        "C_in], b [C_out] -> [N, (L - 1) stride - 2 padding + k, C_out].");
  m.def("circular_pad", &circular_pad_of, "x"_a, "before"_a, "after"_a,
        "x as a ring, cut open so many positions before its beginning and after its end: "
        "[N, L, C] -> [N, before + L + after, C].");
  m.def("norm_act", &norm_act_of, "x"_a, "gamma"_a, "beta"_a, "options"_a = NormOptions(),
        nb::kw_only(), "running_mean"_a = nb::none(), "running_variance"_a = nb::none(),
        "momentum"_a = 0.1,
        "Normalization by the batch's statistics, with an activation: x [N, L, C], gamma and beta "
        "[C] -> [N, L, C]. Running statistics [C], where given, are moved towards the batch's.");
  m.def("norm_act_population", &norm_act_population_of, "x"_a, "gamma"_a, "beta"_a, "mean"_a,
        "variance"_a, "options"_a = NormOptions(),
        "The same by fixed statistics: population mean and variance [C].");
  m.def("conv_norm_act", &conv_norm_act_of, "x"_a, "layers"_a, "padding"_a,
        "options"_a = NormOptions(),
        "Layers in a row, norm_act(conv1d(x)) of (w, b, gamma, beta) or activate(conv1d(x)) of "
        "(w, b) each: x [N, L, C] -> [N, L', C']. What these operations give one by one, unless "
        "the device has a faster way.");
  m.def("activate", &activate_of, "x"_a, "activation"_a,
        "\"none\", \"relu\" or \"mish\" of x, of any shape.");
  m.def("relu", &relu_of, "x"_a, "max(x, 0), of any shape.");
  m.def("linear", &linear_of, "x"_a, "w"_a, "b"_a, "activation"_a = "none",
        "activation(x w^T + b): x [rows, in], w [out, in], b [out] -> [rows, out].");
  m.def("mlp", &mlp_of, "x"_a, "networks"_a,
        "Perceptrons of one shape with two hidden layers of ReLU and one output, each on rows of "
        "its own: x[i] [rows, in], networks[i] = (w1, b1, w2, b2, w3, b3) -> [networks, rows]. One "
        "network is computed anywhere, several where the device computes them at once.");
  m.def("add", &add_of, "a"_a, "b"_a,
        "a + b, of one shape; or b at every position of its sample: a [N, L, C], b [N, C].");
  m.def("concat", &concat_of, "a"_a, "b"_a,
        "Side by side along the channels: a [N, L, C_a], b [N, L, C_b] -> [N, L, C_a + C_b].");
  m.def("weighted_sum", &weighted_sum_of, "terms"_a, "where"_a = nb::none(),
        "held"_a.none() = nb::none(),
        "Samples mixed with weights of their own, of one to three terms (w [N], x [N, L, C]): the "
        "sum of w[n] x[n, l, c]; held[n, l, c] wherever where[l, c] is not 0.");
  m.def("gather", &gather_of, "x"_a, "index"_a,
        "Rows of a table, x [rows, ...], index [N] of whole numbers -> [N, ...]. What lies beyond "
        "the table takes its nearest row.");
  m.def("gather_windows", &gather_windows_of, "x"_a, "index"_a, "length"_a,
        "Windows into sequences: x [sequences, L, C] -> [N, length, C]. With S = L - length + 1, "
        "window i begins at position i % S of sequence i / S.");
  m.def("reshape", &reshape_of, "x"_a, "shape"_a, "The same elements under another shape.");
  m.def("windows", &windows_of, "x"_a, "count"_a, "length"_a, "stride"_a,
        "Windows into sequences, `stride` apart: x [N, (count - 1) stride + length] -> "
        "[N count, length].");
  m.def(
      "mse", &mse_of, "y"_a, "target"_a, "weights"_a = nb::none(),
      "Mean squared error over all elements, one number. The target has y's shape, or that of its "
      "last axes (axes of one aside), as [L] for y [N, L, 1], and then serves all of the batch. "
      "Weights, likewise, multiply the squares.");
  m.def(
      "mse_of_each", &mse_of_each_of, "y"_a, "target"_a,
      "The same of each y[i], [sets, ...] -> [sets], which is flat here: a target repeats in it.");
}

}  // namespace sidechannel::python
