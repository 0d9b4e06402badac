// The stand-in for cuBLASLt computes what the library documents, and refuses what a caller gets
// wrong.

#include <cublasLt.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "fixture.h"

namespace sidechannel::test {
namespace {

using kernels::CudaQueue;
using kernels::Precision;
using testing::HasSubstr;

// A [m, k], B [k, n] and D [m, n], each in the order and with the leading dimension that is asked
// for.
struct Call {
  std::uint64_t m = 3, n = 4, k = 5;
  cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
  std::int32_t transpose_a = CUBLAS_OP_N, transpose_b = CUBLAS_OP_N;
  std::int32_t order = CUBLASLT_ORDER_COL;  // of all three
  std::int64_t padding = 0;                 // more than the least leading dimension
  std::uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  float alpha = 1, beta = 0;
  std::uint32_t alignment = 4;  // that is promised
  std::int64_t too_small = 0;   // taken from the leading dimension of D
  std::size_t workspace = 1024;
  std::size_t workspace_given = 1024;
  std::size_t shift = 0;  // of A, in floats
};

struct Result {
  std::vector<float> d;     // [m, n] row by row
  std::vector<float> bias;  // [max(m, n)], as it is afterwards
};

float value_at(std::size_t i) {
  return static_cast<float>(i * 7 % 13) - 6;
}

class CublasLt : public testing::Test {
 protected:
  FreshMachine machine;
  CudaQueue queue{0, Precision::kFp32};

  static std::int64_t leading(const Call& call, std::uint64_t rows, std::uint64_t columns) {
    return static_cast<std::int64_t>(call.order == CUBLASLT_ORDER_COL ? rows : columns) +
           call.padding;
  }

  Result run(const Call& call) {
    cublasLtHandle_t handle = queue.blas();
    cublasLtMatmulDesc_t desc = nullptr;
    EXPECT_EQ(cublasLtMatmulDescCreate(&desc, call.compute, CUDA_R_32F), CUBLAS_STATUS_SUCCESS);
    const auto describe = [&](cublasLtMatmulDescAttributes_t attribute, auto value) {
      EXPECT_EQ(cublasLtMatmulDescSetAttribute(desc, attribute, &value, sizeof value),
                CUBLAS_STATUS_SUCCESS);
    };
    describe(CUBLASLT_MATMUL_DESC_TRANSA, call.transpose_a);
    describe(CUBLASLT_MATMUL_DESC_TRANSB, call.transpose_b);
    describe(CUBLASLT_MATMUL_DESC_EPILOGUE, call.epilogue);

    const auto layout = [&](std::uint64_t rows, std::uint64_t columns, bool transposed,
                            std::int64_t too_small) {
      if (transposed) std::swap(rows, columns);
      cublasLtMatrixLayout_t result = nullptr;
      cublasLtMatrixLayoutCreate(&result, CUDA_R_32F, rows, columns,
                                 leading(call, rows, columns) - too_small);
      cublasLtMatrixLayoutSetAttribute(result, CUBLASLT_MATRIX_LAYOUT_ORDER, &call.order,
                                       sizeof call.order);
      return result;
    };
    const bool ta = call.transpose_a == CUBLAS_OP_T;
    const bool tb = call.transpose_b == CUBLAS_OP_T;
    cublasLtMatrixLayout_t a_layout = layout(call.m, call.k, ta, 0);
    cublasLtMatrixLayout_t b_layout = layout(call.k, call.n, tb, 0);
    cublasLtMatrixLayout_t d_layout = layout(call.m, call.n, false, call.too_small);

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

    cublasLtMatmulPreference_t preference = nullptr;
    cublasLtMatmulPreferenceCreate(&preference);
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                         &call.workspace, sizeof call.workspace);
    for (const auto attribute :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
      cublasLtMatmulPreferenceSetAttribute(preference, attribute, &call.alignment,
                                           sizeof call.alignment);
    }
    const auto release = [&] {
      cublasLtMatmulPreferenceDestroy(preference);
      for (cublasLtMatrixLayout_t object : {a_layout, b_layout, d_layout}) {
        cublasLtMatrixLayoutDestroy(object);
      }
      cublasLtMatmulDescDestroy(desc);
    };
    try {
      cublasLtMatmulHeuristicResult_t found = {};
      int count = 0;
      EXPECT_EQ(cublasLtMatmulAlgoGetHeuristic(handle, desc, a_layout, b_layout, d_layout, d_layout,
                                               preference, 1, &found, &count),
                CUBLAS_STATUS_SUCCESS);
      EXPECT_EQ(count, 1);
      EXPECT_EQ(cublasLtMatmul(handle, desc, &call.alpha, a.data() + call.shift, a_layout, b.data(),
                               b_layout, &call.beta, d.data(), d_layout, d.data(), d_layout,
                               &found.algo, workspace.get(), call.workspace_given, queue.stream()),
                CUBLAS_STATUS_SUCCESS);
    } catch (...) {
      release();
      throw;
    }
    release();

    const std::vector<float> memory = d.get();
    Result result;
    for (std::uint64_t row = 0; row < call.m; ++row) {
      for (std::uint64_t column = 0; column < call.n; ++column) {
        const auto ld = static_cast<std::uint64_t>(leading(call, call.m, call.n));
        const bool by_columns = call.order == CUBLASLT_ORDER_COL;
        result.d.push_back(memory[by_columns ? row + column * ld : column + row * ld]);
      }
    }
    result.bias = bias.get();
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
      const auto ld = static_cast<std::uint64_t>(leading(call, rows, columns));
      return value_at(call.order == CUBLASLT_ORDER_COL ? row + column * ld : column + row * ld);
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
        if ((call.epilogue & CUBLASLT_EPILOGUE_BIAS) != 0) {
          value += 10.0f * static_cast<float>(row + 1);
        }
        if ((call.epilogue & CUBLASLT_EPILOGUE_RELU) != 0 && value < 0) value = 0;
        result.push_back(value);
      }
    }
    return result;
  }

  std::string error_of(const Call& call) {
    try {
      run(call);
    } catch (const emu::Error& error) {
      return error.what();
    }
    return "no error";
  }
};

TEST_F(CublasLt, ProductsOfEveryLayout) {
  for (const std::int32_t order : {CUBLASLT_ORDER_COL, CUBLASLT_ORDER_ROW}) {
    for (const std::int32_t transpose_a : {CUBLAS_OP_N, CUBLAS_OP_T}) {
      for (const std::int32_t transpose_b : {CUBLAS_OP_N, CUBLAS_OP_T}) {
        for (const std::int64_t padding : {0, 2}) {
          Call call;
          call.order = order;
          call.transpose_a = transpose_a;
          call.transpose_b = transpose_b;
          call.padding = padding;
          EXPECT_EQ(run(call).d, expected(call));
        }
      }
    }
  }
}

TEST_F(CublasLt, ScalesAndAccumulates) {
  Call call;
  call.alpha = 2;
  call.beta = 3;
  EXPECT_EQ(run(call).d, expected(call));
}

TEST_F(CublasLt, Epilogues) {
  for (const cublasLtEpilogue_t epilogue :
       {CUBLASLT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_RELU, CUBLASLT_EPILOGUE_RELU_BIAS}) {
    Call call;
    call.epilogue = epilogue;
    EXPECT_EQ(run(call).d, expected(call)) << epilogue;
  }
}

TEST_F(CublasLt, BiasGradientsSumOverTheInnerDimension) {
  Call call;
  call.epilogue = CUBLASLT_EPILOGUE_BGRADA;  // rows of A
  Result result = run(call);
  EXPECT_EQ(result.d, expected(call));
  for (std::size_t row = 0; row < call.m; ++row) {
    float sum = 0;
    for (std::size_t k = 0; k < call.k; ++k) sum += value_at(row + k * call.m);
    EXPECT_EQ(result.bias[row], sum);
  }
  EXPECT_EQ(result.bias[3], 40);
  call.epilogue = CUBLASLT_EPILOGUE_BGRADB;  // columns of B
  result = run(call);
  for (std::size_t column = 0; column < call.n; ++column) {
    float sum = 0;
    for (std::size_t k = 0; k < call.k; ++k) sum += value_at(k + column * call.k);
    EXPECT_EQ(result.bias[column], sum);
  }
  EXPECT_EQ(result.bias[4], 50);
}

TEST_F(CublasLt, Tf32RoundsTheOperands) {
  const auto product = [&](cublasComputeType_t compute) {
    Call call;
    call.m = call.n = call.k = 1;
    call.compute = compute;
    call.alpha = 1;
    call.shift = 1;
    return run(call).d;
  };
  // Small integers are exact either way; that operands are rounded shows with finer ones.
  EXPECT_EQ(product(CUBLAS_COMPUTE_32F), product(CUBLAS_COMPUTE_32F_FAST_TF32));
  const Device<float> fine(queue, {1.0f + 0x1p-12f});
  const Device<float> d(queue, {0.0f});
  for (const int capability : {75, 80}) {
    emu::device_model().compute_capability = capability;
    cublasLtMatmulDesc_t desc = nullptr;
    cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F_FAST_TF32, CUDA_R_32F);
    cublasLtMatrixLayout_t one = nullptr;
    cublasLtMatrixLayoutCreate(&one, CUDA_R_32F, 1, 1, 1);
    const float alpha = 1;
    const float beta = 0;
    cublasLtMatmul(queue.blas(), desc, &alpha, fine.data(), one, fine.data(), one, &beta, d.data(),
                   one, d.data(), one, nullptr, nullptr, 0, queue.stream());
    EXPECT_EQ(d.get()[0], capability < 80 ? 1.0f + 0x1p-11f : 1.0f);
    cublasLtMatrixLayoutDestroy(one);
    cublasLtMatmulDescDestroy(desc);
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
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
  cublasLtMatrixLayout_t one = nullptr;
  cublasLtMatrixLayoutCreate(&one, CUDA_R_32F, 1, 1, 1);
  float one_float = 1;
  cublasLtContext* const handle = queue.blas();
  queue.begin_capture();
  cublasLtMatmul(handle, desc, &one_float, x.data(), one, x.data(), one, &one_float, d.data(), one,
                 d.data(), one, nullptr, nullptr, 0, queue.stream());
  const kernels::CudaGraph graph = queue.end_capture();
  cublasLtMatrixLayoutDestroy(one);
  cublasLtMatmulDescDestroy(desc);
  one_float = 100;  // scalars were read at the call
  queue.launch(graph);
  queue.launch(graph);
  EXPECT_EQ(d.get(), std::vector<float>{18.0f});
}

}  // namespace
}  // namespace sidechannel::test
