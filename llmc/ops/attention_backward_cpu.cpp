// Backward of attention on the CPU. One task = one document's key/value head with the query heads
// that share it: it walks key blocks, then query tiles, and owns all it writes. Contract:
// attention.h.
#include "llmc/device/parallel.h"
#include "llmc/device/simd.h"
#include "llmc/device/tile.h"
#include "llmc/ops/attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace {

constexpr int kTile = 64; // keys of a block and query rows of a tile

struct Tensor { // one head's columns of a strided tensor
    const float* data;
    int64_t ld;
    const float* row(int64_t n) const { return data + n * ld; }
};

struct TaskScratch {
    float *k_transposed, *v_transposed; // (D, kTile)
    float *p, *ds;                      // (kTile, kTile)
    float* delta;                       // (rows of the document): sum_d dout * out
};

void transpose(float* out, const Tensor& in, int64_t row, int count, int D) {
    for (int d = 0; d < D; d++) {
        float* line = out + d * kTile;
        for (int j = 0; j < count; j++) line[j] = in.row(row + j)[d];
        std::fill(line + count, line + kTile, 0.0f);
    }
}

// p and ds of `rows` queries from position q0 against the keys from position k0 of the document.
void tile_gradients(const TaskScratch& s, int rows, int q0, int k0, int D, const float* lse,
                    int64_t lse_ld, const float* delta) {
    const float scale = 1.0f / std::sqrt(float(D));
    for (int r = 0; r < rows; r++) {
        float *p = s.p + r * kTile, *ds = s.ds + r * kTile;
        const int valid = std::min(kTile, q0 + r - k0 + 1);
        for (int j = 0; j < kTile; j += kLanes) {
            Vf prob = exp(load(p + j) * scale - lse[r * lse_ld]);
            if (j + kLanes > valid)
                for (int i = std::max(0, valid - j); i < kLanes; i++) prob[i] = 0;
            store(p + j, prob);
            store(ds + j, prob * (load(ds + j) - delta[r]) * scale); // (X4)
        }
    }
}

} // namespace

void cpu::attention_backward(Ctx& ctx, View dq, View dk, View dv, const View& dout, const View& out,
                             const View& lse, const View& q, const View& k, const View& v,
                             const View& doc_start, int heads, int kv_heads) {
    const int64_t N = q.shape[0];
    const int D = int(q.shape[1] / heads), group = heads / kv_heads;
    const int32_t* start = doc_start.as<int32_t>();
    std::vector<int64_t> begins;
    int64_t longest = 0;
    for (int64_t n = 0; n < N; n++)
        if (start[n] == n) begins.push_back(n);
    begins.push_back(N);
    for (size_t i = 0; i + 1 < begins.size(); i++)
        longest = std::max(longest, begins[i + 1] - begins[i]);
    ScratchFrame frame(ctx.scratch);
    const int64_t room = 2 * D * kTile + 2 * kTile * kTile + (longest + 15) / 16 * 16;
    float* memory = ctx.scratch.alloc_of<float>(room * omp_get_max_threads());

    parallel_for_dynamic(int64_t(begins.size() - 1) * kv_heads, [&](int64_t task, int thread) {
        const int64_t begin = begins[task / kv_heads], hkv = task % kv_heads;
        const int length = int(begins[task / kv_heads + 1] - begin);
        TaskScratch s;
        s.k_transposed = memory + thread * room;
        s.v_transposed = s.k_transposed + D * kTile;
        s.p = s.v_transposed + D * kTile;
        s.ds = s.p + kTile * kTile;
        s.delta = s.ds + kTile * kTile;
        auto head = [&](const View& view, int64_t h) {
            return Tensor{view.as<float>() + h * D, view.ld};
        };
        auto rows_at = [&](View& view, int64_t row, int64_t h) {
            return view.as<float>() + row * view.ld + h * D;
        };
        const Tensor K = head(k, hkv), V = head(v, hkv);
        for (int64_t n = begin; n < begin + length; n++) {
            std::fill_n(rows_at(dk, n, hkv), D, 0.0f);
            std::fill_n(rows_at(dv, n, hkv), D, 0.0f);
            std::fill_n(rows_at(dq, n, hkv * group), group * D, 0.0f);
        }
        for (int64_t h = hkv * group; h < (hkv + 1) * group; h++) {
            const Tensor Q = head(q, h), dO = head(dout, h), O = head(out, h);
            for (int i = 0; i < length; i++) {
                float sum = 0;
                for (int d = 0; d < D; d++) sum += dO.row(begin + i)[d] * O.row(begin + i)[d];
                s.delta[i] = sum;
            }
            for (int k0 = 0; k0 < length; k0 += kTile) {
                const int keys = std::min(kTile, length - k0);
                transpose(s.k_transposed, K, begin + k0, keys, D);
                transpose(s.v_transposed, V, begin + k0, keys, D);
                for (int q0 = k0; q0 < length; q0 += kTile) {
                    const int rows = std::min(kTile, length - q0);
                    const int64_t row = begin + q0;
                    tile_gemm(rows, kTile, D, Q.row(row), Q.ld, 1, s.k_transposed, kTile, s.p,
                              kTile, TileStore::overwrite);
                    tile_gemm(rows, kTile, D, dO.row(row), dO.ld, 1, s.v_transposed, kTile, s.ds,
                              kTile, TileStore::overwrite);
                    tile_gradients(s, rows, q0, k0, D, lse.as<float>() + row * lse.ld + h, lse.ld,
                                   s.delta + q0);
                    tile_gemm(rows, D, keys, s.ds, kTile, 1, K.row(begin + k0), K.ld,
                              rows_at(dq, row, h), dq.ld, TileStore::accumulate); // (X5)
                    tile_gemm(keys, D, rows, s.ds, 1, kTile, Q.row(row), Q.ld,
                              rows_at(dk, begin + k0, hkv), dk.ld, TileStore::accumulate);
                    tile_gemm(keys, D, rows, s.p, 1, kTile, dO.row(row), dO.ld,
                              rows_at(dv, begin + k0, hkv), dv.ld, TileStore::accumulate); // (X6)
                }
            }
        }
    });
}
