// Every op case through every mode (test/op_case.h), on the CPU and through the kernels.
#include "llmc/device/buffer.h"
#include "llmc/device/parallel.h"
#include "llmc/ops/attention.h"
#include "llmc/ops/embed.h"
#include "llmc/ops/norm.h"
#include "test/catch.h"
#include "test/op_case.h"

#include <atomic>
#include <omp.h>

template <class Check> static void for_cases(const Check& check) {
    for (const OpCase& op : all_op_cases())
        if (!op.perf) CHECK(check(op) == "");
}

TEST_CASE("ops: cpu matches the double reference", "[op][cpu]") {
    Ctx ctx(Backend::cpu, 2);
    for_cases([&](const OpCase& op) { return check_match(op, ctx, ctx.dtype()); });
}

TEST_CASE("ops: cpu matches the double reference in bf16", "[op][cpu]") {
    Ctx one(Backend::cpu, 1), two(Backend::cpu, 2);
    for_cases([&](const OpCase& op) {
        if (op.bf16_tolerance == 0) return std::string();
        return check_match(op, two, Dtype::bf16) + check_guard(op, two, Dtype::bf16) +
               check_equal(op, one, two, Dtype::bf16);
    });
}

TEST_CASE("ops: ref gradients equal finite differences", "[op][ref]") { for_cases(check_gradient); }

TEST_CASE("ops: a tensor of another dtype stops the contract", "[op]") {
    std::set<std::pair<std::string, size_t>> seen; // one case of each op and number of arguments
    for_cases([&](const OpCase& op) {
        const std::string name = op.name.substr(0, op.name.find(' '));
        return seen.insert({name, op.args.size()}).second ? check_dtypes(op) : std::string();
    });
}

TEST_CASE("ops: outputs fully written, nothing else touched", "[op]") {
    Ctx ref(Backend::ref, 2), cpu(Backend::cpu, 2);
    for_cases([&](const OpCase& op) {
        return check_guard(op, ref, ref.dtype()) + check_guard(op, cpu, cpu.dtype());
    });
}

TEST_CASE("ops: reruns are bit-equal at 1 and 2 threads", "[op][cpu]") {
    for_cases([](const OpCase& op) {
        Ctx one(Backend::cpu, 1), two(Backend::cpu, 2);
        return check_equal(op, one, two, Dtype::f32) + check_equal(op, two, two, Dtype::f32);
    });
}

// Calls check(op, ctx, x) for every path of every kernel in fp32 and bf16, under schedules that
// differ in the order of blocks, warps and lanes, in when copies arrive and in the number of OS
// threads.
template <class Check> static void for_kernels(int schedules, const Check& check) {
    for_cases([&](const OpCase& op) {
        std::string faults;
        for (int path : op.kernel_paths)
            for (Dtype x : {Dtype::f32, Dtype::bf16}) {
                if (x == Dtype::bf16 && op.bf16_tolerance == 0) continue;
                for (int i = 0; i < schedules; i++) {
                    Ctx ctx(Backend::simt, 1 + i % 2);
                    ctx.simt.path = path;
                    ctx.simt.seed = uint32_t(i % 4);
                    ctx.simt.eager_copies = (i % 4 + i / 4) % 2 == 1;
                    const std::string fault = check(op, ctx, x);
                    if (!fault.empty())
                        faults += format("path %d, schedule %d, %s: %s\n", path, i, dtype_name(x),
                                         fault.c_str());
                }
            }
        return faults;
    });
}

TEST_CASE("parallel: of ranges of unequal cost every item is done once, by a thread there is",
          "[op][cpu]") {
    const int before = omp_get_max_threads();
    for (int threads : {1, 2, 5})
        for (int64_t count : {0, 1, 3, 64, 257}) {
            omp_set_num_threads(threads);
            std::vector<std::atomic<int>> done(count);
            std::atomic<int> strangers = 0;
            std::atomic<int64_t> work = 0;
            parallel_for_ranges(count, [&](int64_t i, int thread) {
                for (int64_t n = 0; n < (i < count / 2 ? 2000 : 1); n++) work += n;
                strangers += thread < 0 || thread >= threads;
                done[i]++;
            });
            for (const std::atomic<int>& times : done) CHECK(times == 1);
            CHECK(strangers == 0);
        }
    omp_set_num_threads(before);
}

TEST_CASE("ops: kernels match the double reference under every schedule", "[op][simt]") {
    for_kernels(8, check_match);
}

TEST_CASE("ops: kernels write their outputs fully and nothing else", "[op][simt]") {
    for_kernels(2, check_guard);
}

TEST_CASE("ops: kernels give the same bits under every schedule", "[op][simt]") {
    for_kernels(4, [](const OpCase& op, Ctx& ctx, Dtype x) {
        Ctx plain(Backend::simt, 2);
        plain.simt.path = ctx.simt.path;
        return check_equal(op, plain, ctx, x);
    });
}

TEST_CASE("ops: kernels take the scratch that a plan counts for them", "[op][simt]") {
    constexpr int N = 200, C = 64, V = 300, H = 4, HKV = 2, D = 32;
    auto wide = [](const char* name, int64_t columns) { // zeros
        return Buffer(Dtype::f32, name, N, columns);
    };
    const Buffer a = wide("a", H * D), b = wide("b", H * D), c = wide("c", H * D),
                 lse = wide("lse", H);
    const Buffer k = wide("k", HKV * D), v = wide("v", HKV * D), x = wide("x", C),
                 dx = wide("dx", C);
    const Buffer dk = wide("dk", HKV * D), dv = wide("dv", HKV * D), dq = wide("dq", H * D);
    const Buffer rstd(Dtype::f32, "rstd", N), weight(Dtype::f32, "weight", C);
    const Buffer dweight(Dtype::f32, "dweight", C), table(Dtype::f32, "table", V, C);
    const Buffer index(Dtype::i32, "index", N);
    auto takes = [](const auto& op) {
        Ctx ctx(Backend::simt, 1);
        op(ctx);
        return ctx.scratch.peak_bytes();
    };
    auto planned = [](size_t taken, size_t bytes) { // pieces begin on lines of their own
        INFO(taken << " bytes, planned " << bytes);
        CHECK((taken >= bytes && taken < bytes + 4 * 64));
    };
    const Ctx ctx(Backend::simt, 1);
    planned(takes([&](Ctx& ctx) { embed_backward(ctx, table.view(), x.view(), index.view()); }),
            embed_backward_scratch(ctx, N));
    planned(takes([&](Ctx& ctx) {
                rmsnorm_backward(ctx, dx.view(), dweight.view(), x.view(), x.view(), rstd.view(),
                                 weight.view());
            }),
            rmsnorm_backward_scratch(ctx, N, C));
    planned(takes([&](Ctx& ctx) {
                attention_backward(ctx, dq.view(), dk.view(), dv.view(), a.view(), b.view(),
                                   lse.view(), c.view(), k.view(), v.view(), index.view(), H, HKV);
            }),
            attention_backward_scratch(ctx, N, N, H, HKV, D));
}
