#include "engine/finite.h"

#include <algorithm>
#include <cmath>

#include "engine/io/file.h"
#include "kernels/reduce.h"

namespace sidechannel {
namespace {

template <class T>
std::string first_in(const HostArray& array) {
  const auto values = array.as<T>();
  const auto found = std::ranges::find_if(values, [](T value) { return !std::isfinite(value); });
  if (found == values.end()) return {};
  // A NaN's sign says nothing.
  const char* const what = std::isnan(*found) ? "nan" : *found > 0 ? "inf" : "-inf";
  return fmt::format("{} at {}", what, array.shape.place_of(found - values.begin()));
}

// What an operation that reads these does: "blocks.3.conv gave" with blocks.3.conv.weight. Of the
// operations without parameters the loss alone can turn finite numbers into others.
std::string name_of_operation(std::span<const Var> inputs,
                              const std::vector<const ParameterList*>& lists) {
  for (const ParameterList* list : lists) {
    for (const Parameter& parameter : list->parameters()) {
      const auto reads = [&](const Var& x) { return x.value().same_memory(parameter.value); };
      if (std::ranges::any_of(inputs, reads))
        return parameter.name.substr(0, parameter.name.rfind('.')) + " gave";
    }
  }
  return "the loss is";
}

}  // namespace

std::string first_not_finite(const HostArray& array) {
  if (array.dtype == DType::kF32) return first_in<float>(array);
  if (array.dtype == DType::kF64) return first_in<double>(array);
  return {};
}

void check_finite(const std::map<std::string, HostArray>& tensors, const std::string& source) {
  for (const auto& [name, array] : tensors) {
    const std::string value = first_not_finite(array);
    SC_CHECK(value.empty(), "{}: {} is {}", source, shown(name), value);
  }
}

void FiniteCheck::look(std::int64_t index, const Tensor& x) {
  on(x.device(), x.dtype(), [&]<class T>(auto& queue) {
    run(queue, kernels::SumOfSquares<T>{
                   .size = x.size(), .x = x.data<T>(), .result = squares_.data<double>() + index});
  });
}

void FiniteCheck::look(std::int64_t index, std::span<const Var> all) {
  if (all.empty()) return;
  on(all[0].device(), all[0].dtype(), [&]<class T>(auto& queue) {
    std::vector<kernels::SumOfSquares<T>> calls;
    for (std::size_t i = 0; i < all.size(); ++i) {
      const Var& x = all[i];
      calls.push_back(
          {.size = x.size(), .x = x.data<T>(), .result = squares_.data<double>() + index++});
      if (i + 1 < all.size() && all[i + 1].size() == x.size()) continue;
      run(queue, kernels::View<kernels::SumOfSquares<T>>(calls));
      calls.clear();
    }
  });
}

std::string first_not_finite(Tape& tape, const std::vector<const ParameterList*>& lists,
                             const std::function<void()>& step) {
  std::string found;
  const auto look = [&](const std::string& what, const HostArray& array) {
    if (!found.empty()) return;
    const std::string value = first_not_finite(array);
    if (!value.empty()) found = fmt::format("{} {}", what, value);
  };
  for (const ParameterList* list : lists) {
    std::map<std::string, HostArray> tensors;
    list->save(tensors);
    for (const Parameter& p : list->parameters()) look(p.name + " is", tensors.at(p.name));
  }
  tape.set_watch([&](const Var& output, std::span<const Var> inputs) {
    if (found.empty()) look(name_of_operation(inputs, lists), output.value().to_host());
  });
  step();
  tape.set_watch({});
  for (const ParameterList* list : lists) {
    const std::deque<Parameter>& all = list->parameters();
    std::for_each(all.rbegin(), all.rend(), [&](const Parameter& p) {
      look(fmt::format("the gradient of {} is", p.name), p.grad.to_host());
    });
  }
  return found;
}

}  // namespace sidechannel
