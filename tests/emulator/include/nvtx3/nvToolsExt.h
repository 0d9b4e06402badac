#pragma once

// Ranges for a profiler, of which there is none here.

inline int nvtxRangePushA(const char*) {
  return 0;
}
inline int nvtxRangePop() {
  return 0;
}
