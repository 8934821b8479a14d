// Sampling on the CPU: rows in parallel; probabilities in fp32, their sums in double. Without
// truncation one pass computes probabilities and block sums, and the search enters one block; with
// it counting passes find the last token that stays. Contract: sample.h.
#include "llmc/device/parallel.h"
#include "llmc/device/simd.h"
#include "llmc/ops/sample.h"

#include <algorithm>
#include <cmath>

namespace {

constexpr int kBlock = 256; // tokens of one partial sum: fixed, so the arithmetic is too

// The largest logit, first of its equals; NaN is passed over.
int argmax(const float* z, int V) {
    Vf best = splat(-INFINITY);
    for (int v = 0; v < V; v += kLanes)
        best = max(load_tail(z + v, std::min(kLanes, V - v), -INFINITY), best);
    const float largest = lane_max(best);
    int v = 0;
    while (v < V && z[v] != largest) v++;
    return v < V ? v : 0;
}

// Of p up to a whole vector.
double sum_block(const float* p, int count) {
    double part[kLanes] = {};
    for (int v = 0; v < count; v += kLanes)
        for (int i = 0; i < kLanes; i++) part[i] += double(p[v + i]);
    for (int i = 1; i < kLanes; i++) part[0] += part[i];
    return part[0];
}

// p = e^((z - z_max) / T), zeros up to a whole vector, and the sum of each block; returns their
// sum.
double exponentials(float* p, double* block_sum, const float* z, float z_max, int V, float rate) {
    double sum = 0;
    for (int begin = 0; begin < V; begin += kBlock) {
        const int end = std::min(V, begin + kBlock);
        for (int v = begin; v < end; v += kLanes) {
            const Vf x = load_tail(z + v, std::min(kLanes, end - v), -INFINITY);
            store(p + v, exp((x - z_max) * rate));
        }
        block_sum[begin / kBlock] = sum_block(p + begin, end - begin);
        sum += block_sum[begin / kBlock];
    }
    return sum;
}

// How many of V logits reach `lowest`, and their share of p.
struct Reached {
    int count;
    double mass;
};

Reached reached(const float* z, const float* p, int V, float lowest) {
    Vi count = {};
    double mass[kLanes] = {};
    for (int v = 0; v < V; v += kLanes) {
        const Vi in = load_tail(z + v, std::min(kLanes, V - v), -INFINITY) >= lowest;
        float kept[kLanes];
        store(kept, select(in, load(p + v), Vf{}));
        count -= in;
        for (int i = 0; i < kLanes; i++) mass[i] += double(kept[i]);
    }
    Reached r = {0, 0};
    for (int i = 0; i < kLanes; i++) r.count += count[i], r.mass += mass[i];
    return r;
}

// In the order of falling logits, lower index first: the token with which the count and mass so far
// are enough(count, mass). Its logit is bracketed by counting, so that only a few tokens are
// sorted. `bracket` has V + 1 places.
template <class Enough>
int last_likely(int* bracket, const float* z, const float* p, int V, float z_max, float temperature,
                const Enough& enough) {
    const int sorted = std::max(16, V / 256); // tokens that may stay in the bracket [low, high)
    float low = -INFINITY, high = std::nextafter(z_max, INFINITY);
    Reached at_low = {V, 0}, at_high = {0, 0};
    auto probe = [&](float lowest) { // true: `lowest` is the new low
        const Reached r = reached(z, p, V, lowest);
        const bool is_low = enough(r.count, r.mass);
        (is_low ? low : high) = lowest;
        (is_low ? at_low : at_high) = r;
        return is_low;
    };
    for (float depth = 2; depth < 200; depth *= 2)
        if (probe(z_max - depth * temperature)) break;
    while (at_low.count - at_high.count > sorted) {
        const float middle = low + (high - low) / 2;
        if (!(middle > low && middle < high)) break; // equal logits, or all that is far below
        probe(middle);
    }
    int count = 0;
    for (int v = 0; v < V; v++) {
        bracket[count] = v;
        count += (z[v] >= low) & (z[v] < high);
    }
    std::sort(bracket, bracket + count,
              [z](int a, int b) { return z[a] > z[b] || (z[a] == z[b] && a < b); });
    int i = 0;
    for (double mass = at_high.mass; i + 1 < count; i++) {
        mass += double(p[bracket[i]]);
        if (enough(at_high.count + i + 1, mass)) break;
    }
    return bracket[i];
}

// Zeroes p behind token `last`; the sums as of exponentials().
double cut_behind(float* p, double* block_sum, const float* z, int V, int last) {
    double sum = 0;
    for (int begin = 0; begin < V; begin += kBlock) {
        const int end = std::min(V, begin + kBlock);
        for (int v = begin; v < end; v++) {
            const bool kept = (z[v] > z[last]) | ((z[v] == z[last]) & (v <= last));
            p[v] = kept ? p[v] : 0.0f;
        }
        block_sum[begin / kBlock] = sum_block(p + begin, end - begin);
        sum += block_sum[begin / kBlock];
    }
    return sum;
}

// (T1). Rounding never leaves it without a token: the last possible one of a block is taken.
int draw(const float* p, const double* block_sum, int V, double threshold, int token) {
    double before = 0, cumulative = 0;
    int begin = 0;
    for (int block = 0; block * kBlock < V && cumulative <= threshold; block++)
        if (block_sum[block] > 0) {
            begin = block * kBlock;
            before = cumulative;
            cumulative += block_sum[block];
        }
    for (int v = begin; v < std::min(V, begin + kBlock) && before <= threshold; v++) {
        before += double(p[v]);
        if (p[v] > 0) token = v;
    }
    return token;
}

} // namespace

void cpu::sample_forward(Ctx& ctx, View tokens, View kept, const View& logits, const View& uniform,
                         const SampleShape& s) {
    ScratchFrame frame(ctx.scratch);
    const int64_t threads = omp_get_max_threads(), blocks = (s.V + kBlock - 1) / kBlock;
    float* p_of = ctx.scratch.alloc_of<float>(threads * blocks * kBlock);
    double* block_sum_of = ctx.scratch.alloc_of<double>(threads * blocks);
    int* bracket_of = ctx.scratch.alloc_of<int>(threads * (s.V + 1));
    const bool narrow = logits.dtype == Dtype::bf16;
    float* wide = ctx.scratch.alloc_of<float>(narrow ? threads * int64_t(s.V) : 0);
    parallel_for_dynamic(logits.shape[0], [&](int64_t n, int thread) {
        const float* z = nullptr;
        with_real(logits.dtype, [&](auto x) {
            z = as_floats(logits.as<decltype(x)>() + n * logits.ld, s.V, wide + thread * s.V);
        });
        int32_t& token = tokens.as<int32_t>()[n];
        token = argmax(z, s.V);
        kept.as<double>()[n] = 1;
        if (s.temperature == 0) return;
        const float z_max = z[token], temperature = float(s.temperature);
        float* p = p_of + thread * blocks * kBlock;
        double* block_sum = block_sum_of + thread * blocks;
        int* bracket = bracket_of + thread * (int64_t(s.V) + 1);
        double sum = exponentials(p, block_sum, z, z_max, s.V, float(1 / s.temperature));
        if (!(sum > 0)) return; // NaN or an infinite logit: no distribution
        const double whole = sum;
        auto cut = [&](auto enough) {
            const int last = last_likely(bracket, z, p, s.V, z_max, temperature, enough);
            sum = cut_behind(p, block_sum, z, s.V, last);
        };
        if (s.top_k > 0 && s.top_k < s.V) cut([&](int count, double) { return count >= s.top_k; });
        if (s.top_p < 1) cut([enough = s.top_p * sum](int, double mass) { return mass >= enough; });
        kept.as<double>()[n] = sum / whole;
        token = draw(p, block_sum, s.V, uniform.as<double>()[n] * sum, token);
    });
}
