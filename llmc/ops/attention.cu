// Causal attention over packed documents on the GPU, in the manner of FlashAttention-2 (Dao, arXiv
// 2307.08691). Contract: attention.h; equations (X1)-(X6) in doc/equations.md; tiles and products:
// attention_tile.cuh.
//
// Differences from the paper: two backward kernels, one for the keys' and one for the queries'
// gradients, so that nothing is added by atomics and every sum has one order; a forward tile of
// keys starts at its document's start, so that a row has the same bits wherever it lies.
#include "llmc/ops/attention.h"
#include "llmc/ops/attention_tile.cuh"

#include <cmath>

namespace {

constexpr float kLn2 = 0.693147181f;
constexpr int kNoRow = 0x7fffffff; // doc_start of rows past the end

template <class T> struct Inputs {
    HeadRows<T> q, k, v; // of head 0
    const int* doc_start;
    int N, H, HKV;
    float scale; // 1 / sqrt(D)

    __device__ __forceinline__ HeadRows<T> head(const HeadRows<T>& x, int h) const {
        return {x.first + int64_t(h) * x.D, x.ld, x.D, x.aligned};
    }
};

// ------------------------------------------------------------------------------------------------
// forward

// The key tiles of kRows query rows, document by document, each from its document's start:
//   rows of the tile   a a a b b b b c      key tiles   of a: from a's first row up to its last
//   doc_start          0 0 0 67 ...                     here, then of b, then of c
// All warps of a block step alike.
template <int kRows, int kColumns> struct KeyTiles {
    int starts[kRows / 32]; // doc_start of the tile's rows lane, lane + 32
    int first;              // row of the tile
    int row, row_end;       // those of the present document; equal: no more tiles
    int key;

    __device__ __forceinline__ KeyTiles(const int* doc_start, int first_, int N) : first(first_) {
#pragma unroll
        for (int i = 0; i < kRows / 32; i++) {
            const int n = first + 32 * i + int(threadIdx.x) % 32;
            starts[i] = n < N ? doc_start[n] : kNoRow;
        }
        open(first);
    }
    __device__ __forceinline__ bool valid() const { return row < row_end; }
    __device__ __forceinline__ void next() {
        key += kColumns;
        if (key >= row_end) open(row_end);
    }

  private:
    __device__ __forceinline__ void open(int at) {
        row = row_end = at;
        if (at - first >= kRows) return;
        key = __shfl_sync(~0u, starts[0], (at - first) % 32);
#pragma unroll
        for (int i = 1; i < kRows / 32; i++) {
            const int start = __shfl_sync(~0u, starts[i], (at - first) % 32);
            if ((at - first) / 32 == i) key = start;
        }
        if (key == kNoRow) return;
        row_end = first;
#pragma unroll
        for (int i = 0; i < kRows / 32; i++) // doc_start never falls
            row_end += __popc(__ballot_sync(~0u, starts[i] <= key));
    }
};

// One block = 64 query rows of one head, a warp 16 of them, those with most keys first. The rows'
// factor, sums and output stay in registers; key and value tiles pass through two buffers in
// shared memory, the next one on its way while this one is used, read once per block.
//   | queries, later the output | keys, values of stage 0 | of stage 1 | exchange (fp32) |
// Bound by the tensor cores where documents are long; 4 N D mma flops for each row and key.
template <class T, int kWidth>
__global__ void __launch_bounds__(Tiling<T, kWidth>::kThreads, 1)
    attention_forward_kernel(Inputs<T> a, HeadRows<T> out, float* lse, int64_t lse_ld) {
    using S = Tiling<T, kWidth>;
    constexpr int kColumns = S::kForwardColumns, N = kColumns / 8, kTile = kColumns * kWidth;
    DYNAMIC_SHARED(T, shared);
    T *queries = shared, *stages = shared + S::kRows * kWidth;
    T* exchange = stages + S::kStages * 2 * kTile;
    const int tiles = (a.N + S::kRows - 1) / S::kRows, h = int(blockIdx.x) % a.H;
    const int first = (tiles - 1 - int(blockIdx.x) / a.H) * S::kRows;
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, t = lane % 4;
    const int warp_row = first + 16 * warp, row = warp_row + lane / 4;
    const HeadRows<T> k = a.head(a.k, h / (a.H / a.HKV)), v = a.head(a.v, h / (a.H / a.HKV));
    KeyTiles<S::kRows, kColumns> next(a.doc_start, first, a.N);
    auto load = [&](int stage) {
        T* to = stages + stage * 2 * kTile;
        if (next.valid()) load_tile<T, kWidth, kColumns>(to, k, next.key, next.row_end - 1);
        if (next.valid()) load_tile<T, kWidth, kColumns>(to + kTile, v, next.key, next.row_end - 1);
        cp_async_commit();
    };
    load_tile<T, kWidth, S::kRows>(queries, a.head(a.q, h), first, a.N - 1);
    cp_async_commit();
    load(0);
    cp_async_wait<1>();
    __syncthreads();
    const Left<T, kWidth, true> left(queries + 16 * warp * kWidth);
    Softmax<kWidth> rows;
    for (int stage = 0; next.valid(); stage = (stage + 1) % S::kStages) {
        const KeyTiles<S::kRows, kColumns> now = next;
        next.next();
        cp_async_wait<0>();
        __syncthreads(); // the tile is here, and no warp uses the one before any more
        if (S::kStages == 2) load(1 - stage);
        const T* tile = stages + stage * 2 * kTile;
        const bool outside = warp_row + 15 < now.row || warp_row >= now.row_end;
        if (!outside && now.key <= warp_row + 15) {
            float s[1][N][4];
            scores(s, left, tile); // (X1)
            if (warp_row < now.row || warp_row + 15 >= now.row_end ||
                now.key + kColumns - 1 > warp_row)
#pragma unroll
                for (int j = 0; j < N; j++)
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        const int n = row + i / 2 * 8, key = now.key + 8 * j + 2 * t + i % 2;
                        if (n < now.row || n >= now.row_end || key > n) s[0][j][i] = -INFINITY;
                    }
            rows.add(s, a.scale * kLog2e);
            mix<kWidth>(rows.out, s, tile + kTile, 0, exchange); // (X3)
        }
        if (S::kStages == 1) {
            __syncthreads();
            load(0);
        }
    }
    rows.finish();
    const float factor[2] = {1 / rows.sum[0], 1 / rows.sum[1]};
    store_rows<T, kWidth>(a.head(out, h), warp_row, a.N - warp_row, queries + 16 * warp * kWidth,
                          rows.out, factor);
    for (int r = 0; r < 2 && t == 0; r++)
        if (row + 8 * r < a.N)
            lse[(row + 8 * r) * lse_ld + h] = rows.largest[r] * kLn2 + logf(rows.sum[r]);
}

// ------------------------------------------------------------------------------------------------
// backward

// Scratch of the backward: what both kernels need of a row, in lines of `line` rows, a multiple of
// 64. Rows past N start in no document.
struct RowTerms {
    float *lse, *delta; // (H, line): lse in units of ln 2; do_n . o_n
    int* start;         // (line)
    int line;

    static int64_t line_of(int64_t N) { return (N + 63) / 64 * 64; }
};

// One warp = 32 rows of one head; a row's vectors lie side by side over the lanes. dout and out are
// read once. Bound by memory.
template <class T, int kWidth>
__global__ void __launch_bounds__(128)
    attention_terms_kernel(RowTerms terms, HeadRows<T> dout, HeadRows<T> out, const float* lse,
                           int64_t lse_ld, const int* doc_start, int N, int H) {
    constexpr int kLanes = kWidth / kVector<T>, kPerPass = 32 / kLanes; // lanes of a row; rows
    const int number = int(blockIdx.x) * 4 + int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    const int h = number % H, first = number / H * 32, mine = first + lane;
    if (first >= terms.line) return;
    float delta = 0;
    for (int pass = 0; pass < kLanes; pass++) {
        const int n = first + pass * kPerPass + lane / kLanes, piece = lane % kLanes;
        float sum = 0, x[kVector<T>], y[kVector<T>];
        if (n < N && piece * kVector<T> < out.D) {
            unpack(x, load_vector(dout.first + n * dout.ld + h * out.D, out.D, piece, dout.aligned,
                                  0));
            unpack(y,
                   load_vector(out.first + n * out.ld + h * out.D, out.D, piece, out.aligned, 0));
#pragma unroll
            for (int i = 0; i < kVector<T>; i++) sum += x[i] * y[i];
        }
#pragma unroll
        for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(~0u, sum, lanes);
        sum = __shfl_sync(~0u, sum, lane % kPerPass * kLanes);
        if (lane / kPerPass == pass) delta = sum;
    }
    const int64_t at = int64_t(h) * terms.line + mine;
    terms.delta[at] = delta;
    terms.lse[at] = mine < N ? lse[mine * lse_ld + h] * kLog2e : 0;
    if (h == 0) terms.start[mine] = mine < N ? doc_start[mine] : kNoRow;
}

// Scores and do . v of 16 rows by 8 N columns -> the probabilities p and ds sqrt(D), (X4), in
// place. visible(row, column): of the fragment.
template <int N, class Visible, class Lse, class Delta>
__device__ __forceinline__ void differentiate(float (&s)[1][N][4], float (&ds)[1][N][4],
                                              float scale_log2, const Visible& visible,
                                              const Lse& lse, const Delta& delta) {
#pragma unroll
    for (int j = 0; j < N; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float p = exp2_approx(s[0][j][i] * scale_log2 - lse(j, i));
            s[0][j][i] = visible(j, i) ? p : 0;
            ds[0][j][i] = visible(j, i) ? p * (ds[0][j][i] - delta(j, i)) : 0;
        }
}

// One block = 64 query rows of one head, as in the forward; their dq stays in registers.
//   | queries, later dq | dout | keys, values of stage 0 | of stage 1 | exchange (fp32) |
template <class T, int kWidth>
__global__ void __launch_bounds__(Tiling<T, kWidth>::kThreads, 1)
    attention_dq_kernel(Inputs<T> a, HeadRows<T> dq, HeadRows<T> dout, RowTerms terms) {
    using S = Tiling<T, kWidth>;
    constexpr int kColumns = S::kBackwardColumns, N = kColumns / 8, kTile = kColumns * kWidth;
    DYNAMIC_SHARED(T, shared);
    T *queries = shared, *douts = shared + S::kRows * kWidth, *stages = douts + S::kRows * kWidth;
    T* exchange = stages + S::kStages * 2 * kTile;
    const int tiles = (a.N + S::kRows - 1) / S::kRows, h = int(blockIdx.x) % a.H;
    const int first = (tiles - 1 - int(blockIdx.x) / a.H) * S::kRows;
    const int last = min(first + S::kRows, a.N) - 1;
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, t = lane % 4;
    const int warp_row = first + 16 * warp, row = warp_row + lane / 4;
    const HeadRows<T> k = a.head(a.k, h / (a.H / a.HKV)), v = a.head(a.v, h / (a.H / a.HKV));
    auto load = [&](int stage, int key) {
        T* to = stages + stage * 2 * kTile;
        if (key <= last) load_tile<T, kWidth, kColumns>(to, k, key, last);
        if (key <= last) load_tile<T, kWidth, kColumns>(to + kTile, v, key, last);
        cp_async_commit();
    };
    load_tile<T, kWidth, S::kRows>(queries, a.head(a.q, h), first, a.N - 1);
    load_tile<T, kWidth, S::kRows>(douts, a.head(dout, h), first, a.N - 1);
    cp_async_commit();
    const int key_first = terms.start[first];
    load(0, key_first);
    float lse[2], delta[2], sum[1][kWidth / 8][4] = {};
    int start[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int64_t at = int64_t(h) * terms.line + row + 8 * r;
        lse[r] = terms.lse[at];
        delta[r] = terms.delta[at];
        start[r] = terms.start[row + 8 * r];
    }
    const int warp_start = terms.start[warp_row], warp_last_start = terms.start[warp_row + 15];
    cp_async_wait<1>();
    __syncthreads();
    const Left<T, kWidth, true> left_q(queries + 16 * warp * kWidth);
    const Left<T, kWidth, true> left_do(douts + 16 * warp * kWidth);
    int stage = 0;
    for (int key = key_first; key <= last; key += kColumns, stage = (stage + 1) % S::kStages) {
        cp_async_wait<0>();
        __syncthreads();
        if (S::kStages == 2) load(1 - stage, key + kColumns);
        const T* tile = stages + stage * 2 * kTile;
        if (key <= warp_row + 15 && key + kColumns > warp_start) {
            float s[1][N][4], ds[1][N][4];
            scores(s, left_q, tile);
            scores(ds, left_do, tile + kTile);
            const bool whole = key >= warp_last_start && key + kColumns - 1 <= warp_row;
            differentiate(
                s, ds, a.scale * kLog2e,
                [&](int j, int i) {
                    const int at = key + 8 * j + 2 * t + i % 2;
                    return whole || (start[i / 2] <= at && at <= row + i / 2 * 8);
                },
                [&](int, int i) { return lse[i / 2]; }, [&](int, int i) { return delta[i / 2]; });
            mix<kWidth>(sum, ds, tile, 0, exchange); // (X5)
        }
        if (S::kStages == 1) {
            __syncthreads();
            load(0, key + kColumns);
        }
    }
    const float factor[2] = {a.scale, a.scale};
    store_rows<T, kWidth>(a.head(dq, h), warp_row, a.N - warp_row, queries + 16 * warp * kWidth,
                          sum, factor);
}

// One block = 64 keys of one key/value head, a warp 16 of them; dk and dv stay in registers while
// the queries and douts of the group's heads pass by, from the keys' own rows to the end of their
// last document. Scores are transposed: keys are rows, queries columns.
//   | keys, later dk | values, later dv | queries, douts, terms of stage 0 | stage 1 | exchange |
// Each of the group's heads reads queries and dout once per block.
template <class T, int kWidth>
__global__ void __launch_bounds__(Tiling<T, kWidth>::kThreads, 1)
    attention_dkv_kernel(Inputs<T> a, HeadRows<T> dk, HeadRows<T> dv, HeadRows<T> dout,
                         RowTerms terms) {
    using S = Tiling<T, kWidth>;
    constexpr int kColumns = S::kBackwardColumns, N = kColumns / 8, kTile = kColumns * kWidth;
    constexpr int kStage = 2 * kTile + 3 * kColumns * int(4 / sizeof(T)); // elements
    constexpr bool kKept = kWidth < 128;                                  // registers are short
    DYNAMIC_SHARED(T, shared);
    T *keys = shared, *values = shared + S::kRows * kWidth, *stages = values + S::kRows * kWidth;
    T* exchange = stages + S::kStages * kStage;
    const int first = int(blockIdx.x) / a.HKV * S::kRows, hkv = int(blockIdx.x) % a.HKV;
    const int last = min(first + S::kRows, a.N) - 1, group = a.H / a.HKV;
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, t = lane % 4;
    const int warp_key = first + 16 * warp, key = warp_key + lane / 4;
    int h = hkv * group, n = first; // the tile to load next
    auto ended = [&] { return h == (hkv + 1) * group; };
    auto load = [&](int stage) {
        if (!ended()) {
            T* to = stages + stage * kStage;
            load_tile<T, kWidth, kColumns>(to, a.head(a.q, h), n, a.N - 1);
            load_tile<T, kWidth, kColumns>(to + kTile, a.head(dout, h), n, a.N - 1);
            float* line = reinterpret_cast<float*>(to + 2 * kTile);
            const int part = int(threadIdx.x) / (kColumns / 4),
                      at = int(threadIdx.x) % (kColumns / 4) * 4;
            const int64_t from = int64_t(h) * terms.line + n + at;
            if (part == 0) cp_async16(line + at, terms.lse + from);
            if (part == 1) cp_async16(line + kColumns + at, terms.delta + from);
            if (part == 2) cp_async16(line + 2 * kColumns + at, terms.start + n + at);
            n += kColumns;
            if (n >= a.N || terms.start[n] > last) h++, n = first;
        }
        cp_async_commit();
    };
    load_tile<T, kWidth, S::kRows>(keys, a.head(a.k, hkv), first, a.N - 1);
    load_tile<T, kWidth, S::kRows>(values, a.head(a.v, hkv), first, a.N - 1);
    cp_async_commit();
    int row = n; // of the tile in use
    load(0);
    cp_async_wait<1>();
    __syncthreads();
    const Left<T, kWidth, kKept> left_k(keys + 16 * warp * kWidth);
    const Left<T, kWidth, kKept> left_v(values + 16 * warp * kWidth);
    float sum_k[1][kWidth / 8][4] = {}, sum_v[1][kWidth / 8][4] = {};
    int stage = 0;
    for (bool more = true; more; stage = (stage + 1) % S::kStages) {
        more = !ended();
        const int next_row = n;
        cp_async_wait<0>();
        __syncthreads();
        if (S::kStages == 2) load(1 - stage);
        const T* tile = stages + stage * kStage;
        const float* lse = reinterpret_cast<const float*>(tile + 2 * kTile);
        const float* delta = lse + kColumns;
        const int* start = reinterpret_cast<const int*>(delta + kColumns);
        if (row + kColumns > warp_key && start[0] <= warp_key + 15) {
            float s[1][N][4], ds[1][N][4];
            scores(s, left_k, tile);
            scores(ds, left_v, tile + kTile);
            const bool whole = row >= warp_key + 15 && start[kColumns - 1] <= warp_key;
            auto column = [&](int j, int i) { return 8 * j + 2 * t + i % 2; };
            differentiate(
                s, ds, a.scale * kLog2e,
                [&](int j, int i) {
                    const int at = key + i / 2 * 8;
                    return whole || (start[column(j, i)] <= at && at <= row + column(j, i));
                },
                [&](int j, int i) { return lse[column(j, i)]; },
                [&](int j, int i) { return delta[column(j, i)]; });
            mix<kWidth>(sum_v, s, tile + kTile, 0, exchange); // (X6)
            mix<kWidth>(sum_k, ds, tile, 0, exchange);        // (X5)
        }
        row = next_row;
        if (S::kStages == 1) {
            __syncthreads();
            load(0);
        }
    }
    const float scale[2] = {a.scale, a.scale}, one[2] = {1, 1};
    store_rows<T, kWidth>(a.head(dk, hkv), warp_key, a.N - warp_key, keys + 16 * warp * kWidth,
                          sum_k, scale);
    store_rows<T, kWidth>(a.head(dv, hkv), warp_key, a.N - warp_key, values + 16 * warp * kWidth,
                          sum_v, one);
}

// ------------------------------------------------------------------------------------------------
// launchers

template <class T>
Inputs<T> inputs_of(const View& q, const View& k, const View& v, const View& doc_start, int H,
                    int HKV) {
    const HeadRows<T> rows = head_rows<T>(q, H);
    return {rows,
            head_rows<T>(k, HKV),
            head_rows<T>(v, HKV),
            doc_start.as<int32_t>(),
            int(q.shape[0]),
            H,
            HKV,
            float(1 / std::sqrt(double(rows.D)))};
}

template <class T, int kWidth>
void forward(Ctx& ctx, View out, View lse, const View& q, const View& k, const View& v,
             const View& doc_start, int H, int HKV) {
    using S = Tiling<T, kWidth>;
    const Inputs<T> a = inputs_of<T>(q, k, v, doc_start, H, HKV);
    constexpr int kColumns = S::kForwardColumns;
    const size_t shared = size_t(S::kRows + S::kStages * 2 * kColumns) * kWidth * sizeof(T) +
                          size_t(S::exchange(kColumns)) * 4;
    LAUNCH(ctx, (attention_forward_kernel<T, kWidth>),
           (LaunchShape{(a.N + S::kRows - 1) / S::kRows * H, S::kThreads, 1, shared}), a,
           head_rows<T>(out, H), lse.as<float>(), lse.ld);
}

template <class T, int kWidth>
void backward(Ctx& ctx, View dq, View dk, View dv, const View& dout, const View& out,
              const View& lse, const View& q, const View& k, const View& v, const View& doc_start,
              int H, int HKV) {
    using S = Tiling<T, kWidth>;
    const Inputs<T> a = inputs_of<T>(q, k, v, doc_start, H, HKV);
    const int line = int(RowTerms::line_of(a.N)), tiles = (a.N + S::kRows - 1) / S::kRows;
    ScratchFrame frame(ctx.scratch);
    const size_t per_head = size_t(H) * size_t(line);
    const RowTerms terms{ctx.scratch.alloc_of<float>(per_head),
                         ctx.scratch.alloc_of<float>(per_head),
                         ctx.scratch.alloc_of<int>(size_t(line)), line};
    LAUNCH(ctx, (attention_terms_kernel<T, kWidth>),
           (LaunchShape{(line / 32 * H + 3) / 4, 128, 1, 0}), terms, head_rows<T>(dout, H),
           head_rows<T>(out, H), lse.as<float>(), lse.ld, a.doc_start, a.N, H);
    constexpr int kColumns = S::kBackwardColumns;
    const size_t shared = size_t(2 * S::kRows + S::kStages * 2 * kColumns) * kWidth * sizeof(T) +
                          size_t(S::exchange(kColumns)) * 4;
    LAUNCH(ctx, (attention_dq_kernel<T, kWidth>), (LaunchShape{tiles * H, S::kThreads, 1, shared}),
           a, head_rows<T>(dq, H), head_rows<T>(dout, H), terms);
    LAUNCH(
        ctx, (attention_dkv_kernel<T, kWidth>),
        (LaunchShape{tiles * HKV, S::kThreads, 1, shared + size_t(S::kStages) * 3 * kColumns * 4}),
        a, head_rows<T>(dk, HKV), head_rows<T>(dv, HKV), head_rows<T>(dout, H), terms);
}

} // namespace

void gpu::attention_forward(Ctx& ctx, View out, View lse, const View& q, const View& k,
                            const View& v, const View& doc_start, int heads, int kv_heads) {
    for_width(q.dtype, q.shape[1] / heads, [&]<class T, int kWidth>() {
        forward<T, kWidth>(ctx, out, lse, q, k, v, doc_start, heads, kv_heads);
    });
}

void gpu::attention_backward(Ctx& ctx, View dq, View dk, View dv, const View& dout, const View& out,
                             const View& lse, const View& q, const View& k, const View& v,
                             const View& doc_start, int heads, int kv_heads) {
    for_width(q.dtype, q.shape[1] / heads, [&]<class T, int kWidth>() {
        backward<T, kWidth>(ctx, dq, dk, dv, dout, out, lse, q, k, v, doc_start, heads, kv_heads);
    });
}

size_t gpu::attention_forward_scratch(const Ctx&, int64_t, int, int) { return 0; }

size_t gpu::attention_backward_scratch(const Ctx&, int64_t N, int64_t, int heads, int, int) {
    return size_t(RowTerms::line_of(N) * (2 * heads + 1)) * sizeof(float);
}
