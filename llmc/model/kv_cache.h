// Keys and values of past tokens, in pages.
//
// A sequence's position p lives in page page_table[row][p / page_size], line p % page_size. How a
// page is laid out: ops/kv.h.
#pragma once
#include "llmc/model/block.h"

class KvCache {
  public:
    KvCache(Arena& arena, const ModelConfig& config, Dtype dtype, int pages, int page_size);
    int pages() const { return pages_; }
    int page_size() const { return page_size_; }
    View keys(int layer) const { return keys_[layer]; }     // (pages, HKV*D, page_size)
    View values(int layer) const { return values_[layer]; } // (pages, HKV*page_size, D)
    // All layers; for a page that two sequences go on writing.
    void copy_page(Ctx& ctx, int to, int from);

  private:
    int pages_, page_size_;
    BufferPool pool_;
    std::vector<View> keys_, values_;
};
