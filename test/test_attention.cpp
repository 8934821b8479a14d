// ops/attention: what the op cases cannot say. The paged forward against the packed one, and
// memory.
#include "llmc/core/rng.h"
#include "llmc/device/buffer.h"
#include "llmc/ops/attention.h"
#include "llmc/ops/kv.h"
#include "test/catch.h"

#include <cstring>
#include <numeric>

namespace {

void fill_normal(View view, uint64_t stream) {
    Rng rng(5, stream);
    for (int64_t i = 0; i < view.size(); i++) write_value(view, i, double(float(rng.normal())));
}

// Documents of the given lengths in one packed batch, and the same keys and values in pages in a
// shuffled order: every row of the paged forward must have the bits of the packed one.
void compare_paged(Backend backend, Dtype x, const std::vector<int64_t>& lengths, int page_size,
                   int H, int HKV, int64_t D) {
    Ctx ctx(backend, 0);
    const int64_t N = std::accumulate(lengths.begin(), lengths.end(), int64_t(0));
    const int R = int(lengths.size());
    int max_pages = 0, pages = 0;
    for (int64_t length : lengths) {
        const int count = int((length + page_size - 1) / page_size);
        max_pages = std::max(max_pages, count);
        pages += count;
    }
    Buffer q(x, "q", N, H * D), k(x, "k", N, HKV * D), v(x, "v", N, HKV * D),
        lse(ctx.dtype(), "lse", N, H);
    Buffer packed(x, "packed", N, H * D), paged(x, "paged", N, H * D);
    Buffer start(Dtype::i32, "doc_start", N), row(Dtype::i32, "row", N),
        length_view(Dtype::i32, "length", N), slot(Dtype::i32, "slot", N),
        table(Dtype::i32, "page_table", R, max_pages);
    Buffer k_pages(x, "k_pages", pages, HKV * D, page_size);
    Buffer v_pages(x, "v_pages", pages, HKV * page_size, D);
    fill_normal(q.view(), 1);
    fill_normal(k.view(), 2);
    fill_normal(v.view(), 3);
    if (backend == Backend::simt) // what was never written is never used: NaN
        for (const View& view : {k_pages.view(), v_pages.view()})
            std::memset(view.data, 0xff, view.bytes());
    std::vector<int> free(pages);
    std::iota(free.begin(), free.end(), 0);
    Rng rng(9, uint64_t(page_size));
    for (int i = pages - 1; i > 0; i--) std::swap(free[i], free[rng.below(i + 1)]);
    int64_t n = 0;
    for (int r = 0; r < R; r++) {
        int* line = table.as<int32_t>() + r * max_pages;
        for (int p = 0; p * page_size < lengths[r]; p++) {
            line[p] = free.back();
            free.pop_back();
        }
        const int64_t begin = n;
        for (int64_t i = 0; i < lengths[r]; i++, n++) {
            start.as<int32_t>()[n] = int32_t(begin);
            row.as<int32_t>()[n] = r;
            length_view.as<int32_t>()[n] = int32_t(i + 1);
            slot.as<int32_t>()[n] = int32_t(line[i / page_size] * page_size + i % page_size);
        }
    }
    kv_store_forward(ctx, k_pages.view(), v_pages.view(), k.view(), v.view(), slot.view());
    attention_forward(ctx, packed.view(), lse.view(), q.view(), k.view(), v.view(), start.view(), H,
                      HKV);
    attention_paged_forward(ctx, paged.view(), q.view(), k_pages.view(), v_pages.view(),
                            table.view(), row.view(), length_view.view(), H, HKV);
    INFO(backend_name(backend) << " page_size=" << page_size << " H=" << H << " HKV=" << HKV
                               << " D=" << D);
    CHECK(std::memcmp(packed.view().data, paged.view().data, packed.view().bytes()) == 0);

    // Every sequence's last query, as the decoder asks: all in one call, then each alone.
    Buffer last_q(x, "q", R, H * D), last_out(x, "out", R, H * D), last_row(Dtype::i32, "row", R),
        last_length(Dtype::i32, "length", R);
    const size_t bytes = size_t(H * D) * dtype_bytes(x);
    auto line = [&](const Buffer& buffer, int64_t i) {
        return buffer.view().slice_rows(i, 1).data;
    };
    auto last = [&](int r) {
        return std::accumulate(lengths.begin(), lengths.begin() + r + 1, int64_t(-1));
    };
    for (int r = 0; r < R; r++) {
        std::memcpy(line(last_q, r), line(q, last(r)), bytes);
        last_row.as<int32_t>()[r] = r;
        last_length.as<int32_t>()[r] = int32_t(lengths[r]);
    }
    for (int count : {R, 1})
        for (int r = 0; r < R; r += count) {
            attention_paged_forward(ctx, last_out.rows(count), last_q.view().slice_rows(r, count),
                                    k_pages.view(), v_pages.view(), table.view(),
                                    last_row.view().slice_rows(r, count),
                                    last_length.view().slice_rows(r, count), H, HKV);
            for (int i = 0; i < count; i++)
                CHECK(std::memcmp(line(last_out, i), line(packed, last(r + i)), bytes) == 0);
        }
}

} // namespace

TEST_CASE("attention: a paged query has the bits of the packed row", "[op][attention]") {
    for (Dtype x : {Dtype::f64, Dtype::f32, Dtype::bf16})
        for (int page_size : {1, 7, 16, 64, 100}) {
            const Backend on = x == Dtype::f64 ? Backend::ref : Backend::cpu;
            compare_paged(on, x, {1, 63, 64, 65, 130, 5}, page_size, 4, 2, 32);
            compare_paged(on, x, {17, 3}, page_size, 3, 1, 6);
            compare_paged(on, x, {70}, page_size, 2, 2, 20);
            compare_paged(on, x, {66, 2}, page_size, 80, 2,
                          3); // more heads share than a tile holds
            compare_paged(on, x, std::vector<int64_t>(20, 33), page_size, 4, 2, 16);
        }
}

TEST_CASE("attention: the paged kernel's query has the bits of the packed row",
          "[op][attention][simt]") {
    for (Dtype x : {Dtype::f32, Dtype::bf16}) {
        compare_paged(Backend::simt, x, {1, 63, 64, 66}, 16, 4, 2, 32);
        compare_paged(Backend::simt, x, {37, 3}, 7, 3, 1, 6);
        compare_paged(Backend::simt, x, {33, 2}, 64, 20, 1, 24); // more heads than a tile holds
        compare_paged(Backend::simt, x, {70}, 32, 2, 1, 64);
        compare_paged(Backend::simt, x, {40}, 100, 4, 1, 128);
    }
}

static void compare_neighbours(Ctx& ctx) {
    const int64_t N = 150, D = 32;
    Buffer q(Dtype::f32, "q", N, D), k(Dtype::f32, "k", N, D), v(Dtype::f32, "v", N, D);
    Buffer lse(Dtype::f32, "lse", N, 1), all(Dtype::f32, "all", N, D), own(Dtype::f32, "own", N, D);
    Buffer start(Dtype::i32, "doc_start", N), zero(Dtype::i32, "doc_start", N);
    for (auto [buffer, stream] : {std::pair{&q, 1}, {&k, 2}, {&v, 3}})
        fill_normal(buffer->view(), uint64_t(stream));
    for (int64_t n = 40; n < N; n++) start.as<int32_t>()[n] = 40;
    attention_forward(ctx, all.view(), lse.view(), q.view(), k.view(), v.view(), start.view(), 1,
                      1);
    const int64_t rest = N - 40;
    attention_forward(ctx, own.rows(rest), lse.rows(rest), q.view().slice_rows(40, rest),
                      k.view().slice_rows(40, rest), v.view().slice_rows(40, rest), zero.rows(rest),
                      1, 1);
    CHECK(std::memcmp(all.view().slice_rows(40, rest).data, own.view().data,
                      own.rows(rest).bytes()) == 0);
}

TEST_CASE("attention: a document does not depend on its neighbours", "[op][attention]") {
    for (Backend backend : {Backend::cpu, Backend::simt}) {
        Ctx ctx(backend, 0);
        compare_neighbours(ctx);
    }
}

TEST_CASE("attention: temporary memory grows linearly with the length", "[op][attention]") {
    auto peak = [](int64_t N) {
        Ctx ctx(Backend::cpu, 2);
        Buffer q(Dtype::f32, "q", N, 16), lse(Dtype::f32, "lse", N, 1), out(Dtype::f32, "o", N, 16),
            start(Dtype::i32, "doc_start", N), d(Dtype::f32, "d", N, 48);
        attention_forward(ctx, out.view(), lse.view(), q.view(), q.view(), q.view(), start.view(),
                          1, 1);
        const View dv = d.view();
        attention_backward(ctx, dv.slice_columns(0, 16), dv.slice_columns(16, 16),
                           dv.slice_columns(32, 16), out.view(), out.view(), lse.view(), q.view(),
                           q.view(), q.view(), start.view(), 1, 1);
        return double(ctx.scratch.peak_bytes());
    };
    CHECK(peak(4096) < 2.2 * peak(2048));
}

TEST_CASE("attention: short documents take no more temporary memory than planned",
          "[op][attention]") {
    constexpr int64_t N = 2048;
    for (bool bf16 : {false, true})
        for (int64_t length : {16, 17, 31, 65, 2048}) {
            Ctx ctx(Backend::cpu, 2, bf16);
            Buffer q(ctx.storage(), "q", N, 16), lse(Dtype::f32, "lse", N, 1),
                out(ctx.storage(), "o", N, 16), start(Dtype::i32, "doc_start", N);
            for (int64_t n = 0; n < N; n++) start.as<int32_t>()[n] = int32_t(n / length * length);
            attention_forward(ctx, out.view(), lse.view(), q.view(), q.view(), q.view(),
                              start.view(), 1, 1);
            INFO("documents of " << length << (bf16 ? " rows, bf16" : " rows, fp32"));
            CHECK(ctx.scratch.peak_bytes() <= attention_forward_scratch(ctx, N, 1, 16));
        }
}
