// Contract: kv_cache.h.
#include "llmc/model/kv_cache.h"

#include "llmc/device/memory.h"

KvCache::KvCache(Arena& arena, const ModelConfig& config, Dtype dtype, int pages, int page_size)
    : pages_(pages), page_size_(page_size), pool_(arena, Segment::rollouts) {
    const int64_t heads = config.kv_heads, D = config.head_dim;
    auto paged = [&](const char* name, int64_t rows, int64_t columns) {
        const View all = pool_.make(dtype, name, pages * rows, columns);
        return make_view(all.data, dtype, name, pages, rows, columns);
    };
    for (int l = 0; l < config.layers; l++) {
        keys_.push_back(paged("k_pages", heads * D, page_size));
        values_.push_back(paged("v_pages", heads * page_size, D));
    }
}

void KvCache::copy_page(Ctx& ctx, int to, int from) {
    for (const std::vector<View>* side : {&keys_, &values_})
        for (const View& pages : *side)
            copy_tensor(ctx, pages.slice_rows(to, 1), pages.slice_rows(from, 1));
}
