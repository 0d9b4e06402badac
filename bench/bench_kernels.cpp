// The kernels of a convolution and a normalization, one core, at the demo's and the paper's shape.
// Counters: GFLOP/s, and the share of the FMA peak that is measured right before.

#include <benchmark/benchmark.h>

#include <Eigen/Core>

#include "bench/peak.h"
#include "engine/tensor.h"
#include "kernels/adam.h"
#include "kernels/conv1d.h"
#include "kernels/linear.h"
#include "kernels/norm_act.h"
#include "kernels/random.h"

namespace sidechannel::bench {
namespace {

using namespace kernels;
using enum Activation;

// Random values in memory that is aligned as a tensor's is.
struct Values {
  Values(CpuQueue& queue, std::int64_t size, std::uint32_t stream)
      : tensor(Device::cpu(1), DType::kF32, {size}) {
    const RandomPosition first;
    run(queue,
        NormalFill<float>{
            .random = {1, stream}, .at = &first, .samples = 1, .length = size, .out = data()});
  }
  float* data() const { return tensor.data<float>(); }
  Tensor tensor;
};

// Reports `flops` operations an iteration.
void report(benchmark::State& state, double flops, double peak) {
  state.counters["GFLOP/s"] =
      benchmark::Counter(flops * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["peak"] = peak;
  state.counters["share"] =
      benchmark::Counter(flops * 1e-9 / peak, benchmark::Counter::kIsIterationInvariantRate);
}

Conv1dDims conv_dims(const benchmark::State& state) {
  return {state.range(0), state.range(1), state.range(2), state.range(2), 5, 2};
}

double conv_flops(const Conv1dDims& dims) {
  return 2.0 * static_cast<double>(dims.batch * dims.length_out() * dims.channels_in *
                                   dims.channels_out * dims.kernel_size);
}

// Data of one convolution.
struct Conv {
  explicit Conv(const Conv1dDims& dims)
      : queue(1),
        x(queue, dims.batch * dims.length * dims.channels_in, 0),
        w(queue, dims.kernel_size * dims.channels_in * dims.channels_out, 1),
        b(queue, dims.channels_out, 2),
        y(queue, dims.batch * dims.length_out() * dims.channels_out, 3) {}
  CpuQueue queue;
  Values x, w, b, y;
};

void conv1d_forward(benchmark::State& state) {
  const Conv1dDims dims = conv_dims(state);
  Conv conv(dims);
  const double peak = fma_peak(1);
  for (auto _ : state) {
    run(conv.queue, Conv1dForward<float>{.dims = dims,
                                         .x = conv.x.data(),
                                         .w = conv.w.data(),
                                         .b = conv.b.data(),
                                         .y = conv.y.data()});
  }
  report(state, conv_flops(dims), peak);
}

void conv1d_backward_input(benchmark::State& state) {
  const Conv1dDims dims = conv_dims(state);
  Conv conv(dims);
  const double peak = fma_peak(1);
  for (auto _ : state) {
    run(conv.queue,
        Conv1dBackwardInput<float>{
            .dims = dims, .dy = conv.y.data(), .w = conv.w.data(), .dx = {conv.x.data()}});
  }
  report(state, conv_flops(dims), peak);
}

void conv1d_backward_params(benchmark::State& state) {
  const Conv1dDims dims = conv_dims(state);
  Conv conv(dims);
  const double peak = fma_peak(1);
  for (auto _ : state) {
    run(conv.queue, Conv1dBackwardParams<float>{.dims = dims,
                                                .x = conv.x.data(),
                                                .dy = conv.y.data(),
                                                .dw = {conv.w.data()},
                                                .db = {conv.b.data()}});
  }
  report(state, conv_flops(dims), peak);
}

// InstanceNorm with ReLU, forward and backward. Bytes: what each pass reads and writes once.
void norm_relu(benchmark::State& state) {
  const NormDims dims{state.range(0), state.range(1), state.range(2), 1, 1, 1e-5, kRelu};
  const std::int64_t size = dims.batch * dims.length * dims.channels;
  CpuQueue queue(1);
  const Values x(queue, size, 0), y(queue, size, 1), dy(queue, size, 2), dx(queue, size, 3);
  const Values gamma(queue, dims.channels, 4), beta(queue, dims.channels, 5);
  const Values dgamma(queue, dims.channels, 6), dbeta(queue, dims.channels, 7);
  const std::int64_t sets = dims.batch * dims.channels;
  const Values mean(queue, sets, 8), rest(queue, sets, 9), rstd(queue, sets, 10);
  for (auto _ : state) {
    run(queue, NormForward<float>{.dims = dims,
                                  .x = x.data(),
                                  .gamma = gamma.data(),
                                  .beta = beta.data(),
                                  .y = y.data(),
                                  .statistics = {mean.data(), rest.data(), rstd.data()}});
    run(queue, NormBackward<float>{.dims = dims,
                                   .x = x.data(),
                                   .gamma = gamma.data(),
                                   .beta = beta.data(),
                                   .statistics = {mean.data(), rest.data(), rstd.data()},
                                   .dy = dy.data(),
                                   .dx = {dx.data()},
                                   .dbeta = {dbeta.data()},
                                   .dgamma = {dgamma.data()}});
  }
  state.SetBytesProcessed(state.iterations() * size * 5 * static_cast<std::int64_t>(sizeof(float)));
}

// The probe's middle layer, forward and backward.
void linear(benchmark::State& state) {
  const LinearDims dims{state.range(0), 256, 256, kRelu};
  CpuQueue queue(1);
  const std::int64_t size = dims.rows * dims.in;
  const Values x(queue, size, 0), y(queue, size, 1), dy(queue, size, 2), dx(queue, size, 3);
  const Values w(queue, dims.in * dims.out, 4), dw(queue, dims.in * dims.out, 5);
  const Values b(queue, dims.out, 6), db(queue, dims.out, 7);
  const double peak = fma_peak(1);
  for (auto _ : state) {
    run(queue, LinearForward<float>{
                   .dims = dims, .x = x.data(), .w = w.data(), .b = b.data(), .y = y.data()});
    run(queue, LinearBackward<float>{.dims = dims,
                                     .x = x.data(),
                                     .w = w.data(),
                                     .y = y.data(),
                                     .dy = dy.data(),
                                     .dx = {dx.data()},
                                     .dw = {dw.data()},
                                     .db = {db.data()}});
  }
  report(state, 6.0 * static_cast<double>(dims.rows * dims.in * dims.out), peak);
}

// The three products of that layer by Eigen, without bias and ReLU.
void linear_eigen(benchmark::State& state) {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const std::int64_t rows = state.range(0);
  const Matrix x = Matrix::Random(rows, 256), w = Matrix::Random(256, 256);
  const Matrix dy = Matrix::Random(rows, 256);
  Matrix y = x, dx = x, dw = w;
  const double peak = fma_peak(1);
  for (auto _ : state) {
    y.noalias() = x * w.transpose();
    dx.noalias() = dy * w;
    dw.noalias() = dy.transpose() * x;
    benchmark::DoNotOptimize(y.data());
    benchmark::DoNotOptimize(dx.data());
    benchmark::DoNotOptimize(dw.data());
  }
  report(state, 6.0 * 256 * 256 * static_cast<double>(rows), peak);
}

void adam(benchmark::State& state) {
  const std::int64_t size = state.range(0);
  CpuQueue queue(1);
  const Values g(queue, size, 0), p(queue, size, 1), m(queue, size, 2), v(queue, size, 3);
  v.tensor.fill(1);
  const AdamRule rule{LearningRate{1e-9}};
  AdamState at;
  at.steps = 100;
  at = begin_step(rule, at, 1, 1, FLT_MAX);
  for (auto _ : state) {
    run(queue, AdamUpdate<float>{.rule = rule,
                                 .state = &at,
                                 .size = size,
                                 .g = g.data(),
                                 .p = p.data(),
                                 .m = m.data(),
                                 .v = v.data()});
  }
  state.SetBytesProcessed(state.iterations() * size * 7 * static_cast<std::int64_t>(sizeof(float)));
}

// batch, length, channels: the demo's and the paper's middle layers.
#define SHAPES ArgNames({"N", "L", "h"})->Args({8, 64, 32})->Args({32, 600, 64})->UseRealTime()
BENCHMARK(conv1d_forward)->SHAPES;
BENCHMARK(conv1d_backward_input)->SHAPES;
BENCHMARK(conv1d_backward_params)->SHAPES;
BENCHMARK(norm_relu)->SHAPES;
BENCHMARK(linear)->ArgName("rows")->Arg(512)->Arg(19200)->UseRealTime();
BENCHMARK(linear_eigen)->ArgName("rows")->Arg(512)->Arg(19200)->UseRealTime();
BENCHMARK(adam)->ArgName("parameters")->Arg(31'905)->Arg(620'865)->UseRealTime();

}  // namespace
}  // namespace sidechannel::bench

BENCHMARK_MAIN();
