// One output tile of a grouped product: 64 x 128, by four warps of 32 x 64, over k in steps of 64
// bytes. Operands stream into a ring of stages in shared memory by cp.async. bf16 through the
// tensor cores, fp32 by multiply-adds in registers.
//
//   stage:  a (64, step) | b (128, step)   rows of 4 chunks of 16 bytes, as the products need them
//   transposed:  (step, 64) | (step, 128)  rows of k
#pragma once
#include "llmc/device/kernel.cuh"
#include "llmc/device/scan.cuh"

#include <algorithm>

namespace {

constexpr int kM = 64, kN = 128, kStages = 3;
constexpr int kWarps = 4, kThreads = 32 * kWarps;
constexpr int kStepChunks = 4; // of 16 bytes
template <class T> constexpr int kStep = kStepChunks* kVector<T>;
constexpr int kABytes = kM * 16 * kStepChunks, kBBytes = kN * 16 * kStepChunks;
constexpr size_t kSharedBytes = size_t(kStages * (kABytes + kBBytes));
constexpr int kStagedLd = kN + 8; // of the finished tile, which takes the place of the stages
static_assert(kM * kStagedLd * sizeof(float) <= kSharedBytes);

// Where chunk `chunk` of row `row` lies: any 8 rows' chunks of one column are in different banks,
// as are 8 chunks that follow each other.
template <int kChunks> __device__ __forceinline__ int chunk_at(int row, int chunk) {
    static_assert(kChunks == 4 || kChunks % 8 == 0);
    return row * kChunks + (chunk ^ (kChunks == 4 ? row >> 1 & 3 : row & 7));
}

// Where element (row, column) of the finished tile lies: 8 rows' fragments are in different banks.
__device__ __forceinline__ int staged_at(int row, int column) {
    return row * kStagedLd + (column ^ (row >> 2 & 1));
}
// N elements of a row from a multiple of N on. Half of the lanes begin with the second four.
template <int N>
__device__ __forceinline__ void load_staged(float (&x)[N], const float* staged, int row,
                                            int column) {
    const bool swapped = row & 4, late = N > 4 && column & 32;
    Pack<float> part[N / 4];
#pragma unroll
    for (int i = 0; i < N / 4; i++)
        part[i] = ld128(staged + row * kStagedLd + column + 4 * (late ? N / 4 - 1 - i : i));
#pragma unroll
    for (int j = 0; j < N; j++) {
        const Pack<float>&here = part[j / 4], &there = part[N / 4 - 1 - j / 4];
        const float own = late ? there.v[j % 4] : here.v[j % 4];
        const float pair = late ? there.v[(j % 4) ^ 1] : here.v[(j % 4) ^ 1];
        x[j] = swapped ? pair : own;
    }
}

template <class T> struct Operand {
    const T* data;
    int64_t ld;
    int columns;
    bool aligned;
};

// Rows row_of(0) ... of an operand (-1: zeros), from column `first` on, zeros behind its columns.
template <int kRows, int kChunks, class T, class RowOf>
__device__ __forceinline__ void load_tile(T* tile, const Operand<T>& from, int first,
                                          const RowOf& row_of) {
    constexpr int V = kVector<T>;
#pragma unroll
    for (int i = int(threadIdx.x); i < kRows * kChunks; i += kThreads) {
        const int row = row_of(i / kChunks), column = first + i % kChunks * V;
        T* to = tile + chunk_at<kChunks>(i / kChunks, i % kChunks) * V;
        const T* data = from.data + row * from.ld;
        if (row >= 0 && from.aligned && column + V <= from.columns) cp_async16(to, data + column);
        else
            st128(to, row >= 0 ? load_vector(data, from.columns, column / V, from.aligned, 0)
                               : Pack<T>{});
    }
}

// A thread's part of the tile. kTransA, kTransB: rows of k in shared memory.
template <class T, bool kTransA, bool kTransB> class Accumulator;

// Tensor cores: the warp's 32 x 64 as 2 x 8 fragments.
template <bool kTransA, bool kTransB> class Accumulator<bf16, kTransA, kTransB> {
  public:
    __device__ __forceinline__ void step(const bf16* a, const bf16* b) {
        const int lane = int(threadIdx.x) % 32, m0 = warp() / 2 * 32, n0 = warp() % 2 * 64;
        const int low = lane % 8, middle = lane / 8 % 2, high = lane / 16;
#pragma unroll
        for (int k = 0; k < kStep<bf16>; k += 16) {
            const void *a_rows[2], *b_rows[4];
            uint32_t fa[2][4], fb4[4][4], fb[8][2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int m = m0 + 16 * i;
                a_rows[i] =
                    a + 8 * (kTransA ? chunk_at<kM / 8>(k + low + 8 * high, m / 8 + middle)
                                     : chunk_at<kStepChunks>(m + low + 8 * middle, k / 8 + high));
            }
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int n = n0 + 16 * j;
                b_rows[j] =
                    b + 8 * (kTransB ? chunk_at<kN / 8>(k + low + 8 * middle, n / 8 + high)
                                     : chunk_at<kStepChunks>(n + low + 8 * high, k / 8 + middle));
            }
            if constexpr (kTransA) ldmatrix_x4_trans(fa, a_rows);
            else ldmatrix_x4(fa, a_rows);
            if constexpr (kTransB) ldmatrix_x4_trans(fb4, b_rows);
            else ldmatrix_x4(fb4, b_rows);
#pragma unroll
            for (int j = 0; j < 8; j++) {
                fb[j][0] = fb4[j / 2][j % 2 * 2];
                fb[j][1] = fb4[j / 2][j % 2 * 2 + 1];
            }
            mma_m16n8k16(sum_, fa, fb);
        }
    }
    __device__ __forceinline__ void store(float* staged) const {
        const int g = int(threadIdx.x) % 32 / 4, t = int(threadIdx.x) % 4;
        const int m0 = warp() / 2 * 32 + g, n0 = warp() % 2 * 64 + 2 * t;
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int j = 0; j < 8; j++)
#pragma unroll
                for (int r = 0; r < 4; r++)
                    staged[staged_at(m0 + 16 * i + r / 2 * 8, n0 + 8 * j + r % 2)] = sum_[i][j][r];
    }

  private:
    static __device__ __forceinline__ int warp() { return int(threadIdx.x) / 32; }
    float sum_[2][8][4] = {};
};

// A thread = 8 x 8: rows y + 8 i and columns x + 16 j, or where k runs along the rows of shared
// memory, groups of 4 that follow each other.
template <bool kTransA, bool kTransB> class Accumulator<float, kTransA, kTransB> {
  public:
    __device__ __forceinline__ void step(const float* a, const float* b) {
#pragma unroll 1 // else the next loads take 100 more registers
        for (int k = 0; k < kStep<float>; k += 4) {
            float fa[4][8], fb[4][8];
            load<kTransA, kM>(fa, a, k, int(threadIdx.x) / 16, 8);
            load<kTransB, kN>(fb, b, k, int(threadIdx.x) % 16, 16);
#pragma unroll
            for (int q = 0; q < 4; q++)
#pragma unroll
                for (int i = 0; i < 8; i++)
#pragma unroll
                    for (int j = 0; j < 8; j++) sum_[i][j] += fa[q][i] * fb[q][j];
        }
    }
    __device__ __forceinline__ void store(float* staged) const {
#pragma unroll
        for (int i = 0; i < 8; i++)
#pragma unroll
            for (int j = 0; j < 8; j++)
                staged[staged_at(index<kTransA>(int(threadIdx.x) / 16, 8, i),
                                 index<kTransB>(int(threadIdx.x) % 16, 16, j))] = sum_[i][j];
    }

  private:
    template <bool kByFours>
    static __device__ __forceinline__ int index(int thread, int threads, int i) {
        return kByFours ? 4 * (thread + threads * (i / 4)) + i % 4 : thread + threads * i;
    }
    // f[q][i] = element (index(i), k + q) of the operand.
    template <bool kTrans, int kSize>
    static __device__ __forceinline__ void load(float (&f)[4][8], const float* tile, int k,
                                                int thread, int threads) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            if constexpr (kTrans) {
                const int q = i % 4, half = i / 4; // row k + q, four columns
                const Pack<float> p =
                    ld128(tile + 4 * chunk_at<kSize / 4>(k + q, thread + threads * half));
#pragma unroll
                for (int j = 0; j < 4; j++) f[q][4 * half + j] = p.v[j];
            } else {
                const Pack<float> p =
                    ld128(tile + 4 * chunk_at<kStepChunks>(thread + threads * i, k / 4));
#pragma unroll
                for (int q = 0; q < 4; q++) f[q][i] = p.v[q];
            }
        }
    }
    float sum_[8][8] = {};
};

// sum += a b over k < depth. load_a(to, k0) and load_b(to, k0) bring a step's tiles; one barrier a
// step: the stage that is loaded was read before it.
template <class T, bool kTransA, bool kTransB, class LoadA, class LoadB>
__device__ __forceinline__ void multiply(Accumulator<T, kTransA, kTransB>& sum, T* shared,
                                         int depth, const LoadA& load_a, const LoadB& load_b) {
    constexpr int kStage = int((kABytes + kBBytes) / sizeof(T)), kB = int(kABytes / sizeof(T));
    const int steps = (depth + kStep<T> - 1) / kStep<T>;
    auto load = [&](int i) {
        if (i < steps) {
            T* to = shared + i % kStages * kStage;
            load_a(to, i * kStep<T>);
            load_b(to + kB, i * kStep<T>);
        }
        cp_async_commit();
    };
    for (int i = 0; i < kStages - 1; i++) load(i);
    for (int i = 0; i < steps; i++) {
        cp_async_wait<kStages - 2>();
        __syncthreads();
        load(i + kStages - 1);
        const T* stage = shared + i % kStages * kStage;
        sum.step(stage, stage + kB);
    }
}

// The finished tile in shared memory, for load_staged.
template <class T, bool kTransA, bool kTransB>
__device__ __forceinline__ float* stage(const Accumulator<T, kTransA, kTransB>& sum, T* shared) {
    float* staged = reinterpret_cast<float*>(shared);
    __syncthreads(); // everybody has read the last stage
    sum.store(staged);
    __syncthreads();
    return staged;
}

} // namespace
