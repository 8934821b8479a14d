// RMSNorm: contract checks and reference. Contract: norm.h. Fast CPU: norm_cpu.cpp.
#include "llmc/ops/norm.h"

#include <cmath>

void check::rmsnorm_forward(Ctx& ctx, View out, View residual, View rstd, const View& inp,
                            const View& delta, const View& weight, double eps) {
    const char* op = "rmsnorm_forward";
    const int64_t N = inp.shape[0], C = inp.shape[1];
    require_shape(op, inp, N, C);
    require_shape(op, out, N, C);
    require_shape(op, rstd, N);
    require_shape(op, weight, C);
    if (!delta.empty()) {
        require_shape(op, delta, N, C);
        require_shape(op, residual, N, C);
    }
    require_real(op, inp, ctx);
    require_dtypes(op, inp.dtype, {&out, &delta, &weight});
    if (!delta.empty()) require_dtype(op, residual, inp.dtype);
    require_dtype(op, rstd, ctx.dtype());
    require(eps >= 0, "%s: eps=%g", op, eps);
}

void check::rmsnorm_backward(Ctx& ctx, View dresidual, View dweight, const View& dout,
                             const View& residual, const View& rstd, const View& weight) {
    const char* op = "rmsnorm_backward";
    const int64_t N = residual.shape[0], C = residual.shape[1];
    require_shape(op, residual, N, C);
    require_shape(op, dresidual, N, C);
    require_shape(op, dout, N, C);
    require_shape(op, rstd, N);
    require_shape(op, weight, C);
    require_shape(op, dweight, C);
    require_real(op, residual, ctx);
    require_dtypes(op, residual.dtype, {&dresidual, &dout, &weight});
    require_dtypes(op, ctx.dtype(), {&rstd, &dweight});
}

// ------------------------------------------------------------------------------------------------
// reference

void ref::rmsnorm_forward(Ctx&, View out, View residual, View rstd, const View& inp,
                          const View& delta, const View& weight, double eps) {
    const int64_t N = inp.shape[0], C = inp.shape[1];
    const double* w = weight.as<double>();
    for (int64_t n = 0; n < N; n++) {
        const double* x = inp.as<double>() + n * inp.ld;
        if (!delta.empty()) {
            const double* d = delta.as<double>() + n * delta.ld;
            double* r = residual.as<double>() + n * residual.ld;
            for (int64_t c = 0; c < C; c++) r[c] = x[c] + d[c]; // (N1)
            x = r;
        }
        double square_sum = 0;
        for (int64_t c = 0; c < C; c++) square_sum += x[c] * x[c];
        double s = 1.0 / std::sqrt(square_sum / double(C) + eps);
        rstd.as<double>()[n] = s;
        double* o = out.as<double>() + n * out.ld;
        for (int64_t c = 0; c < C; c++) o[c] = x[c] * s * w[c]; // (N2)
    }
}

void ref::rmsnorm_backward(Ctx&, View dresidual, View dweight, const View& dout,
                           const View& residual, const View& rstd, const View& weight) {
    const int64_t N = residual.shape[0], C = residual.shape[1];
    const double* w = weight.as<double>();
    double* dw = dweight.as<double>();
    for (int64_t n = 0; n < N; n++) {
        const double* x = residual.as<double>() + n * residual.ld;
        const double* dy = dout.as<double>() + n * dout.ld;
        double* dx = dresidual.as<double>() + n * dresidual.ld;
        double s = rstd.as<double>()[n], dot = 0;
        for (int64_t c = 0; c < C; c++) dot += dy[c] * w[c] * x[c];
        for (int64_t c = 0; c < C; c++) { // (N3)
            dx[c] += s * (dy[c] * w[c] - x[c] * s * s * dot / double(C));
            dw[c] += dy[c] * x[c] * s;
        }
    }
}
