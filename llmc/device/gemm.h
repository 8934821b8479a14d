// The one seam for dense matrix products: plain loops in double (ref), oneDNN matmul primitives or,
// without oneDNN, our tile kernel (cpu), cuBLASLt (cuda, gemm_cuda.h). But for the last, row
// results never depend on the number of rows: decoding and the training forward agree bit for bit
// (test/test_gemm.cpp keeps this true).
#pragma once
#include "llmc/device/context.h"

#include <compare>

enum class Trans { no, yes };
enum class Store { overwrite, accumulate };

// c = op(a) op(b), or c += op(a) op(b).
//   c (m, n)    written or accumulated
//   a (m, k)    or (k, m) with Trans::yes
//   b (k, n)    or (n, k) with Trans::yes
// f64 for ref; else each f32 or bf16, sums in fp32: by the CPU's bf16 instructions where a and b
// are bf16 and gemm_takes_bf16(), else through floats. m, n, k >= 0; k = 0 gives zeros. Rows may
// be strided (ld). Deterministic.
void gemm(Ctx& ctx, View c, const View& a, Trans trans_a, const View& b, Trans trans_b,
          Store store);

// Bytes of ctx.scratch that such a call takes; the tensors need no contents.
size_t gemm_scratch(Ctx& ctx, const View& c, const View& a, Trans trans_a, const View& b,
                    Trans trans_b, Store store);

// What this machine reaches with these threads: multiply-adds of a square product, times two, per
// second; the best of a few. Takes a tenth of a second.
double gemm_peak(Ctx& ctx);

bool gemm_takes_bf16(Ctx& ctx);
// "oneDNN 2.6.3", "own tile kernel", "plain loops", "cuBLASLt": for the start-up lines.
std::string gemm_library(const Ctx& ctx);

std::shared_ptr<GemmCache> make_gemm_cache();

// What a library prepares a product for, once: its shape and how the operands lie.
struct GemmKey {
    int64_t m, n, k, lda, ldb, ldc;
    bool trans_a, trans_b, accumulate;
    Dtype ab, c;
    auto operator<=>(const GemmKey&) const = default;
};
GemmKey gemm_key(const View& c, const View& a, Trans trans_a, const View& b, Trans trans_b,
                 Store store);
