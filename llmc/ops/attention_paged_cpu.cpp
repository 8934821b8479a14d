// Attention over a paged KV cache on the CPU. A key/value head of a page is one piece of memory:
// keys transposed as they are multiplied, (D, page_size), and values in rows, (page_size, D), so
// that a walk over a sequence reads long runs and moves nothing.
//
//   block of kKeys positions   | 0 ......... 63 | 64 ........ 127 | 128 ..
//   pages of 48                | 0 ... 47 | 48 ... 95 | 96 ... 143 |        runs: 48 16, 32 32, 16
//
// Neighbouring queries of one sequence form a run of queries. One alone (decoding) walks the
// sequence with the heads that share a key/value head as the rows of a tile; more (a prompt) are
// cut into tiles of up to kQueries queries of one head. Contract: attention.h.
#include "llmc/device/parallel.h"
#include "llmc/ops/attention.h"
#include "llmc/ops/attention_tile.h"

#include <vector>

using namespace attention_tile;

namespace {

struct QueryRun {
    int64_t begin, end; // queries
};

std::vector<QueryRun> list_runs(const int32_t* sequence, int64_t N) {
    std::vector<QueryRun> runs;
    for (int64_t n = 0; n < N; n++) {
        if (n == 0 || sequence[n] != sequence[n - 1]) runs.push_back({n, n});
        runs.back().end = n + 1;
    }
    return runs;
}

// One sequence's key/value head.
template <class T> struct PagedHead {
    const T *keys, *values; // of page 0: (D, page_size), (page_size, D)
    const int32_t* pages;
    int page_size, D;
    int64_t page_stride; // HKV * D * page_size
    int length;          // positions

    // Calls use(first, count, page, line) for the runs of block b's `keys` positions that lie in
    // one page.
    template <class Use> void each_run(int b, int keys, const Use& use) const {
        for (int j = 0; j < keys;) {
            const int position = b * kKeys + j, line = position % page_size;
            const int count = std::min(keys - j, page_size - line);
            use(j, count, pages[position / page_size] * page_stride, line);
            j += count;
        }
    }

    // The tile's block b. Scores are computed up to a whole vector where the page has room:
    // whatever lies behind the last key, the softmax leaves it out. Meanwhile what is met next is
    // fetched: the block behind it, or the first one of the head `next` (null: nothing).
    void attend(Tile& tile, int b, float* scores, const PagedHead* next) const {
        const int keys_here = tile.keys_of_block(b);
        const bool last = b + 1 == tile.blocks();
        const PagedHead* then = last ? next : this;
        // The memory of what is `first` positions into it, by its page and the line there.
        auto ahead = [&](int first, auto&& place) -> const T* {
            const int position = (last ? 0 : (b + 1) * kKeys) + first;
            if (!then || position >= then->length) return nullptr;
            return place(then->pages[position / page_size] * page_stride, position % page_size);
        };
        each_run(b, keys_here, [&](int first, int count, int64_t page, int line) {
            const int columns =
                std::min({padded_keys(count), page_size - line, padded_keys(keys_here) - first});
            const T* keys_ahead =
                ahead(first, [&](int64_t page, int line) { return then->keys + page + line; });
            tile_gemm_ahead(tile.rows, columns, D, tile.q, tile.q_ld, 1, keys + page + line,
                            page_size, scores + first, kKeys, TileStore::overwrite,
                            keys_ahead); // (X1)
        });
        softmax_block(tile, b, D, scores);
        each_run(b, keys_here, [&](int first, int count, int64_t page, int line) {
            const T* values_ahead = ahead(first, [&](int64_t page, int line) {
                return then->values + page + int64_t(line) * D;
            });
            tile_gemm_ahead(tile.rows, D, count, scores + first, kKeys, 1,
                            values + page + int64_t(line) * D, D, tile.sum_values, D,
                            b + first == 0 ? TileStore::overwrite : TileStore::accumulate,
                            values_ahead); // (X3)
        });
    }
};

template <class T> struct Job {
    View out, q, k_pages, v_pages, page_table;
    const int32_t *sequence, *length;
    int heads, kv_heads, D;

    // Of the sequence of query n, as far as that one sees it.
    PagedHead<T> head(int64_t n, int h) const {
        const int page_size = int(k_pages.shape[2]);
        const int64_t begin = int64_t(h) * D * page_size;
        return {k_pages.as<T>() + begin,
                v_pages.as<T>() + begin,
                page_table.as<int32_t>() + sequence[n] * page_table.ld,
                page_size,
                D,
                k_pages.ld,
                length[n]};
    }
    void decode(int64_t n, int h, const PagedHead<T>& next, float* memory);
    void prefill(const QueryRun& run, int h, float* memory);
};

// memory: scores, a tile of queries, one of sums
constexpr int64_t room_of(int D) { return kQueries * (kKeys + 2 * int64_t(D)); }

// Key/value head h of query n; `next` comes afterwards.
template <class T> void Job<T>::decode(int64_t n, int h, const PagedHead<T>& next, float* memory) {
    const int group = heads / kv_heads;
    const PagedHead<T> pages = head(n, h);
    float *scores = memory, *queries = scores + kQueries * kKeys;
    float* sum_values = queries + kQueries * D;
    for (int i = h * group; i < (h + 1) * group; i += kQueries) {
        const int rows = std::min(kQueries, (h + 1) * group - i);
        Tile tile(as_floats(q.as<T>() + n * q.ld + i * D, rows * D, queries), D, rows, sum_values);
        std::fill_n(tile.last, rows, length[n] - 1);
        for (int b = 0; b < tile.blocks(); b++) pages.attend(tile, b, scores, &next);
        write_rows(tile, D, out.as<T>() + n * out.ld + i * D, D, nullptr, 0);
    }
}

// Key/value head h of a run.
template <class T> void Job<T>::prefill(const QueryRun& run, int h, float* memory) {
    const int group = heads / kv_heads;
    const PagedHead<T> pages = head(run.end - 1, h);
    float *scores = memory, *queries = scores + kQueries * kKeys;
    float* sum_values = queries + kQueries * D;
    for (int64_t n = run.begin; n < run.end;) {
        int rows = 1; // ascending lengths that end in one block
        while (rows < kQueries && n + rows < run.end && length[n + rows] >= length[n + rows - 1] &&
               (length[n + rows] - 1) / kKeys == (length[n] - 1) / kKeys)
            rows++;
        for (int i = h * group; i < (h + 1) * group; i++) {
            const FloatBlock block =
                float_block(q.as<T>() + n * q.ld + i * D, q.ld, rows, D, queries);
            Tile tile(block.data, block.ld, rows, sum_values);
            for (int r = 0; r < rows; r++) tile.last[r] = length[n + r] - 1;
            for (int b = 0; b < tile.blocks(); b++) pages.attend(tile, b, scores, nullptr);
            write_rows(tile, D, out.as<T>() + n * out.ld + i * D, out.ld, nullptr, 0);
        }
        n += rows;
    }
}

template <class T> void forward_pages(Ctx& ctx, Job<T> job) {
    constexpr size_t kFewRuns = 16; // fewer runs are split by key/value head too
    const std::vector<QueryRun> runs = list_runs(job.sequence, job.q.shape[0]);
    const int64_t room = room_of(job.D);
    ScratchFrame frame(ctx.scratch);
    float* memory = ctx.scratch.alloc_of<float>(room * omp_get_max_threads());
    const int parts = runs.size() < kFewRuns ? job.kv_heads : 1;
    const int64_t heads_of_task = job.kv_heads / parts;
    parallel_for_ranges(int64_t(runs.size()) * parts, [&](int64_t task, int thread) {
        float* own = memory + thread * room;
        for (int64_t i = task * heads_of_task; i < (task + 1) * heads_of_task; i++) {
            const QueryRun& run = runs[i / job.kv_heads];
            const int h = int(i % job.kv_heads);
            if (run.end - run.begin > 1) {
                job.prefill(run, h, own);
                continue;
            }
            const int64_t after = std::min(i + 1, int64_t(runs.size()) * job.kv_heads - 1);
            const PagedHead<T> next =
                job.head(runs[after / job.kv_heads].begin, int(after % job.kv_heads));
            job.decode(run.begin, h, next, own);
        }
    });
}

} // namespace

void cpu::attention_paged_forward(Ctx& ctx, View out, const View& q, const View& k_pages,
                                  const View& v_pages, const View& page_table, const View& row,
                                  const View& length, int heads, int kv_heads) {
    with_real(q.dtype, [&](auto x) {
        forward_pages<decltype(x)>(ctx, {out, q, k_pages, v_pages, page_table, row.as<int32_t>(),
                                         length.as<int32_t>(), heads, kv_heads,
                                         int(q.shape[1] / heads)});
    });
}
