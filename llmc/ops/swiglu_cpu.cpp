// SwiGLU on the CPU: one pass over the rows, vector exp. Contract: swiglu.h.
#include "llmc/device/parallel.h"
#include "llmc/device/simd.h"
#include "llmc/ops/swiglu.h"

#include <algorithm>

void cpu::swiglu_forward(Ctx&, View out, const View& gate_up) {
    const int F = int(out.shape[1]);
    parallel_for(out.shape[0], [&](int64_t n) {
        const float *g = gate_up.as<float>() + n * gate_up.ld, *u = g + F;
        float* o = out.as<float>() + n * out.ld;
        for (int f = 0; f < F; f += kLanes) {
            const int count = std::min(kLanes, F - f);
            const Vf gate = load_tail(g + f, count, 0.0f), up = load_tail(u + f, count, 0.0f);
            store_tail(o + f, gate / (1.0f + exp(-gate)) * up, count); // (S1)
        }
    });
}

void cpu::swiglu_backward(Ctx&, View dgate_up, const View& dout, const View& gate_up) {
    const int F = int(dout.shape[1]);
    parallel_for(dout.shape[0], [&](int64_t n) {
        const float *g = gate_up.as<float>() + n * gate_up.ld, *u = g + F;
        const float* d = dout.as<float>() + n * dout.ld;
        float *dg = dgate_up.as<float>() + n * dgate_up.ld, *du = dg + F;
        for (int f = 0; f < F; f += kLanes) {
            const int count = std::min(kLanes, F - f);
            const Vf gate = load_tail(g + f, count, 0.0f), up = load_tail(u + f, count, 0.0f);
            const Vf grad = load_tail(d + f, count, 0.0f);
            const Vf s = 1.0f / (1.0f + exp(-gate));
            store_tail(dg + f, grad * up * s * (1.0f + gate * (1.0f - s)), count); // (S2)
            store_tail(du + f, grad * gate * s, count);                            // (S3)
        }
    });
}
