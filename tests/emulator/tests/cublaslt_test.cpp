// The stand-in for cuBLASLt computes what the library documents, and refuses what a caller gets
// wrong.

#include <cublasLt.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "fixture.h"

namespace sidechannel::test {
namespace {

using testing::HasSubstr;

// A [m, k], B [k, n] and D [m, n], each with the leading dimension that is asked for.
struct Call {
  std::uint64_t m = 3, n = 4, k = 5;
  cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
  std::int32_t transpose_a = CUBLAS_OP_N, transpose_b = CUBLAS_OP_N;
  std::int64_t padding = 0;  // more than the least leading dimension
  std::uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  float alpha = 1, beta = 0;
  std::uint32_t alignment = 4;  // that is promised
  std::int64_t too_small = 0;   // taken from the leading dimension of D
  std::size_t workspace = 1024;
  std::size_t workspace_given = 1024;
  std::size_t shift = 0;  // of A, in floats
};

float value_at(std::size_t i) {
  return static_cast<float>(i * 7 % 13) - 6;
}

// What create(object, args...) made.
template <class Object, class... Params, class... Args>
std::unique_ptr<Object, cublasStatus_t (*)(Object*)> made(cublasStatus_t (*create)(Object**,
                                                                                   Params...),
                                                          cublasStatus_t (*destroy)(Object*),
                                                          Args... args) {
  Object* object = nullptr;
  EXPECT_EQ(create(&object, args...), CUBLAS_STATUS_SUCCESS);
  return {object, destroy};
}

class CublasLt : public QueueTest {
 protected:
  static std::int64_t leading(const Call& call, std::uint64_t rows) {
    return static_cast<std::int64_t>(rows) + call.padding;
  }

  // D, [m, n] row by row.
  std::vector<float> run(const Call& call) {
    cublasLtHandle_t handle = queue.blas();
    const auto desc =
        made(cublasLtMatmulDescCreate, cublasLtMatmulDescDestroy, call.compute, CUDA_R_32F);
    const auto describe = [&](cublasLtMatmulDescAttributes_t attribute, auto value) {
      EXPECT_EQ(cublasLtMatmulDescSetAttribute(desc.get(), attribute, &value, sizeof value),
                CUBLAS_STATUS_SUCCESS);
    };
    describe(CUBLASLT_MATMUL_DESC_TRANSA, call.transpose_a);
    describe(CUBLASLT_MATMUL_DESC_TRANSB, call.transpose_b);
    describe(CUBLASLT_MATMUL_DESC_EPILOGUE, call.epilogue);

    const auto layout = [&](std::uint64_t rows, std::uint64_t columns, bool transposed,
                            std::int64_t too_small) {
      if (transposed) std::swap(rows, columns);
      return made(cublasLtMatrixLayoutCreate, cublasLtMatrixLayoutDestroy, CUDA_R_32F, rows,
                  columns, leading(call, rows) - too_small);
    };
    const bool ta = call.transpose_a == CUBLAS_OP_T;
    const bool tb = call.transpose_b == CUBLAS_OP_T;
    const auto a_layout = layout(call.m, call.k, ta, 0);
    const auto b_layout = layout(call.k, call.n, tb, 0);
    const auto d_layout = layout(call.m, call.n, false, call.too_small);

    const auto numbers = [](std::size_t count) {
      std::vector<float> result(count);
      for (std::size_t i = 0; i < count; ++i) result[i] = value_at(i);
      return result;
    };
    constexpr std::size_t kEnough = 100;
    const Device<float> a(queue, numbers(kEnough));
    const Device<float> b(queue, numbers(kEnough));
    const Device<float> d(queue, std::vector<float>(kEnough, 1.0f));
    const Device<float> bias(queue, {10, 20, 30, 40, 50});
    describe(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias.data());
    const std::shared_ptr<void> workspace = queue.allocate(call.workspace_given);

    const auto preference = made(cublasLtMatmulPreferenceCreate, cublasLtMatmulPreferenceDestroy);
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof value);
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, call.workspace);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, call.alignment);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, call.alignment);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, call.alignment);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, call.alignment);
    cublasLtMatmulHeuristicResult_t found = {};
    int count = 0;
    EXPECT_EQ(cublasLtMatmulAlgoGetHeuristic(handle, desc.get(), a_layout.get(), b_layout.get(),
                                             d_layout.get(), d_layout.get(), preference.get(), 1,
                                             &found, &count),
              CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(count, 1);
    EXPECT_EQ(cublasLtMatmul(handle, desc.get(), &call.alpha, a.data() + call.shift, a_layout.get(),
                             b.data(), b_layout.get(), &call.beta, d.data(), d_layout.get(),
                             d.data(), d_layout.get(), &found.algo, workspace.get(),
                             call.workspace_given, queue.stream()),
              CUBLAS_STATUS_SUCCESS);

    const std::vector<float> memory = d.get();
    std::vector<float> result;
    for (std::uint64_t row = 0; row < call.m; ++row) {
      for (std::uint64_t column = 0; column < call.n; ++column) {
        result.push_back(memory[row + column * static_cast<std::uint64_t>(leading(call, call.m))]);
      }
    }
    return result;
  }

  // By the definition, entry by entry.
  static std::vector<float> expected(const Call& call) {
    const auto entry = [&](std::uint64_t row, std::uint64_t column, std::uint64_t rows,
                           std::uint64_t columns, bool transposed) {
      if (transposed) {
        std::swap(row, column);
        std::swap(rows, columns);
      }
      return value_at(row + column * static_cast<std::uint64_t>(leading(call, rows)));
    };
    std::vector<float> result;
    for (std::uint64_t row = 0; row < call.m; ++row) {
      for (std::uint64_t column = 0; column < call.n; ++column) {
        float sum = 0;
        for (std::uint64_t k = 0; k < call.k; ++k) {
          sum += entry(row, k, call.m, call.k, call.transpose_a == CUBLAS_OP_T) *
                 entry(k, column, call.k, call.n, call.transpose_b == CUBLAS_OP_T);
        }
        float value = call.alpha * sum + call.beta * 1.0f;
        if (call.epilogue == CUBLASLT_EPILOGUE_BIAS) {
          value += 10.0f * static_cast<float>(row + 1);
        }
        result.push_back(value);
      }
    }
    return result;
  }

  std::string error_of(const Call& call) {
    return test::error_of<emu::Error>([&] { run(call); });
  }

  // d = x x + beta d, of matrices [1, 1]; the scalars are forgotten after the call.
  void square(cublasComputeType_t compute, const Device<float>& x, float beta,
              const Device<float>& d) {
    const auto desc =
        made(cublasLtMatmulDescCreate, cublasLtMatmulDescDestroy, compute, CUDA_R_32F);
    const auto one =
        made(cublasLtMatrixLayoutCreate, cublasLtMatrixLayoutDestroy, CUDA_R_32F, 1, 1, 1);
    float alpha = 1;
    cublasLtMatmul(queue.blas(), desc.get(), &alpha, x.data(), one.get(), x.data(), one.get(),
                   &beta, d.data(), one.get(), d.data(), one.get(), nullptr, nullptr, 0,
                   queue.stream());
    alpha = beta = 100;
  }
};

TEST_F(CublasLt, ProductsOfEveryLayout) {
  for (const std::int32_t transpose_a : {CUBLAS_OP_N, CUBLAS_OP_T}) {
    for (const std::int32_t transpose_b : {CUBLAS_OP_N, CUBLAS_OP_T}) {
      for (const std::int64_t padding : {0, 2}) {
        Call call;
        call.transpose_a = transpose_a;
        call.transpose_b = transpose_b;
        call.padding = padding;
        EXPECT_EQ(run(call), expected(call))
            << transpose_a << ", " << transpose_b << ", padding " << padding;
      }
    }
  }
}

TEST_F(CublasLt, ScalesAccumulatesAndAddsBiases) {
  Call call;
  call.alpha = 2;
  call.beta = 3;
  EXPECT_EQ(run(call), expected(call));
  call = {};
  call.epilogue = CUBLASLT_EPILOGUE_BIAS;
  EXPECT_EQ(run(call), expected(call));
}

TEST_F(CublasLt, Tf32RoundsTheOperands) {
  const auto product = [&](cublasComputeType_t compute) {
    Call call;
    call.m = call.n = call.k = 1;
    call.compute = compute;
    call.alpha = 1;
    call.shift = 1;
    return run(call);
  };
  // Small integers are exact either way; that operands are rounded shows with finer ones.
  EXPECT_EQ(product(CUBLAS_COMPUTE_32F), product(CUBLAS_COMPUTE_32F_FAST_TF32));
  const Device<float> fine(queue, {1.0f + 0x1p-12f});
  const Device<float> d(queue, {0.0f});
  for (const int capability : {75, 80}) {
    emu::device_model().compute_capability = capability;
    square(CUBLAS_COMPUTE_32F_FAST_TF32, fine, 0, d);
    EXPECT_EQ(d.get()[0], capability < 80 ? 1.0f + 0x1p-11f : 1.0f);
  }
}

TEST_F(CublasLt, RefusesWhatDoesNotFit) {
  Call call;
  call.too_small = 1;
  EXPECT_EQ(error_of(call), "cublasLtMatmul: the leading dimension of C is 2, less than 3");
  call = {};
  call.workspace_given = 100;
  EXPECT_EQ(error_of(call),
            "cublasLtMatmul: the algorithm needs 1024 bytes of workspace, and gets 100");
  call = {};
  call.alignment = 16;
  call.shift = 1;
  EXPECT_EQ(error_of(call), "cublasLtMatmul: A is not aligned to the 16 bytes that were promised");
  call = {};
  call.shift = 90;
  EXPECT_THAT(error_of(call), HasSubstr("bytes of A go beyond the allocation"));
}

TEST_F(CublasLt, IsRecordedIntoGraphs) {
  const Device<float> x(queue, {3.0f});
  const Device<float> d(queue, {0.0f});
  queue.blas();  // is made before a capture
  queue.begin_capture();
  square(CUBLAS_COMPUTE_32F, x, 1, d);  // whose scalars are read at the call
  const kernels::CudaGraph graph = queue.end_capture();
  queue.launch(graph);
  queue.launch(graph);
  EXPECT_EQ(d.get(), std::vector<float>{18.0f});
}

}  // namespace
}  // namespace sidechannel::test
