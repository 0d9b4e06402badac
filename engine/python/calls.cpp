// One operation on arrays of someone else's, and the way back: what sidechannel.torch is made of.

#include <functional>

#include "engine/ops.h"
#include "engine/python/binding.h"

namespace sidechannel::python {
namespace {

// On a tape of its own, which is never reset: what it gives shares its memory, without a copy.
class Call {
 public:
  using Operation = std::function<Var(const std::vector<Var>& inputs)>;

  // `needs` says which of the inputs want a gradient.
  Call(const Device& device, std::vector<Tensor> inputs, std::vector<bool> needs, Operation f)
      : device_(device), inputs_(std::move(inputs)), needs_(std::move(needs)), f_(std::move(f)) {
    SC_CHECK(needs_.size() == inputs_.size(),
             "call: {} inputs, and {} words on which need a gradient", inputs_.size(),
             needs_.size());
    forward();
  }

  const Device& device() const { return device_; }
  DType dtype() const { return tape_->dtype(); }
  Tensor output() const { return output_.value(); }

  std::vector<std::optional<Tensor>> backward(const Tensor& cotangent) {
    // Whoever has the gradients of the last time may have kept their memory, to add to it.
    if (went_back_) forward();
    went_back_ = true;
    tape_->backward(output_, cotangent);
    std::vector<std::optional<Tensor>> gradients;
    for (const Var& var : vars_) {
      gradients.push_back(var.requires_grad() ? std::optional(tape_->gradient(var)) : std::nullopt);
    }
    return gradients;
  }

 private:
  void forward() {
    tape_ = std::make_unique<Tape>(device_, inputs_.at(0).dtype());
    vars_.clear();
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      vars_.push_back(needs_[i] ? tape_->leaf(inputs_[i]) : tape_->constant(inputs_[i]));
    }
    output_ = f_(vars_);
  }

  Device device_;
  std::vector<Tensor> inputs_;
  std::vector<bool> needs_;
  Operation f_;
  std::unique_ptr<Tape> tape_;
  std::vector<Var> vars_;
  Var output_;
  bool went_back_ = false;
};

Call make(const char* name, const Device* device, const std::vector<nb::object>& arrays,
          const std::vector<bool>& needs, const Call::Operation& f) {
  const Device& where = or_default(device);
  std::vector<Tensor> inputs;
  for (const nb::object& array : arrays) {
    Wanted wanted{name, where};
    if (!inputs.empty()) wanted.dtype = inputs[0].dtype();
    inputs.push_back(tensor_of(array, wanted));
  }
  return compute(where, [&] { return Call(where, inputs, needs, f); });
}

Call conv1d_call(const nb::object& x, const nb::object& w, const nb::object& b,
                 const std::vector<bool>& needs, std::int64_t padding, std::int64_t stride,
                 const std::string& mode, const Device* device) {
  const Conv1dOptions options{padding_mode_from(mode), stride};
  return make("conv1d", device, {x, w, b}, needs, [=](const std::vector<Var>& in) {
    return conv1d(in[0], in[1], in[2], padding, options);
  });
}

Call norm_act_call(const nb::object& x, const nb::object& gamma, const nb::object& beta,
                   const std::vector<bool>& needs, const NormOptions& options,
                   const Device* device) {
  return make("norm_act", device, {x, gamma, beta}, needs,
              [=](const std::vector<Var>& in) { return norm_act(in[0], in[1], in[2], options); });
}

}  // namespace

void bind_calls(nb::module_& m) {
  nb::class_<Call>(m, "Call", "One operation that was carried out, and the way back from it.")
      .def_prop_ro("output", &Call::output, nb::rv_policy::move)
      .def(
          "backward",
          [](Call& self, nb::handle cotangent) {
            const Tensor seed = tensor_of(cotangent, {"backward", self.device(), self.dtype()});
            return compute(self.device(), [&] { return self.backward(seed); });
          },
          "cotangent"_a, "The gradients of the inputs, None for those that need none.");
  m.def("conv1d_call", &conv1d_call, "x"_a, "w"_a, "b"_a, "needs"_a, nb::kw_only(), "padding"_a,
        "stride"_a, "padding_mode"_a, "device"_a.none());
  m.def("norm_act_call", &norm_act_call, "x"_a, "gamma"_a, "beta"_a, "needs"_a, nb::kw_only(),
        "options"_a, "device"_a.none());
}

}  // namespace sidechannel::python
