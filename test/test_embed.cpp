// ops/embed: what the op cases cannot say.
#include "llmc/core/rng.h"
#include "llmc/device/buffer.h"
#include "llmc/ops/embed.h"
#include "test/catch.h"

#include <cstring>
#include <vector>

TEST_CASE("embed: a token's gradient is the fp32 sum of its rows in order", "[op][embed][cpu]") {
    const int N = 301, C = 70, V = 3; // every token repeats; two bands of columns
    Rng rng(3, 1);
    Buffer dout(Dtype::f32, "dout", N, C), dweight(Dtype::f32, "dweight", V, C),
        tokens(Dtype::i32, "tokens", N);
    for (int i = 0; i < N * C; i++) dout.as<float>()[i] = float(rng.normal());
    for (int i = 0; i < V * C; i++) dweight.as<float>()[i] = float(rng.normal());
    for (int n = 0; n < N; n++) tokens.as<int32_t>()[n] = int32_t(rng.below(V));
    std::vector<float> want(dweight.as<float>(), dweight.as<float>() + V * C);
    for (int n = 0; n < N; n++)
        for (int c = 0; c < C; c++)
            want[tokens.as<int32_t>()[n] * C + c] += dout.as<float>()[n * C + c];
    Ctx ctx(Backend::cpu, 2);
    embed_backward(ctx, dweight.view(), dout.view(), tokens.view());
    CHECK(std::memcmp(want.data(), dweight.as<float>(), want.size() * sizeof(float)) == 0);
}
