// Token embedding on the GPU. Contract: embed.h; equations (E1)-(E2) in doc/equations.md.
#include "llmc/device/kernel.cuh"
#include "llmc/ops/embed.h"

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

template <class T> struct Rows {
    T* data;
    int64_t ld;
};

// One warp = one row of out: a copy, 4 bytes per element in bf16.
template <class T>
__global__ void __launch_bounds__(kThreads)
    embed_forward_kernel(Rows<T> out, const int* tokens, Rows<const T> weight, int N, int C,
                         bool aligned) {
    const int64_t n = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
    if (n >= N) return;
    const T* row = weight.data + tokens[n] * weight.ld;
    for (int v = int(threadIdx.x) % 32; v < vectors_of<T>(C); v += 32)
        store_vector(out.data + n * out.ld, C, v, aligned,
                     load_vector(row, C, v, aligned, 0)); // (E1)
}

// ------------------------------------------------------------------------------------------------
// backward: positions by token, in ascending order, then a sum for each token

// The rows of a token are order[first] ... order[first + count - 1]. It lies at the token's first
// position; at others count is 0.
struct alignas(16) Group {
    int token, first, count, unused;
};

struct PositionTile {
    Pack<int> v[kThreads / 4];
};
// use(m, value) for the block's threads, each over all values[m], m < end, 256 at a time through
// shared memory. Past `end` values are `fill`.
template <class Use>
__device__ __forceinline__ void for_positions(PositionTile& tile, const int* values, int end,
                                              int fill, const Use& use) {
    for (int begin = 0; begin < end; begin += kThreads) {
        const int m = begin + int(threadIdx.x);
        __syncthreads(); // the last tile has been read
        tile.v[threadIdx.x / 4].v[threadIdx.x % 4] = m < end ? values[m] : fill;
        __syncthreads();
        for (int i = 0; i < kThreads / 4; i++) {
            const Pack<int> four = ld128(tile.v[i].v);
#pragma unroll
            for (int j = 0; j < 4; j++) use(begin + 4 * i + j, four.v[j]);
        }
    }
}

// One thread = one position: where its token comes first, how often it came before. A block reads
// every token up to its own once: N^2 / 256 loads, N^2 comparisons out of shared memory.
__global__ void __launch_bounds__(kThreads)
    find_first_kernel(int* first, int* rank, const int* tokens, int N) {
    SHARED(PositionTile, tile);
    const int n = int(blockIdx.x) * kThreads + int(threadIdx.x);
    const int token = n < N ? tokens[n] : 0;
    const int end = min(int(blockIdx.x + 1) * kThreads, N);
    int found = n, before = 0;
    for_positions(tile, tokens, end, -1, [&](int m, int other) {
        if (other != token || m >= n) return;
        found = min(found, m);
        before++;
    });
    if (n >= N) return;
    first[n] = found;
    rank[n] = before;
}

// One thread = one position, which goes behind the rows of all tokens that begin before its own.
__global__ void __launch_bounds__(kThreads)
    order_positions_kernel(Group* groups, int* order, const int* first, const int* rank,
                           const int* tokens, int N) {
    SHARED(PositionTile, tile);
    const int n = int(blockIdx.x) * kThreads + int(threadIdx.x);
    const int mine = n < N ? first[n] : 0;
    int before = 0, count = 0;
    for_positions(tile, first, N, N, [&](int, int other) {
        before += other < mine;
        count += other == mine;
    });
    if (n >= N) return;
    order[before + rank[n]] = n;
    groups[n] = {tokens[n], before, mine == n ? count : 0, 0};
}

// One block = one position and a band of 256 vectors. The first position of a token adds up all
// its rows in ascending order, so no atomics and one write per element; the others leave. Each
// dout row is read once, dweight of the tokens that occur read and written once.
template <class T>
__global__ void __launch_bounds__(kThreads)
    embed_backward_kernel(Rows<float> dweight, Rows<const T> dout, const Group* groups,
                          const int* order, int C, int bands, bool aligned, bool aligned_out) {
    struct Shared {
        Group group;
        int row[2][kThreads]; // in turn, so that one barrier for 256 rows is enough
        Pack<float> sum[kVector<T> / 4][kThreads]; // to go out 4 columns a thread, side by side
    };
    SHARED(Shared, s);
    const int t = int(threadIdx.x), n = int(blockIdx.x) / bands;
    if (t == 0) s.group = groups[n];
    __syncthreads();
    const Group group = s.group;
    const int v = int(blockIdx.x) % bands * kThreads + t, vectors = vectors_of<T>(C);
    float sum[kVector<T>] = {};
    for (int begin = 0, turn = 0; begin < group.count; begin += kThreads, turn ^= 1) {
        const int rows = min(group.count - begin, kThreads);
        if (t < rows) s.row[turn][t] = group.count == 1 ? n : order[group.first + begin + t];
        __syncthreads();
        for (int i = 0; i < rows && v < vectors; i++) {
            float d[kVector<T>];
            unpack(d, load_vector(dout.data + s.row[turn][i] * dout.ld, C, v, aligned, 0));
#pragma unroll
            for (int j = 0; j < kVector<T>; j++) sum[j] += d[j];
        }
    }
    if (group.count == 0) return;
#pragma unroll
    for (int j = 0; j < kVector<T> / 4; j++)
        st128(s.sum[j][t].v,
              Pack<float>{sum[4 * j], sum[4 * j + 1], sum[4 * j + 2], sum[4 * j + 3]});
    __syncthreads();
    float* row = dweight.data + group.token * dweight.ld;
    const int parts = kVector<T> / 4, first = int(blockIdx.x) % bands * kThreads * parts;
    for (int part = t; part < parts * kThreads; part += kThreads) {
        if (4 * (first + part) >= C) break;
        Pack<float> w = load_vector(row, C, first + part, aligned_out, 0);
        const Pack<float> d = ld128(s.sum[part % parts][part / parts].v);
#pragma unroll
        for (int i = 0; i < 4; i++) w.v[i] += d.v[i]; // (E2)
        store_vector(row, C, first + part, aligned_out, w);
    }
}

// ------------------------------------------------------------------------------------------------
// launchers

template <class T> void forward(Ctx& ctx, View out, const View& tokens, const View& weight) {
    const int N = int(out.shape[0]);
    LAUNCH(ctx, embed_forward_kernel<T>, (LaunchShape{(N + kWarps - 1) / kWarps, kThreads, 1, 0}),
           (Rows<T>{static_cast<T*>(out.data), out.ld}), tokens.as<int32_t>(),
           (Rows<const T>{static_cast<const T*>(weight.data), weight.ld}), N, int(out.shape[1]),
           aligned_rows<T>(out) && aligned_rows<T>(weight));
}

template <class T> void backward(Ctx& ctx, View dweight, const View& dout, const View& tokens) {
    const int N = int(dout.shape[0]), C = int(dout.shape[1]);
    const int bands = (vectors_of<T>(C) + kThreads - 1) / kThreads;
    ScratchFrame frame(ctx.scratch);
    int* first = ctx.scratch.alloc_of<int>(size_t(N));
    int* rank = ctx.scratch.alloc_of<int>(size_t(N));
    int* order = ctx.scratch.alloc_of<int>(size_t(N));
    Group* groups = ctx.scratch.alloc_of<Group>(size_t(N));
    const LaunchShape positions{(N + kThreads - 1) / kThreads, kThreads, 1, 0};
    LAUNCH(ctx, find_first_kernel, positions, first, rank, tokens.as<int32_t>(), N);
    LAUNCH(ctx, order_positions_kernel, positions, groups, order, first, rank, tokens.as<int32_t>(),
           N);
    LAUNCH(ctx, embed_backward_kernel<T>, (LaunchShape{N * bands, kThreads, 1, 0}),
           (Rows<float>{dweight.as<float>(), dweight.ld}),
           (Rows<const T>{static_cast<const T*>(dout.data), dout.ld}), groups, order, C, bands,
           aligned_rows<T>(dout), aligned_rows<float>(dweight));
}

} // namespace

void gpu::embed_forward(Ctx& ctx, View out, const View& tokens, const View& weight) {
    (out.dtype == Dtype::bf16 ? forward<bf16> : forward<float>)(ctx, out, tokens, weight);
}

void gpu::embed_backward(Ctx& ctx, View dweight, const View& dout, const View& tokens) {
    (dout.dtype == Dtype::bf16 ? backward<bf16> : backward<float>)(ctx, dweight, dout, tokens);
}

size_t gpu::embed_backward_scratch(const Ctx&, int64_t N) {
    return size_t(N) * (3 * sizeof(int) + sizeof(Group));
}
