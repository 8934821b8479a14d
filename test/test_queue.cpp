// A deferring context (device/context.h): a result is there after the wait, not before.
#include "llmc/device/buffer.h"
#include "llmc/device/memory.h"
#include "llmc/ops/swiglu.h"
#include "test/catch.h"

#include <cmath>

TEST_CASE("queue: under simt ops and copies wait, in order, until they are waited for", "[simt]") {
    Ctx ctx(Backend::simt, 1);
    ctx.simt.defer = true;
    Buffer gate_up(Dtype::f32, "gate_up", 3, 10), out(Dtype::f32, "out", 3, 5),
        copy(Dtype::f32, "copy", 3, 5);
    for (int i = 0; i < 30; i++) gate_up.as<float>()[i] = float(i);
    swiglu_forward(ctx, out.view(), gate_up.view());
    copy_tensor(ctx, copy.view(), out.view());
    fill_zero(ctx, out.view());
    CHECK(out.as<float>()[4] == 0);
    gate_up.as<float>()[4] = 0; // too early to reuse: the op has not read it yet
    ctx.wait();
    CHECK(copy.as<float>()[4] == 0);
    CHECK(copy.as<float>()[3] == Approx(3 / (1 + std::exp(-3.0)) * 8).epsilon(1e-6));
    CHECK(out.as<float>()[3] == 0);
    swiglu_forward(ctx, out.view(), gate_up.view());
    ctx.wait();
    CHECK(out.as<float>()[3] == copy.as<float>()[3]);
    ctx.wait(); // nothing is done twice
}

TEST_CASE("queue: other backends do not defer", "[cpu]") {
    Ctx ctx(Backend::cpu, 1);
    ctx.simt.defer = true;
    Buffer gate_up(Dtype::f32, "gate_up", 1, 2), out(Dtype::f32, "out", 1, 1);
    gate_up.as<float>()[0] = gate_up.as<float>()[1] = 1;
    swiglu_forward(ctx, out.view(), gate_up.view());
    CHECK(out.as<float>()[0] > 0.7f);
}
