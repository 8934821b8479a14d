// Sampling on the GPU, without sorting the vocabulary. Contract: sample.h; equation (T1) in
// doc/equations.md.
#include "llmc/device/scan.cuh"
#include "llmc/device/select.cuh"
#include "llmc/ops/sample.h"

#include <algorithm>
#include <cmath>

namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32;
constexpr float kOne = 1099511627776.0f; // 2^40: the mass of the likeliest token, in fixed point

template <class T> struct SampleRows {
    int* tokens;
    double* kept;
    const T* logits;
    const double* uniform;
    int64_t ld;
    int V, top_k;
    float rate; // 1 / temperature; 0: greedy
    double top_p;
    bool aligned;
};

// A mass is a probability up to a factor. As integers, masses add up to the same in any order.
using Mass = unsigned long long;

struct Shared {
    Selection<unsigned> by_count;
    Selection<Mass> by_mass;
    Key top[kWarps];
    Mass whole; // of all tokens; of thread 0
    ScanSums<Mass> sums;
};

__device__ __forceinline__ Mass mass_of(float z, float max, float rate) {
    return Mass(expf((z - max) * rate) * kOne);
}

// Calls use(v, z) for the logits of a thread, vector `vector` of the row.
template <class T, class Use>
__device__ __forceinline__ void for_vector(const SampleRows<T>& a, const T* row, int vector,
                                           const Use& use) {
    const Pack<T> pack = load_vector(row, a.V, vector, a.aligned, -INFINITY);
#pragma unroll
    for (int i = 0; i < kVector<T>; i++)
        if (vector * kVector<T> + i < a.V) use(vector * kVector<T> + i, to_float(pack.v[i]));
}

// The largest logit's key, of those that are numbers; `bad` where there is no distribution.
template <class T>
__device__ Key largest_key(Shared& s, const SampleRows<T>& a, const T* row, bool& bad) {
    const int t = int(threadIdx.x);
    Key top = 0;
    bool nan = false;
    for (int v = t; v < vectors_of<T>(a.V); v += kThreads)
        for_vector(a, row, v, [&](int column, float z) {
            nan |= z != z;
            const Key key = z == z ? make_key(z, column) : 0;
            if (key > top) top = key;
        });
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) {
        const Key other = __shfl_xor_sync(~0u, top, lanes);
        if (other > top) top = other;
    }
    if (t % 32 == 0) s.top[t / 32] = top;
    nan = __syncthreads_or(nan);
    for (int warp = 0; warp < kWarps; warp++)
        if (s.top[warp] > top) top = s.top[warp];
    bad = nan || top == 0 || !(fabsf(key_value(top)) < INFINITY);
    return top;
}

// One block = one row. The row is read from L2 once for each of: the largest logit; a pass of a
// selection, up to 8 by count (top-k) and 8 by mass (top-p); the mass before and after; the draw.
template <class T>
__global__ void __launch_bounds__(kThreads) sample_forward_kernel(SampleRows<T> a) {
    SHARED(Shared, s);
    const int n = int(blockIdx.x), t = int(threadIdx.x), vectors = vectors_of<T>(a.V);
    const T* row = a.logits + n * a.ld;
    bool bad;
    const Key top = largest_key(s, a, row, bad);
    if (t == 0) {
        a.tokens[n] = top == 0 ? 0 : key_column(top);
        a.kept[n] = 1;
    }
    if (bad || a.rate == 0) return;
    const float max = key_value(top);
    auto for_row = [&](auto&& use) {
        for (int v = t; v < vectors; v += kThreads) for_vector(a, row, v, use);
    };
    const KeyDigits<T> digits{a.V};
    Key cut = 0;
    auto mass = [&](int v, float z) { return make_key(z, v) >= cut ? mass_of(z, max, a.rate) : 0; };
    int turn = 0;
    auto row_mass = [&] {
        Mass mine = 0;
        for_row([&](int v, float z) { mine += mass(v, z); });
        return block_scan<kWarps>(s.sums, turn ^= 1, mine).all;
    };
    Mass all = row_mass();
    if (t == 0) s.whole = all;
    if (a.top_k > 0 && a.top_k < a.V) {
        cut = kth_largest(BlockTeam{}, s.by_count, digits, a.top_k, 0, [&](auto&& use) {
            for_row([&](int v, float z) { use(make_key(z, v)); });
        });
        all = row_mass();
    }
    if (a.top_p < 1) {
        const Mass enough = Mass(ceil(a.top_p * double(all)));
        const Key found =
            select_cut(BlockTeam{}, s.by_mass, digits, enough > 0 ? enough : 1, 0, [&](auto&& add) {
                for_row([&](int v, float z) {
                    const Mass m = mass(v, z);
                    if (m > 0) add(make_key(z, v), m);
                });
            });
        if (found > cut) cut = found;
        all = row_mass();
    }
    if (t == 0) a.kept[n] = double(all) / double(s.whole);
    // (T1): the first index whose cumulative mass passes the threshold.
    Mass threshold = Mass(a.uniform[n] * double(all)), before = 0;
    if (threshold >= all) threshold = all - 1; // rounded up
    for (int begin = 0; before <= threshold; begin += kThreads) {
        Mass mine = 0;
        const int vector = begin + t;
        for_vector(a, row, vector, [&](int v, float z) { mine += mass(v, z); });
        const Scan<Mass> sums = block_scan<kWarps>(s.sums, turn ^= 1, mine);
        Mass upto = before + sums.before;
        if (upto <= threshold && threshold < upto + mine)
            for_vector(a, row, vector, [&](int v, float z) {
                const Mass m = mass(v, z);
                if (upto <= threshold && threshold < upto + m) a.tokens[n] = v;
                upto += m;
            });
        before += sums.all;
    }
}

template <class T>
void sample(Ctx& ctx, View tokens, View kept, const View& logits, const View& uniform,
            const SampleShape& s) {
    // Finite as a float: the largest logit's 0 * rate is 0, however low the temperature.
    const double rate = s.temperature == 0 ? 0 : std::min(1 / s.temperature, 1e30);
    const SampleRows<T> a{tokens.as<int32_t>(),
                          kept.as<double>(),
                          static_cast<const T*>(logits.data),
                          uniform.as<double>(),
                          logits.ld,
                          s.V,
                          s.top_k,
                          float(rate),
                          s.top_p,
                          aligned_rows<T>(logits)};
    LAUNCH(ctx, sample_forward_kernel<T>, (LaunchShape{int(logits.shape[0]), kThreads, 1, 0}), a);
}

} // namespace

void gpu::sample_forward(Ctx& ctx, View tokens, View kept, const View& logits, const View& uniform,
                         const SampleShape& shape) {
    (logits.dtype == Dtype::bf16 ? sample<bf16> : sample<float>)(ctx, tokens, kept, logits, uniform,
                                                                 shape);
}
