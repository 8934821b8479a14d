// ldmatrix and mma of the SIMT runtime, straight from the formulas of the PTX ISA (device/gpu.h).
#include "llmc/device/gpu.h"
#include "llmc/device/simt/trace.h"
#include "test/catch.h"

#include <vector>

namespace {

constexpr int kM = 2, kN = 3; // a warp's tile: kM x 16 rows, kN x 8 columns

// Small integers: products and sums are exact. Element (row, column) of A, B, C.
HOST_DEVICE float a_value(int m, int k) { return float((m * 7 + k * 3) % 11 - 5); }
HOST_DEVICE float b_value(int k, int n) { return float((k * 5 + n * 2) % 13 - 6); }
HOST_DEVICE float c_value(int m, int n) { return float((m + n) % 5); }

uint32_t pair(float low, float high) {
    return uint32_t(from_float<bf16>(low).bits) | uint32_t(from_float<bf16>(high).bits) << 16;
}

__global__ void mma_kernel(float* out) {
    const int lane = int(threadIdx.x), g = lane / 4, t = lane % 4;
    uint32_t a[kM][4], b[kN][2];
    float d[kM][kN][4];
    for (int i = 0; i < kM; i++)
        for (int r = 0; r < 4; r++) {
            const int row = 16 * i + g + 8 * (r % 2), column = 2 * t + 8 * (r / 2);
            a[i][r] = pair(a_value(row, column), a_value(row, column + 1));
        }
    for (int j = 0; j < kN; j++)
        for (int r = 0; r < 2; r++) {
            const int row = 2 * t + 8 * r, column = 8 * j + g;
            b[j][r] = pair(b_value(row, column), b_value(row + 1, column));
        }
    auto row_of = [&](int i, int r) { return 16 * i + g + 8 * (r / 2); };
    auto column_of = [&](int j, int r) { return 8 * j + 2 * t + r % 2; };
    for (int i = 0; i < kM; i++)
        for (int j = 0; j < kN; j++)
            for (int r = 0; r < 4; r++) d[i][j][r] = c_value(row_of(i, r), column_of(j, r));
    mma_m16n8k16(d, a, b);
    for (int i = 0; i < kM; i++)
        for (int j = 0; j < kN; j++)
            for (int r = 0; r < 4; r++) out[row_of(i, r) * 8 * kN + column_of(j, r)] = d[i][j][r];
}

struct alignas(16) Matrices {
    bf16 v[2][32][8]; // two loads of four matrices, row by row
};

// out (4 kinds, 2 loads, 4 registers, 32 lanes)
__global__ void ldmatrix_kernel(uint32_t* out) {
    SHARED(Matrices, matrices);
    const int lane = int(threadIdx.x);
    for (int load = 0; load < 2; load++)
        for (int c = 0; c < 8; c++)
            matrices.v[load][lane][c] = {uint16_t(load << 12 | lane << 4 | c)};
    __syncwarp();
    const void* const rows[2] = {matrices.v[0][lane], matrices.v[1][lane]};
    uint32_t x4[2][4], x4_trans[2][4], x2[2][2], x2_trans[2][2];
    ldmatrix_x4(x4, rows);
    ldmatrix_x4_trans(x4_trans, rows);
    ldmatrix_x2(x2, rows);
    ldmatrix_x2_trans(x2_trans, rows);
    for (int load = 0; load < 2; load++)
        for (int m = 0; m < 4; m++) {
            auto at = [&](int kind) -> uint32_t& {
                return out[((kind * 2 + load) * 4 + m) * 32 + lane];
            };
            at(0) = x4[load][m];
            at(1) = x4_trans[load][m];
            if (m < 2) at(2) = x2[load][m];
            if (m < 2) at(3) = x2_trans[load][m];
        }
}

__global__ void misplaced_kernel(bf16* out) {
    const void* const rows[1] = {out};
    uint32_t x[1][4];
    ldmatrix_x4(x, rows);
}
__global__ void half_warp_kernel(bf16*) {
    const uint32_t a[1][4] = {}, b[1][2] = {};
    float d[1][1][4] = {};
    if (threadIdx.x < 16) mma_m16n8k16(d, a, b);
}
__global__ void misaligned_kernel(bf16*) {
    SHARED(Matrices, matrices);
    const void* const rows[1] = {&matrices.v[0][threadIdx.x % 32][1]};
    uint32_t x[1][2];
    ldmatrix_x2(x, rows);
}

// Rows of 64 bf16 in shared memory, 16 of them read as four matrices; the chunk of 8 columns that
// holds chunk c of row r is c, or with `swizzle` c ^ r % 8.
__global__ void banks_kernel(float* out, bool swizzle) {
    DYNAMIC_SHARED(bf16, tile);
    const int lane = int(threadIdx.x), row = lane % 16, chunk = lane / 16;
    for (int c = 0; c < 4; c++)
        st128(tile + (lane % 16 * 8 + (lane / 16 + 2 * c)) * 8, Pack<bf16>{});
    __syncwarp();
    const void* const rows[1] = {tile + (row * 8 + (swizzle ? chunk ^ row % 8 : chunk)) * 8};
    uint32_t a[1][4];
    const uint32_t b[1][2] = {};
    float d[1][1][4] = {};
    ldmatrix_x4(a, rows);
    mma_m16n8k16(d, a, b);
    out[lane] = d[0][0][0];
}

} // namespace

TEST_CASE("simt: mma multiplies the fragments that the PTX ISA defines", "[simt]") {
    for (uint32_t seed = 0; seed < 4; seed++) {
        Ctx ctx(Backend::simt, 1);
        ctx.simt.seed = seed;
        std::vector<float> out(16 * kM * 8 * kN);
        LAUNCH(ctx, mma_kernel, (LaunchShape{1, 32, 1, 0}), out.data());
        for (int m = 0; m < 16 * kM; m++)
            for (int n = 0; n < 8 * kN; n++) {
                float want = c_value(m, n);
                for (int k = 0; k < 16; k++) want += a_value(m, k) * b_value(k, n);
                REQUIRE(out[m * 8 * kN + n] == want);
            }
    }
}

TEST_CASE("simt: ldmatrix fills the registers that the PTX ISA defines", "[simt]") {
    for (uint32_t seed = 0; seed < 4; seed++) {
        Ctx ctx(Backend::simt, 1);
        ctx.simt.seed = seed;
        std::vector<uint32_t> out(4 * 2 * 4 * 32);
        LAUNCH(ctx, ldmatrix_kernel, (LaunchShape{1, 32, 1, 0}), out.data());
        for (int kind = 0; kind < 4; kind++)
            for (int load = 0; load < 2; load++)
                for (int m = 0; m < (kind < 2 ? 4 : 2); m++)
                    for (int lane = 0; lane < 32; lane++) {
                        const int g = lane / 4, t = lane % 4;
                        auto element = [&](int row, int column) {
                            return uint32_t(load << 12 | (8 * m + row) << 4 | column);
                        };
                        const uint32_t want = kind % 2 == 0
                                                  ? element(g, 2 * t) | element(g, 2 * t + 1) << 16
                                                  : element(2 * t, g) | element(2 * t + 1, g) << 16;
                        REQUIRE(out[((kind * 2 + load) * 4 + m) * 32 + lane] == want);
                    }
    }
}

TEST_CASE("simt: faults of ldmatrix and mma are reported", "[simt]") {
    auto fault_of = [](void (*kernel)(bf16*)) {
        alignas(16) static bf16 out[64];
        Ctx ctx(Backend::simt, 1);
        try {
            LAUNCH(ctx, kernel, (LaunchShape{1, 32, 1, 0}), out);
        } catch (const simt::runtime::Fault& fault) {
            return std::string(fault.what());
        }
        return std::string("no fault");
    };
    CHECK(fault_of(misplaced_kernel).find("not in this block's shared memory") !=
          std::string::npos);
    CHECK(fault_of(misaligned_kernel).find("misaligned address") != std::string::npos);
    CHECK(fault_of(half_warp_kernel).find("exited") != std::string::npos);
}

TEST_CASE("simt: a trace counts mma and the bank conflicts of ldmatrix", "[simt]") {
    for (bool swizzle : {false, true}) {
        simt::runtime::Trace trace;
        Ctx ctx(Backend::simt, 1);
        ctx.simt.trace = &trace;
        std::vector<float> out(32);
        LAUNCH(ctx, banks_kernel, (LaunchShape{1, 32, 1, 2048}), out.data(), swizzle);
        CHECK(trace.mma() == 1);
        CHECK(trace.races() == 0);
        // 4 stores of two rows' worth a quarter warp: 128-byte strides, 8 passes for each of 4
        // quarters; the load has 4 matrices.
        CHECK(trace.shared().ideal == 4 * 4 + 4);
        CHECK(trace.shared().wavefronts == 4 * 4 * 8 + (swizzle ? 4 : 4 * 8));
    }
}
