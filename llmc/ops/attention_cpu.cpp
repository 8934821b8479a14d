// Attention forward on the CPU over packed documents. Key blocks are counted from the document's
// start and their keys transposed, the last block padded with zeros to whole vectors; values are
// read where they are:
//
//   document rows   | 0 ............ 63 | 64 ........... 127 | 128 .. 140 0 0 0 |
//   transposed        K^T (D, kKeys)      K^T (D, kKeys)       K^T (D, padded)    per kv head
//
// A tile of query rows meets one block after another (attention_tile.h). The same over pages:
// attention_paged_cpu.cpp. Contract: attention.h.
#include "llmc/device/parallel.h"
#include "llmc/device/transpose.h"
#include "llmc/ops/attention.h"
#include "llmc/ops/attention_tile.h"

#include <type_traits>
#include <vector>

using namespace attention_tile;

namespace {

// One more block: k_transposed (D, k_ld), values (keys, D) with stride ld.
void attend_block(Tile& t, int b, int D, const float* k_transposed, int k_ld, const float* values,
                  int64_t ld, float* scores) {
    const int keys = t.keys_of_block(b);
    tile_gemm(t.rows, padded_keys(keys), D, t.q, t.q_ld, 1, k_transposed, k_ld, scores, kKeys,
              TileStore::overwrite); // (X1)
    softmax_block(t, b, D, scores);
    tile_gemm(t.rows, D, keys, scores, kKeys, 1, values, ld, t.sum_values, D,
              b == 0 ? TileStore::overwrite : TileStore::accumulate); // (X3)
}

struct Block {           // up to kKeys rows of one document
    int64_t row, at;     // `at`: columns of K^T before it, those of other documents included
    int count, position; // position of `row` in its document
    int columns() const { return padded_keys(count); }
};

int64_t columns_of(const std::vector<Block>& blocks) {
    return blocks.empty() ? 0 : blocks.back().at + blocks.back().columns();
}

std::vector<Block> list_blocks(const View& doc_start) {
    std::vector<Block> blocks;
    const int32_t* start = doc_start.as<int32_t>();
    for (int64_t n = 0; n < doc_start.rows(); n++) {
        const int position = int(n - start[n]);
        if (position % kKeys == 0) blocks.push_back({n, columns_of(blocks), 0, position});
        blocks.back().count++;
    }
    return blocks;
}

// Values are read where they lie, or from a widened copy.
template <class T> constexpr bool widened = sizeof(T) < sizeof(float);
int64_t thread_room(int D) { return kQueries * (kKeys + 2 * D); }

template <class T>
void forward_documents(Ctx& ctx, View out, View lse, const View& q, const View& k, const View& v,
                       const View& doc_start, int heads, int kv_heads) {
    const int D = int(q.shape[1] / heads), group = heads / kv_heads;
    const std::vector<Block> blocks = list_blocks(doc_start);
    ScratchFrame frame(ctx.scratch);
    const int64_t head_size = columns_of(blocks) * D;
    const int64_t room = thread_room(D), N = v.shape[0];
    float* k_packed = ctx.scratch.alloc_of<float>(kv_heads * head_size);
    float* v_room = ctx.scratch.alloc_of<float>(widened<T> ? N * kv_heads * D : 0);
    float* memory = ctx.scratch.alloc_of<float>(omp_get_max_threads() * room);
    parallel_for(int64_t(blocks.size()) * kv_heads, [&](int64_t task) {
        const int64_t b = task / kv_heads, h = task % kv_heads;
        const Block& block = blocks[b];
        transpose_tile(k_packed + h * head_size + block.at * D, block.columns(),
                       k.as<T>() + block.row * k.ld + h * D, k.ld, block.count, D, block.columns());
        float_block(v.as<T>() + block.row * v.ld + h * D, v.ld, block.count, D,
                    v_room + (h * N + block.row) * D);
    });
    parallel_for_dynamic(int64_t(blocks.size()) * heads, [&](int64_t task, int thread) {
        const Block& block = blocks[task / heads];
        const int64_t h = task % heads, document = block.row - block.position;
        // All blocks of a document but the last are full: `position` columns lie before this one.
        const float* keys = k_packed + h / group * head_size + (block.at - block.position) * D;
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
                attend_block(tile, b, D, keys + int64_t(b) * kKeys * D,
                             b * kKeys == block.position ? block.columns() : kKeys,
                             values.data + int64_t(b) * kKeys * values.ld, values.ld, scores);
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

size_t cpu::attention_forward_scratch(const Ctx& ctx, int64_t N, int kv_heads, int head_dim) {
    const int64_t keys = 2 * N + kLanes; // a document's last block is padded to whole vectors
    const int64_t values = ctx.storage() == Dtype::bf16 ? N : 0;
    return size_t((keys + values) * kv_heads * head_dim + ctx.threads * thread_room(head_dim)) *
           sizeof(float);
}
