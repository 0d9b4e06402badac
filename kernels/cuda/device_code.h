#pragma once

namespace sidechannel::kernels {

// Whether this binary has code that the current device can run: cudaSuccess, or the runtime's
// error.
int device_code_error();

}  // namespace sidechannel::kernels
