#pragma once

#include <algorithm>
#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/arena.h"
#include "engine/parameter.h"
#include "engine/random.h"
#include "engine/tensor.h"
#include "kernels/write.h"

namespace sidechannel {

class Tape;
class Grads;

// Which variables of a tape are valid, for them to ask: it outlives the tape. Variables are counted
// as they are made.
struct VarLifetimes {
  Tape* tape;  // null when it is gone
  std::int64_t made = 0;
  // What was rewound: ranges of variables, in order, apart from each other.
  struct Range {
    std::int64_t first, last;  // the last one excluded
  };
  std::vector<Range> over;

  bool has_ended(std::int64_t var) const;
  // All that were made since `first` was the next.
  void end_since(std::int64_t first);
};

// A tensor on a tape: what operations take and return. Error from tape(), value() and data() of one
// that has outlived its tape, or that was reset or rewound away.
class Var {
 public:
  Var() = default;
  Tape& tape() const {
    check();
    return *lifetimes_->tape;
  }
  const Tensor& value() const {
    check();
    return value_;
  }
  const Shape& shape() const { return value_.shape(); }
  const Device& device() const { return value_.device(); }
  DType dtype() const { return value_.dtype(); }
  std::int64_t size() const { return value_.size(); }
  template <class T>
  T* data() const {
    return value().template data<T>();
  }
  // Whether backward() computes a gradient for it.
  bool requires_grad() const { return id_ >= 0; }

 private:
  friend class Tape;
  friend class Grads;
  Var(const std::shared_ptr<VarLifetimes>& lifetimes, Tensor value, int id)
      : lifetimes_(lifetimes), number_(lifetimes->made++), value_(std::move(value)), id_(id) {}
  void check() const;

  std::shared_ptr<const VarLifetimes> lifetimes_;
  std::int64_t number_ = 0;  // of the tape's variables
  Tensor value_;
  int id_ = -1;
};

// A record of the operations of one step, in order, and the way back through them. Values and
// gradients live in the tape's arena: a Var is valid until reset(), or a rewind() past it.
class Tape {
 public:
  explicit Tape(Device device, DType dtype = DType::kF32)
      : device_(std::move(device)), dtype_(dtype), arena_(device_) {}
  ~Tape() { lifetimes_->tape = nullptr; }
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  const Device& device() const { return device_; }
  DType dtype() const { return dtype_; }

  // An input without a gradient.
  Var constant(const Tensor& value) { return {lifetimes_, value, -1}; }
  // An input with a gradient, to be read by gradient() after backward().
  Var leaf(const Tensor& value);
  // A parameter; its gradient goes to parameter.grad. A constant under HoldParameters.
  Var parameter(Parameter& parameter);
  // Standard normal noise. shape [samples, length, 1] or [samples, length]; the numbers depend on
  // (seed, stream, step, first_sample + sample, position) alone, where `random` stands at (step,
  // first_sample).
  Var normal(Shape shape, Stream stream, const Random& random);
  // Whole numbers, uniform on {0, ..., count - 1}: [samples], drawn as normal() draws, with a
  // number for each sample. `count` is 1 to 2^24. From a stream of their own.
  Var uniform_integers(std::int64_t samples, std::int64_t count, Stream stream,
                       const Random& random);

  // For operations: a new output on the arena; and the way back from it. Does not record when no
  // input asks for a gradient; otherwise `output` becomes a Var that does.
  Var make(Shape shape) { return {lifetimes_, arena_.allocate(dtype_, shape), -1}; }
  void record(Var& output, std::span<const Var> inputs, std::function<void(Grads&)> backward);
  void record(Var& output, std::initializer_list<Var> inputs,
              std::function<void(Grads&)> backward) {
    record(output, std::span(inputs.begin(), inputs.size()), std::move(backward));
  }
  // Whether record() would.
  bool records(std::span<const Var> inputs) const {
    return recording_ && std::ranges::any_of(inputs, &Var::requires_grad);
  }

  // Computes the gradients of everything that `output` depends on, given the gradient
  // `cotangent` of output itself (1 if absent; output must then be a single number). Gradients of
  // parameters are overwritten, or added to what is there (to accumulate over micro-batches).
  void backward(const Var& output, const Tensor& cotangent = {},
                kernels::Write write = kernels::Write::kOverwrite);
  const Tensor& gradient(const Var& leaf) const;

  // Forgets everything and takes the memory back.
  void reset();
  // Forgets what came after `mark`: for many small backward passes behind one forward pass.
  struct Mark {
    Arena::Mark arena;
    std::size_t nodes = 0;
    std::int64_t vars = 0;
  };
  Mark mark() const { return {arena_.mark(), nodes_.size(), lifetimes_->made}; }
  void rewind(const Mark& mark);

  // While false, operations compute but record nothing.
  bool recording() const { return recording_; }
  void set_recording(bool recording) { recording_ = recording; }
  // While true, parameters come onto the tape as constants.
  bool holds_parameters() const { return holds_parameters_; }
  void set_holds_parameters(bool holds) { holds_parameters_ = holds; }

  // Shown what every operation gave for which inputs, recorded or not; an empty one ends it.
  using Watch = std::function<void(const Var& output, std::span<const Var> inputs)>;
  void set_watch(Watch watch) { watch_ = std::move(watch); }
  bool watched() const { return static_cast<bool>(watch_); }

  Arena& arena() { return arena_; }

 private:
  friend class Grads;
  struct Node {
    std::function<void(Grads&)> backward;  // empty for leaves and parameters
    Shape shape;
    Tensor leaf_grad;  // where the gradient of a leaf or parameter goes
    Parameter* parameter = nullptr;
  };
  std::shared_ptr<VarLifetimes> lifetimes_ =
      std::make_shared<VarLifetimes>(VarLifetimes{this, 0, {}});
  Device device_;
  DType dtype_;
  Arena arena_;
  std::vector<Node> nodes_;
  std::unordered_map<const Parameter*, int> parameters_;
  bool recording_ = true;
  bool holds_parameters_ = false;
  Watch watch_;
};

// The gradients of one backward pass, as an operation's backward rule sees them.
class Grads {
 public:
  // The gradient of the operation's output: complete, to be read.
  template <class T>
  const T* output() const {
    return grads_[current_].data<T>();
  }
  // Where the gradient of an operation's input goes, and whether the operation overwrites it (the
  // first to write) or adds to it. A null pointer where nobody asked for a gradient.
  template <class T>
  kernels::GradOut<T> into(const Var& input) {
    if (!input.requires_grad()) return {};
    const kernels::Write write = prepare(input);
    return {grads_[static_cast<std::size_t>(input.id_)].data<T>(), write};
  }

 private:
  friend class Tape;
  Grads(Tape& tape, kernels::Write write);
  kernels::Write prepare(const Var& input);
  void release(std::size_t id);

  Tape& tape_;
  kernels::Write write_;
  std::vector<Tensor> grads_;  // by node
  std::vector<bool> written_;
  std::vector<Tensor> free_;  // gradients that nobody needs any more
  std::size_t current_ = 0;   // the node whose rule runs
};

// Computes without recording for as long as it lives.
class NoGrad {
 public:
  explicit NoGrad(Tape& tape) : tape_(tape), before_(tape.recording()) {
    tape.set_recording(false);
  }
  ~NoGrad() { tape_.set_recording(before_); }
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  Tape& tape_;
  bool before_;
};

// Takes parameters for constants for as long as it lives: what is recorded meanwhile leads back to
// leaves alone, in fewer passes. Parameters that are on the tape already stay what they are.
class HoldParameters {
 public:
  explicit HoldParameters(Tape& tape) : tape_(tape), before_(tape.holds_parameters()) {
    tape.set_holds_parameters(true);
  }
  ~HoldParameters() { tape_.set_holds_parameters(before_); }
  HoldParameters(const HoldParameters&) = delete;
  HoldParameters& operator=(const HoldParameters&) = delete;

 private:
  Tape& tape_;
  bool before_;
};

}  // namespace sidechannel
