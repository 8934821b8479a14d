// Backward of attention on the CPU. One task = one document's key/value head with the query heads
// that share it: it walks key blocks, then heads, then tiles of queries, and owns all it writes.
// Contract: attention.h.
#include "llmc/device/operand.h"
#include "llmc/device/parallel.h"
#include "llmc/device/simd.h"
#include "llmc/device/tile.h"
#include "llmc/ops/attention.h"

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

namespace {

constexpr int kTile = 64; // keys of a block and query rows of a tile
constexpr int kHalf = 32; // query rows of a tile on the diagonal: half its keys are masked

int padded(int count) { return round_up(count, kLanes); }

// One head's columns of a document's rows.
template <class T> struct Columns {
    T* data;
    int64_t ld;
    Columns(const View& view, int64_t begin, int64_t column)
        : data(const_cast<View&>(view).as<T>() + begin * view.ld + column), ld(view.ld) {}
    T* row(int64_t n) const { return data + n * ld; }
    void write(int64_t n, const float* in, int64_t rows, int D) const {
        for (int64_t r = 0; r < rows; r++) convert(row(n + r), in + r * D, D);
    }
};

template <class T> float dot(const T* a, const T* b, int D) {
    Vf sum{};
    for_vectors(D, [&](int64_t d, int count) {
        sum += load_tail(a + d, count, 0.0f) * load_tail(b + d, count, 0.0f);
    });
    return lane_sum(sum);
}

// A document's rows as the left factor of a product over D, and as the right one of a product over
// rows.
template <class T> struct Rows {
    typedef typename Operand<T>::X X;
    OperandBlock<X> by_columns, by_rows;
    const X* from(int64_t n) const { return by_rows.row(Operand<T>::terms(n)); } // n even
};

template <class T> struct Head { // a query head
    Rows<T> q, dout;
    float* dq;        // (rows of the document, D)
    const float* lse; // of the document's first row
    int64_t lse_ld;
    const float* delta; // (rows of the document): sum_d dout * out
};

// The weights and the score gradients of a tile of queries, stored for the products they enter.
template <class T> struct Gradients;
template <> struct Gradients<float> {
    float *p, *ds; // (kTile, kTile)
    static int64_t floats() { return 0; }
    Gradients(float* scores, float* dscores, float*) : p(scores), ds(dscores) {}
    const float* ds_by_columns() const { return ds; }
    void store(int r, int j, const Vf* prob, const Vf* dscore, int rows) const {
        for (int i = 0; i < rows; i++) {
            ::store(p + (r + i) * kTile + j, prob[i]);
            ::store(ds + (r + i) * kTile + j, dscore[i]);
        }
    }
};
template <> struct Gradients<bf16> {
    Pair *p, *ds; // pairs along the queries
    bf16* ds_rows;
    static int64_t floats() { return kTile * kTile * 3 / 2; }
    Gradients(float*, float*, float* room)
        : p(reinterpret_cast<Pair*>(room)), ds(p + kTile * kTile / 2),
          ds_rows(reinterpret_cast<bf16*>(ds + kTile * kTile / 2)) {}
    const Pair* ds_by_columns() const { return as_pairs(ds_rows); }
    void store(int r, int j, const Vf* prob, const Vf* dscore, int rows) const {
        store_pairs(p + r / 2 * kTile + j, prob[0], prob[1]);
        store_pairs(ds + r / 2 * kTile + j, dscore[0], dscore[1]);
        for (int i = 0; i < rows; i++) ::store(ds_rows + (r + i) * kTile + j, dscore[i]);
    }
};

template <class T> struct Task {
    typedef Operand<T> Op;
    typedef typename Op::X X;
    int length, D;
    Columns<T> k, v, dk, dv;
    X *k_transposed, *v_transposed,
        *k_room;                    // of the key block at hand, twice (D, kTile), (kTile, D)
    float *dk_block, *dv_block;     // (kTile, D)
    float *scores, *dscores, *room; // (kTile, kTile), and what Gradients needs

    // Weights and score gradients of `rows` queries from position q0 against `keys` keys from k0.
    void gradients(const Gradients<T>& out, const Head<T>& head, int q0, int rows, int k0,
                   int keys) const {
        const float scale = 1.0f / std::sqrt(float(D));
        for (int r = 0; r < rows; r += 2) {
            const int both = std::min(2, rows - r);
            for (int j = 0; j < padded(keys); j += kLanes) {
                Vf prob[2] = {}, dscore[2] = {};
                for (int i = 0; i < both; i++) {
                    const int at = (r + i) * kTile + j, q = q0 + r + i, valid = q - k0 + 1 - j;
                    prob[i] = exp(load(scores + at) * scale - head.lse[q * head.lse_ld]);
                    if (valid < kLanes || j + kLanes > keys)
                        prob[i] = select(kLaneIndex < std::min(valid, keys - j), prob[i], Vf{});
                    dscore[i] = prob[i] * (load(dscores + at) - head.delta[q]) * scale; // (X4)
                }
                out.store(r, j, prob, dscore, both);
            }
        }
    }

    void attend(const Head<T>& head, const OperandBlock<X>& k_by_rows, int k0, int keys) const {
        const int terms = int(Op::terms(D));
        const Gradients<T> g(scores, dscores, room);
        for (int q0 = k0; q0 < length;) {
            const int step = q0 < k0 + kTile ? kHalf : kTile, rows = std::min(step, length - q0);
            const int seen = std::min(keys, q0 + rows - k0), columns = padded(seen);
            auto product = [&](float* c, const OperandBlock<X>& a, const X* b) {
                tile_gemm(rows, columns, terms, a.row(q0), a.ld, 1, b, kTile, c, kTile,
                          TileStore::overwrite);
            };
            product(scores, head.q.by_columns, k_transposed);
            product(dscores, head.dout.by_columns, v_transposed);
            gradients(g, head, q0, rows, k0, seen);
            tile_gemm(rows, D, int(Op::terms(seen)), g.ds_by_columns(), Op::terms(kTile), 1,
                      k_by_rows.data, k_by_rows.ld, head.dq + int64_t(q0) * D, D,
                      k0 == 0 ? TileStore::overwrite : TileStore::accumulate); // (X5)
            auto over_queries = [&](float* c, const X* a, const Rows<T>& b) {
                tile_gemm(seen, D, int(Op::terms(rows)), a, 1, kTile, b.from(q0), b.by_rows.ld, c,
                          D, TileStore::accumulate);
            };
            over_queries(dk_block, g.ds, head.q);
            over_queries(dv_block, g.p, head.dout); // (X6)
            q0 += rows;
        }
    }

    void run(const std::vector<Head<T>>& heads) const {
        for (int k0 = 0; k0 < length; k0 += kTile) {
            const int keys = std::min(kTile, length - k0);
            Op::transpose(k_transposed, kTile, k.row(k0), k.ld, keys, D, padded(keys));
            Op::transpose(v_transposed, kTile, v.row(k0), v.ld, keys, D, padded(keys));
            const OperandBlock<X> k_by_rows = Op::by_rows(k.row(k0), k.ld, keys, D, k_room);
            std::fill_n(dk_block, keys * D, 0.0f);
            std::fill_n(dv_block, keys * D, 0.0f);
            for (const Head<T>& head : heads) attend(head, k_by_rows, k0, keys);
            dk.write(k0, dk_block, keys, D);
            dv.write(k0, dv_block, keys, D);
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

// Floats of a thread. Pairs of bf16 are copies; floats are read where they lie.
template <class T> int64_t rows_room(int64_t longest, int D) { // of one tensor of a head, once
    return std::is_same_v<T, bf16> ? (longest + 1) * (D + 1) / 2 : 0;
}
template <class T> int64_t thread_room(int64_t longest, int D, int group) {
    const int64_t head = longest * (D + 1) + 4 * rows_room<T>(longest, D);
    return 5 * int64_t(D + 1) * kTile + 2 * kTile * kTile + Gradients<T>::floats() + group * head;
}

template <class T>
void backward_documents(Ctx& ctx, View dq, View dk, View dv, const View& dout, const View& out,
                        const View& lse, const View& q, const View& k, const View& v,
                        const View& doc_start, int heads, int kv_heads) {
    typedef Operand<T> Op;
    typedef typename Op::X X;
    const std::vector<Document> documents = list_documents(doc_start);
    if (documents.empty()) return;
    const int D = int(q.shape[1] / heads), group = heads / kv_heads;
    const int64_t block_size = int64_t(D + 1) * kTile, longest = documents[0].length;
    const int64_t room = thread_room<T>(longest, D, group);
    ScratchFrame frame(ctx.scratch);
    float* memory = ctx.scratch.alloc_of<float>(room * omp_get_max_threads());
    parallel_for_dynamic(int64_t(documents.size()) * kv_heads, [&](int64_t index, int thread) {
        const Document& doc = documents[index / kv_heads];
        const int64_t hkv = index % kv_heads;
        float* free = memory + thread * room;
        auto take = [&](int64_t count) { return (free += count) - count; };
        auto take_x = [&](int64_t count) { return reinterpret_cast<X*>(take(count)); };
        auto columns = [&](const View& view, int64_t h) {
            return Columns<T>(view, doc.begin, h * D);
        };
        Task<T> task{int(doc.length),     D,
                     columns(k, hkv),     columns(v, hkv),
                     columns(dk, hkv),    columns(dv, hkv),
                     take_x(block_size),  take_x(block_size),
                     take_x(block_size),  take(block_size),
                     take(block_size),    take(kTile * kTile),
                     take(kTile * kTile), take(Gradients<T>::floats())};
        auto rows = [&](const Columns<T>& c) {
            return Rows<T>{
                Op::by_columns(c.data, c.ld, doc.length, D, take_x(rows_room<T>(doc.length, D))),
                Op::by_rows(c.data, c.ld, doc.length, D, take_x(rows_room<T>(doc.length, D)))};
        };
        std::vector<Head<T>> group_heads;
        for (int64_t h = hkv * group; h < (hkv + 1) * group; h++) {
            const Columns<T> o = columns(out, h), d = columns(dout, h);
            float* delta = take(doc.length);
            for (int64_t i = 0; i < doc.length; i++) delta[i] = dot(d.row(i), o.row(i), D);
            group_heads.push_back({rows(columns(q, h)), rows(d), take(doc.length * D),
                                   lse.as<float>() + doc.begin * lse.ld + h, lse.ld, delta});
        }
        task.run(group_heads);
        for (int64_t h = 0; h < group; h++)
            columns(dq, hkv * group + h).write(0, group_heads[h].dq, doc.length, D);
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

size_t cpu::attention_backward_scratch(const Ctx& ctx, int64_t, int64_t longest, int heads,
                                       int kv_heads, int head_dim) {
    const int group = heads / kv_heads;
    const int64_t floats = ctx.storage() == Dtype::bf16
                               ? thread_room<bf16>(longest, head_dim, group)
                               : thread_room<float>(longest, head_dim, group);
    return size_t(ctx.threads * floats) * sizeof(float);
}
