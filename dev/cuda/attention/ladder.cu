// The attention ladder: causal forward over one document in bf16, grouped heads of width 128. What
// each version changes: README.md beside this file. The last one is the production kernel, whose
// file is included.
#include "dev/cuda/ladder.h"
#include "llmc/ops/attention.cu"

namespace {

constexpr int kWidth = 128, kTileRows = 64;

// Row `row` of head h: where its D elements start.
template <class T>
__device__ __forceinline__ const T* row_at(const HeadRows<T>& x, int h, int row) {
    return x.first + int64_t(row) * x.ld + h * x.D;
}

// 1: one thread = one row of one head, three passes over its keys.
__global__ void naive_kernel(Inputs<bf16> a, HeadRows<bf16> out) {
    const int i = int(blockIdx.x * blockDim.x + threadIdx.x), n = i / a.H, h = i % a.H;
    if (n >= a.N) return;
    const int hkv = h / (a.H / a.HKV);
    const bf16* q = row_at(a.q, h, n);
    auto score = [&](int j) {
        const bf16* k = row_at(a.k, hkv, j);
        float s = 0;
        for (int d = 0; d < kWidth; d++) s += to_float(q[d]) * to_float(k[d]);
        return s * a.scale * kLog2e;
    };
    float largest = -INFINITY, sum = 0;
    for (int j = a.doc_start[n]; j <= n; j++) largest = fmaxf(largest, score(j));
    for (int j = a.doc_start[n]; j <= n; j++) sum += exp2_approx(score(j) - largest);
    float o[kWidth] = {};
    for (int j = a.doc_start[n]; j <= n; j++) {
        const float p = exp2_approx(score(j) - largest) / sum;
        const bf16* v = row_at(a.v, hkv, j);
        for (int d = 0; d < kWidth; d++) o[d] += p * to_float(v[d]);
    }
    bf16* to = const_cast<bf16*>(row_at(out, h, n));
    for (int d = 0; d < kWidth; d++) to[d] = from_float<bf16>(o[d]);
}

// 2: one warp = one row of one head, a lane four columns; one pass with a running maximum.
__global__ void warp_kernel(Inputs<bf16> a, HeadRows<bf16> out) {
    constexpr int K = kWidth / 32;
    const int i = int(blockIdx.x * blockDim.x + threadIdx.x) / 32, n = i / a.H, h = i % a.H;
    const int lane = int(threadIdx.x) % 32;
    if (n >= a.N) return;
    const int hkv = h / (a.H / a.HKV);
    float largest = -INFINITY, sum = 0, q[K], o[K] = {};
    for (int e = 0; e < K; e++) q[e] = to_float(row_at(a.q, h, n)[32 * e + lane]);
    for (int j = a.doc_start[n]; j <= n; j++) {
        float s = 0;
        for (int e = 0; e < K; e++) s += q[e] * to_float(row_at(a.k, hkv, j)[32 * e + lane]);
        s = warp_sum(s) * a.scale * kLog2e;
        const float most = fmaxf(largest, s), shrink = exp2_approx(largest - most);
        const float p = exp2_approx(s - most);
        largest = most;
        sum = sum * shrink + p;
        for (int e = 0; e < K; e++)
            o[e] = o[e] * shrink + p * to_float(row_at(a.v, hkv, j)[32 * e + lane]);
    }
    for (int e = 0; e < K; e++)
        const_cast<bf16*>(row_at(out, h, n))[32 * e + lane] = from_float<bf16>(o[e] / sum);
}

// 3: one block = 64 rows of one head, a thread one of them; key and value tiles in shared memory.
__global__ void __launch_bounds__(kTileRows) tile_kernel(Inputs<bf16> a, HeadRows<bf16> out) {
    DYNAMIC_SHARED(bf16, keys);
    bf16* values = keys + kTileRows * kWidth;
    const int h = int(blockIdx.x) % a.H, first = int(blockIdx.x) / a.H * kTileRows;
    const int hkv = h / (a.H / a.HKV), n = first + int(threadIdx.x),
              last = min(first + 64, a.N) - 1;
    float largest = -INFINITY, sum = 0, q[kWidth], o[kWidth] = {};
    for (int d = 0; d < kWidth; d++) q[d] = to_float(row_at(a.q, h, min(n, last))[d]);
    for (int key = 0; key <= last; key += kTileRows) {
        __syncthreads();
        load_tile<bf16, kWidth, kTileRows>(keys, a.head(a.k, hkv), key, last);
        load_tile<bf16, kWidth, kTileRows>(values, a.head(a.v, hkv), key, last);
        cp_async_commit();
        cp_async_wait<0>();
        __syncthreads();
        for (int j = 0; j < kTileRows && key + j <= min(n, last); j++) {
            float s = 0, x[8];
            for (int piece = 0; piece < kWidth / 8; piece++) {
                unpack(x, ld128(piece_at<bf16, kWidth>(keys, j, piece)));
                for (int e = 0; e < 8; e++) s += q[8 * piece + e] * x[e];
            }
            s *= a.scale * kLog2e;
            const float most = fmaxf(largest, s), shrink = exp2_approx(largest - most);
            const float p = exp2_approx(s - most);
            largest = most;
            sum = sum * shrink + p;
            for (int piece = 0; piece < kWidth / 8; piece++) {
                unpack(x, ld128(piece_at<bf16, kWidth>(values, j, piece)));
                for (int e = 0; e < 8; e++) o[8 * piece + e] = o[8 * piece + e] * shrink + p * x[e];
            }
        }
    }
    bf16* to = const_cast<bf16*>(row_at(out, h, n));
    for (int d = 0; d < kWidth && n <= last; d++) to[d] = from_float<bf16>(o[d] / sum);
}

// 4: tensor cores. One warp = 16 rows, four warps a block; rows of a tile lie as in memory.
// 5: kSwizzle: as in the production kernel, which this one is without its second stage.
template <bool kSwizzle> __device__ __forceinline__ bf16* place(bf16* tile, int row, int piece) {
    return kSwizzle ? piece_at<bf16, kWidth>(tile, row, piece) : tile + row * kWidth + piece * 8;
}
template <bool kSwizzle>
__device__ __forceinline__ void copy_rows(bf16* tile, const HeadRows<bf16>& from, int begin,
                                          int last) {
    for (int i = int(threadIdx.x); i < kTileRows * kWidth / 8; i += int(blockDim.x)) {
        const int row = i / (kWidth / 8), piece = i % (kWidth / 8);
        st128(place<kSwizzle>(tile, row, piece),
              ld128(from.first + int64_t(min(begin + row, last)) * from.ld + piece * 8));
    }
}
template <bool kSwizzle>
__global__ void __launch_bounds__(128) tensor_kernel(Inputs<bf16> a, HeadRows<bf16> out) {
    constexpr int N = kTileRows / 8;
    DYNAMIC_SHARED(bf16, queries);
    bf16 *keys = queries + kTileRows * kWidth, *values = keys + kTileRows * kWidth;
    const int h = int(blockIdx.x) % a.H, first = int(blockIdx.x) / a.H * kTileRows;
    const int hkv = h / (a.H / a.HKV), last = min(first + kTileRows, a.N) - 1;
    const int warp_row = first + int(threadIdx.x) / 32 * 16, lane = int(threadIdx.x) % 32;
    const int row = warp_row + lane / 4, t = lane % 4;
    Softmax<kWidth> rows;
    copy_rows<kSwizzle>(queries, a.head(a.q, h), first, last);
    for (int key = 0; key <= last; key += kTileRows) {
        __syncthreads();
        copy_rows<kSwizzle>(keys, a.head(a.k, hkv), key, last);
        copy_rows<kSwizzle>(values, a.head(a.v, hkv), key, last);
        __syncthreads();
        float s[1][N][4] = {};
        for (int step = 0; step < kWidth / 16; step++) {
            uint32_t q[1][4], x[N / 2][4], b[N][2];
            const void *left[1], *from[N / 2];
            left[0] = place<kSwizzle>(queries, warp_row - first + lane % 16, 2 * step + lane / 16);
            for (int i = 0; i < N / 2; i++)
                from[i] = place<kSwizzle>(keys, 16 * i + lane / 16 * 8 + lane % 8,
                                          2 * step + lane / 8 % 2);
            ldmatrix_x4(q, left);
            ldmatrix_x4(x, from);
            split_pairs(b, x);
            mma_m16n8k16(s, q, b);
        }
        for (int j = 0; j < N; j++)
            for (int i = 0; i < 4; i++)
                if (key + 8 * j + 2 * t + i % 2 > row + i / 2 * 8) s[0][j][i] = -INFINITY;
        rows.add(s, a.scale * kLog2e);
        for (int step = 0; step < N / 2; step++) {
            uint32_t p[1][4], x[kWidth / 16][4], b[kWidth / 8][2];
            const void* from[kWidth / 16];
            for (int r = 0; r < 4; r++)
                p[0][r] = bf16_pair(s[0][2 * step + r / 2][r % 2 * 2],
                                    s[0][2 * step + r / 2][r % 2 * 2 + 1]);
            for (int i = 0; i < kWidth / 16; i++)
                from[i] = place<kSwizzle>(values, 16 * step + lane % 16, 2 * i + lane / 16);
            ldmatrix_x4_trans(x, from);
            split_pairs(b, x);
            mma_m16n8k16(rows.out, p, b);
        }
    }
    rows.finish();
    for (int j = 0; j < kWidth / 8; j++)
        for (int i = 0; i < 4; i++)
            if (row + i / 2 * 8 < a.N)
                const_cast<bf16*>(row_at(out, h, row + i / 2 * 8))[8 * j + 2 * t + i % 2] =
                    from_float<bf16>(rows.out[0][j][i] / rows.sum[i / 2]);
}

} // namespace

int main() {
    Ladder ladder;
    const int T = Ladder::kGpu ? 4096 : 192, H = Ladder::kGpu ? 32 : 2, HKV = H / 2;
    const Dtype x = Dtype::bf16;
    View q = ladder.make("q", x, T, H * kWidth), k = ladder.make("k", x, T, HKV * kWidth);
    View v = ladder.make("v", x, T, HKV * kWidth), out = ladder.make("out", x, T, H * kWidth);
    View lse = ladder.make("lse", Dtype::f32, T, H), start = ladder.make("start", Dtype::i32, T, 1);
    start = make_view(start.data, Dtype::i32, "start", T);
    for (const auto& [view, stream] : {std::pair(q, 1), {k, 2}, {v, 3}})
        ladder.fill_normal(view, uint64_t(stream));
    std::fill_n(start.as<int32_t>(), T, 0);

    // The reference's last and middle rows: in double, by the equations.
    auto error = [&] {
        double difference = 0, norm = 0;
        for (int n : {T / 2, T - 1})
            for (int h = 0; h < H; h++) {
                std::vector<double> p(size_t(n) + 1), want(kWidth, 0.0);
                double sum = 0;
                auto at = [&](const View& view, int row, int head, int d) {
                    return read_value(view, row * view.ld + head * kWidth + d);
                };
                for (int j = 0; j <= n; j++) {
                    double s = 0;
                    for (int d = 0; d < kWidth; d++)
                        s += at(q, n, h, d) * at(k, j, h / (H / HKV), d);
                    sum += p[size_t(j)] = std::exp(s / std::sqrt(double(kWidth)));
                }
                for (int j = 0; j <= n; j++)
                    for (int d = 0; d < kWidth; d++)
                        want[size_t(d)] += p[size_t(j)] / sum * at(v, j, h / (H / HKV), d);
                for (int d = 0; d < kWidth; d++) {
                    const double off = at(out, n, h, d) - want[size_t(d)];
                    difference += off * off;
                    norm += want[size_t(d)] * want[size_t(d)];
                }
            }
        return std::sqrt(difference / norm);
    };

    const Inputs<bf16> a = inputs_of<bf16>(q, k, v, start, H, HKV);
    const HeadRows<bf16> to = head_rows<bf16>(out, H);
    const double pairs = double(T) * (T + 1) / 2 * H;
    const int64_t tiles = int64_t(T / kTileRows) * (T / kTileRows + 1) / 2 * H;
    const Ladder::Work work{2.0 * 2 * T * kWidth * (H + HKV) + 4.0 * T * H, 4 * pairs * kWidth,
                            tiles * 2 * (kTileRows / 16) * (kTileRows / 8) * (kWidth / 16)};
    auto step = [&](const char* name, const std::function<void(Ctx&)>& run) {
        for (int64_t i = 0; i < out.size(); i++) write_value(out, i, NAN);
        ladder.step(name, work, 5e-3, run, error);
    };
    const size_t tile = size_t(kTileRows) * kWidth * sizeof(bf16);
    const int blocks = T / kTileRows * H;
    step("1 naive", [&](Ctx& ctx) {
        LAUNCH(ctx, naive_kernel, (LaunchShape{(T * H + 127) / 128, 128, 1, 0}), a, to);
    });
    step("2 warp", [&](Ctx& ctx) {
        LAUNCH(ctx, warp_kernel, (LaunchShape{(T * H + 3) / 4, 128, 1, 0}), a, to);
    });
    step("3 tile", [&](Ctx& ctx) {
        LAUNCH(ctx, tile_kernel, (LaunchShape{blocks, kTileRows, 1, 2 * tile}), a, to);
    });
    step("4 tensor cores", [&](Ctx& ctx) {
        LAUNCH(ctx, tensor_kernel<false>, (LaunchShape{blocks, 128, 1, 3 * tile}), a, to);
    });
    step("5 swizzle", [&](Ctx& ctx) {
        LAUNCH(ctx, tensor_kernel<true>, (LaunchShape{blocks, 128, 1, 3 * tile}), a, to);
    });
    step("6 production",
         [&](Ctx& ctx) { gpu::attention_forward(ctx, out, lse, q, k, v, start, H, HKV); });
    return ladder.status();
}
