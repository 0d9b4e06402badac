#pragma once

// What the benchmarks' programs have in common.

#include <benchmark/benchmark.h>

#include <cstdio>
#include <exception>
#include <string>

namespace sidechannel::bench {

// Registers a benchmark of run(state), which sets its own time, once. What goes wrong in it is its
// result, and no end of the others.
template <class Run>
void add_benchmark(const std::string& name, const Run& run) {
  const auto guarded = [run](benchmark::State& state) {
    try {
      run(state);
    } catch (const std::exception& error) {
      state.SkipWithError(error.what());
    }
  };
  benchmark::RegisterBenchmark(name.c_str(), guarded)
      ->UseManualTime()
      ->Iterations(1)
      ->Unit(benchmark::kMicrosecond);
}

// Runs what add_all() registers. Returns the program's exit code.
template <class Register>
int run_benchmarks(const char* program, int argc, char** argv, const Register& add_all) try {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  add_all();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s: %s\n", program, error.what());
  return 1;
}

}  // namespace sidechannel::bench
