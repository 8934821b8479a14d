// Grouped products of the experts on the GPU. Contract: moe.h; equations (M5)-(M6) in
// doc/equations.md. Nothing here needs a count on the host: a kernel lists the row tiles, and the
// grid is the most there can be.
#include "llmc/ops/moe.h"
#include "llmc/ops/moe_tile.cuh"

namespace {

// ------------------------------------------------------------------------------------------------
// row tiles: up to kM slots of one expert

struct RowTile {
    int expert, first, end; // expert -1: none
};

// By one block. upto[e] = tiles of experts 0..e, among which each tile finds its expert.
__global__ void __launch_bounds__(kThreads)
    list_tiles_kernel(RowTile* tiles, const int* offsets, int E, int most) {
    SHARED(ScanSums<int>, sums);
    DYNAMIC_SHARED(int, upto);
    int before = 0;
    for (int begin = 0, turn = 0; begin < E; begin += kThreads, turn ^= 1) {
        const int e = begin + int(threadIdx.x);
        const int count = e < E ? (offsets[e + 1] - offsets[e] + kM - 1) / kM : 0;
        const Scan<int> scan = block_scan<kWarps>(sums, turn, count);
        if (e < E) upto[e] = before + scan.before + count;
        before += scan.all;
    }
    __syncthreads();
    for (int tile = int(threadIdx.x); tile < most; tile += kThreads) {
        int low = 0, high = E;
        while (low < high) {
            const int middle = (low + high) / 2;
            if (upto[middle] > tile) high = middle;
            else low = middle + 1;
        }
        RowTile listed{-1, 0, 0};
        if (low < E) {
            const int first = offsets[low] + (tile - (low > 0 ? upto[low - 1] : 0)) * kM;
            const int end = offsets[low + 1];
            listed = {low, first, first + kM < end ? first + kM : end};
        }
        tiles[tile] = listed;
    }
}

template <class T> struct RowProduct {
    T* out;
    const T *a, *weight;
    const int* slot_row; // row of a for each slot; null: the slot itself
    const RowTile* tiles;
    int64_t out_ld, a_ld;
    int O, C;
    bool aligned_out, aligned_a, aligned_weight;
};

// One block = one row tile and 128 columns of out: forward out = a weight^T over C, the rows of a
// gathered on the way into shared memory; kBackward dinp = dout weight over O. The blocks of a row
// tile follow each other, so that a and the expert's weights are met in L2.
template <class T, bool kBackward>
__global__ void __launch_bounds__(kThreads) grouped_rows_kernel(RowProduct<T> a) {
    struct Rows {
        int row[kM];
    };
    SHARED(Rows, s);
    DYNAMIC_SHARED(T, shared);
    const int width = kBackward ? a.C : a.O, depth = kBackward ? a.O : a.C;
    const int bands = (width + kN - 1) / kN;
    const RowTile tile = a.tiles[int(blockIdx.x) / bands];
    if (tile.expert < 0) return;
    const int n0 = int(blockIdx.x) % bands * kN;
    for (int m = int(threadIdx.x); m < kM; m += kThreads) {
        const int slot = tile.first + m;
        s.row[m] = slot >= tile.end ? -1 : a.slot_row ? a.slot_row[slot] : slot;
    }
    __syncthreads();
    const T* weight = a.weight + int64_t(tile.expert) * a.O * a.C;
    const Operand<T> rows{a.a, a.a_ld, depth, a.aligned_a};
    const Operand<T> weights{weight, a.C, a.C, a.aligned_weight};
    Accumulator<T, false, kBackward> sum;
    multiply(
        sum, shared, depth,
        [&](T* to, int k0) {
            load_tile<kM, kStepChunks>(to, rows, k0, [&](int m) { return s.row[m]; });
        },
        [&](T* to, int k0) {
            if constexpr (kBackward)
                load_tile<kStep<T>, kN / kVector<T>>(
                    to, weights, n0, [&](int k) { return k0 + k < a.O ? k0 + k : -1; });
            else
                load_tile<kN, kStepChunks>(to, weights, k0,
                                           [&](int n) { return n0 + n < a.O ? n0 + n : -1; });
        });
    float* staged = stage(sum, shared);
    for (int m = int(threadIdx.x) / 32; tile.first + m < tile.end && m < kM; m += kWarps)
        for (int v = int(threadIdx.x) % 32; v < kN / kVector<T>; v += 32) {
            float x[kVector<T>];
            load_staged(x, staged, m, v * kVector<T>);
            store_vector(a.out + (tile.first + m) * a.out_ld, width, n0 / kVector<T> + v,
                         a.aligned_out, pack<T>(x)); // (M5), (M6)
        }
}

template <class T> struct WeightProduct {
    float* dweight;
    const T *dout, *inp;
    const int *slot_row, *offsets;
    int64_t dout_ld, inp_ld;
    int O, C;
    bool aligned_dweight, aligned_dout, aligned_inp;
};

// One block = 64 x 128 of one expert's dweight += dout^T inp over the expert's slots in ascending
// order, the rows of inp gathered on the way: dweight is read and written once.
template <class T>
__global__ void __launch_bounds__(kThreads) grouped_weights_kernel(WeightProduct<T> a) {
    DYNAMIC_SHARED(T, shared);
    const int bands = (a.C + kN - 1) / kN, strips = (a.O + kM - 1) / kM;
    const int expert = int(blockIdx.x) / (bands * strips);
    const int first = a.offsets[expert], end = a.offsets[expert + 1];
    if (first == end) return;
    const int m0 = int(blockIdx.x) / bands % strips * kM, n0 = int(blockIdx.x) % bands * kN;
    const Operand<T> dout{a.dout, a.dout_ld, a.O, a.aligned_dout};
    const Operand<T> inp{a.inp, a.inp_ld, a.C, a.aligned_inp};
    Accumulator<T, true, true> sum;
    multiply(
        sum, shared, end - first,
        [&](T* to, int k0) {
            load_tile<kStep<T>, kM / kVector<T>>(to, dout, m0, [&](int k) {
                const int slot = first + k0 + k;
                return slot < end ? slot : -1;
            });
        },
        [&](T* to, int k0) {
            load_tile<kStep<T>, kN / kVector<T>>(to, inp, n0, [&](int k) {
                const int slot = first + k0 + k;
                return slot >= end ? -1 : a.slot_row ? a.slot_row[slot] : slot;
            });
        });
    const float* staged = stage(sum, shared);
    float* dweight = a.dweight + int64_t(expert) * a.O * a.C;
    for (int m = int(threadIdx.x) / 32; m0 + m < a.O && m < kM; m += kWarps) {
        const int lane = int(threadIdx.x) % 32, v = n0 / 4 + lane;
        float* row = dweight + int64_t(m0 + m) * a.C;
        Pack<float> dw = load_vector(row, a.C, v, a.aligned_dweight, 0);
        float sums[4];
        load_staged(sums, staged, m, 4 * lane);
#pragma unroll
        for (int i = 0; i < 4; i++) dw.v[i] += sums[i];
        store_vector(row, a.C, v, a.aligned_dweight, dw); // (M6)
    }
}

// ------------------------------------------------------------------------------------------------
// launchers

// Whether rows of `columns` elements that follow each other are 16-byte vectors.
template <class T> bool aligned_matrix(const View& view, int64_t columns) {
    return reinterpret_cast<uintptr_t>(view.data) % 16 == 0 && columns % kVector<T> == 0;
}

template <class T, bool kBackward>
void rows(Ctx& ctx, View out, const View& a, const View& slot_row, const View& weight,
          const View& offsets) {
    const int64_t S = out.shape[0];
    const int E = int(weight.shape[0]), width = int(out.shape[1]);
    const int most = int((S + kM - 1) / kM + std::min<int64_t>(E, S));
    ScratchFrame frame(ctx.scratch);
    RowTile* tiles = ctx.scratch.alloc_of<RowTile>(size_t(most));
    LAUNCH(ctx, list_tiles_kernel, (LaunchShape{1, kThreads, 1, sizeof(int) * size_t(E)}), tiles,
           offsets.as<int32_t>(), E, most);
    const RowProduct<T> product{static_cast<T*>(out.data),
                                static_cast<const T*>(a.data),
                                static_cast<const T*>(weight.data),
                                slot_row.empty() ? nullptr : slot_row.as<int32_t>(),
                                tiles,
                                out.ld,
                                a.ld,
                                int(weight.shape[1]),
                                int(weight.shape[2]),
                                aligned_rows<T>(out),
                                aligned_rows<T>(a),
                                aligned_matrix<T>(weight, weight.shape[2])};
    LAUNCH(ctx, (grouped_rows_kernel<T, kBackward>),
           (LaunchShape{most * ((width + kN - 1) / kN), kThreads, 1, kSharedBytes}), product);
}

template <class T>
void backward(Ctx& ctx, View dinp, View dweight, const View& dout, const View& inp,
              const View& slot_row, const View& weight, const View& offsets) {
    rows<T, true>(ctx, dinp, dout, View{}, weight, offsets);
    const int E = int(weight.shape[0]), O = int(weight.shape[1]), C = int(weight.shape[2]);
    const WeightProduct<T> product{dweight.as<float>(),
                                   static_cast<const T*>(dout.data),
                                   static_cast<const T*>(inp.data),
                                   slot_row.empty() ? nullptr : slot_row.as<int32_t>(),
                                   offsets.as<int32_t>(),
                                   dout.ld,
                                   inp.ld,
                                   O,
                                   C,
                                   aligned_matrix<float>(dweight, C),
                                   aligned_rows<T>(dout),
                                   aligned_rows<T>(inp)};
    const int blocks = E * ((O + kM - 1) / kM) * ((C + kN - 1) / kN);
    LAUNCH(ctx, grouped_weights_kernel<T>, (LaunchShape{blocks, kThreads, 1, kSharedBytes}),
           product);
}

} // namespace

void gpu::grouped_linear_forward(Ctx& ctx, View out, const View& inp, const View& slot_row,
                                 const View& weight, const View& offsets) {
    (inp.dtype == Dtype::bf16 ? rows<bf16, false> : rows<float, false>)(ctx, out, inp, slot_row,
                                                                        weight, offsets);
}

void gpu::grouped_linear_backward(Ctx& ctx, View dinp, View dweight, const View& dout,
                                  const View& inp, const View& slot_row, const View& weight,
                                  const View& offsets) {
    (inp.dtype == Dtype::bf16 ? backward<bf16> : backward<float>)(ctx, dinp, dweight, dout, inp,
                                                                  slot_row, weight, offsets);
}
