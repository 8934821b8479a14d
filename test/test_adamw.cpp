// ops/adamw: what the op cases cannot say. The same six steps as PyTorch's: golden adamw_steps.
#include "llmc/core/rng.h"
#include "llmc/device/buffer.h"
#include "llmc/ops/adamw.h"
#include "test/catch.h"

#include <cmath>

namespace {

// One parameter through adamw_update.
struct Scalar {
    Scalar(Backend backend, double start) : ctx(backend, 1) {
        for (Buffer* b : {&param, &m, &v, &grad}) *b = Buffer(ctx.dtype(), "scalar", 1);
        set(param, start);
    }
    void set(Buffer& b, double value) {
        if (ctx.backend == Backend::ref) b.as<double>()[0] = value;
        else b.as<float>()[0] = float(value);
    }
    double get(Buffer& b) {
        return ctx.backend == Backend::ref ? b.as<double>()[0] : double(b.as<float>()[0]);
    }
    double update(double gradient, const AdamW& adamw) {
        set(grad, gradient);
        adamw_update(ctx, param.view(), m.view(), v.view(), grad.view(), adamw);
        return get(param);
    }
    Ctx ctx;
    Buffer param, m, v, grad;
};

} // namespace

TEST_CASE("adamw: with bias correction the first step is lr, whatever the gradient",
          "[op][adamw]") {
    for (Backend backend : {Backend::ref, Backend::cpu})
        for (double gradient : {1e-3, -4.0, 700.0})
            for (double beta2 : {0.95, 0.999}) {
                Scalar scalar(backend, 0.5);
                const double got = scalar.update(gradient, {1e-2, 0.9, beta2, 1e-12, 0, 1, 1});
                CHECK(got == Approx(0.5 - std::copysign(1e-2, gradient)).epsilon(1e-6));
            }
}

TEST_CASE("adamw: a constant gradient moves by lr at every step", "[op][adamw]") {
    for (Backend backend : {Backend::ref, Backend::cpu}) {
        Scalar scalar(backend, 1);
        for (int step = 1; step <= 30; step++)
            CHECK(scalar.update(0.3, {1e-2, 0.9, 0.95, 1e-12, 0, 1, step}) ==
                  Approx(1 - 1e-2 * step).epsilon(3e-6)); // 30 fp32 roundings
    }
}

TEST_CASE("adamw: decay is decoupled: it scales the weight and leaves m and v", "[op][adamw]") {
    for (Backend backend : {Backend::ref, Backend::cpu}) {
        Scalar scalar(backend, 2);
        CHECK(scalar.update(0, {1e-2, 0.9, 0.95, 1e-8, 0.1, 1, 1}) == Approx(2 * (1 - 1e-3)));
        CHECK(scalar.get(scalar.m) == 0);
        CHECK(scalar.get(scalar.v) == 0);
        // decay first, then the step: p (1 - lr wd) - lr u
        Scalar both(backend, 2);
        CHECK(both.update(5, {1e-2, 0.9, 0.95, 1e-12, 0.1, 1, 1}) ==
              Approx(2 * (1 - 1e-3) - 1e-2).epsilon(1e-6));
    }
}

TEST_CASE("adamw: grad_scale is the gradient scaled", "[op][adamw]") {
    for (Backend backend : {Backend::ref, Backend::cpu}) {
        Scalar clipped(backend, 1), scaled(backend, 1);
        for (int step = 1; step <= 5; step++) {
            const double a = clipped.update(step, {1e-2, 0.9, 0.95, 1e-3, 0.1, 0.25, step});
            const double b = scaled.update(0.25 * step, {1e-2, 0.9, 0.95, 1e-3, 0.1, 1, step});
            CHECK(a == b); // 0.25: exact
        }
    }
}

TEST_CASE("adamw: an element does not depend on its neighbours", "[op][adamw][cpu][simt]") {
    // Any offset and length: vector body and tail compute the same bits.
    const int64_t n = 70;
    auto run = [](Backend backend, int64_t begin, int64_t count, Buffer(&b)[4]) {
        for (int k = 0; k < 4; k++) {
            Rng rng(13, uint64_t(k));
            b[k] = Buffer(Dtype::f32, "b", n);
            for (int64_t i = 0; i < n; i++) b[k].as<float>()[i] = float(rng.uniform() + 0.1);
        }
        Ctx ctx(backend, 2);
        auto part = [&](int k) { return b[k].view().slice_rows(begin, count); };
        adamw_update(ctx, part(0), part(1), part(2), part(3), {1e-3, 0.9, 0.95, 1e-8, 0.1, 0.7, 3});
    };
    for (Backend backend : {Backend::cpu, Backend::simt}) {
        Buffer whole[4], piece[4];
        run(backend, 0, n, whole);
        for (auto [begin, count] :
             {std::array<int64_t, 2>{0, 1}, {1, 16}, {3, 33}, {37, 33}, {69, 1}}) {
            run(backend, begin, count, piece);
            for (int64_t i = begin; i < begin + count; i++)
                for (int k = 0; k < 3; k++)
                    REQUIRE(piece[k].as<float>()[i] == whole[k].as<float>()[i]);
        }
    }
}

TEST_CASE("square sum: the same bits at any thread count, the value of the reference",
          "[op][adamw][simt]") {
    for (int64_t n : {1, 15, 16, 17, 16384, 16385, 100003}) {
        Buffer grad(Dtype::f32, "grad", n), wide(Dtype::f64, "wide", n), out(Dtype::f64, "out", 1);
        Rng rng(17, uint64_t(n));
        for (int64_t i = 0; i < n; i++) {
            grad.as<float>()[i] = float(rng.normal());
            wide.as<double>()[i] = double(grad.as<float>()[i]);
        }
        Ctx ref(Backend::ref, 1);
        square_sum_forward(ref, out.view(), wide.view());
        const double want = out.as<double>()[0];
        for (Backend backend : {Backend::cpu, Backend::simt}) {
            double first = 0;
            for (int threads : {1, 2, 3, 5}) {
                Ctx ctx(backend, threads);
                ctx.simt.seed = uint32_t(threads);
                out.as<double>()[0] = NAN;
                square_sum_forward(ctx, out.view(), grad.view());
                if (threads == 1) first = out.as<double>()[0];
                CHECK(out.as<double>()[0] == first);
                CHECK(first == Approx(want).epsilon(1e-13)); // squares of floats: exact in double
            }
        }
    }
    Buffer large(Dtype::f32, "large", 3), out(Dtype::f64, "out", 1);
    for (int i = 0; i < 3; i++) large.as<float>()[i] = 1e30f; // its square overflows fp32
    for (Backend backend : {Backend::cpu, Backend::simt}) {
        Ctx ctx(backend, 1);
        square_sum_forward(ctx, out.view(), large.view());
        CHECK(out.as<double>()[0] == Approx(3e60));
    }
}
