// ops/linear: what the op cases cannot say.
#include "llmc/core/rng.h"
#include "llmc/device/buffer.h"
#include "llmc/ops/linear.h"
#include "test/catch.h"

#include <cmath>
#include <cstring>

namespace {

void fill_normal(View view, uint64_t stream) {
    Rng rng(7, stream);
    for (int64_t i = 0; i < view.size(); i++) view.as<float>()[i] = float(rng.normal());
}

bool equal_bits(const View& a, const View& b) {
    return std::memcmp(a.data, b.data, size_t(std::min(a.bytes(), b.bytes()))) == 0;
}

} // namespace

TEST_CASE("linear: a row does not depend on N or on the number of threads", "[op][linear][cpu]") {
    for (auto [C, O] : {std::array{64, 257}, {256, 384}, {384, 128}}) {
        Buffer inp(Dtype::f32, "inp", 200, C), weight(Dtype::f32, "weight", O, C),
            all(Dtype::f32, "all", 200, O), some(Dtype::f32, "some", 200, O);
        fill_normal(inp.view(), 1);
        fill_normal(weight.view(), 2);
        Ctx two(Backend::cpu, 2);
        linear_forward(two, all.view(), inp.view(), weight.view());
        Ctx one(Backend::cpu, 1);
        for (int N : {1, 2, 7, 16, 33, 128, 200}) {
            INFO("C " << C << " O " << O << " N " << N);
            linear_forward(one, some.rows(N), inp.rows(N), weight.view());
            CHECK(equal_bits(some.rows(N), all.view()));
        }
        // and not on where the row stands
        linear_forward(one, some.rows(1), inp.view().slice_rows(150, 1), weight.view());
        CHECK(equal_bits(some.rows(1), all.view().slice_rows(150, 1)));
    }
}

TEST_CASE("linear: dinp is added to on demand and may be left out", "[op][linear]") {
    const int N = 33, C = 48, O = 20;
    for (Backend backend : {Backend::ref, Backend::cpu}) {
        Ctx ctx(backend, 2);
        const Dtype x = ctx.dtype();
        auto at = [x](Buffer& b, int64_t i) {
            return x == Dtype::f64 ? b.as<double>()[i] : double(b.as<float>()[i]);
        };
        Buffer inp(x, "inp", N, C), weight(x, "weight", O, C), dout(x, "dout", N, O),
            written(x, "written", N, C), added(x, "added", N, C), dweight(x, "dweight", O, C),
            alone(x, "alone", O, C);
        Rng rng(7, 3);
        for (Buffer* b : {&inp, &weight, &dout, &added})
            for (int64_t i = 0; i < b->view().size(); i++) {
                if (x == Dtype::f64) b->as<double>()[i] = rng.normal();
                else b->as<float>()[i] = float(rng.normal());
            }
        std::vector<double> before;
        for (int64_t i = 0; i < N * C; i++) before.push_back(at(added, i));
        linear_backward(ctx, written.view(), dweight.view(), dout.view(), inp.view(), weight.view(),
                        Store::overwrite);
        linear_backward(ctx, View{}, alone.view(), dout.view(), inp.view(), weight.view(),
                        Store::overwrite);
        CHECK(equal_bits(dweight.view(), alone.view()));
        linear_backward(ctx, added.view(), alone.view(), dout.view(), inp.view(), weight.view(),
                        Store::accumulate);
        double worst = 0;
        for (int64_t i = 0; i < N * C; i++)
            worst = std::max(worst, std::fabs(at(added, i) - before[i] - at(written, i)));
        CHECK(worst < 1e-5); // fp32 sums of O products, in another order
        for (int64_t i = 0; i < O * C; i++)
            worst = std::max(worst, std::fabs(at(alone, i) - 2 * at(dweight, i)));
        CHECK(worst < 2e-5);
    }
}
