// Contract: kv_cache.h.
#include "llmc/model/kv_cache.h"

#include <cstring>

KvCache::KvCache(Arena& arena, const ModelConfig& config, Dtype dtype, int pages, int page_size)
    : pages_(pages), page_size_(page_size), pool_(arena, Segment::rollouts) {
    auto paged = [&](const char* name) {
        const View rows = pool_.make(dtype, name, int64_t(pages) * page_size, config.kv_width());
        return make_view(rows.data, dtype, name, pages, page_size, config.kv_width());
    };
    for (int l = 0; l < config.layers; l++) {
        keys_.push_back(paged("k_pages"));
        values_.push_back(paged("v_pages"));
    }
}

void KvCache::copy_page(int to, int from) {
    for (const std::vector<View>* side : {&keys_, &values_})
        for (const View& pages : *side) {
            View target = pages.slice_rows(to, 1);
            std::memcpy(target.data, pages.slice_rows(from, 1).data, target.bytes());
        }
}
