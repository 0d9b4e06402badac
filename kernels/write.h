#pragma once

namespace sidechannel::kernels {

// What a kernel does with what already stands in its output.
enum class Write : unsigned char { kOverwrite, kAccumulate };

// A gradient that a backward kernel writes. A null pointer means that nobody asked for it.
//
// A call holds its gradients in the order in which its kernel writes them: one tensor may be
// several of an operation's inputs, and what stands in braces is computed in order.
template <class T>
struct GradOut {
  T* data = nullptr;
  Write write = Write::kOverwrite;
};

}  // namespace sidechannel::kernels
