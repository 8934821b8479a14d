// The ladder of the experts' grouped product, forward, in bf16: out[s] = weight[e] inp[row of s]
// for the slots s of every expert e. What each version changes: README.md beside this file. The
// last one is the production kernel, whose file is included.
#include "dev/cuda/ladder.h"
#include "llmc/ops/moe_grouped.cu"

namespace {

using Product = RowProduct<bf16>;

// 1: one thread = one element of out, which looks for its expert.
__global__ void naive_kernel(Product a, const int* offsets, int S) {
    const int i = int(blockIdx.x * blockDim.x + threadIdx.x), slot = i / a.O, o = i % a.O;
    if (slot >= S) return;
    int expert = 0;
    while (offsets[expert + 1] <= slot) expert++;
    const bf16* row = a.a + a.slot_row[slot] * a.a_ld;
    const bf16* weight = a.weight + (int64_t(expert) * a.O + o) * a.C;
    float sum = 0;
    for (int c = 0; c < a.C; c++) sum += to_float(row[c]) * to_float(weight[c]);
    a.out[slot * a.out_ld + o] = from_float<bf16>(sum);
}

// 2 to 4: one block = one listed row tile and 128 columns, both factors in shared memory, 32 of k
// at a time.
enum class Way { multiply_add, tensor, swizzle };
constexpr int kK = kStep<bf16>, kV = kVector<bf16>;

template <Way kWay> __device__ __forceinline__ bf16* place(bf16* tile, int row, int chunk) {
    return tile +
           (kWay == Way::swizzle ? chunk_at<kStepChunks>(row, chunk) : row * kStepChunks + chunk) *
               kV;
}

// A thread's 8 x 8, rows y + 8 i and columns x + 16 j.
template <Way kWay> struct Tile {
    float sum[8][8] = {};

    __device__ void step(bf16* left, bf16* right) {
        const int y = int(threadIdx.x) / 16, x = int(threadIdx.x) % 16;
        for (int chunk = 0; chunk < kStepChunks; chunk++) {
            float w[8][kV];
            for (int j = 0; j < 8; j++) unpack(w[j], ld128(place<kWay>(right, x + 16 * j, chunk)));
            for (int i = 0; i < 8; i++) {
                float l[kV];
                unpack(l, ld128(place<kWay>(left, y + 8 * i, chunk)));
                for (int j = 0; j < 8; j++)
                    for (int e = 0; e < kV; e++) sum[i][j] += l[e] * w[j][e];
            }
        }
    }
    template <class Use> __device__ void for_elements(const Use& use) const {
        for (int i = 0; i < 8; i++)
            for (int j = 0; j < 8; j++)
                use(int(threadIdx.x) / 16 + 8 * i, int(threadIdx.x) % 16 + 16 * j, sum[i][j]);
    }
};

// A warp's 32 x 64 by tensor cores.
template <Way kWay> struct Fragments {
    float sum[2][8][4] = {};

    __device__ void step(bf16* left, bf16* right) {
        const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
        const int m0 = warp / 2 * 32, n0 = warp % 2 * 64;
        for (int k = 0; k < kK; k += 16) {
            const void *a_rows[2], *b_rows[4];
            uint32_t a[2][4], pairs[4][4], b[8][2];
            for (int i = 0; i < 2; i++)
                a_rows[i] = place<kWay>(left, m0 + 16 * i + lane % 16, k / 8 + lane / 16);
            for (int j = 0; j < 4; j++)
                b_rows[j] = place<kWay>(right, n0 + 16 * j + lane / 16 * 8 + lane % 8,
                                        k / 8 + lane / 8 % 2);
            ldmatrix_x4(a, a_rows);
            ldmatrix_x4(pairs, b_rows);
            for (int j = 0; j < 8; j++)
                for (int r = 0; r < 2; r++) b[j][r] = pairs[j / 2][j % 2 * 2 + r];
            mma_m16n8k16(sum, a, b);
        }
    }
    template <class Use> __device__ void for_elements(const Use& use) const {
        const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
        for (int i = 0; i < 2; i++)
            for (int j = 0; j < 8; j++)
                for (int r = 0; r < 4; r++)
                    use(warp / 2 * 32 + 16 * i + lane / 4 + r / 2 * 8,
                        warp % 2 * 64 + 8 * j + 2 * (lane % 4) + r % 2, sum[i][j][r]);
    }
};

template <Way kWay> __global__ void __launch_bounds__(kThreads) tile_kernel(Product a) {
    DYNAMIC_SHARED(bf16, left);
    bf16* right = left + kM * kK;
    const int bands = (a.O + kN - 1) / kN, n0 = int(blockIdx.x) % bands * kN;
    const RowTile tile = a.tiles[int(blockIdx.x) / bands];
    if (tile.expert < 0) return;
    const bf16* weight = a.weight + int64_t(tile.expert) * a.O * a.C;
    std::conditional_t<kWay == Way::multiply_add, Tile<kWay>, Fragments<kWay>> product;
    for (int k0 = 0; k0 < a.C; k0 += kK) {
        __syncthreads();
        for (int i = int(threadIdx.x); i < kM * kStepChunks; i += kThreads) {
            const int slot = min(tile.first + i / kStepChunks, tile.end - 1);
            st128(place<kWay>(left, i / kStepChunks, i % kStepChunks),
                  ld128(a.a + a.slot_row[slot] * a.a_ld + k0 + i % kStepChunks * kV));
        }
        for (int i = int(threadIdx.x); i < kN * kStepChunks; i += kThreads)
            st128(place<kWay>(right, i / kStepChunks, i % kStepChunks),
                  ld128(weight + int64_t(min(n0 + i / kStepChunks, a.O - 1)) * a.C + k0 +
                        i % kStepChunks * kV));
        __syncthreads();
        product.step(left, right);
    }
    product.for_elements([&](int m, int n, float x) {
        if (tile.first + m < tile.end && n0 + n < a.O)
            a.out[(tile.first + m) * a.out_ld + n0 + n] = from_float<bf16>(x);
    });
}

// ------------------------------------------------------------------------------------------------

struct Sizes {
    int N, O, C;
    std::vector<int> slots; // of each expert
};

void run_ladder(Ladder& ladder, const Sizes& sizes) {
    const int E = int(sizes.slots.size()), N = sizes.N, O = sizes.O, C = sizes.C;
    int S = 0, tiles = 0;
    for (int slots : sizes.slots) {
        S += slots;
        tiles += (slots + kM - 1) / kM;
    }
    const int most = (S + kM - 1) / kM + E;
    const Dtype x = Dtype::bf16;
    const View inp = ladder.make("inp", x, N, C), out = ladder.make("out", x, S, O);
    View weight = ladder.make("weight", x, int64_t(E) * O, C);
    View slot_row = ladder.make("slot_row", Dtype::i32, S, 1);
    View offsets = ladder.make("offsets", Dtype::i32, E + 1, 1);
    const View listed = ladder.make("tiles", Dtype::i32, most, sizeof(RowTile) / sizeof(int));
    weight = make_view(weight.data, x, "weight", E, O, C);
    slot_row = make_view(slot_row.data, Dtype::i32, "slot_row", S);
    offsets = make_view(offsets.data, Dtype::i32, "offsets", E + 1);
    ladder.fill_normal(inp, 1);
    ladder.fill_normal(weight, 2, 1 / std::sqrt(double(C)));
    offsets.as<int32_t>()[0] = 0;
    for (int e = 0; e < E; e++)
        offsets.as<int32_t>()[e + 1] = offsets.as<int32_t>()[e] + sizes.slots[size_t(e)];
    for (int s = 0; s < S; s++) slot_row.as<int32_t>()[s] = int32_t(int64_t(s) * 37 % N);

    // Every expert's first and last slot, in double.
    auto error = [&] {
        double difference = 0, norm = 0;
        for (int e = 0; e < E; e++)
            for (int s : {offsets.as<int32_t>()[e], offsets.as<int32_t>()[e + 1] - 1})
                for (int o = 0; o < O && sizes.slots[size_t(e)] > 0; o++) {
                    double want = 0;
                    for (int c = 0; c < C; c++)
                        want += read_value(inp, int64_t(slot_row.as<int32_t>()[s]) * C + c) *
                                read_value(weight, (int64_t(e) * O + o) * C + c);
                    difference += std::pow(read_value(out, int64_t(s) * O + o) - want, 2);
                    norm += want * want;
                }
        return std::sqrt(difference / norm);
    };
    const Product a{static_cast<bf16*>(out.data),
                    static_cast<const bf16*>(inp.data),
                    static_cast<const bf16*>(weight.data),
                    slot_row.as<int32_t>(),
                    static_cast<const RowTile*>(listed.data),
                    O,
                    C,
                    O,
                    C,
                    true,
                    true,
                    true};
    const double used = double(E - std::count(sizes.slots.begin(), sizes.slots.end(), 0));
    const int bands = (O + kN - 1) / kN;
    const Ladder::Work work{2.0 * (double(std::min(N, S)) * C + double(S) * O + used * O * C),
                            2.0 * S * O * C,
                            int64_t(tiles) * bands * (kM / 16) * (kN / 8) * (C / 16)};
    auto step = [&](const char* name, const std::function<void(Ctx&)>& run) {
        for (int64_t i = 0; i < out.size(); i++) write_value(out, i, NAN);
        ladder.step(name, work, 5e-3, run, error);
    };
    auto tiled = [&](const char* name, auto kernel) {
        step(name, [&, kernel](Ctx& ctx) {
            LAUNCH(ctx, list_tiles_kernel, (LaunchShape{1, kThreads, 1, sizeof(int) * size_t(E)}),
                   static_cast<RowTile*>(listed.data), offsets.as<int32_t>(), E, most);
            LAUNCH(ctx, kernel,
                   (LaunchShape{most * bands, kThreads, 1, size_t(kM + kN) * kK * sizeof(bf16)}),
                   a);
        });
    };
    step("1 naive", [&](Ctx& ctx) {
        LAUNCH(ctx, naive_kernel, (LaunchShape{(S * O + 127) / 128, 128, 1, 0}), a,
               offsets.as<int32_t>(), S);
    });
    tiled("2 tile", tile_kernel<Way::multiply_add>);
    tiled("3 tensor cores", tile_kernel<Way::tensor>);
    tiled("4 swizzle", tile_kernel<Way::swizzle>);
    step("5 production",
         [&](Ctx& ctx) { gpu::grouped_linear_forward(ctx, out, inp, slot_row, weight, offsets); });
}

} // namespace

int main() {
    Ladder ladder;
    Sizes sizes{128, 256, 256, {12, 64, 0, 180}};
    if (Ladder::kGpu) { // of the 5B model: gate and up of 384 experts, 12 a row, 4096 rows
        sizes = {4096, 640, 1024, std::vector<int>(384)};
        for (int e = 0; e < 384; e++) sizes.slots[size_t(e)] = 32 + e % 4 * 64;
    }
    run_ladder(ladder, sizes);
    return ladder.status();
}
