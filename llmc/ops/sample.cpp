// Sampling: contract checks and reference. Contract: sample.h. Fast CPU: sample_cpu.cpp.
#include "llmc/ops/sample.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

void check::sample_forward(Ctx& ctx, View tokens, View kept, const View& logits,
                           const View& uniform, const SampleShape& shape) {
    const char* op = "sample_forward";
    require_shape(op, tokens, logits.shape[0]);
    require_shape(op, kept, logits.shape[0]);
    require_shape(op, uniform, logits.shape[0]);
    require_real(op, logits, ctx);
    require_dtypes(op, Dtype::f64, {&kept, &uniform});
    require_dtype(op, tokens, Dtype::i32);
    require(shape.V >= 1 && shape.V <= logits.shape[1], "%s: V=%d of %ld columns", op, shape.V,
            long(logits.shape[1]));
    require(shape.temperature >= 0 && shape.top_p > 0 && shape.top_k >= 0,
            "%s: temperature=%g top_p=%g top_k=%d", op, shape.temperature, shape.top_p,
            shape.top_k);
}

void ref::sample_forward(Ctx&, View tokens, View kept, const View& logits, const View& uniform,
                         const SampleShape& shape) {
    const int V = shape.V;
    std::vector<int> order(V);
    std::vector<double> p(V);
    for (int64_t n = 0; n < logits.shape[0]; n++) {
        const double* z = logits.as<double>() + n * logits.ld;
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return z[a] > z[b]; });
        kept.as<double>()[n] = 1;
        if (shape.temperature == 0) {
            tokens.as<int32_t>()[n] = order[0];
            continue;
        }
        double sum = 0, whole = 0;
        for (int i = 0; i < V; i++) {
            const int v = order[i];
            p[v] = std::exp((z[v] - z[order[0]]) / shape.temperature);
            whole += p[v];
            if (shape.top_k > 0 && i >= shape.top_k) p[v] = 0;
            sum += p[v];
        }
        double mass = 0; // of the tokens before i
        for (int i = 0; i < V && shape.top_p < 1; i++) {
            if (mass >= shape.top_p * sum) p[order[i]] = 0;
            mass += p[order[i]];
        }
        sum = std::accumulate(p.begin(), p.end(), 0.0);
        if (shape.top_k > 0 || shape.top_p < 1) kept.as<double>()[n] = sum / whole;
        double cumulative = 0;
        int32_t token = -1;
        for (int v = 0; v < V; v++) { // (T1)
            cumulative += p[v];
            if (p[v] > 0) token = v; // the last possible one, should rounding leave the sum short
            if (cumulative > uniform.as<double>()[n] * sum) break;
        }
        tokens.as<int32_t>()[n] = token < 0 ? order[0] : token;
    }
}
