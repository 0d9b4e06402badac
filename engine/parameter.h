#pragma once

#include <deque>
#include <optional>
#include <set>
#include <string>

#include "engine/io/tensor_map.h"
#include "engine/random.h"
#include "engine/tensor.h"

namespace sidechannel {

// How a tensor's axes are arranged in memory, against the arrangement in files, which is PyTorch's.
enum class Layout {
  kSame,
  kConv1dWeight,  // [k, C_in, C_out] in memory, [C_out, C_in, k] in files; of a transposed
                  // convolution [k, C_out, C_in] and [C_in, C_out, k]
};

// A learnable tensor and its gradient.
struct Parameter {
  std::string name;
  Tensor value;
  Tensor grad;
  Layout layout = Layout::kSame;
};

// What a constant may hold; files that hold anything else are refused.
enum class Values : bool { kAny, kNotNegative };

// Running statistics and the like: saved with the parameters, but not learned.
struct Constant {
  std::string name;
  Tensor value;
  Values values = Values::kAny;
};

// What to do with tensors of a file that the model does not have.
enum class LoadUnknown : bool { kRefuse, kIgnore };

// The named tensors of a model. Modules add theirs when they are made and keep references, which
// stay valid as long as the list lives.
class ParameterList {
 public:
  // Random initial values are drawn from `stream`, in the order in which parameters are added.
  ParameterList(Device device, DType dtype, std::uint64_t seed, Stream stream = Stream::kWeights)
      : device_(std::move(device)), dtype_(dtype), seed_(seed), stream_(stream) {}
  // For a file's tensors: what is added must be there, in the same shape and type, or is refused
  // before there is memory for it. So a model that is made from what a file says of itself is no
  // larger than the file. The values are load()'s to take.
  ParameterList(Device device, DType dtype, const TensorMap& tensors, std::string source)
      : ParameterList(std::move(device), dtype, 0) {
    file_ = &tensors;
    source_ = std::move(source);
  }
  ParameterList(const ParameterList&) = delete;
  ParameterList& operator=(const ParameterList&) = delete;

  // Names must differ; Error otherwise.
  // Uniform on [-bound, bound).
  Parameter& add_uniform(std::string name, Shape shape, double bound,
                         Layout layout = Layout::kSame);
  Parameter& add_filled(std::string name, Shape shape, double value);
  Constant& add_constant(std::string name, Shape shape, double value, Values values = Values::kAny);

  const Device& device() const { return device_; }
  DType dtype() const { return dtype_; }
  std::deque<Parameter>& parameters() { return parameters_; }
  const std::deque<Parameter>& parameters() const { return parameters_; }
  std::int64_t size() const;  // learnable numbers in all

  // Moves all values and all gradients into one flat buffer each, unless they lie there already,
  // and returns them: an optimizer then updates everything in one pass.
  struct Flat {
    Tensor values;
    Tensor grads;
  };
  Flat flatten();
  // Whether that is where all of them lie.
  bool lies_in(const Flat& flat) const;

  // Gradients of 0: backward() overwrites those of the parameters that it comes to, alone.
  void zero_grad();

  // All tensors by name, in PyTorch's layouts.
  void save(TensorMap& tensors) const;
  // Reads what save() wrote. Error when a tensor is missing, of another shape or type or of
  // values that it cannot have, or when there is one too many. `source`, the file's name, begins
  // the message.
  void load(const TensorMap& tensors, const std::string& source,
            LoadUnknown unknown = LoadUnknown::kRefuse);

 private:
  Parameter& add(std::string name, Shape shape, Layout layout);
  // Refuses a name that there is already, and what is not in the file.
  void check_new(const std::string& name, const Shape& in_file);

  Device device_;
  DType dtype_;
  std::uint64_t seed_;
  Stream stream_;
  std::deque<Parameter> parameters_;
  std::deque<Constant> constants_;
  std::set<std::string> names_;
  std::optional<Flat> flat_;         // where they lie, of so many numbers
  const TensorMap* file_ = nullptr;  // while it is made for one
  std::string source_;
};

// A host array with its axes in the other order: [a, b, c] to [c, b, a].
HostArray reverse_axes(const HostArray& array);

}  // namespace sidechannel
