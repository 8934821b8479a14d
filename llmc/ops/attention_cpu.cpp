// Attention forward on the CPU: training over packed documents, decoding over pages. Key blocks are
// counted from the document's start and their keys transposed, the last block padded with zeros to
// whole vectors; values are read where they are:
//
//   document rows   | 0 ............ 63 | 64 ........... 127 | 128 .. 140 0 0 0 |
//   transposed            K^T (D, kKeys) per block and key/value head
//
// A tile of query rows meets one block after another. A row's result is the same bits whichever
// rows share its tile and wherever its keys lie: the products are tile_gemm's, whose rows do not
// depend on their number, the softmax is per row, and a key beyond a row's last one has weight 0,
// which leaves the sums as they are. Contract: attention.h.
#include "llmc/device/parallel.h"
#include "llmc/device/simd.h"
#include "llmc/device/tile.h"
#include "llmc/device/transpose.h"
#include "llmc/ops/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

namespace {

constexpr int kKeys = 64;    // keys of one block, counted from the start of the document
constexpr int kQueries = 32; // query rows of one tile; divides kKeys

int padded_keys(int keys) { return (keys + kLanes - 1) / kLanes * kLanes; }

// Query rows that end in the same key block, and what the blocks so far have given them.
struct Tile {
    const float* q; // (rows, D), stride q_ld
    int64_t q_ld;
    int rows;
    int last[kQueries]; // the last visible position of each row, ascending or equal
    float* sum_values;  // (rows, D): weights times values relative to `max`
    alignas(64) float max[kQueries], sum[kQueries];

    Tile(const float* q_, int64_t q_ld_, int rows_, float* sum_values_)
        : q(q_), q_ld(q_ld_), rows(rows_), sum_values(sum_values_) {
        std::fill_n(last, kQueries, 0);
        std::fill_n(max, kQueries, -std::numeric_limits<float>::infinity());
        std::fill_n(sum, kQueries, 0.0f);
    }
    int blocks() const { return last[0] / kKeys + 1; }
    int keys_of_block(int b) const { return std::min(kKeys, last[rows - 1] - b * kKeys + 1); }
};

// Scores (rows, kKeys) of a block -> weights relative to the new maximum, eq. (X2); what was summed
// before shrinks to match.
void softmax_block(Tile& t, int b, int D, float* scores) {
    const float scale = 1.0f / std::sqrt(float(D));
    const Vf lowest = splat(-std::numeric_limits<float>::infinity());
    const int columns = padded_keys(t.keys_of_block(b));
    alignas(64) float new_max[kQueries], shrink[kQueries];
    std::copy_n(t.max, kQueries, new_max);
    for (int r = 0; r < t.rows; r++) {
        float* row = scores + r * kKeys;
        const int valid = t.last[r] - b * kKeys + 1;
        Vf largest = lowest;
        for (int j = 0; j < columns; j += kLanes) {
            Vf s = load(row + j) * scale;
            if (j + kLanes > valid) s = select(kLaneIndex < valid - j, s, lowest);
            store(row + j, s);
            largest = max(s, largest);
        }
        new_max[r] = std::max(t.max[r], lane_max(largest));
    }
    for (int r = 0; r < t.rows; r += kLanes)
        store(shrink + r, exp(load(t.max + r) - load(new_max + r)));
    for (int r = 0; r < t.rows; r++) {
        float* row = scores + r * kKeys;
        Vf total{};
        for (int j = 0; j < columns; j += kLanes) {
            const Vf p = exp(load(row + j) - new_max[r]);
            store(row + j, p);
            total += p;
        }
        t.sum[r] = t.sum[r] * shrink[r] + lane_sum(total);
        t.max[r] = new_max[r];
        if (b > 0 && shrink[r] != 1.0f) {
            float* values = t.sum_values + int64_t(r) * D;
            for (int d = 0; d < D; d++) values[d] *= shrink[r];
        }
    }
}

// One more block of keys, k_transposed (D, kKeys). each_run(keys, use) calls
// use(first, count, rows, ld) for the block's value rows in ascending order, in as many runs as
// memory has them.
template <class EachRun>
void attend_block(Tile& t, int b, int D, const float* k_transposed, const EachRun& each_run,
                  float* scores) {
    const int keys = t.keys_of_block(b);
    tile_gemm(t.rows, padded_keys(keys), D, t.q, t.q_ld, 1, k_transposed, kKeys, scores, kKeys,
              TileStore::overwrite); // (X1)
    softmax_block(t, b, D, scores);
    each_run(keys, [&](int first, int count, const float* values, int64_t ld) {
        tile_gemm(t.rows, D, count, scores + first, kKeys, 1, values, ld, t.sum_values, D,
                  b + first == 0 ? TileStore::overwrite : TileStore::accumulate); // (X3)
    });
}

template <class T>
void write_rows(const Tile& t, int D, T* out, int64_t out_ld, float* lse, int64_t lse_ld) {
    for (int r = 0; r < t.rows; r++) {
        const float inverse = 1.0f / t.sum[r];
        const float* values = t.sum_values + int64_t(r) * D;
        for_vectors(D, [&](int64_t d, int count) {
            store_tail(out + r * out_ld + d, load_tail(values + d, count, 0.0f) * inverse, count);
        });
        if (lse) lse[r * lse_ld] = t.max[r] + std::log(t.sum[r]);
    }
}

} // namespace

// ------------------------------------------------------------------------------------------------
// packed documents

namespace {

struct Block { // up to kKeys rows of one document
    int64_t row, document_block;
    int count, position; // position of `row` in its document
};

std::vector<Block> list_blocks(const View& doc_start) {
    std::vector<Block> blocks;
    const int32_t* start = doc_start.as<int32_t>();
    for (int64_t n = 0; n < doc_start.rows(); n++) {
        const int position = int(n - start[n]);
        if (position % kKeys == 0)
            blocks.push_back({n, int64_t(blocks.size()) - position / kKeys, 0, position});
        blocks.back().count++;
    }
    return blocks;
}

// Values are read where they lie, or from a widened copy.
template <class T>
void forward_documents(Ctx& ctx, View out, View lse, const View& q, const View& k, const View& v,
                       const View& doc_start, int heads, int kv_heads) {
    const int D = int(q.shape[1] / heads), group = heads / kv_heads;
    const std::vector<Block> blocks = list_blocks(doc_start);
    ScratchFrame frame(ctx.scratch);
    const int64_t block_size = int64_t(D) * kKeys, head_size = int64_t(blocks.size()) * block_size;
    const int64_t room = kQueries * (kKeys + 2 * D), N = v.shape[0];
    const bool widened = sizeof(T) < sizeof(float);
    float* k_packed = ctx.scratch.alloc_of<float>(kv_heads * head_size);
    float* v_room = ctx.scratch.alloc_of<float>(widened ? N * kv_heads * D : 0);
    float* memory = ctx.scratch.alloc_of<float>(omp_get_max_threads() * room);
    parallel_for(int64_t(blocks.size()) * kv_heads, [&](int64_t task) {
        const int64_t b = task / kv_heads, h = task % kv_heads;
        const Block& block = blocks[b];
        transpose_tile(k_packed + h * head_size + b * block_size, kKeys,
                       k.as<T>() + block.row * k.ld + h * D, k.ld, block.count, D,
                       padded_keys(block.count));
        float_block(v.as<T>() + block.row * v.ld + h * D, v.ld, block.count, D,
                    v_room + (h * N + block.row) * D);
    });
    parallel_for_dynamic(int64_t(blocks.size()) * heads, [&](int64_t task, int thread) {
        const Block& block = blocks[task / heads];
        const int64_t h = task % heads, document = block.row - block.position;
        const float* keys = k_packed + h / group * head_size + block.document_block * block_size;
        FloatBlock values{v_room + (h / group * N + document) * D, D};
        if constexpr (!std::is_same_v<T, bf16>)
            values = {v.as<float>() + document * v.ld + h / group * D, v.ld};
        float *scores = memory + thread * room, *sum_values = scores + kQueries * kKeys;
        for (int first = 0; first < block.count; first += kQueries) {
            const int64_t row = block.row + first;
            const int rows = std::min(kQueries, block.count - first);
            const FloatBlock queries = float_block(q.as<T>() + row * q.ld + h * D, q.ld, rows, D,
                                                   sum_values + kQueries * D);
            Tile tile(queries.data, queries.ld, rows, sum_values);
            for (int r = 0; r < tile.rows; r++) tile.last[r] = block.position + first + r;
            for (int b = 0; b < tile.blocks(); b++)
                attend_block(
                    tile, b, D, keys + b * block_size,
                    [&](int count, const auto& use) {
                        use(0, count, values.data + int64_t(b) * kKeys * values.ld, values.ld);
                    },
                    scores);
            write_rows(tile, D, out.as<T>() + row * out.ld + h * D, out.ld,
                       lse.as<float>() + row * lse.ld + h, lse.ld);
        }
    });
}

} // namespace

void cpu::attention_forward(Ctx& ctx, View out, View lse, const View& q, const View& k,
                            const View& v, const View& doc_start, int heads, int kv_heads) {
    with_real(q.dtype, [&](auto x) {
        forward_documents<decltype(x)>(ctx, out, lse, q, k, v, doc_start, heads, kv_heads);
    });
}

// ------------------------------------------------------------------------------------------------
// pages
//
// Neighbouring queries of one sequence form a run. A run of one query (decoding) walks the sequence
// once for all its heads, a block of keys transposed at a time; the heads that share a key/value
// head are the rows of a tile. A longer run (a prompt) keeps its transposed blocks: its tiles, up
// to kQueries queries of one head each, meet them again and again.

namespace {

struct Run {
    int64_t begin, end; // queries
    int longest;
};

std::vector<Run> list_runs(const int32_t* sequence, const int32_t* length, int64_t N) {
    std::vector<Run> runs;
    for (int64_t n = 0; n < N; n++) {
        if (n == 0 || sequence[n] != sequence[n - 1]) runs.push_back({n, n, 0});
        runs.back().end = n + 1;
        runs.back().longest = std::max(runs.back().longest, length[n]);
    }
    return runs;
}

// The pages of one sequence's key/value head.
template <class T> struct PagedHead {
    const T *keys, *values; // of page 0
    const int32_t* pages;
    int page_size;
    int64_t width; // of one position: HKV * D

    // Calls use(first, count, offset) for the runs of a block's `count` positions that lie
    // together.
    template <class Use> void each_run(int b, int count, const Use& use) const {
        for (int j = 0; j < count;) {
            const int p = b * kKeys + j, in_page = p % page_size;
            const int run = std::min(count - j, page_size - in_page);
            use(j, run, (int64_t(pages[p / page_size]) * page_size + in_page) * width);
            j += run;
        }
    }
    void transpose_keys(float* out, int b, int count, int D) const {
        each_run(b, count, [&](int first, int run, int64_t at) {
            const int padded = first + run == count ? padded_keys(count) - first : run;
            transpose_tile(out + first, kKeys, keys + at, width, run, D, padded);
        });
    }
    // v_room: kKeys rows of D
    void attend(Tile& tile, int b, int D, const float* k_transposed, float* scores,
                float* v_room) const {
        attend_block(
            tile, b, D, k_transposed,
            [&](int count, const auto& use) {
                each_run(b, count, [&](int first, int run, int64_t at) {
                    const FloatBlock rows = float_block(values + at, width, run, D, v_room);
                    use(first, run, rows.data, rows.ld);
                });
            },
            scores);
    }
};

template <class T> struct Job {
    View out, q, k_pages, v_pages, page_table;
    const int32_t *sequence, *length;
    int heads, kv_heads, D;

    PagedHead<T> head(int64_t n, int h) const {
        return {k_pages.as<T>() + h * D, v_pages.as<T>() + h * D,
                page_table.as<int32_t>() + sequence[n] * page_table.ld, int(k_pages.shape[1]),
                k_pages.shape[2]};
    }

    void decode(int64_t n, int h0, int h1, float* memory);
    void prefill(const Run& run, int h, float* memory);
};

// Key/value heads h0..h1-1 of query n. memory: a block of keys, one of values, scores, heads of D
// queries, h1-h0 groups of D sums.
template <class T> void Job<T>::decode(int64_t n, int h0, int h1, float* memory) {
    const int group = heads / kv_heads;
    float *k_transposed = memory, *v_room = k_transposed + D * kKeys;
    float *scores = v_room + D * kKeys, *queries = scores + kQueries * kKeys;
    float* sum_values = queries + heads * D;
    const float* q_row = as_floats(q.as<T>() + n * q.ld, heads * D, queries);
    std::vector<Tile> tiles;
    for (int h = h0 * group; h < h1 * group;) {
        const int rows = std::min(kQueries, group - h % group);
        tiles.emplace_back(q_row + h * D, D, rows, sum_values);
        std::fill_n(tiles.back().last, rows, length[n] - 1);
        sum_values += int64_t(rows) * D;
        h += rows;
    }
    const size_t per_head = tiles.size() / (h1 - h0);
    for (int b = 0; b < tiles[0].blocks(); b++)
        for (size_t i = 0; i < tiles.size(); i++) {
            const PagedHead<T> pages = head(n, h0 + int(i / per_head));
            if (i % per_head == 0)
                pages.transpose_keys(k_transposed, b, tiles[0].keys_of_block(b), D);
            pages.attend(tiles[i], b, D, k_transposed, scores, v_room);
        }
    T* row = out.as<T>() + n * out.ld + h0 * group * D;
    for (const Tile& tile : tiles) {
        write_rows(tile, D, row, D, nullptr, 0);
        row += tile.rows * D;
    }
}

// Key/value head h of a run. memory: all its blocks of keys, one of values, scores, a tile of
// queries, one of sums.
template <class T> void Job<T>::prefill(const Run& run, int h, float* memory) {
    const int group = heads / kv_heads, blocks = (run.longest + kKeys - 1) / kKeys;
    const PagedHead<T> pages = head(run.begin, h);
    const int64_t block_size = int64_t(D) * kKeys;
    float *v_room = memory + blocks * block_size, *scores = v_room + block_size;
    float *q_room = scores + kQueries * kKeys, *sum_values = q_room + kQueries * D;
    for (int b = 0; b < blocks; b++)
        pages.transpose_keys(memory + b * block_size, b, std::min(kKeys, run.longest - b * kKeys),
                             D);
    for (int64_t n = run.begin; n < run.end;) {
        int rows = 1; // ascending lengths that end in one block
        while (rows < kQueries && n + rows < run.end && length[n + rows] >= length[n + rows - 1] &&
               (length[n + rows] - 1) / kKeys == (length[n] - 1) / kKeys)
            rows++;
        for (int i = h * group; i < (h + 1) * group; i++) {
            const FloatBlock queries =
                float_block(q.as<T>() + n * q.ld + i * D, q.ld, rows, D, q_room);
            Tile tile(queries.data, queries.ld, rows, sum_values);
            for (int r = 0; r < rows; r++) tile.last[r] = length[n + r] - 1;
            for (int b = 0; b < tile.blocks(); b++)
                pages.attend(tile, b, D, memory + b * block_size, scores, v_room);
            write_rows(tile, D, out.as<T>() + n * out.ld + i * D, out.ld, nullptr, 0);
        }
        n += rows;
    }
}

template <class T>
void forward_pages(Ctx& ctx, View out, const View& q, const View& k_pages, const View& v_pages,
                   const View& page_table, const View& row, const View& length, int heads,
                   int kv_heads) {
    constexpr size_t kFewRuns = 16; // fewer runs are split by key/value head too
    const int D = int(q.shape[1] / heads);
    Job<T> job{
        out,   q,        k_pages, v_pages, page_table, row.as<int32_t>(), length.as<int32_t>(),
        heads, kv_heads, D};
    const std::vector<Run> runs = list_runs(job.sequence, job.length, q.shape[0]);
    int longest_prompt = kKeys;
    for (const Run& run : runs)
        if (run.end - run.begin > 1) longest_prompt = std::max(longest_prompt, run.longest);
    const int64_t blocks = (longest_prompt + kKeys - 1) / kKeys;
    const int64_t rows = std::max(kQueries, heads); // of queries, of sums
    const int64_t room = (blocks + 1) * D * kKeys + kQueries * kKeys + 2 * rows * D;
    ScratchFrame frame(ctx.scratch);
    float* memory = ctx.scratch.alloc_of<float>(room * omp_get_max_threads());
    const int parts = runs.size() < kFewRuns ? kv_heads : 1;
    parallel_for_dynamic(int64_t(runs.size()) * parts, [&](int64_t task, int thread) {
        const Run& run = runs[task / parts];
        const int h0 = int(task % parts) * (kv_heads / parts), h1 = h0 + kv_heads / parts;
        if (run.end - run.begin == 1) job.decode(run.begin, h0, h1, memory + thread * room);
        else
            for (int h = h0; h < h1; h++) job.prefill(run, h, memory + thread * room);
    });
}

} // namespace

void cpu::attention_paged_forward(Ctx& ctx, View out, const View& q, const View& k_pages,
                                  const View& v_pages, const View& page_table, const View& row,
                                  const View& length, int heads, int kv_heads) {
    with_real(q.dtype, [&](auto x) {
        forward_pages<decltype(x)>(ctx, out, q, k_pages, v_pages, page_table, row, length, heads,
                                   kv_heads);
    });
}
