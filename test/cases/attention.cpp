// Cases of ops/attention.h and ops/kv.h: packed documents, grouped heads, strided q, k and v; pages
// in mixed order. That a paged row has the packed one's bits: test/test_attention.cpp.
#include "llmc/ops/attention.h"
#include "llmc/ops/kv.h"

#include "test/cases/cases.h"

namespace {

// Fills with 0, step, 2 step, ... modulo n: all different where step and n have no divisor in
// common.
std::function<void(std::vector<double>&, Rng&)> strides(int64_t step, int64_t n) {
    return [=](std::vector<double>& values, Rng&) {
        for (size_t i = 0; i < values.size(); i++) values[i] = double(int64_t(i) * step % n);
    };
}
std::function<void(std::vector<double>&, Rng&)> list(const std::vector<int64_t>& given) {
    return [=](std::vector<double>& values, Rng&) {
        for (size_t i = 0; i < values.size(); i++) values[i] = double(given[i]);
    };
}

// A query at the end of each of `lengths` positions, sequence by sequence.
OpCase paged_case(int H, int HKV, int64_t D, const std::vector<int64_t>& lengths,
                  int64_t page_size) {
    const int64_t N = int64_t(lengths.size());
    int64_t longest = 0;
    for (int64_t length : lengths) longest = std::max(longest, length);
    const int64_t max_pages = (longest + page_size - 1) / page_size, pages = N * max_pages + 1;
    OpCase op;
    op.name = format("attention paged N=%ld H=%d HKV=%d D=%ld page=%ld", long(N), H, HKV, long(D),
                     long(page_size));
    op.args = {{"q", Role::in, {N, H * D}},
               {"k_pages", Role::in, {pages, HKV * D, page_size}},
               {"v_pages", Role::in, {pages, HKV * page_size, D}},
               {"page_table", Role::index, {N, max_pages}, strides(pages - 2, pages)},
               {"row", Role::index, {N}, strides(1, N)},
               {"length", Role::index, {N}, list(lengths)},
               {"out", Role::out, {N, H * D}}};
    op.forward = [H, HKV](Ctx& ctx, Views& a) {
        attention_paged_forward(ctx, a["out"], a["q"], a["k_pages"], a["v_pages"], a["page_table"],
                                a["row"], a["length"], H, HKV);
    };
    op.reason = "fp32 dot products of D and sums over a sequence";
    op.kernel_paths = {-1};
    op.bf16_tolerance = kBf16Tolerance;
    return op;
}

OpCase store_case(int64_t N, int64_t HKV, int64_t D, int64_t pages, int64_t page_size, int64_t step,
                  int64_t ld) {
    OpCase op;
    op.name = format("kv store N=%ld HKV=%ld D=%ld pages=%ldx%ld", long(N), long(HKV), long(D),
                     long(pages), long(page_size));
    op.args = {{"k", Role::in, {N, HKV * D}, nullptr, ld},
               {"v", Role::in, {N, HKV * D}, nullptr, ld},
               {"slot", Role::index, {N}, strides(step, pages * page_size)},
               {"k_pages", Role::acc, {pages, HKV * D, page_size}},
               {"v_pages", Role::acc, {pages, HKV * page_size, D}}};
    op.forward = [](Ctx& ctx, Views& a) {
        kv_store_forward(ctx, a["k_pages"], a["v_pages"], a["k"], a["v"], a["slot"]);
    };
    op.tolerance = 0;
    op.reason = "a copy";
    op.kernel_paths = {-1};
    op.bf16_tolerance = 1e-9;
    return op;
}

} // namespace

std::vector<OpCase> attention_cases() {
    struct Shape {
        int H, HKV;
        int64_t D;
        std::vector<int64_t> documents; // lengths
        bool perf;
        bool aligned = false; // rows at multiples of 16 bytes, as a model's are
    };
    std::vector<OpCase> cases{
        paged_case(3, 1, 5, {1, 6, 3}, 4),   paged_case(4, 2, 32, {65, 1}, 16),
        paged_case(20, 1, 24, {33, 20}, 64), // more heads than a tile holds
        paged_case(2, 1, 64, {70}, 7),       paged_case(8, 2, 128, {40, 33}, 8),
        store_case(1, 1, 1, 1, 1, 1, 0),     store_case(37, 2, 5, 7, 6, 5, 13),
        store_case(50, 2, 32, 4, 16, 1, 72)};
    for (const Shape& s : {Shape{1, 1, 2, {1}, false},
                           {2, 1, 5, {7, 1, 3}, false},
                           {4, 2, 32, {63, 1, 65}, false},
                           {4, 4, 16, {130}, false},
                           {6, 2, 24, {64, 128, 13}, false},
                           {2, 1, 32, {3, 70, 1, 66}, false, true},
                           {1, 1, 64, {129}, false, true},
                           {2, 1, 128, {37, 30}, false, true},
                           {4, 4, 32, std::vector<int64_t>(100, 41), true},
                           {4, 2, 64, std::vector<int64_t>(16, 256), true},
                           {4, 2, 64, {1024, 1024}, true}}) {
        const int H = s.H, HKV = s.HKV;
        const int64_t D = s.D;
        int64_t N = 0;
        double pairs = 0;
        for (int64_t length : s.documents) {
            N += length;
            pairs += double(length * (length + 1) / 2);
        }
        auto starts = [documents = s.documents](std::vector<double>& values, Rng&) {
            int64_t n = 0, start = 0;
            for (int64_t length : documents) {
                for (int64_t i = 0; i < length; i++) values[n++] = double(start);
                start = n;
            }
        };
        OpCase op;
        op.name = format("attention N=%ld documents=%zu H=%d HKV=%d D=%ld", long(N),
                         s.documents.size(), H, HKV, long(D));
        auto stride = [&](int64_t columns, int more) { return columns + (s.aligned ? 8 : more); };
        op.args = {{"q", Role::in, {N, H * D}, nullptr, stride(H * D, 3)},
                   {"k", Role::in, {N, HKV * D}, nullptr, stride(HKV * D, 7)},
                   {"v", Role::in, {N, HKV * D}, nullptr, stride(HKV * D, 1)},
                   {"doc_start", Role::index, {N}, starts},
                   {"out", Role::out, {N, H * D}},
                   {"lse", Role::out, {N, H}}};
        op.forward = [H, HKV](Ctx& ctx, Views& a) {
            attention_forward(ctx, a["out"], a["lse"], a["q"], a["k"], a["v"], a["doc_start"], H,
                              HKV);
        };
        op.backward = [H, HKV](Ctx& ctx, Views& a, Views& d) {
            attention_backward(ctx, d["q"], d["k"], d["v"], d["out"], a["out"], a["lse"], a["q"],
                               a["k"], a["v"], a["doc_start"], H, HKV);
        };
        op.outputs = {"out"};
        op.inputs = {{"q", GradMode::written}, {"k", GradMode::written}, {"v", GradMode::written}};
        op.tolerance = 1e-6;
        op.reason = "fp32 dot products of D and sums over a document";
        op.grad_tolerance = 5e-6;
        op.single = {"lse"};
        if (N * H * D <= 20000) op.kernel_paths = {-1}; // the rest is more of the same, and slow
        op.bf16_tolerance = kBf16Tolerance;
        op.flops = 4.0 * pairs * H * double(D);
        op.bytes = 4.0 * double(N * D) * (2 * H + 2 * HKV);
        op.perf = s.perf;
        cases.push_back(op);
    }
    return cases;
}
