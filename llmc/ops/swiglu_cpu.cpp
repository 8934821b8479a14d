// SwiGLU on the CPU: one pass over the rows, vector exp. Contract: swiglu.h.
#include "llmc/device/parallel.h"
#include "llmc/device/simd.h"
#include "llmc/ops/swiglu.h"

#include <algorithm>

namespace {

template <class T> void forward_rows(View out, const View& gate_up) {
    const int F = int(out.shape[1]);
    parallel_for(out.shape[0], [&](int64_t n) {
        const T *g = gate_up.as<T>() + n * gate_up.ld, *u = g + F;
        T* o = out.as<T>() + n * out.ld;
        for (int f = 0; f < F; f += kLanes) {
            const int count = std::min(kLanes, F - f);
            const Vf gate = load_tail(g + f, count, 0.0f), up = load_tail(u + f, count, 0.0f);
            store_tail(o + f, gate / (1.0f + exp(-gate)) * up, count); // (S1)
        }
    });
}

template <class T> void backward_rows(View dgate_up, const View& dout, const View& gate_up) {
    const int F = int(dout.shape[1]);
    parallel_for(dout.shape[0], [&](int64_t n) {
        const T *g = gate_up.as<T>() + n * gate_up.ld, *u = g + F;
        const T* d = dout.as<T>() + n * dout.ld;
        T *dg = dgate_up.as<T>() + n * dgate_up.ld, *du = dg + F;
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

} // namespace

void cpu::swiglu_forward(Ctx&, View out, const View& gate_up) {
    with_real(out.dtype, [&](auto x) { forward_rows<decltype(x)>(out, gate_up); });
}

void cpu::swiglu_backward(Ctx&, View dgate_up, const View& dout, const View& gate_up) {
    with_real(dout.dtype, [&](auto x) { backward_rows<decltype(x)>(dgate_up, dout, gate_up); });
}
