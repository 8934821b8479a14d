// ldmatrix and mma of the running warp. Contract: runtime.h; the layouts of the fragments are those
// of the PTX ISA, which device/gpu.h repeats.
#include "llmc/device/simt/warp_operation.h"

namespace simt::runtime {

namespace {

constexpr int kMostColumnTiles = 16; // of one mma_tile, on the stack

float low_half(uint32_t pair) { return std::bit_cast<float>(pair << 16); }
float high_half(uint32_t pair) { return std::bit_cast<float>(pair & 0xffff0000u); }

// Eight columns of one accumulator's row.
typedef float Row __attribute__((vector_size(32)));

struct Fragments { // one lane's part of a call
    float* d;
    const uint32_t *a, *b;
};

// D += A B for 16 rows: one rounding per product, k ascending.
void multiply(float (&d)[16][8], const float (&a)[16][16], const Row (&b)[16]) {
    for (int first = 0; first < 16; first += 4) {
        Row sum[4];
        for (int r = 0; r < 4; r++) std::memcpy(&sum[r], d[first + r], sizeof(Row));
        for (int k = 0; k < 16; k++)
            for (int r = 0; r < 4; r++) sum[r] += b[k] * a[first + r][k];
        for (int r = 0; r < 4; r++) std::memcpy(d[first + r], &sum[r], sizeof(Row));
    }
}

void gather_a(float (&a)[16][16], void** lanes, int tile) {
    for (int lane = 0; lane < kWarpSize; lane++) {
        const uint32_t* x = static_cast<Fragments*>(lanes[lane])->a + 4 * tile;
        const int g = lane / 4, t = lane % 4 * 2;
        for (int i = 0; i < 4; i++) {
            float* at = &a[g + i % 2 * 8][t + i / 2 * 8];
            at[0] = low_half(x[i]);
            at[1] = high_half(x[i]);
        }
    }
}

void gather_b(float (&b)[16][8], void** lanes, int tile) {
    for (int lane = 0; lane < kWarpSize; lane++) {
        const uint32_t* x = static_cast<Fragments*>(lanes[lane])->b + 2 * tile;
        const int g = lane / 4, t = lane % 4 * 2;
        for (int i = 0; i < 2; i++) {
            b[t + 8 * i][g] = low_half(x[i]);
            b[t + 8 * i + 1][g] = high_half(x[i]);
        }
    }
}

// Between the lanes' accumulators of tile `tile` and the matrix they hold.
template <bool kToLanes> void move_d(float (&d)[16][8], void** lanes, int tile) {
    for (int lane = 0; lane < kWarpSize; lane++) {
        float* x = static_cast<Fragments*>(lanes[lane])->d + 4 * tile;
        for (int i = 0; i < 2; i++) {
            float* at = &d[lane / 4 + 8 * i][lane % 4 * 2];
            if constexpr (kToLanes) std::memcpy(x + 2 * i, at, 8);
            else std::memcpy(at, x + 2 * i, 8);
        }
    }
}

} // namespace

void warp_mma(float* d, const uint32_t* a, const uint32_t* b, int row_tiles, int column_tiles,
              Site site) {
    if (column_tiles > kMostColumnTiles)
        fault(site, "%d column tiles, at most %d", column_tiles, kMostColumnTiles);
    Fragments mine{d, a, b};
    warp_operation(~0u, WarpOp::mma, &mine, site, [&](void** lanes) {
        alignas(64) float rows[16][16], columns[kMostColumnTiles][16][8], sums[16][8];
        for (int j = 0; j < column_tiles; j++) gather_b(columns[j], lanes, j);
        for (int i = 0; i < row_tiles; i++) {
            gather_a(rows, lanes, i);
            for (int j = 0; j < column_tiles; j++) {
                move_d<false>(sums, lanes, i * column_tiles + j);
                multiply(sums, rows, *reinterpret_cast<const Row(*)[16]>(&columns[j]));
                move_d<true>(sums, lanes, i * column_tiles + j);
            }
        }
        Trace* trace = Scheduler::current().trace;
        if (trace) trace->mma(row_tiles * column_tiles);
    });
}

void load_matrices(uint32_t* registers, const void* const* rows, int loads, int matrices,
                   bool transpose, Site site) {
    Scheduler& s = Scheduler::current();
    for (int i = 0; i < loads && s.lane_ < 8 * matrices; i++) { // this lane's rows
        check_aligned(rows[i], 16, site);
        require_shared(rows[i], 16, site);
        record(rows[i], 16, Access::load, place_of(site));
    }
    struct Lane {
        uint32_t* registers;
        const void* const* rows;
    } mine{registers, rows};
    warp_operation(~0u, WarpOp::matrix, &mine, site, [&](void** lanes) {
        auto row = [&](int load, int number) {
            return static_cast<const char*>(static_cast<Lane*>(lanes[number])->rows[load]);
        };
        for (int i = 0; i < loads; i++)
            for (int lane = 0; lane < kWarpSize; lane++)
                for (int m = 0; m < matrices; m++) {
                    const int g = lane / 4, t = lane % 4 * 2;
                    uint16_t pair[2];
                    for (int e = 0; e < 2; e++)
                        std::memcpy(&pair[e],
                                    transpose ? row(i, 8 * m + t + e) + 2 * g
                                              : row(i, 8 * m + g) + 2 * (t + e),
                                    2);
                    static_cast<Lane*>(lanes[lane])->registers[i * matrices + m] =
                        uint32_t(pair[0]) | uint32_t(pair[1]) << 16;
                }
    });
}

} // namespace simt::runtime
