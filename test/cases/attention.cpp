// Cases of ops/attention.h: packed documents, grouped heads, strided q, k and v. The paged form is
// in test/test_attention.cpp.
#include "llmc/ops/attention.h"

#include "test/cases/cases.h"

std::vector<OpCase> attention_cases() {
    struct Shape {
        int H, HKV;
        int64_t D;
        std::vector<int64_t> documents; // lengths
        bool perf;
        bool aligned = false; // rows at multiples of 16 bytes, as a model's are
    };
    std::vector<OpCase> cases;
    for (const Shape& s : {Shape{1, 1, 2, {1}, false},
                           {2, 1, 5, {7, 1, 3}, false},
                           {4, 2, 32, {63, 1, 65}, false},
                           {4, 4, 16, {130}, false},
                           {6, 2, 24, {64, 128, 13}, false},
                           {2, 1, 32, {3, 70, 1, 66}, false, true},
                           {2, 2, 64, {129}, false, true},
                           {4, 1, 128, {37, 64}, false, true},
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
        op.kernel_paths = {-1};
        op.bf16_tolerance = kBf16Tolerance;
        op.flops = 4.0 * pairs * H * double(D);
        op.bytes = 4.0 * double(N * D) * (2 * H + 2 * HKV);
        op.perf = s.perf;
        cases.push_back(op);
    }
    return cases;
}
