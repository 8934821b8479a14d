// Writing keys and values into the pages of a KV cache. Contract here -> kv.cpp -> kv_cpu.cpp ->
// cases in test/cases/kv.cpp.
#pragma once
#include "llmc/ops/dispatch.h"

namespace ref {

// Copies row n of k and v to line slot[n] of the pages (a line = one position of one sequence).
//   k_pages, v_pages (pages, page_size, HKV*D) X  lines slot[n] written, all others untouched
//   k, v             (N, HKV*D)                X
//   slot             (N) i32                      page * page_size + line; rows of one slot hold
//                                                 equal values
void kv_store_forward(Ctx& ctx, View k_pages, View v_pages, const View& k, const View& v,
                      const View& slot);

} // namespace ref

DECLARE_OP(kv_store_forward)
