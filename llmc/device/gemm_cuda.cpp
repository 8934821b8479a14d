// Contract: gemm_cuda.h. Not run on a GPU yet.
#include "llmc/device/gemm_cuda.h"

#include <algorithm>
#include <map>

CudaGemmKey cuda_gemm_key(const View& c, const View& a, Trans trans_a, const View& b, Trans trans_b,
                          Store store) {
    uintptr_t addresses = 256;
    for (const View* view : {&c, &a, &b}) addresses |= reinterpret_cast<uintptr_t>(view->data);
    const int alignment = int(addresses & (~addresses + 1)); // the lowest bit set
    return {gemm_key(c, a, trans_a, b, trans_b, store), alignment};
}

#ifdef PRIOR_CUDA
#include "llmc/device/cuda_device.h"
#include "llmc/device/library.h"

#include <cublasLt.h>

namespace {

#define TEXT_OF_(x) #x
#define TEXT_OF(x) TEXT_OF_(x)

// The functions used, found in the library when the first product comes.
struct CublasLt {
    Library library{"libcublasLt.so." TEXT_OF(CUBLAS_VER_MAJOR)};
    decltype(cublasLtCreate)* create = library.find("cublasLtCreate");
    decltype(cublasLtDestroy)* destroy = library.find("cublasLtDestroy");
    decltype(cublasLtMatmul)* matmul = library.find("cublasLtMatmul");
    decltype(cublasLtMatmulDescCreate)* desc_create = library.find("cublasLtMatmulDescCreate");
    decltype(cublasLtMatmulDescDestroy)* desc_destroy = library.find("cublasLtMatmulDescDestroy");
    decltype(cublasLtMatmulDescSetAttribute)* desc_set =
        library.find("cublasLtMatmulDescSetAttribute");
    decltype(cublasLtMatrixLayoutCreate)* layout_create =
        library.find("cublasLtMatrixLayoutCreate");
    decltype(cublasLtMatrixLayoutDestroy)* layout_destroy =
        library.find("cublasLtMatrixLayoutDestroy");
    decltype(cublasLtMatmulPreferenceCreate)* preference_create =
        library.find("cublasLtMatmulPreferenceCreate");
    decltype(cublasLtMatmulPreferenceSetAttribute)* preference_set =
        library.find("cublasLtMatmulPreferenceSetAttribute");
    decltype(cublasLtMatmulPreferenceDestroy)* preference_destroy =
        library.find("cublasLtMatmulPreferenceDestroy");
    decltype(cublasLtMatmulAlgoGetHeuristic)* heuristic =
        library.find("cublasLtMatmulAlgoGetHeuristic");
    decltype(cublasLtGetStatusString)* status_string = library.find("cublasLtGetStatusString");
};

cudaDataType_t data_type(Dtype dtype) { return dtype == Dtype::bf16 ? CUDA_R_16BF : CUDA_R_32F; }

} // namespace

// Of a Ctx: a run has few shapes, so plans are kept.
struct CudaGemm {
    struct Plan {
        cublasLtMatmulDesc_t desc{};
        cublasLtMatrixLayout_t a{}, b{}, c{};
        cublasLtMatmulAlgo_t algorithm{};
    };
    CublasLt lt;
    cublasLtHandle_t handle{};
    Buffer workspace;
    std::map<CudaGemmKey, Plan> plans;

    explicit CudaGemm(Ctx& ctx)
        : workspace(ctx.arena, Segment::scratch, Dtype::u8, "workspace of products",
                    int64_t(kCudaGemmWorkspace)) {
        if (!lt.library.complete())
            fatal("CUDA: cannot load cuBLASLt: " + lt.library.missing(),
                  "put the folder of the CUDA libraries into LD_LIBRARY_PATH");
        check(lt.create(&handle), "cublasLtCreate");
    }

    ~CudaGemm() { // before the stream; nobody can act on errors here
        for (auto& [key, p] : plans) {
            for (cublasLtMatrixLayout_t layout : {p.a, p.b, p.c}) (void)lt.layout_destroy(layout);
            (void)lt.desc_destroy(p.desc);
        }
        if (handle) (void)lt.destroy(handle);
    }

    void check(cublasStatus_t status, const char* what) const {
        if (status != CUBLAS_STATUS_SUCCESS)
            fatal(format("cuBLASLt: %s: %s", what, lt.status_string(status)),
                  "check the driver and the library's version, or run with -device cpu");
    }

    Plan make(const CudaGemmKey& key);
    const Plan& plan(const CudaGemmKey& key) {
        auto found = plans.find(key);
        if (found == plans.end()) found = plans.emplace(key, make(key)).first;
        return found->second;
    }
};

// The library counts columns first. c = op(a) op(b) by rows is c^T = op(b)^T op(a)^T by columns:
// b is its first operand, and a matrix that lies by rows is its transpose there.
CudaGemm::Plan CudaGemm::make(const CudaGemmKey& key) {
    Plan p;
    check(lt.desc_create(&p.desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "description");
    const cublasOperation_t first = key.trans_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t second = key.trans_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    check(lt.desc_set(p.desc, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first), "description");
    check(lt.desc_set(p.desc, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second), "description");
    auto layout = [&](cublasLtMatrixLayout_t* out, Dtype dtype, int64_t rows, int64_t columns,
                      int64_t ld) { // of a matrix by rows
        check(lt.layout_create(out, data_type(dtype), uint64_t(columns), uint64_t(rows), ld),
              "layout");
    };
    layout(&p.a, key.ab, key.trans_a ? key.k : key.m, key.trans_a ? key.m : key.k, key.lda);
    layout(&p.b, key.ab, key.trans_b ? key.n : key.k, key.trans_b ? key.k : key.n, key.ldb);
    layout(&p.c, key.c, key.m, key.n, key.ldc);

    cublasLtMatmulPreference_t wanted;
    check(lt.preference_create(&wanted), "preference");
    auto want = [&](cublasLtMatmulPreferenceAttributes_t what, auto value) {
        check(lt.preference_set(wanted, what, &value, sizeof value), "preference");
    };
    want(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t(kCudaGemmWorkspace));
    want(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t(CUBLASLT_REDUCTION_SCHEME_NONE));
    for (const auto what :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
        want(what, uint32_t(key.alignment));
    cublasLtMatmulHeuristicResult_t best;
    int found = 0;
    check(lt.heuristic(handle, p.desc, p.b, p.a, p.c, p.c, wanted, 1, &best, &found), "heuristic");
    check(lt.preference_destroy(wanted), "preference");
    if (found == 0)
        fatal(format("cuBLASLt: no algorithm for (%ld, %ld) x (%ld, %ld)", long(key.m), long(key.k),
                     long(key.k), long(key.n)),
              "check the driver and the library's version, or run with -device cpu");
    p.algorithm = best.algo;
    return p;
}

void gemm_cuda(Ctx& ctx, View& c, const View& a, Trans trans_a, const View& b, Trans trans_b,
               Store store) {
    if (!ctx.cuda_gemm) ctx.cuda_gemm = std::make_shared<CudaGemm>(ctx);
    CudaGemm& gemm = *ctx.cuda_gemm;
    const CudaGemm::Plan& p = gemm.plan(cuda_gemm_key(c, a, trans_a, b, trans_b, store));
    const float one = 1, before = store == Store::accumulate ? 1.0f : 0.0f;
    gemm.check(gemm.lt.matmul(gemm.handle, p.desc, &one, b.data, p.b, a.data, p.a, &before, c.data,
                              p.c, c.data, p.c, &p.algorithm, gemm.workspace.bytes(),
                              kCudaGemmWorkspace, static_cast<cudaStream_t>(ctx.cuda->stream)),
               "product");
}

std::string cuda_gemm_missing() { return CublasLt().library.missing(); }

#else

struct CudaGemm {};

void gemm_cuda(Ctx&, View&, const View&, Trans, const View&, Trans, Store) {
    require(false, "gemm_cuda: built without CUDA");
}

std::string cuda_gemm_missing() { return "built without CUDA"; }

#endif
