// Mixture of experts: reference, and what is the same on every backend. Contract: moe.h. Checks:
// moe_checks.cpp. Fast CPU: moe_cpu.cpp.
#include "llmc/ops/moe.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

double max_violation(const int32_t* counts, int experts) {
    const double total = std::accumulate(counts, counts + experts, 0.0), mean = total / experts;
    if (total == 0) return 0;
    return (*std::max_element(counts, counts + experts) - mean) / mean; // (M9)
}

void ref::router_forward(Ctx&, View weights, View experts, View scores, const View& logits,
                         const View& bias, double scale) {
    const int64_t E = logits.shape[1], K = weights.shape[1];
    std::vector<int> order(E);
    for (int64_t n = 0; n < logits.shape[0]; n++) {
        double* s = scores.as<double>() + n * scores.ld;
        for (int64_t e = 0; e < E; e++) // (M1)
            s[e] = 1 / (1 + std::exp(-logits.as<double>()[n * logits.ld + e]));
        const double* b = bias.as<double>();
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), // (M2)
                         [&](int i, int j) { return s[i] + b[i] > s[j] + b[j]; });
        std::sort(order.begin(), order.begin() + K);
        double sum = 0;
        for (int64_t k = 0; k < K; k++) sum += s[order[k]];
        for (int64_t k = 0; k < K; k++) {
            experts.as<int32_t>()[n * K + k] = order[k];
            weights.as<double>()[n * K + k] = scale * s[order[k]] / sum; // (M3)
        }
    }
}

void ref::router_backward(Ctx&, View dlogits, const View& dweights, const View& weights,
                          const View& experts, const View& scores, double scale) {
    const int64_t K = weights.shape[1];
    for (int64_t n = 0; n < scores.shape[0]; n++) {
        double* d = dlogits.as<double>() + n * dlogits.ld;
        const double* s = scores.as<double>() + n * scores.ld;
        const int32_t* e = experts.as<int32_t>() + n * K;
        const double* g = dweights.as<double>() + n * K;
        std::fill_n(d, dlogits.shape[1], 0.0);
        // dot = sum of g times the share of the selected sum. The share is formed first: at K = 1
        // it is 1 and the gradient exactly 0, not rounding noise that AdamW would scale up.
        double sum = 0, dot = 0;
        for (int64_t k = 0; k < K; k++) sum += s[e[k]];
        for (int64_t k = 0; k < K; k++) dot += g[k] * (s[e[k]] / sum);
        for (int64_t k = 0; k < K; k++) // (M4)
            d[e[k]] = scale / sum * (g[k] - dot) * s[e[k]] * (1 - s[e[k]]);
    }
}

void ref::slots_forward(Ctx&, View offsets, View slot_row, View row_slot, const View& experts) {
    const int64_t N = experts.shape[0], K = experts.shape[1], E = offsets.shape[0] - 1;
    const int32_t* e = experts.as<int32_t>();
    int32_t* begin = offsets.as<int32_t>();
    std::fill(begin, begin + E + 1, 0);
    for (int64_t i = 0; i < N * K; i++) begin[e[i] + 1]++;
    std::partial_sum(begin, begin + E + 1, begin);
    std::vector<int32_t> next(begin, begin + E);
    for (int64_t i = 0; i < N * K; i++) {
        const int32_t slot = next[e[i]]++;
        slot_row.as<int32_t>()[slot] = int32_t(i / K);
        row_slot.as<int32_t>()[i] = slot;
    }
}

void cpu::slots_forward(Ctx& ctx, View offsets, View slot_row, View row_slot, const View& experts) {
    ref::slots_forward(ctx, offsets, slot_row, row_slot, experts); // integers: nothing to round
}

void ref::moe_counts_update(Ctx&, View counts, const View& experts) {
    for (int64_t i = 0; i < experts.size(); i++) counts.as<int32_t>()[experts.as<int32_t>()[i]]++;
}

void cpu::moe_counts_update(Ctx& ctx, View counts, const View& experts) {
    ref::moe_counts_update(ctx, counts, experts);
}

template <class T> static void update_bias(T* bias, const int32_t* counts, int64_t E, double rate) {
    const double mean = std::accumulate(counts, counts + E, 0.0) / double(E);
    auto sign = [&](int64_t e) { return double(counts[e] < mean) - double(counts[e] > mean); };
    double mean_sign = 0;
    for (int64_t e = 0; e < E; e++) mean_sign += sign(e) / double(E);
    for (int64_t e = 0; e < E; e++) bias[e] += T(rate * (sign(e) - mean_sign)); // (M8)
}

void ref::moe_bias_update(Ctx&, View bias, const View& counts, double rate) {
    update_bias(bias.as<double>(), counts.as<int32_t>(), counts.rows(), rate);
}

void cpu::moe_bias_update(Ctx&, View bias, const View& counts, double rate) {
    update_bias(bias.as<float>(), counts.as<int32_t>(), counts.rows(), rate);
}

// ------------------------------------------------------------------------------------------------
// reference of the products

// Calls body(e, s, row) for every slot.
template <class Body>
static void for_slots(const View& offsets, const View& slot_row, const Body& body) {
    const int32_t* begin = offsets.as<int32_t>();
    for (int64_t e = 0; e + 1 < offsets.rows(); e++)
        for (int64_t s = begin[e]; s < begin[e + 1]; s++)
            body(e, s, slot_row.empty() ? s : int64_t(slot_row.as<int32_t>()[s]));
}

void ref::grouped_linear_forward(Ctx&, View out, const View& inp, const View& slot_row,
                                 const View& weight, const View& offsets) {
    const int64_t O = weight.shape[1], C = weight.shape[2];
    for_slots(offsets, slot_row, [&](int64_t e, int64_t s, int64_t row) {
        for (int64_t o = 0; o < O; o++) {
            double sum = 0;
            for (int64_t c = 0; c < C; c++) // (M5)
                sum +=
                    weight.as<double>()[(e * O + o) * C + c] * inp.as<double>()[row * inp.ld + c];
            out.as<double>()[s * out.ld + o] = sum;
        }
    });
}

void ref::grouped_linear_backward(Ctx&, View dinp, View dweight, const View& dout, const View& inp,
                                  const View& slot_row, const View& weight, const View& offsets) {
    const int64_t O = weight.shape[1], C = weight.shape[2];
    for_slots(offsets, slot_row, [&](int64_t e, int64_t s, int64_t row) { // (M6)
        double* dx = dinp.as<double>() + s * dinp.ld;
        std::fill_n(dx, C, 0.0);
        for (int64_t o = 0; o < O; o++) {
            const double g = dout.as<double>()[s * dout.ld + o];
            for (int64_t c = 0; c < C; c++) {
                dx[c] += g * weight.as<double>()[(e * O + o) * C + c];
                dweight.as<double>()[(e * O + o) * C + c] += g * inp.as<double>()[row * inp.ld + c];
            }
        }
    });
}

void ref::moe_combine_forward(Ctx&, View out, const View& slots, const View& weights,
                              const View& row_slot) {
    const int64_t C = out.shape[1], K = weights.shape[1];
    for (int64_t n = 0; n < out.shape[0]; n++)
        for (int64_t c = 0; c < C; c++) {
            double sum = 0;
            for (int64_t k = 0; k < K; k++) // (M7)
                sum += weights.as<double>()[n * K + k] *
                       slots.as<double>()[row_slot.as<int32_t>()[n * K + k] * slots.ld + c];
            out.as<double>()[n * out.ld + c] = sum;
        }
}

void ref::moe_combine_backward(Ctx&, View dslots, View dweights, const View& dout,
                               const View& slots, const View& weights, const View& row_slot) {
    const int64_t C = dout.shape[1], K = weights.shape[1];
    for (int64_t n = 0; n < dout.shape[0]; n++)
        for (int64_t k = 0; k < K; k++) {
            const int64_t slot = row_slot.as<int32_t>()[n * K + k];
            double dot = 0;
            for (int64_t c = 0; c < C; c++) {
                const double g = dout.as<double>()[n * dout.ld + c];
                dot += g * slots.as<double>()[slot * slots.ld + c];
                dslots.as<double>()[slot * dslots.ld + c] = g * weights.as<double>()[n * K + k];
            }
            dweights.as<double>()[n * K + k] = dot;
        }
}

void ref::moe_gather_backward(Ctx&, View dinp, const View& dslots, const View& row_slot) {
    const int64_t K = row_slot.shape[1];
    for (int64_t n = 0; n < dinp.shape[0]; n++)
        for (int64_t c = 0; c < dinp.shape[1]; c++) {
            double sum = 0;
            for (int64_t k = 0; k < K; k++)
                sum += dslots.as<double>()[row_slot.as<int32_t>()[n * K + k] * dslots.ld + c];
            dinp.as<double>()[n * dinp.ld + c] = sum;
        }
}
