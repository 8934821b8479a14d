// SwiGLU: contract checks and reference. Contract: swiglu.h. Fast CPU: swiglu_cpu.cpp.
#include "llmc/ops/swiglu.h"

#include <cmath>

void check::swiglu_forward(Ctx& ctx, View out, const View& gate_up) {
    require_shape("swiglu_forward", gate_up, out.shape[0], 2 * out.shape[1]);
    require_real("swiglu_forward", gate_up, ctx);
    require_dtype("swiglu_forward", out, gate_up.dtype);
}

void check::swiglu_backward(Ctx& ctx, View dgate_up, const View& dout, const View& gate_up) {
    require_shape("swiglu_backward", dgate_up, dout.shape[0], 2 * dout.shape[1]);
    require_shape("swiglu_backward", gate_up, dout.shape[0], 2 * dout.shape[1]);
    require_real("swiglu_backward", dout, ctx);
    require_dtypes("swiglu_backward", dout.dtype, {&dgate_up, &gate_up});
}

// ------------------------------------------------------------------------------------------------
// reference

void ref::swiglu_forward(Ctx&, View out, const View& gate_up) {
    const int64_t F = out.shape[1];
    for (int64_t n = 0; n < out.shape[0]; n++) {
        const double *g = gate_up.as<double>() + n * gate_up.ld, *u = g + F;
        for (int64_t f = 0; f < F; f++) // (S1)
            out.as<double>()[n * out.ld + f] = g[f] / (1 + std::exp(-g[f])) * u[f];
    }
}

void ref::swiglu_backward(Ctx&, View dgate_up, const View& dout, const View& gate_up) {
    const int64_t F = dout.shape[1];
    for (int64_t n = 0; n < dout.shape[0]; n++) {
        const double *g = gate_up.as<double>() + n * gate_up.ld, *u = g + F;
        const double* d = dout.as<double>() + n * dout.ld;
        double *dg = dgate_up.as<double>() + n * dgate_up.ld, *du = dg + F;
        for (int64_t f = 0; f < F; f++) {
            const double gate = g[f], up = u[f], s = 1 / (1 + std::exp(-gate));
            dg[f] = d[f] * up * s * (1 + gate * (1 - s)); // (S2)
            du[f] = d[f] * gate * s;                      // (S3)
        }
    }
}
