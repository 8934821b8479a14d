// Attention on the CPU. Key blocks of kKeys are counted from the document's start and packed once,
// keys transposed, the last one padded with zeros:
//
//   document rows   | 0 ............ 63 | 64 ........... 127 | 128 .. 140 0 0 0 |
//   packed                K^T (D, kKeys)  and V (kKeys, D) per block
//
// A query row meets the same blocks with the same arithmetic whether it comes in a tile of the
// training forward or alone from the decoder: products go through tile_gemm, whose rows do not
// depend on their number, and the softmax is per row. Contract: attention.h.
#include "llmc/device/parallel.h"
#include "llmc/device/simd.h"
#include "llmc/device/tile.h"
#include "llmc/ops/attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace {

constexpr int kKeys = 64;    // keys of one block
constexpr int kQueries = 32; // query rows of one forward task; divides kKeys

struct Document {
    int64_t begin, length, first_block; // rows, and its first packed block
};

std::vector<Document> list_documents(const View& doc_start) {
    std::vector<Document> documents;
    const int32_t* start = doc_start.as<int32_t>();
    int64_t blocks = 0;
    for (int64_t n = 0; n < doc_start.rows(); n++) {
        if (start[n] == n) {
            if (!documents.empty()) blocks += (documents.back().length + kKeys - 1) / kKeys;
            documents.push_back({n, 0, blocks});
        }
        documents.back().length++;
    }
    return documents;
}

// (count, D) rows with stride ld -> (D, kKeys), missing columns 0.
void pack_transposed(float* out, const float* rows, int64_t ld, int count, int D) {
    for (int d = 0; d < D; d++) {
        float* line = out + d * kKeys;
        for (int j = 0; j < count; j++) line[j] = rows[j * ld + d];
        std::fill(line + count, line + kKeys, 0.0f);
    }
}

void pack_rows(float* out, const float* rows, int64_t ld, int count, int D) {
    for (int j = 0; j < count; j++) std::copy_n(rows + j * ld, D, out + j * D);
    std::fill(out + count * D, out + kKeys * D, 0.0f);
}

// The running softmax of one query row over key blocks.
struct RowSoftmax {
    float max = -std::numeric_limits<float>::infinity(), sum = 0;
};

// Turns one row of scaled-to-be scores over a block into weights relative to the new maximum;
// returns the factor by which what was summed before shrinks. Columns from `valid` on get 0.
float softmax_block(RowSoftmax& row, float* scores, int valid, float scale) {
    Vf largest = splat(-std::numeric_limits<float>::infinity());
    for (int j = 0; j < kKeys; j += kLanes) {
        Vf s = load(scores + j) * scale;
        if (j + kLanes > valid)
            for (int i = std::max(0, valid - j); i < kLanes; i++)
                s[i] = -std::numeric_limits<float>::infinity();
        store(scores + j, s);
        largest = max(s, largest);
    }
    const float new_max = std::max(row.max, lane_max(largest));
    Vf sum{};
    for (int j = 0; j < kKeys; j += kLanes) {
        const Vf p = exp(load(scores + j) - new_max); // (X2)
        store(scores + j, p);
        sum += p;
    }
    const float shrink = exp(splat(row.max - new_max))[0];
    row.sum = row.sum * shrink + lane_sum(sum);
    row.max = new_max;
    return shrink;
}

// `rows` query rows (row r at position first + r, stride q_ld) over blocks 0..first/kKeys; all
// rows lie in the same key block. Block b is at k_packed + b * D * kKeys, likewise v_packed.
void attend_tile(float* out, int64_t out_ld, float* lse, int64_t lse_ld, const float* q,
                 int64_t q_ld, int rows, const int* position, int D, const float* k_packed,
                 const float* v_packed, float* scores) {
    const float scale = 1.0f / std::sqrt(float(D));
    RowSoftmax state[kKeys];
    const int blocks = position[0] / kKeys + 1;
    for (int b = 0; b < blocks; b++) {
        tile_gemm(rows, kKeys, D, q, q_ld, 1, k_packed + int64_t(b) * D * kKeys, kKeys, scores,
                  kKeys, TileStore::overwrite); // (X1)
        for (int r = 0; r < rows; r++) {
            const int valid = std::min(kKeys, position[r] - b * kKeys + 1);
            const float shrink = softmax_block(state[r], scores + r * kKeys, valid, scale);
            float* o = out + r * out_ld;
            if (b > 0)
                for (int d = 0; d < D; d++) o[d] *= shrink;
        }
        tile_gemm(rows, D, kKeys, scores, kKeys, 1, v_packed + int64_t(b) * D * kKeys, D, out,
                  out_ld, b == 0 ? TileStore::overwrite : TileStore::accumulate); // (X3)
    }
    for (int r = 0; r < rows; r++) {
        const float inverse = 1.0f / state[r].sum;
        for (int d = 0; d < D; d++) out[r * out_ld + d] *= inverse;
        if (lse) lse[r * lse_ld] = state[r].max + std::log(state[r].sum);
    }
}

} // namespace

void cpu::attention_forward(Ctx& ctx, View out, View lse, const View& q, const View& k,
                            const View& v, const View& doc_start, int heads, int kv_heads) {
    const int D = int(q.shape[1] / heads), group = heads / kv_heads;
    const std::vector<Document> documents = list_documents(doc_start);
    const int64_t blocks =
        documents.back().first_block + (documents.back().length + kKeys - 1) / kKeys;
    struct Tile {
        int64_t document, begin; // begin: position in the document
    };
    std::vector<Tile> tiles;
    for (size_t i = 0; i < documents.size(); i++)
        for (int64_t begin = 0; begin < documents[i].length; begin += kQueries)
            tiles.push_back({int64_t(i), begin});
    ScratchFrame frame(ctx.scratch);
    const int64_t block_size = int64_t(D) * kKeys, head_size = blocks * block_size;
    float* k_packed = ctx.scratch.alloc_of<float>(kv_heads * head_size);
    float* v_packed = ctx.scratch.alloc_of<float>(kv_heads * head_size);
    float* scores = ctx.scratch.alloc_of<float>(int64_t(omp_get_max_threads()) * kQueries * kKeys);
    parallel_for(int64_t(documents.size()) * kv_heads, [&](int64_t task) {
        const Document& doc = documents[task / kv_heads];
        const int64_t h = task % kv_heads;
        for (int64_t begin = 0; begin < doc.length; begin += kKeys) {
            const int count = int(std::min<int64_t>(kKeys, doc.length - begin));
            const int64_t row = doc.begin + begin;
            const int64_t at = h * head_size + (doc.first_block + begin / kKeys) * block_size;
            pack_transposed(k_packed + at, k.as<float>() + row * k.ld + h * D, k.ld, count, D);
            pack_rows(v_packed + at, v.as<float>() + row * v.ld + h * D, v.ld, count, D);
        }
    });
    parallel_for_dynamic(int64_t(tiles.size()), [&](int64_t task, int thread) {
        const Tile& tile = tiles[task];
        const Document& doc = documents[tile.document];
        const int rows = int(std::min<int64_t>(kQueries, doc.length - tile.begin));
        const int64_t row = doc.begin + tile.begin;
        int position[kQueries];
        for (int r = 0; r < rows; r++) position[r] = int(tile.begin) + r;
        for (int h = 0; h < heads; h++) {
            const int64_t at = h / group * head_size + doc.first_block * block_size;
            attend_tile(out.as<float>() + row * out.ld + h * D, out.ld,
                        lse.as<float>() + row * lse.ld + h, lse.ld,
                        q.as<float>() + row * q.ld + h * D, q.ld, rows, position, D, k_packed + at,
                        v_packed + at, scores + thread * kQueries * kKeys);
        }
    });
}

void cpu::attention_paged_forward(Ctx& ctx, View out, const View& q, const View& k_pages,
                                  const View& v_pages, const View& page_table, const View& row,
                                  const View& length, int heads, int kv_heads) {
    const int64_t N = q.shape[0], page_size = k_pages.shape[1], width = k_pages.shape[2];
    const int D = int(q.shape[1] / heads), group = heads / kv_heads;
    const int32_t *sequence = row.as<int32_t>(), *lengths = length.as<int32_t>();
    struct Run { // neighbouring queries of one sequence share its packed blocks
        int64_t begin, end;
        int longest;
    };
    std::vector<Run> runs;
    int longest = 0;
    for (int64_t n = 0; n < N; n++) {
        if (n == 0 || sequence[n] != sequence[n - 1]) runs.push_back({n, n, 0});
        runs.back().end = n + 1;
        runs.back().longest = std::max(runs.back().longest, lengths[n]);
        longest = std::max(longest, lengths[n]);
    }
    ScratchFrame frame(ctx.scratch);
    const int64_t blocks = (longest + kKeys - 1) / kKeys, block_size = int64_t(D) * kKeys;
    const int64_t room = 2 * blocks * block_size + int64_t(group) * kKeys;
    float* memory = ctx.scratch.alloc_of<float>(room * omp_get_max_threads());
    parallel_for_dynamic(int64_t(runs.size()) * kv_heads, [&](int64_t task, int thread) {
        const Run& run = runs[task / kv_heads];
        const int64_t h = task % kv_heads;
        float *k_packed = memory + thread * room, *v_packed = k_packed + blocks * block_size;
        float* scores = v_packed + blocks * block_size;
        const int32_t* pages = page_table.as<int32_t>() + sequence[run.begin] * page_table.ld;
        for (int b = 0; b * kKeys < run.longest; b++) {
            float *kb = k_packed + b * block_size, *vb = v_packed + b * block_size;
            const int count = std::min(kKeys, run.longest - b * kKeys);
            for (int j = 0; j < count; j++) {
                const int64_t p = b * kKeys + j;
                const int64_t line = pages[p / page_size] * page_size + p % page_size;
                const float* key = k_pages.as<float>() + line * width + h * D;
                for (int d = 0; d < D; d++) kb[d * kKeys + j] = key[d];
                std::copy_n(v_pages.as<float>() + line * width + h * D, D, vb + j * D);
            }
            for (int d = 0; d < D; d++)
                std::fill(kb + d * kKeys + count, kb + (d + 1) * kKeys, 0.0f);
            std::fill(vb + count * D, vb + block_size, 0.0f);
        }
        std::vector<int> position(group);
        for (int64_t n = run.begin; n < run.end; n++) {
            std::fill(position.begin(), position.end(), lengths[n] - 1);
            const int64_t column = h * group * D; // the group's query heads are neighbours
            for (int first = 0; first < group; first += kKeys)
                attend_tile(out.as<float>() + n * out.ld + column + first * D, D, nullptr, 0,
                            q.as<float>() + n * q.ld + column + first * D, D,
                            std::min(kKeys, group - first), position.data(), D, k_packed, v_packed,
                            scores + first * kKeys);
        }
    });
}
