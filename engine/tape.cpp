#include "engine/tape.h"

#include <algorithm>

namespace sidechannel {

using kernels::Write;

bool VarLifetimes::has_ended(std::int64_t var) const {
  return std::ranges::any_of(
      over, [&](const Range& range) { return range.first <= var && var < range.last; });
}

void VarLifetimes::end_since(std::int64_t first) {
  while (!over.empty() && over.back().last >= first) {
    first = std::min(first, over.back().first);
    over.pop_back();
  }
  over.push_back({first, made});
}

void Var::check() const {
  SC_CHECK(lifetimes_ != nullptr, "a variable without a tape");
  SC_CHECK(lifetimes_->tape != nullptr, "a variable of shape {} has outlived its tape",
           shape().str());
  SC_CHECK(!lifetimes_->has_ended(number_), "a variable of shape {} has been reset or rewound away",
           shape().str());
}

Var Tape::leaf(const Tensor& value) {
  if (!recording_) return constant(value);
  nodes_.push_back({{}, value.shape(), arena_.allocate(dtype_, value.shape()), nullptr});
  return {lifetimes_, value, static_cast<int>(nodes_.size()) - 1};
}

Var Tape::parameter(Parameter& parameter) {
  if (!recording_ || holds_parameters_) return constant(parameter.value);
  // A parameter that is used twice is one node, so that its gradients add up.
  const auto [known, added] = parameters_.try_emplace(&parameter, static_cast<int>(nodes_.size()));
  if (added) nodes_.push_back({{}, parameter.value.shape(), parameter.grad, &parameter});
  return {lifetimes_, parameter.value, known->second};
}

Var Tape::normal(Shape shape, Stream stream, const Random& random) {
  SC_CHECK(shape.rank() == 2 || (shape.rank() == 3 && shape[2] == 1),
           "normal: expected a shape [samples, length] or [samples, length, 1], got {}",
           shape.str());
  Var out = make(shape);
  on(device_, dtype_, [&]<class T>(auto& queue) {
    run(queue, kernels::NormalFill<T>{.random = {random.seed(), static_cast<std::uint32_t>(stream)},
                                      .at = random.position(),
                                      .samples = shape[0],
                                      .length = shape[1],
                                      .out = out.data<T>()});
  });
  return out;
}

Var Tape::uniform_integers(std::int64_t samples, std::int64_t count, Stream stream,
                           const Random& random) {
  constexpr std::int64_t kMost = std::int64_t{1} << 24;  // what f32 counts to without gaps
  SC_CHECK(count >= 1 && count <= kMost, "uniform_integers: expected a count from 1 to {}, got {}",
           kMost, count);
  Var out = make({samples});
  on(device_, dtype_, [&]<class T>(auto& queue) {
    run(queue,
        kernels::IntegerFill<T>{.random = {random.seed(), static_cast<std::uint32_t>(stream)},
                                .at = random.position(),
                                .samples = samples,
                                .count = static_cast<std::uint32_t>(count),
                                .out = out.data<T>()});
  });
  return out;
}

void Tape::record(Var& output, std::span<const Var> inputs, std::function<void(Grads&)> backward) {
  for (const Var& input : inputs) {
    SC_CHECK(input.lifetimes_ == lifetimes_, "the inputs of an operation are of different tapes");
  }
  if (watch_) watch_(output, inputs);
  if (!records(inputs)) return;
  output.id_ = static_cast<int>(nodes_.size());
  nodes_.push_back({std::move(backward), output.shape(), {}, nullptr});
}

void Tape::backward(const Var& output, const Tensor& cotangent, Write write) {
  SC_CHECK(output.lifetimes_ == lifetimes_ && output.requires_grad(),
           "backward: the output does not depend on anything that asks for a gradient");
  output.check();
  SC_CHECK(cotangent ? cotangent.shape() == output.shape() : output.size() == 1,
           "backward: an output of shape {} needs a cotangent of that shape", output.shape().str());
  Grads grads(*this, write);
  grads.prepare(output);
  Tensor& seed = grads.grads_[static_cast<std::size_t>(output.id_)];
  if (cotangent) {
    seed.copy_from(cotangent);
  } else {
    seed.fill(1);
  }
  for (const Node& node : nodes_) {
    SC_CHECK(node.parameter == nullptr || node.leaf_grad.same_memory(node.parameter->grad),
             "backward: parameter {} has moved since it came onto the tape: an optimizer takes its "
             "parameters before the first step",
             node.parameter->name);
  }
  // Nodes stand in the order of their computation: each gradient is complete when its turn comes.
  for (std::size_t id = static_cast<std::size_t>(output.id_) + 1; id-- > 0;) {
    if (!nodes_[id].backward || !grads.written_[id]) continue;
    grads.current_ = id;
    nodes_[id].backward(grads);
    grads.release(id);
  }
  for (std::size_t id = 0; id < nodes_.size(); ++id) {
    if (!nodes_[id].leaf_grad || grads.written_[id]) continue;
    if (nodes_[id].parameter && write == Write::kAccumulate) continue;  // plus nothing
    nodes_[id].leaf_grad.fill(0);
  }
}

const Tensor& Tape::gradient(const Var& leaf) const {
  constexpr const char* kNone = "gradient: not a leaf or parameter of this tape";
  SC_CHECK(leaf.lifetimes_ == lifetimes_ && leaf.requires_grad(), "{}", kNone);
  leaf.check();
  SC_CHECK(nodes_[static_cast<std::size_t>(leaf.id_)].leaf_grad, "{}", kNone);
  return nodes_[static_cast<std::size_t>(leaf.id_)].leaf_grad;
}

void Tape::reset() {
  nodes_.clear();
  parameters_.clear();
  lifetimes_->end_since(0);
  arena_.reset();
}

void Tape::rewind(const Mark& mark) {
  for (std::size_t id = mark.nodes; id < nodes_.size(); ++id) {
    if (nodes_[id].parameter) parameters_.erase(nodes_[id].parameter);
  }
  nodes_.resize(mark.nodes);
  lifetimes_->end_since(mark.vars);
  arena_.rewind(mark.arena);
}

Grads::Grads(Tape& tape, Write write)
    : tape_(tape), write_(write), grads_(tape.nodes_.size()), written_(tape.nodes_.size()) {}

Write Grads::prepare(const Var& input) {
  const auto id = static_cast<std::size_t>(input.id_);
  if (written_[id]) return Write::kAccumulate;
  written_[id] = true;
  const Tape::Node& node = tape_.nodes_[id];
  if (node.leaf_grad) {
    grads_[id] = node.leaf_grad;
    return node.parameter ? write_ : Write::kOverwrite;
  }
  // A gradient that was used up has the memory, still in the cache, for the next of its size.
  const auto reusable = std::ranges::find(free_, node.shape.size(), &Tensor::size);
  if (reusable != free_.end()) {
    grads_[id] = reusable->reshape(node.shape);
    free_.erase(reusable);
  } else {
    grads_[id] = tape_.arena_.allocate(tape_.dtype_, node.shape);
  }
  return Write::kOverwrite;
}

void Grads::release(std::size_t id) {
  free_.push_back(std::move(grads_[id]));
  grads_[id] = Tensor();
}

}  // namespace sidechannel
