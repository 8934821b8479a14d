// Sampling on the CPU: rows in parallel; probabilities in fp32, the cumulative sum in double.
// Without truncation two passes over the row and no sort. Contract: sample.h.
#include "llmc/device/parallel.h"
#include "llmc/device/simd.h"
#include "llmc/ops/sample.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace {

int argmax(const float* z, int V) { // the lowest index among equals
    int best = 0;
    for (int v = 1; v < V; v++)
        if (z[v] > z[best]) best = v;
    return best;
}

// Zeroes the tokens that top_k and top_p cut off.
void truncate(float* p, const float* z, int* order, const SampleShape& s) {
    std::iota(order, order + s.V, 0);
    auto before = [&](int a, int b) { return z[a] > z[b] || (z[a] == z[b] && a < b); };
    const int kept = s.top_k == 0 ? s.V : std::min(s.top_k, s.V);
    if (kept < s.V) {
        std::nth_element(order, order + kept - 1, order + s.V, before);
        for (int i = kept; i < s.V; i++) p[order[i]] = 0;
    }
    if (s.top_p >= 1) return;
    std::sort(order, order + kept, before);
    double sum = 0, mass = 0;
    for (int i = 0; i < kept; i++) sum += p[order[i]];
    for (int i = 0; i < kept; i++) {
        if (mass >= s.top_p * sum) p[order[i]] = 0;
        mass += p[order[i]];
    }
}

} // namespace

void cpu::sample_forward(Ctx& ctx, View tokens, const View& logits, const View& uniform,
                         const SampleShape& s) {
    ScratchFrame frame(ctx.scratch);
    const int64_t N = logits.shape[0], width = (s.V + kLanes - 1) / kLanes * kLanes;
    float* scratch_p = ctx.scratch.alloc_of<float>(N * width);
    int* scratch_order = ctx.scratch.alloc_of<int>(N * width);
    parallel_for(N, [&](int64_t n) {
        const float* z = logits.as<float>() + n * logits.ld;
        const int best = argmax(z, s.V);
        tokens.as<int32_t>()[n] = best;
        if (s.temperature == 0) return;
        float* p = scratch_p + n * width;
        const float inverse = float(1 / s.temperature);
        for (int v = 0; v < s.V; v += kLanes) {
            const Vf x = load_tail(z + v, std::min(kLanes, s.V - v), z[best]);
            store(p + v, exp((x - z[best]) * inverse));
        }
        if (s.top_k > 0 || s.top_p < 1) truncate(p, z, scratch_order + n * width, s);
        double sum = 0, cumulative = 0;
        for (int v = 0; v < s.V; v++) sum += double(p[v]);
        const double threshold = uniform.as<double>()[n] * sum;
        for (int v = 0; v < s.V; v++) { // (T1)
            cumulative += double(p[v]);
            if (p[v] > 0) tokens.as<int32_t>()[n] = v;
            if (cumulative > threshold) break;
        }
    });
}
