#include "kernels/cuda/matmul.h"

#include <cublasLt.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <utility>

namespace sidechannel::kernels {
namespace {

// How strictly an address is aligned, as far as algorithms ask for it.
std::uint32_t alignment_of(const void* address) {
  const auto bits = reinterpret_cast<std::uintptr_t>(address) | 256;
  return static_cast<std::uint32_t>(bits & (~bits + 1));  // the lowest bit that is set
}

cublasComputeType_t compute_of(const CudaQueue& queue) {
  // Turing has no TF32.
  const bool tf32 = queue.precision() == Precision::kTf32 && queue.info().compute_capability >= 80;
  return tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
}

// What is decided once for all products of one kind: descriptors and algorithm.
//
// cuBLAS stores matrices column by column, where our c reads as its transpose [n, m]. So the
// factors swap their places: c^T = b^T a^T.
class Plan {
 public:
  Plan(CudaQueue& queue, const char* operation, const MatmulDims& dims, const float* a,
       const float* b, const float* bias, const float* c) {
    product_ = create(operation, cublasLtMatmulDescCreate, cublasLtMatmulDescDestroy,
                      compute_of(queue), CUDA_R_32F);
    set(operation, CUBLASLT_MATMUL_DESC_TRANSA, dims.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(operation, CUBLASLT_MATMUL_DESC_TRANSB, dims.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (bias) {
      set(operation, CUBLASLT_MATMUL_DESC_EPILOGUE,
          static_cast<std::uint32_t>(CUBLASLT_EPILOGUE_BIAS));
      set(operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
    }
    b_ = layout(operation, dims.n, dims.k, dims.transpose_b);
    a_ = layout(operation, dims.k, dims.m, dims.transpose_a);
    c_ = layout(operation, dims.n, dims.m, false);

    const auto preference =
        create(operation, cublasLtMatmulPreferenceCreate, cublasLtMatmulPreferenceDestroy);
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      check(cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof value),
            operation, "preference");
    };
    // What NVIDIA recommends for the generations.
    const std::uint64_t megabytes = queue.info().compute_capability >= 90 ? 32 : 4;
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, megabytes << 20);
    // The parts of a sum that was split meet in the workspace, in order: added up in place, the
    // result could depend on which comes first.
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
           static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(b));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(a));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(c));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(c));
    int found = 0;
    const char* what = "cuBLAS has no algorithm for this product";
    check(cublasLtMatmulAlgoGetHeuristic(queue.blas(), product_.get(), b_.get(), a_.get(), c_.get(),
                                         c_.get(), preference.get(), 1, &algorithm_, &found),
          operation, what);
    if (found == 0) check(CUBLAS_STATUS_NOT_SUPPORTED, operation, what);
  }

  std::size_t workspace() const { return algorithm_.workspaceSize; }

  void run(CudaQueue& queue, const char* operation, const float* a, const float* b,
           const float* bias, GradOut<float> c, void* workspace) const {
    if (bias) set(operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
    const float alpha = 1;
    const float beta = c.write == Write::kAccumulate ? 1.0f : 0.0f;
    check(cublasLtMatmul(queue.blas(), product_.get(), &alpha, b, b_.get(), a, a_.get(), &beta,
                         c.data, c_.get(), c.data, c_.get(), &algorithm_.algo, workspace,
                         algorithm_.workspaceSize, queue.stream()),
          operation, "cuBLAS refused the product");
  }

 private:
  template <class Object>
  using Handle = std::unique_ptr<Object, cublasStatus_t (*)(Object*)>;

  static void check(cublasStatus_t status, const char* operation, const char* what) {
    if (status == CUBLAS_STATUS_SUCCESS) return;
    throw CudaError(std::string(operation) + ": " + what + ": " + cublasLtGetStatusString(status));
  }
  template <class Object, class... Params, class... Args>
  static Handle<Object> create(const char* operation, cublasStatus_t (*make)(Object**, Params...),
                               cublasStatus_t (*destroy)(Object*), Args... args) {
    Object* object = nullptr;
    check(make(&object, args...), operation, "cuBLAS has no descriptor");
    return {object, destroy};
  }
  // Of the factor whose op(..) is [rows, columns], in cuBLAS's terms.
  static Handle<cublasLtMatrixLayoutOpaque_t> layout(const char* operation, std::int64_t rows,
                                                     std::int64_t columns, bool transposed) {
    if (transposed) std::swap(rows, columns);
    return create(operation, cublasLtMatrixLayoutCreate, cublasLtMatrixLayoutDestroy, CUDA_R_32F,
                  static_cast<std::uint64_t>(rows), static_cast<std::uint64_t>(columns), rows);
  }
  template <class Value>
  void set(const char* operation, cublasLtMatmulDescAttributes_t attribute, Value value) const {
    check(cublasLtMatmulDescSetAttribute(product_.get(), attribute, &value, sizeof value),
          operation, "cuBLAS refused the description of the product");
  }

  Handle<cublasLtMatmulDescOpaque_t> product_{nullptr, nullptr};
  Handle<cublasLtMatrixLayoutOpaque_t> a_{nullptr, nullptr}, b_{nullptr, nullptr},
      c_{nullptr, nullptr};
  cublasLtMatmulHeuristicResult_t algorithm_ = {};
};

// Other queues may run in other threads.
std::mutex plans_mutex;

// The plan for such products, with plans_mutex held.
Plan& plan_for(CudaQueue& queue, const char* operation, const MatmulDims& dims, const float* a,
               const float* b, const float* bias, const float* c) {
  using Key = std::tuple<int, cublasComputeType_t, std::int64_t, std::int64_t, std::int64_t, bool,
                         bool, std::uint32_t, std::uint32_t, std::uint32_t, std::uint32_t>;
  static auto& plans = *new std::map<Key, Plan>;  // never destroyed: cuBLAS may be gone before
  const Key key(queue.info().index, compute_of(queue), dims.m, dims.n, dims.k, dims.transpose_a,
                dims.transpose_b, alignment_of(a), alignment_of(b), bias ? alignment_of(bias) : 0,
                alignment_of(c));
  auto plan = plans.find(key);
  if (plan == plans.end()) {
    plan = plans.emplace(key, Plan(queue, operation, dims, a, b, bias, c)).first;
  }
  return plan->second;
}

}  // namespace

std::size_t matmul_workspace(CudaQueue& queue, const char* operation, const MatmulDims& dims,
                             const float* a, const float* b, const float* bias, const float* c) {
  const std::lock_guard<std::mutex> lock(plans_mutex);
  return plan_for(queue, operation, dims, a, b, bias, c).workspace();
}

void matmul(CudaQueue& queue, const char* operation, const MatmulDims& dims, const float* a,
            const float* b, const float* bias, GradOut<float> c, void* workspace) {
  {
    const std::lock_guard<std::mutex> lock(plans_mutex);
    plan_for(queue, operation, dims, a, b, bias, c.data)
        .run(queue, operation, a, b, bias, c, workspace);
  }
  CudaLaunch record;
  record.operation = operation;
  queue.launched(record, 0);
}

}  // namespace sidechannel::kernels
