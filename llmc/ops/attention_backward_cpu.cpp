// Backward of attention on the CPU. One task = one document's key/value head with the query heads
// that share it: it walks key blocks, then heads, then tiles of queries, and owns all it writes.
// Contract: attention.h.
#include "llmc/device/parallel.h"
#include "llmc/device/simd.h"
#include "llmc/device/tile.h"
#include "llmc/device/transpose.h"
#include "llmc/ops/attention.h"

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

namespace {

constexpr int kTile = 64; // keys of a block and query rows of a tile
constexpr int kHalf = 32; // query rows of a tile on the diagonal: half its keys are masked

// One head's columns of a document's rows as floats: where they lie, or in `room`, (length, D), to
// be read from bf16 before and written back after.
template <class T> struct Tensor {
    T* stored;
    int64_t stored_ld;
    float* data;
    int64_t ld;
    Tensor(const View& view, int64_t begin, int64_t column, int D, float* room)
        : stored(const_cast<View&>(view).as<T>() + begin * view.ld + column), stored_ld(view.ld) {
        if constexpr (std::is_same_v<T, bf16>) data = room, ld = D;
        else data = stored, ld = stored_ld;
    }
    float* row(int64_t n) const { return data + n * ld; }
    void read(int64_t length, int D) const { float_block(stored, stored_ld, length, D, data); }
    void write(int64_t length, int D) const {
        if constexpr (std::is_same_v<T, bf16>)
            for (int64_t n = 0; n < length; n++) convert(stored + n * stored_ld, row(n), D);
    }
};

int padded(int count) { return (count + kLanes - 1) / kLanes * kLanes; }

float dot(const float* a, const float* b, int D) {
    Vf sum{};
    for (int d = 0; d < D; d += kLanes) {
        const int count = std::min(kLanes, D - d);
        sum += load_tail(a + d, count, 0.0f) * load_tail(b + d, count, 0.0f);
    }
    return lane_sum(sum);
}

template <class T> struct Head { // a query head
    Tensor<T> q, dq, dout;
    const float* lse; // of the document's first row
    int64_t lse_ld;
    float* delta; // (rows of the document): sum_d dout * out
};

template <class T> struct Task {
    int length, D;
    Tensor<T> k, v, dk, dv;
    float *k_transposed, *v_transposed; // (D, kTile) of the key block at hand
    float *dk_block, *dv_block;         // (kTile, D)
    float *p, *ds;                      // (kTile, kTile): scores then weights, dP then dS

    // Weights and score gradients of `rows` queries from position q0 against `keys` keys from k0.
    void gradients(const Head<T>& head, int q0, int rows, int k0, int keys) const {
        const float scale = 1.0f / std::sqrt(float(D));
        for (int r = 0; r < rows; r++) {
            float *p_row = p + r * kTile, *ds_row = ds + r * kTile;
            const int valid = std::min(keys, q0 + r - k0 + 1);
            const float lse = head.lse[(q0 + r) * head.lse_ld], delta = head.delta[q0 + r];
            for (int j = 0; j < padded(keys); j += kLanes) {
                Vf prob = exp(load(p_row + j) * scale - lse);
                if (j + kLanes > valid) prob = select(kLaneIndex < valid - j, prob, Vf{});
                store(p_row + j, prob);
                store(ds_row + j, prob * (load(ds_row + j) - delta) * scale); // (X4)
            }
        }
    }

    void attend(const Head<T>& head, int k0, int keys) const {
        for (int q0 = k0; q0 < length;) {
            const int step = q0 < k0 + kTile ? kHalf : kTile, rows = std::min(step, length - q0);
            const int seen = std::min(keys, q0 + rows - k0), columns = padded(seen);
            const float *q = head.q.row(q0), *d_out = head.dout.row(q0);
            tile_gemm(rows, columns, D, q, head.q.ld, 1, k_transposed, kTile, p, kTile,
                      TileStore::overwrite);
            tile_gemm(rows, columns, D, d_out, head.dout.ld, 1, v_transposed, kTile, ds, kTile,
                      TileStore::overwrite);
            gradients(head, q0, rows, k0, seen);
            tile_gemm(rows, D, seen, ds, kTile, 1, k.row(k0), k.ld, head.dq.row(q0), head.dq.ld,
                      k0 == 0 ? TileStore::overwrite : TileStore::accumulate); // (X5)
            tile_gemm(seen, D, rows, ds, 1, kTile, q, head.q.ld, dk_block, D,
                      TileStore::accumulate);
            tile_gemm(seen, D, rows, p, 1, kTile, d_out, head.dout.ld, dv_block, D,
                      TileStore::accumulate); // (X6)
            q0 += rows;
        }
    }

    void run(const std::vector<Head<T>>& heads) const {
        for (int k0 = 0; k0 < length; k0 += kTile) {
            const int keys = std::min(kTile, length - k0);
            transpose_tile(k_transposed, kTile, k.row(k0), k.ld, keys, D, padded(keys));
            transpose_tile(v_transposed, kTile, v.row(k0), v.ld, keys, D, padded(keys));
            std::fill_n(dk_block, keys * D, 0.0f);
            std::fill_n(dv_block, keys * D, 0.0f);
            for (const Head<T>& head : heads) attend(head, k0, keys);
            for (int j = 0; j < keys; j++) {
                std::copy_n(dk_block + j * D, D, dk.row(k0 + j));
                std::copy_n(dv_block + j * D, D, dv.row(k0 + j));
            }
        }
    }
};

struct Document {
    int64_t begin, length;
};

// The longest first, so that no thread is left with one at the end.
std::vector<Document> list_documents(const View& doc_start) {
    std::vector<Document> documents;
    const int32_t* start = doc_start.as<int32_t>();
    for (int64_t n = 0; n < doc_start.rows(); n++) {
        if (start[n] == n) documents.push_back({n, 0});
        documents.back().length++;
    }
    std::stable_sort(documents.begin(), documents.end(),
                     [](const Document& a, const Document& b) { return a.length > b.length; });
    return documents;
}

template <class T>
void backward_documents(Ctx& ctx, View dq, View dk, View dv, const View& dout, const View& out,
                        const View& lse, const View& q, const View& k, const View& v,
                        const View& doc_start, int heads, int kv_heads) {
    const std::vector<Document> documents = list_documents(doc_start);
    if (documents.empty()) return;
    const int D = int(q.shape[1] / heads), group = heads / kv_heads;
    const int64_t block_size = int64_t(D) * kTile, longest = documents[0].length;
    const int64_t widened = std::is_same_v<T, bf16> ? longest * D : 0; // a head's rows
    const int64_t room =
        4 * block_size + 2 * kTile * kTile + group * longest + (4 + 4 * group) * widened;
    ScratchFrame frame(ctx.scratch);
    float* memory = ctx.scratch.alloc_of<float>(room * omp_get_max_threads());
    parallel_for_dynamic(int64_t(documents.size()) * kv_heads, [&](int64_t index, int thread) {
        const Document& doc = documents[index / kv_heads];
        const int64_t hkv = index % kv_heads;
        float* block = memory + thread * room;
        auto take = [&](int64_t count) { return (block += count) - count; };
        auto tensor = [&](const View& view, int64_t h) {
            return Tensor<T>(view, doc.begin, h * D, D, take(widened));
        };
        Task<T> task{int(doc.length),     D,
                     tensor(k, hkv),      tensor(v, hkv),
                     tensor(dk, hkv),     tensor(dv, hkv),
                     take(block_size),    take(block_size),
                     take(block_size),    take(block_size),
                     take(kTile * kTile), take(kTile * kTile)};
        task.k.read(doc.length, D);
        task.v.read(doc.length, D);
        std::vector<Head<T>> group_heads;
        for (int64_t h = hkv * group; h < (hkv + 1) * group; h++) {
            const Tensor<T> o = tensor(out, h);
            const Head<T> head{tensor(q, h),    tensor(dq, h),
                               tensor(dout, h), lse.as<float>() + doc.begin * lse.ld + h,
                               lse.ld,          take(doc.length)};
            for (const Tensor<T>* read : {&o, &head.q, &head.dout}) read->read(doc.length, D);
            for (int64_t i = 0; i < doc.length; i++)
                head.delta[i] = dot(head.dout.row(i), o.row(i), D);
            group_heads.push_back(head);
        }
        task.run(group_heads);
        task.dk.write(doc.length, D);
        task.dv.write(doc.length, D);
        for (const Head<T>& head : group_heads) head.dq.write(doc.length, D);
    });
}

} // namespace

void cpu::attention_backward(Ctx& ctx, View dq, View dk, View dv, const View& dout, const View& out,
                             const View& lse, const View& q, const View& k, const View& v,
                             const View& doc_start, int heads, int kv_heads) {
    with_real(q.dtype, [&](auto x) {
        backward_documents<decltype(x)>(ctx, dq, dk, dv, dout, out, lse, q, k, v, doc_start, heads,
                                        kv_heads);
    });
}
