// ops/swiglu: what the op cases cannot say.
#include "llmc/device/buffer.h"
#include "llmc/ops/swiglu.h"
#include "test/catch.h"

#include <cmath>
#include <cstring>

TEST_CASE("swiglu: large gates saturate without overflow", "[op][swiglu][cpu]") {
    const float gates[] = {-1e30f, -1000, -100, -88, -20, 0, 20, 88, 100, 1000, 1e30f};
    const int F = int(std::size(gates));
    Buffer gate_up(Dtype::f32, "gate_up", 1, 2 * F), out(Dtype::f32, "out", 1, F),
        dout(Dtype::f32, "dout", 1, F), dgate_up(Dtype::f32, "dgate_up", 1, 2 * F);
    for (int f = 0; f < F; f++) {
        gate_up.as<float>()[f] = gates[f];
        gate_up.as<float>()[F + f] = 2;
        dout.as<float>()[f] = 1;
    }
    Ctx ctx(Backend::cpu, 1);
    swiglu_forward(ctx, out.view(), gate_up.view());
    swiglu_backward(ctx, dgate_up.view(), dout.view(), gate_up.view());
    for (int f = 0; f < F; f++) {
        INFO("gate " << gates[f]);
        const double g = gates[f], s = 1 / (1 + std::exp(-g));
        // below -87 the vector exponential's range ends: anything below 1e-30 is a zero here
        CHECK(std::fabs(out.as<float>()[f] - 2 * g * s) <= 1e-6 * std::fabs(2 * g * s) + 1e-30);
        CHECK(std::fabs(dgate_up.as<float>()[F + f] - g * s) <= 1e-6 * std::fabs(g * s) + 1e-30);
        const double slope = g > 100 ? 1 : g < -100 ? 0 : s * (1 + g * (1 - s));
        CHECK(std::fabs(dgate_up.as<float>()[f] - 2 * slope) <= 1e-6 * std::fabs(slope) + 1e-30);
    }
}

TEST_CASE("swiglu: the gradient may be written over gate and up", "[op][swiglu][cpu][simt]") {
    const int N = 5, F = 37;
    for (Backend backend : {Backend::ref, Backend::cpu, Backend::simt}) {
        Ctx ctx(backend, 2);
        Buffer gate_up(ctx.dtype(), "gate_up", N, 2 * F), dout(ctx.dtype(), "dout", N, F),
            dgate_up(ctx.dtype(), "dgate_up", N, 2 * F);
        for (int i = 0; i < 2 * N * F; i++) write_value(gate_up.view(), i, 0.1 * (i % 61 - 30));
        for (int i = 0; i < N * F; i++) write_value(dout.view(), i, 0.2 * (i % 17 - 8));
        swiglu_backward(ctx, dgate_up.view(), dout.view(), gate_up.view());
        swiglu_backward(ctx, gate_up.view(), dout.view(), gate_up.view());
        ctx.wait();
        INFO(backend_name(backend));
        CHECK(std::memcmp(gate_up.bytes(), dgate_up.bytes(), gate_up.view().bytes()) == 0);
    }
}
