// Causal attention over packed documents and over a paged KV cache. equations (X1)-(X6) in
// doc/equations.md; the block-wise softmax is that of FlashAttention, Dao et al., arXiv
// 2205.14135; grouped heads, Ainslie et al., arXiv 2305.13245 -> this contract -> attention.cpp ->
// attention_cpu.cpp, attention_backward_cpu.cpp, attention_paged_cpu.cpp -> kernels in
// attention.cu, attention_paged.cu -> cases in test/cases/attention.cpp, test/test_attention.cpp.
#pragma once
#include "llmc/ops/dispatch.h"

namespace ref {

// Row n of query head h attends to rows doc_start[n]..n of key/value head h / (H / HKV), eq.
// (X1)-(X3).
//   out       (N, H*D)   X    written
//   lse       (N, H)     f32  written: ln of the sum of exp of the scaled scores
//   q         (N, H*D)   X    strided rows allowed, here and below
//   k, v      (N, HKV*D) X
//   doc_start (N)        i32  first row of n's document; the same over a document
// Scale 1 / sqrt(D); kernels take D <= 128. A row depends on its own document only: key blocks are
// counted from the document's start. Memory linear in N.
void attention_forward(Ctx& ctx, View out, View lse, const View& q, const View& k, const View& v,
                       const View& doc_start, int heads, int kv_heads);

// Gradient, eq. (X4)-(X6).
//   dq (N, H*D), dk, dv (N, HKV*D)  X  written
//   dout, out (N, H*D) X, lse (N, H) f32, the others as in the forward
// Deterministic: one task owns a document's key/value head.
void attention_backward(Ctx& ctx, View dq, View dk, View dv, const View& dout, const View& out,
                        const View& lse, const View& q, const View& k, const View& v,
                        const View& doc_start, int heads, int kv_heads);

// Query n attends to positions 0..length[n]-1 of sequence row[n], whose keys and values lie in
// pages.
//   out        (N, H*D)                    X    written
//   q          (N, H*D)                    X
//   k_pages    (pages, HKV*D, page_size)   X    position p: page page_table[row][p / page_size];
//   v_pages    (pages, HKV*page_size, D)   X    both as kv_store_forward of kv.h leaves them
//   page_table (R, max_pages)              i32
//   row, length (N)                        i32
// Bit-equal, row by row, to attention_forward over the whole sequence. Pages: Kwon et al., arXiv
// 2309.06180.
void attention_paged_forward(Ctx& ctx, View out, const View& q, const View& k_pages,
                             const View& v_pages, const View& page_table, const View& row,
                             const View& length, int heads, int kv_heads);

} // namespace ref

namespace cpu {
// Of the two, for N rows of documents that are on average 16 rows long or longer, and none longer
// than `longest`.
size_t attention_forward_scratch(const Ctx& ctx, int64_t N, int kv_heads, int head_dim);
size_t attention_backward_scratch(const Ctx& ctx, int64_t N, int64_t longest, int heads,
                                  int kv_heads, int head_dim);
} // namespace cpu

DECLARE_KERNEL_OP(attention_forward)
DECLARE_KERNEL_OP(attention_backward)
DECLARE_KERNEL_OP(attention_paged_forward)
DECLARE_SCRATCH(attention_forward_scratch)
DECLARE_SCRATCH(attention_backward_scratch)
