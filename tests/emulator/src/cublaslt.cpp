// cuBLASLt's products, by the definition. What a call gets wrong is an Error in words, where the
// library would return a number, or read and write where it should not.

#include "cublasLt.h"

#include <cstring>
#include <map>

#include "emu/ptx.h"
#include "machine.h"

struct cublasLtContext {};

struct cublasLtMatrixLayoutOpaque_t {
  std::uint64_t rows = 0;
  std::uint64_t columns = 0;
  std::int64_t leading_dimension = 0;
};

struct cublasLtMatmulDescOpaque_t {
  cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
  std::int32_t transpose_a = CUBLAS_OP_N;
  std::int32_t transpose_b = CUBLAS_OP_N;
  std::uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  float* bias = nullptr;
};

struct cublasLtMatmulPreferenceOpaque_t {
  std::uint64_t max_workspace = 0;
  std::uint32_t alignment[4] = {256, 256, 256, 256};  // of A, B, C, D
};

namespace {

using emu::Error;
using emu::format;

using Layout = cublasLtMatrixLayoutOpaque_t;

// A matrix in memory with its transposition.
struct Operand {
  const float* data;
  Layout layout;
  bool transposed;

  std::uint64_t rows() const { return transposed ? layout.columns : layout.rows; }
  std::uint64_t columns() const { return transposed ? layout.rows : layout.columns; }
  std::size_t offset(std::uint64_t row, std::uint64_t column) const {
    if (transposed) std::swap(row, column);
    return row + column * static_cast<std::uint64_t>(layout.leading_dimension);
  }
  float at(std::uint64_t row, std::uint64_t column) const { return data[offset(row, column)]; }
};

struct Product {
  Operand a, b, c, d;
  float* out;
  float alpha, beta;
  bool tf32;
  std::uint32_t epilogue;
  float* bias;
  void* workspace;
  std::size_t workspace_bytes;
};

// What an algorithm was chosen for; it may be used for nothing else.
struct Algorithm {
  std::uint64_t mark;
  std::uint64_t m, n, k;
  std::uint64_t workspace;
  std::uint32_t alignment[4];  // of A, B, C, D
};
constexpr std::uint64_t kMark = 0x656d756c61746564;
static_assert(sizeof(Algorithm) <= sizeof(cublasLtMatmulAlgo_t));

template <class T>
cublasStatus_t read_attribute(T& to, const void* value, std::size_t bytes, const char* call) {
  if (value == nullptr || bytes != sizeof(T)) {
    throw Error(format("%s: an attribute of %zu bytes is given as %zu", call, sizeof(T), bytes));
  }
  std::memcpy(&to, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

void check_layout(const char* name, const Layout& layout) {
  const auto least = static_cast<std::int64_t>(layout.rows);
  if (layout.rows == 0 || layout.columns == 0) {
    throw Error(format("cublasLtMatmul: %s is empty", name));
  }
  if (layout.leading_dimension < least) {
    throw Error(format("cublasLtMatmul: the leading dimension of %s is %lld, less than %lld", name,
                       static_cast<long long>(layout.leading_dimension),
                       static_cast<long long>(least)));
  }
}

void check_memory(const char* name, const void* p, std::size_t bytes, std::size_t alignment) {
  if (!emu::on_device(p)) {
    throw Error(format("cublasLtMatmul: %s is not in device memory", name));
  }
  if (!emu::heap_holds(p, bytes)) {
    throw Error(
        format("cublasLtMatmul: the %zu bytes of %s go beyond the allocation", bytes, name));
  }
  if (reinterpret_cast<std::uintptr_t>(p) % alignment != 0) {
    throw Error(format("cublasLtMatmul: %s is not aligned to the %zu bytes that were promised",
                       name, alignment));
  }
}

std::size_t extent(const Operand& operand) {
  const Layout& layout = operand.layout;
  return (Operand{nullptr, layout, false}.offset(layout.rows - 1, layout.columns - 1) + 1) *
         sizeof(float);
}

void check_shapes(const Operand& a, const Operand& b, const Layout& c, const Layout& d) {
  check_layout("A", a.layout);
  check_layout("B", b.layout);
  check_layout("C", c);
  check_layout("D", d);
  if (a.columns() != b.rows() || a.rows() != d.rows || b.columns() != d.columns ||
      c.rows != d.rows || c.columns != d.columns) {
    const auto text = [](std::uint64_t rows, std::uint64_t columns) {
      return "[" + std::to_string(rows) + ", " + std::to_string(columns) + "]";
    };
    throw Error("cublasLtMatmul: op(A) " + text(a.rows(), a.columns()) + " times op(B) " +
                text(b.rows(), b.columns()) + ", C " + text(c.rows, c.columns) + " and D " +
                text(d.rows, d.columns) + " do not fit together");
  }
}

double operand_value(const Product& product, float x) {
  return product.tf32 ? emu::bits_as<float>(emu::cvt_rna_tf32(x)) : x;
}

void compute(const Product& product) {
  // The library may leave anything there.
  if (product.workspace_bytes > 0) {
    std::memset(product.workspace, 0xff, product.workspace_bytes);
  }
  const std::uint64_t rows = product.a.rows();
  const std::uint64_t columns = product.b.columns();
  const std::uint64_t inner = product.a.columns();
  std::vector<double> row_of_a(inner);
  std::vector<double> b(inner * columns);  // by columns
  for (std::uint64_t column = 0; column < columns; ++column) {
    for (std::uint64_t k = 0; k < inner; ++k) {
      b[column * inner + k] = operand_value(product, product.b.at(k, column));
    }
  }
  for (std::uint64_t row = 0; row < rows; ++row) {
    for (std::uint64_t k = 0; k < inner; ++k) {
      row_of_a[k] = operand_value(product, product.a.at(row, k));
    }
    for (std::uint64_t column = 0; column < columns; ++column) {
      double sum = 0;
      for (std::uint64_t k = 0; k < inner; ++k) sum += row_of_a[k] * b[column * inner + k];
      double value = product.alpha * sum;
      if (product.beta != 0) value += product.beta * product.c.at(row, column);
      if (product.epilogue == CUBLASLT_EPILOGUE_BIAS) value += product.bias[row];
      product.out[product.d.offset(row, column)] = static_cast<float>(value);
    }
  }
  if (emu::note_written == nullptr) return;
  for (std::uint64_t row = 0; row < rows; ++row) {
    for (std::uint64_t column = 0; column < columns; ++column) {
      emu::note_written(product.out + product.d.offset(row, column), sizeof(float));
    }
  }
}

template <class T, class... Args>
cublasStatus_t create(T** object, Args&&... args) {
  *object = new T{std::forward<Args>(args)...};
  return CUBLAS_STATUS_SUCCESS;
}

template <class T>
cublasStatus_t destroy(T* object) {
  delete object;
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

const char* cublasLtGetStatusString(cublasStatus_t status) {
  static const std::map<cublasStatus_t, const char*> names = {
      {CUBLAS_STATUS_SUCCESS, "CUBLAS_STATUS_SUCCESS"},
      {CUBLAS_STATUS_NOT_INITIALIZED, "CUBLAS_STATUS_NOT_INITIALIZED"},
      {CUBLAS_STATUS_INVALID_VALUE, "CUBLAS_STATUS_INVALID_VALUE"},
      {CUBLAS_STATUS_EXECUTION_FAILED, "CUBLAS_STATUS_EXECUTION_FAILED"},
      {CUBLAS_STATUS_NOT_SUPPORTED, "CUBLAS_STATUS_NOT_SUPPORTED"}};
  const auto name = names.find(status);
  return name == names.end() ? "an unknown status" : name->second;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  const emu::Locked locked;
  if (emu::machine_error() != cudaSuccess) return CUBLAS_STATUS_NOT_INITIALIZED;
  return create(handle);
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  return destroy(handle);
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  if (scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  return create(desc, compute);
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  return destroy(desc);
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, std::size_t bytes) {
  constexpr const char* kCall = "cublasLtMatmulDescSetAttribute";
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return read_attribute(desc->transpose_a, value, bytes, kCall);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return read_attribute(desc->transpose_b, value, bytes, kCall);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return read_attribute(desc->epilogue, value, bytes, kCall);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return read_attribute(desc->bias, value, bytes, kCall);
  }
  return CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType_t type,
                                          std::uint64_t rows, std::uint64_t columns,
                                          std::int64_t leading_dimension) {
  if (type != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  return create(layout, rows, columns, leading_dimension);
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  return destroy(layout);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  return create(preference);
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  return destroy(preference);
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, std::size_t bytes) {
  constexpr const char* kCall = "cublasLtMatmulPreferenceSetAttribute";
  std::uint32_t number = 0;
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return read_attribute(preference->max_workspace, value, bytes, kCall);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
      return read_attribute(number, value, bytes, kCall);  // all of them come to the same here
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      read_attribute(number, value, bytes, kCall);
      if (number < sizeof(float) || number > 256 || (number & (number - 1)) != 0) {
        throw Error(format("%s: an alignment of %u bytes", kCall, number));
      }
      preference->alignment[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES] = number;
      return CUBLAS_STATUS_SUCCESS;
  }
  return CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int* returned) {
  *returned = 0;
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (requested < 1) return CUBLAS_STATUS_INVALID_VALUE;
  const Operand op_a = {nullptr, *a, desc->transpose_a == CUBLAS_OP_T};
  const Operand op_b = {nullptr, *b, desc->transpose_b == CUBLAS_OP_T};
  check_shapes(op_a, op_b, *c, *d);
  Algorithm algorithm = {kMark, op_a.rows(), op_b.columns(), op_a.columns(), 0, {}};
  // Some of what it may have, so that callers must get that right.
  algorithm.workspace = std::min<std::uint64_t>(preference->max_workspace, 64 * 1024);
  std::memcpy(algorithm.alignment, preference->alignment, sizeof algorithm.alignment);
  results[0] = {};
  std::memcpy(&results[0].algo, &algorithm, sizeof algorithm);
  results[0].workspaceSize = algorithm.workspace;
  results[0].state = CUBLAS_STATUS_SUCCESS;
  *returned = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                              cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algo,
                              void* workspace, std::size_t workspace_bytes, cudaStream_t stream) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  const emu::Locked locked;
  if (emu::machine_error() != cudaSuccess) return CUBLAS_STATUS_EXECUTION_FAILED;
  Product product = {};
  product.a = {static_cast<const float*>(a), *a_layout, desc->transpose_a == CUBLAS_OP_T};
  product.b = {static_cast<const float*>(b), *b_layout, desc->transpose_b == CUBLAS_OP_T};
  product.c = {static_cast<const float*>(c), *c_layout, false};
  product.d = {static_cast<const float*>(d), *d_layout, false};
  product.out = static_cast<float*>(d);
  product.alpha = *static_cast<const float*>(alpha);
  product.beta = *static_cast<const float*>(beta);
  // A permission, which devices without TF32 do not use.
  product.tf32 =
      desc->compute == CUBLAS_COMPUTE_32F_FAST_TF32 && emu::device_model().compute_capability >= 80;
  product.epilogue = desc->epilogue;
  product.bias = desc->bias;
  check_shapes(product.a, product.b, *c_layout, *d_layout);

  Algorithm algorithm = {0, 0, 0, 0, 0, {4, 4, 4, 4}};
  if (algo != nullptr) {
    std::memcpy(&algorithm, algo, sizeof algorithm);
    if (algorithm.mark != kMark) throw Error("cublasLtMatmul: the algorithm is not initialized");
    if (algorithm.m != product.a.rows() || algorithm.n != product.b.columns() ||
        algorithm.k != product.a.columns()) {
      throw Error("cublasLtMatmul: the algorithm was chosen for another shape");
    }
    if (workspace_bytes < algorithm.workspace) {
      throw Error(
          format("cublasLtMatmul: the algorithm needs %llu bytes of workspace, and gets %zu",
                 static_cast<unsigned long long>(algorithm.workspace), workspace_bytes));
    }
  }
  check_memory("A", a, extent(product.a), algorithm.alignment[0]);
  check_memory("B", b, extent(product.b), algorithm.alignment[1]);
  if (product.beta != 0) check_memory("C", c, extent(product.c), algorithm.alignment[2]);
  check_memory("D", d, extent(product.d), algorithm.alignment[3]);
  if (product.beta != 0 && c == d && c_layout->leading_dimension != d_layout->leading_dimension) {
    throw Error("cublasLtMatmul: C and D are the same matrix with different layouts");
  }
  if (product.epilogue == CUBLASLT_EPILOGUE_BIAS) {
    check_memory("the bias", product.bias, product.d.layout.rows * sizeof(float), sizeof(float));
  } else if (product.epilogue != CUBLASLT_EPILOGUE_DEFAULT) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  // From Hopper on the library wants 256 bytes.
  if (workspace_bytes > 0) check_memory("the workspace", workspace, workspace_bytes, 256);
  product.workspace = workspace;
  product.workspace_bytes = workspace_bytes;
  return emu::enqueue(stream, [product] { compute(product); }) == cudaSuccess
             ? CUBLAS_STATUS_SUCCESS
             : CUBLAS_STATUS_EXECUTION_FAILED;
}
