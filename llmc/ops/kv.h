// Writing keys and values into the pages of a KV cache (pages: Kwon et al., arXiv 2309.06180); it
// copies, so there is no equation. This contract -> kv.cpp -> kv_cpu.cpp ->
// kernel in kv.cu -> test/test_attention.cpp.
#pragma once
#include "llmc/ops/dispatch.h"

namespace ref {

// Copies row n of k and v to line slot[n] of the pages (a line = one position of one sequence). A
// page holds each key/value head in one piece: its keys transposed, as attention multiplies them,
// its values in rows.
//
//   k_pages   head 0: d0 of lines 0 .. page_size-1 | d1 of lines .. | ... | head 1: ...
//   v_pages   head 0: line 0 of D | line 1 of D | ...                     | head 1: ...
//
//   k_pages (pages, HKV*D, page_size) X  column slot[n] % page_size written, others untouched
//   v_pages (pages, HKV*page_size, D) X  rows slot[n] % page_size of each head written
//   k, v    (N, HKV*D)                X
//   slot    (N) i32                      page * page_size + line, below pages * page_size; rows of
//                                        one slot hold equal values
void kv_store_forward(Ctx& ctx, View k_pages, View v_pages, const View& k, const View& v,
                      const View& slot);

} // namespace ref

DECLARE_KERNEL_OP(kv_store_forward)
