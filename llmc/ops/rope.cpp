// QK-norm and RoPE: contract checks and reference. Contract: rope.h. Fast CPU: rope_cpu.cpp.
#include "llmc/ops/rope.h"

#include <cmath>
#include <vector>

void rope_table_fill(View table, double base) {
    const int64_t P = table.shape[0], D = table.shape[1];
    for (int64_t p = 0; p < P; p++)
        for (int64_t i = 0; i < D / 2; i++) {
            const double angle = double(p) * std::pow(base, -2.0 * double(i) / double(D));
            const double pair[2] = {std::cos(angle), std::sin(angle)};
            for (int half = 0; half < 2; half++)
                write_value(table, p * table.ld + half * (D / 2) + i, pair[half]);
        }
}

static void require_rope(const char* op, const Ctx& ctx, const View& qk, const View& rstd,
                         const View& qkv, const View& q_weight, const View& k_weight,
                         const View& table, const View& positions, int H, int HKV) {
    const int64_t N = qkv.shape[0], D = table.shape[1];
    require(D % 2 == 0, "%s: D=%ld is odd", op, long(D));
    require_shape(op, qkv, N, (H + 2 * HKV) * D);
    require_shape(op, qk, N, (H + HKV) * D);
    require_shape(op, rstd, N, H + HKV);
    require_shape(op, q_weight, D);
    require_shape(op, k_weight, D);
    require_shape(op, positions, N);
    require_real(op, qkv, ctx);
    require_dtypes(op, qkv.dtype, {&qk, &q_weight, &k_weight});
    require_dtypes(op, ctx.dtype(), {&rstd, &table});
    require_dtype(op, positions, Dtype::i32);
    if (!ctx.checks_values()) return;
    const int32_t* p = positions.as<int32_t>();
    for (int64_t n = 0; n < N; n++)
        require(p[n] >= 0 && p[n] < table.shape[0], "%s: positions[%ld]=%d, P=%ld", op, long(n),
                p[n], long(table.shape[0]));
}

void check::qknorm_rope_forward(Ctx& ctx, View qk, View rstd, const View& qkv, const View& q_weight,
                                const View& k_weight, const View& table, const View& positions,
                                int heads, int kv_heads, double eps) {
    require_rope("qknorm_rope_forward", ctx, qk, rstd, qkv, q_weight, k_weight, table, positions,
                 heads, kv_heads);
    require(eps >= 0, "qknorm_rope_forward: eps=%g", eps);
}

void check::qknorm_rope_backward(Ctx& ctx, View dqkv, View dq_weight, View dk_weight,
                                 const View& dqk, const View& rstd, const View& qkv,
                                 const View& q_weight, const View& k_weight, const View& table,
                                 const View& positions, int heads, int kv_heads) {
    const char* op = "qknorm_rope_backward";
    require_rope(op, ctx, dqk, rstd, qkv, q_weight, k_weight, table, positions, heads, kv_heads);
    require_shape(op, dqkv, qkv.shape[0], qkv.shape[1]);
    require_shape(op, dq_weight, q_weight.shape[0]);
    require_shape(op, dk_weight, k_weight.shape[0]);
    require_dtype(op, dqkv, qkv.dtype);
    require_dtypes(op, ctx.dtype(), {&dq_weight, &dk_weight});
}

// ------------------------------------------------------------------------------------------------
// reference

void ref::qknorm_rope_forward(Ctx&, View qk, View rstd, const View& qkv, const View& q_weight,
                              const View& k_weight, const View& table, const View& positions,
                              int heads, int kv_heads, double eps) {
    const int64_t D = table.shape[1], half = D / 2;
    for (int64_t n = 0; n < qkv.shape[0]; n++) {
        const double* cosine = table.as<double>() + positions.as<int32_t>()[n] * table.ld;
        const double* sine = cosine + half;
        for (int h = 0; h < heads + kv_heads; h++) {
            const double* w = (h < heads ? q_weight : k_weight).as<double>();
            const double* x = qkv.as<double>() + n * qkv.ld + h * D;
            double* y = qk.as<double>() + n * qk.ld + h * D;
            double square_sum = 0;
            for (int64_t d = 0; d < D; d++) square_sum += x[d] * x[d];
            const double s = 1 / std::sqrt(square_sum / double(D) + eps); // (R1)
            rstd.as<double>()[n * rstd.ld + h] = s;
            for (int64_t i = 0; i < half; i++) {
                const double a = x[i] * s * w[i], b = x[i + half] * s * w[i + half]; // (R2)
                y[i] = a * cosine[i] - b * sine[i];                                  // (R3)
                y[i + half] = b * cosine[i] + a * sine[i];
            }
        }
    }
}

void ref::qknorm_rope_backward(Ctx&, View dqkv, View dq_weight, View dk_weight, const View& dqk,
                               const View& rstd, const View& qkv, const View& q_weight,
                               const View& k_weight, const View& table, const View& positions,
                               int heads, int kv_heads) {
    const int64_t D = table.shape[1], half = D / 2;
    std::vector<double> dnormed(D);
    for (int64_t n = 0; n < qkv.shape[0]; n++) {
        const double* cosine = table.as<double>() + positions.as<int32_t>()[n] * table.ld;
        const double* sine = cosine + half;
        for (int h = 0; h < heads + kv_heads; h++) {
            const double* w = (h < heads ? q_weight : k_weight).as<double>();
            double* dw = (h < heads ? dq_weight : dk_weight).as<double>();
            const double* x = qkv.as<double>() + n * qkv.ld + h * D;
            const double* dy = dqk.as<double>() + n * dqk.ld + h * D;
            double* dx = dqkv.as<double>() + n * dqkv.ld + h * D;
            const double s = rstd.as<double>()[n * rstd.ld + h];
            double dot = 0;
            for (int64_t i = 0; i < half; i++) { // (R4): the rotation's transpose
                dnormed[i] = dy[i] * cosine[i] + dy[i + half] * sine[i];
                dnormed[i + half] = dy[i + half] * cosine[i] - dy[i] * sine[i];
            }
            for (int64_t d = 0; d < D; d++) {
                dot += dnormed[d] * w[d] * x[d];
                dw[d] += dnormed[d] * x[d] * s;
            }
            for (int64_t d = 0; d < D; d++)
                dx[d] = s * (dnormed[d] * w[d] - x[d] * s * s * dot / double(D));
        }
    }
}
