// Dense matrix products on a GPU by cuBLASLt. Contract of the product: gemm.h.
#pragma once
#include "llmc/device/gemm.h"

constexpr size_t kCudaGemmWorkspace = size_t(32) << 20; // of a Ctx, in its arena's scratch

// What a product's algorithm is chosen for, once. Algorithms may count on the largest power of two
// (at most 256) that all addresses are multiples of.
struct CudaGemmKey : GemmKey {
    int alignment;
    auto operator<=>(const CudaGemmKey&) const = default;
};
CudaGemmKey cuda_gemm_key(const View& c, const View& a, Trans trans_a, const View& b, Trans trans_b,
                          Store store);

// a and b of one dtype, f32 with c f32 or bf16 with c either; sums in fp32 without TF32. No
// algorithm that cuts k and adds the parts afterwards: the order of a sum is that of one kernel,
// and repeated calls give the same bits. Other numbers of rows may take other algorithms, and
// other bits.
void gemm_cuda(Ctx& ctx, View& c, const View& a, Trans trans_a, const View& b, Trans trans_b,
               Store store);

// "" or what of the library cannot be loaded.
std::string cuda_gemm_missing();
