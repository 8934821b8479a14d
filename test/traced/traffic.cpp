// What the kernels move, counted exactly (device/simt/trace.h) and kept in traffic.txt beside this
// file. A test counts again and fails on any difference: a change of the kernels is a change of the
// table, in the same commit. It also holds every kernel to 0 races under all schedules.
#include "llmc/core/file.h"
#include "llmc/core/rng.h"
#include "llmc/device/simt/trace.h"
#include "llmc/ops/adamw.h"
#include "llmc/ops/attention.h"
#include "llmc/ops/embed.h"
#include "llmc/ops/kv.h"
#include "llmc/ops/loss.h"
#include "llmc/ops/moe.h"
#include "llmc/ops/norm.h"
#include "llmc/ops/rope.h"
#include "llmc/ops/swiglu.h"
#include "test/catch.h"
#include "test/op_case.h"

#include <cstdlib>
#include <cstring>
#include <memory>

namespace {

using simt::runtime::Trace;
using simt::runtime::Watched;

// Memory at a multiple of 256 bytes, as cudaMalloc gives it, known to a trace by name.
class Watcher {
  public:
    explicit Watcher(Trace& trace) : trace_(trace) {}
    View make(const char* name, Dtype dtype, int64_t n0, int64_t n1) {
        View view = make_view(nullptr, dtype, name, n0, n1);
        const size_t bytes = (view.bytes() + 255) / 256 * 256;
        memory_.emplace_back(std::aligned_alloc(256, bytes));
        view.data = memory_.back().get();
        std::memset(view.data, 0, bytes);
        trace_.watch(name, view.data, view.bytes());
        return view;
    }

  private:
    Trace& trace_;
    struct Free {
        void operator()(void* memory) const { std::free(memory); }
    };
    std::vector<std::unique_ptr<void, Free>> memory_;
};

struct LossCase {
    const char* path_name;
    int arch, path, V, N, k;
    Dtype dtype;
};

// One launch; fills the trace. Rows beyond the first: ignored, ascending (every list overflows),
// constant.
void run_loss(const LossCase& c, Trace& trace, uint32_t seed, bool eager) {
    Watcher memory(trace);
    View logits = memory.make("logits", c.dtype, c.N, c.V);
    const View stats = memory.make("stats", Dtype::f32, c.N, kLossStats);
    View targets = memory.make("targets", Dtype::i32, c.N, 1);
    View scale = memory.make("scale", Dtype::f32, c.N, 1);
    targets = make_view(targets.data, Dtype::i32, "targets", c.N);
    scale = make_view(scale.data, Dtype::f32, "scale", c.N);
    Rng rng(11, uint64_t(c.V));
    for (int64_t i = 0; i < logits.size(); i++) {
        const float z = float(2.5 * rng.normal());
        if (c.dtype == Dtype::bf16) static_cast<uint16_t*>(logits.data)[i] = float_to_bf16(z);
        else static_cast<float*>(logits.data)[i] = z;
    }
    for (int n = 0; n < c.N; n++) {
        targets.as<int32_t>()[n] = n == 1 ? kIgnoredTarget : int32_t(rng.below(c.V));
        scale.as<float>()[n] = 1;
        for (int v = 0; v < c.V && n >= 2 && c.dtype == Dtype::f32; v++)
            logits.as<float>()[n * c.V + v] = n == 2 ? 0.01f * float(v) : 0.5f;
    }
    Ctx ctx(Backend::simt, 1);
    ctx.simt.arch = c.arch;
    ctx.simt.path = c.path;
    ctx.simt.seed = seed;
    ctx.simt.eager_copies = eager;
    ctx.simt.trace = &trace;
    const LossShape shape{c.V, c.k, -0.25, 0.1, -0.1, RewardForm::factor, 1, 0.2, 0.28};
    loss_forward_backward(ctx, logits, stats, targets, scale, View{}, shape);
}

std::string row_of(const LossCase& c) {
    Trace trace;
    run_loss(c, trace, 0, false);
    const Watched& logits = trace.watched("logits");
    const double count = double(c.N) * c.V;
    const auto per_logit = [&](int64_t sectors) { return double(sectors) * 32 / count; };
    const auto& shared = trace.shared();
    return format(
        "loss %-8s %-5s %7d %5d | %6.4f %6.4f %6.4f | %6.4f | %8ld %8ld %6.3f | %7ld | %ld\n",
        c.path_name, dtype_name(c.dtype), c.V, c.k, per_logit(logits.load.sectors),
        per_logit(logits.store.sectors), per_logit(logits.load.sectors + logits.store.sectors),
        per_logit(logits.sectors_read + logits.sectors_written), long(shared.wavefronts / c.N),
        long(shared.ideal / c.N), double(shared.wavefronts) / double(shared.ideal),
        long(trace.remote_bytes() / c.N), long(trace.races()));
}

const LossCase kCases[] = {
    {"sweep", 80, -1, 50304, 1, 100, Dtype::bf16},
    {"sweep", 80, -1, 50304, 1, 0, Dtype::bf16},
    {"sweep", 80, -1, 128256, 1, 100, Dtype::bf16},
    {"sweep", 80, -1, 151936, 1, 100, Dtype::bf16},
    {"sweep", 80, -1, 50304, 1, 100, Dtype::f32},
    {"cluster", 90, -1, 50304, 1, 100, Dtype::bf16},
    {"cluster", 90, -1, 50304, 1, 0, Dtype::bf16},
    {"cluster", 90, -1, 50304, 1, 1000, Dtype::bf16},
    {"cluster", 90, -1, 128256, 1, 100, Dtype::bf16},
    {"cluster", 90, -1, 151936, 1, 100, Dtype::bf16},
    {"cluster", 90, -1, 50304, 1, 100, Dtype::f32},
};

// A call of another op: what it must move, and the call.
struct OpRow {
    const char *name, *shape;
    double floor_bytes;
    std::function<void(Ctx&, Watcher&)> run;
};

View vector_view(Watcher& memory, const char* name, Dtype dtype, int64_t n) {
    const View rows = memory.make(name, dtype, n, 1);
    return make_view(rows.data, dtype, name, n);
}

// Shapes of the 4B model: C = 2560, 32 + 8 heads of width 128, F = 9728. bf16.
std::vector<OpRow> op_rows() {
    const Dtype x = Dtype::bf16, f = Dtype::f32;
    const int64_t N = 128, C = 2560, F = 9728, H = 32, HKV = 8, D = 128, V = 300;
    const double NC = double(N * C), NQ = double(N * (H + HKV) * D), NF = double(N * F);
    const double angles = double(N * (D + H + HKV) * 4); // and rstd
    auto norm = [=](int64_t N, int64_t C, bool backward) {
        return [=](Ctx& ctx, Watcher& m) {
            const View a = m.make("inp", x, N, C), b = m.make("delta", x, N, C);
            const View out = m.make("out", x, N, C), sum = m.make("residual", x, N, C);
            const View rstd = vector_view(m, "rstd", f, N), w = vector_view(m, "weight", x, C);
            if (!backward) rmsnorm_forward(ctx, out, sum, rstd, a, b, w, 1e-6);
            else rmsnorm_backward(ctx, out, vector_view(m, "dweight", f, C), a, b, rstd, w);
        };
    };
    auto rope = [=](bool backward) {
        return [=](Ctx& ctx, Watcher& m) {
            const View qkv = m.make("qkv", x, N, (H + 2 * HKV) * D);
            const View dqkv = m.make("dqkv", x, N, (H + 2 * HKV) * D);
            const View qk = m.make("qk", x, N, (H + HKV) * D), rstd = m.make("rstd", f, N, H + HKV);
            const View qw = vector_view(m, "qw", x, D), kw = vector_view(m, "kw", x, D);
            const View dqw = vector_view(m, "dqw", f, D), dkw = vector_view(m, "dkw", f, D);
            const View table = m.make("table", f, N, D);
            View at = vector_view(m, "positions", Dtype::i32, N);
            for (int n = 0; n < N; n++) at.as<int32_t>()[n] = n;
            const int h = int(H), hkv = int(HKV);
            if (!backward) qknorm_rope_forward(ctx, qk, rstd, qkv, qw, kw, table, at, h, hkv, 1e-6);
            else
                qknorm_rope_backward(ctx, dqkv, dqw, dkw, qk, rstd, qkv, qw, kw, table, at, h, hkv);
        };
    };
    auto swiglu = [=](bool backward) {
        return [=](Ctx& ctx, Watcher& m) {
            const View gu = m.make("gate_up", x, N, 2 * F), out = m.make("out", x, N, F);
            if (!backward) swiglu_forward(ctx, out, gu);
            else swiglu_backward(ctx, m.make("dgate_up", x, N, 2 * F), out, gu);
        };
    };
    auto embed = [=](bool backward) {
        return [=](Ctx& ctx, Watcher& m) {
            View tokens = vector_view(m, "tokens", Dtype::i32, N);
            for (int n = 0; n < N; n++) tokens.as<int32_t>()[n] = n * 7 % 32;
            const View out = m.make("out", x, N, C);
            if (!backward) embed_forward(ctx, out, tokens, m.make("weight", x, V, C));
            else embed_backward(ctx, m.make("dweight", f, V, C), out, tokens);
        };
    };
    const int64_t n = N * C;
    auto adamw = [=](Ctx& ctx, Watcher& m) {
        const View param = vector_view(m, "param", f, n), grad = vector_view(m, "grad", f, n);
        const View m1 = vector_view(m, "m", f, n), m2 = vector_view(m, "v", f, n);
        adamw_update(ctx, param, m1, m2, grad, {1e-3, 0.9, 0.95, 1e-8, 0.1, 0.7, 3});
    };
    auto square_sum = [=](Ctx& ctx, Watcher& m) {
        square_sum_forward(ctx, vector_view(m, "out", Dtype::f64, 1), vector_view(m, "grad", f, n));
    };
    constexpr int64_t kWide = 10240, kFew = 64; // wider than what waits in shared memory
    const double wide = double(kFew * kWide);
    return {
        {"rmsnorm forward", "N=128 C=2560", 8 * NC, norm(N, C, false)},
        {"rmsnorm backward", "N=128 C=2560", 8 * NC + double(8 * C), norm(N, C, true)},
        {"rmsnorm forward", "N=64 C=10240", 8 * wide, norm(kFew, kWide, false)},
        {"rmsnorm backward", "N=64 C=10240", 8 * wide + double(8 * kWide), norm(kFew, kWide, true)},
        {"rope forward", "N=128 H=32+8 D=128", 4 * NQ + angles, rope(false)},
        {"rope backward", "N=128 H=32+8 D=128", 6 * NQ + angles, rope(true)},
        {"swiglu forward", "N=128 F=9728", 6 * NF, swiglu(false)},
        {"swiglu backward", "N=128 F=9728", 10 * NF, swiglu(true)},
        {"embed forward", "N=128 C=2560", 4 * NC, embed(false)},
        {"embed backward", "N=128 C=2560", 2 * NC + double(32 * C * 8), embed(true)},
        {"adamw, fp32", "n=327680", 28 * NC, adamw},
        {"square sum, fp32", "n=327680", 4 * NC, square_sum}};
}

// Sequences in pages of 32: a decoding step at 96 and at 1024 positions, where a row's query,
// length and table weigh little beside its keys and values, and the writing of one prompt. bf16.
std::vector<OpRow> paged_rows() {
    const Dtype x = Dtype::bf16;
    constexpr int64_t kPage = 32, kPositions = 96, kSequences = 4, kHeads = 8, kPairs = 2, D = 128;
    auto pages = [=](Watcher& m, const char* name, int64_t count, bool keys) {
        const View rows = m.make(name, x, count * kPairs * D, kPage);
        return keys ? make_view(rows.data, x, name, count, kPairs * D, kPage)
                    : make_view(rows.data, x, name, count, kPairs * kPage, D);
    };
    auto step = [=](Ctx& ctx, Watcher& m, int64_t positions) {
        const int64_t per = positions / kPage, count = kSequences * per;
        View table = m.make("table", Dtype::i32, kSequences, per);
        View row = vector_view(m, "row", Dtype::i32, kSequences);
        View length = vector_view(m, "length", Dtype::i32, kSequences);
        for (int i = 0; i < count; i++) table.as<int32_t>()[i] = i;
        for (int i = 0; i < kSequences; i++) row.as<int32_t>()[i] = i;
        for (int i = 0; i < kSequences; i++) length.as<int32_t>()[i] = int32_t(positions);
        attention_paged_forward(ctx, m.make("out", x, kSequences, kHeads * D),
                                m.make("q", x, kSequences, kHeads * D), pages(m, "k", count, true),
                                pages(m, "v", count, false), table, row, length, kHeads, kPairs);
    };
    auto store = [=](Ctx& ctx, Watcher& m) {
        View slot = vector_view(m, "slot", Dtype::i32, kPositions);
        for (int i = 0; i < kPositions; i++) slot.as<int32_t>()[i] = i;
        kv_store_forward(ctx, pages(m, "k_pages", kPositions / kPage, true),
                         pages(m, "v_pages", kPositions / kPage, false),
                         m.make("k", x, kPositions, kPairs * D),
                         m.make("v", x, kPositions, kPairs * D), slot);
    };
    auto cached = [=](int64_t positions) { return double(positions * kPairs * D * 2 * 2); };
    auto paged = [=](const char* shape, int64_t positions) {
        return OpRow{"attention paged", shape,
                     kSequences * cached(positions) + double(kSequences * kHeads * D * 4),
                     [=](Ctx& ctx, Watcher& m) { step(ctx, m, positions); }};
    };
    return {paged("N=4x96 H=8+2 D=128", kPositions),
            paged("N=4x1024 H=8+2 D=128", 1024),
            {"kv store", "N=96 H=2 D=128", 2 * cached(kPositions), store}};
}

// K different experts for each row, ascending; the slots that follow from them.
struct Routing {
    View experts, offsets, slot_row, row_slot;

    Routing(Watcher& memory, int N, int E, int K) {
        experts = memory.make("experts", Dtype::i32, N, K);
        offsets = vector_view(memory, "offsets", Dtype::i32, E + 1);
        slot_row = vector_view(memory, "slot_row", Dtype::i32, N * K);
        row_slot = memory.make("row_slot", Dtype::i32, N, K);
        Rng rng(5, uint64_t(E));
        for (int n = 0; n < N; n++)
            for (int e = 0, k = 0; k < K; e++)
                if (int(rng.below(E - e)) < K - k) experts.as<int32_t>()[n * K + k++] = e;
        Ctx ctx(Backend::cpu, 1);
        slots_forward(ctx, offsets, slot_row, row_slot, experts);
    }
};

// Shapes of the MoE models: 384 experts, 12 a row, C = 1024. bf16; what the router holds is fp32.
std::vector<OpRow> moe_rows() {
    const Dtype x = Dtype::bf16, f = Dtype::f32, i = Dtype::i32;
    const int N = 256, M = 64, E = 384, K = 12, C = 1024;
    const double NE = double(N * E), NK = double(N * K), MK = double(M * K);
    auto router = [=](bool backward) {
        return [=](Ctx& ctx, Watcher& m) {
            const View scores = m.make("scores", f, N, E), weights = m.make("weights", f, N, K);
            View logits = m.make("logits", f, N, E);
            Rng rng(3, 1);
            for (int64_t j = 0; j < logits.size(); j++) logits.as<float>()[j] = float(rng.normal());
            if (!backward)
                return router_forward(ctx, weights, m.make("experts", i, N, K), scores, logits,
                                      vector_view(m, "bias", f, E), 1);
            std::fill_n(const_cast<View&>(scores).as<float>(), N * E, 0.5f);
            const Routing routing(m, N, E, K);
            router_backward(ctx, logits, m.make("dweights", f, N, K), weights, routing.experts,
                            scores, 1);
        };
    };
    auto slots = [=](const char* shape, int rows) {
        return OpRow{"slots forward", shape, double(12 * rows * K + 4 * E),
                     [=](Ctx& ctx, Watcher& m) {
                         const Routing r(m, rows, E, K);
                         slots_forward(ctx, r.offsets, r.slot_row, r.row_slot, r.experts);
                     }};
    };
    auto combine = [=](bool backward) {
        return [=](Ctx& ctx, Watcher& m) {
            const Routing r(m, M, E, K);
            const View rows = m.make("slots", x, M * K, C), out = m.make("out", x, M, C);
            const View weights = m.make("weights", f, M, K);
            if (!backward) return moe_combine_forward(ctx, out, rows, weights, r.row_slot);
            moe_combine_backward(ctx, m.make("dslots", x, M * K, C), m.make("dweights", f, M, K),
                                 out, rows, weights, r.row_slot);
        };
    };
    auto gather = [=](Ctx& ctx, Watcher& m) {
        const Routing r(m, M, E, K);
        moe_gather_backward(ctx, m.make("dinp", x, M, C), m.make("dslots", x, M * K, C),
                            r.row_slot);
    };
    return {{"router forward", "N=256 E=384 K=12", 8 * NE + 8 * NK, router(false)},
            {"router backward", "N=256 E=384 K=12", 4 * NE + (8 + 32) * NK, router(true)},
            slots("N=256 E=384 K=12", N),
            slots("N=4096 E=384 K=12", 4096),
            {"combine forward", "N=64 K=12 C=1024", 2 * (MK + M) * C + 8 * MK, combine(false)},
            {"combine backward", "N=64 K=12 C=1024", 2 * (2 * MK + M) * C + 12 * MK, combine(true)},
            {"gather backward", "N=64 K=12 C=1024", 2 * (MK + M) * C + 4 * MK, gather}};
}

// The experts' products at the widths of the 5B model: C = 1024, F = 320; 4 experts of 12, 64
// and 180 slots, and none.
void run_grouped(Ctx& ctx, Watcher& m, int O, int C, bool backward) {
    const int counts[] = {12, 64, 0, 180}, E = 4, S = 256, N = 128;
    const Dtype x = Dtype::bf16;
    View offsets = vector_view(m, "offsets", Dtype::i32, E + 1);
    View slot_row = vector_view(m, "slot_row", Dtype::i32, S);
    for (int e = 0; e < E; e++) offsets.as<int32_t>()[e + 1] = offsets.as<int32_t>()[e] + counts[e];
    for (int s = 0; s < S; s++) slot_row.as<int32_t>()[s] = s * 37 % N;
    const View inp = m.make("inp", x, N, C), out = m.make("out", x, S, O);
    View weight = m.make("weight", x, E * O, C);
    weight = make_view(weight.data, x, "weight", E, O, C);
    if (!backward) return grouped_linear_forward(ctx, out, inp, slot_row, weight, offsets);
    View dweight = m.make("dweight", Dtype::f32, E * O, C);
    dweight = make_view(dweight.data, Dtype::f32, "dweight", E, O, C);
    grouped_linear_backward(ctx, m.make("dinp", x, S, C), dweight, out, inp, slot_row, weight,
                            offsets);
}

void watch_scratch(Ctx& ctx, Trace& trace) {
    ctx.simt.trace = &trace;
    ScratchFrame frame(ctx.scratch); // the op's own frame begins at the same place
    trace.watch("scratch", ctx.scratch.alloc(1 << 19), 1 << 19);
}

// Sectors of each operand in bytes; mma instructions, those of the tiles.
std::string grouped_row(const char* name, int O, int C, bool backward) {
    Trace trace;
    Watcher memory(trace);
    Ctx ctx(Backend::simt, 1);
    watch_scratch(ctx, trace);
    run_grouped(ctx, memory, O, C, backward);
    const auto bytes = [&](const char* operand) {
        const Watched& w = trace.watched(operand);
        return 32 * long(w.load.sectors + w.store.sectors);
    };
    // 5 row tiles of 64; in the backward also 3 experts' dweight over 12, 64 and 180 slots.
    const auto blocks = [](int n, int of) { return (n + of - 1) / of; };
    int64_t needed = int64_t(5) * (64 / 16) * (128 / 8) *
                     (backward ? blocks(C, 128) * (O / 16) : blocks(O, 128) * (C / 16));
    if (backward)
        needed += int64_t(4) * 16 * blocks(O, 64) * blocks(C, 128) * (blocks(12, 32) + 2 + 6) * 2;
    const auto& shared = trace.shared();
    return format("%-16s O=%-4d C=%-4d | %8ld %8ld %8ld %8ld | %7ld %7ld | %8ld %8ld %6.3f | %ld\n",
                  name, O, C, bytes("inp"), bytes("out"), bytes("weight"),
                  backward ? bytes("dinp") + bytes("dweight") : 0L, long(trace.mma()), long(needed),
                  long(shared.wavefronts), long(shared.ideal),
                  double(shared.wavefronts) / double(shared.ideal), long(trace.races()));
}

std::string row_of(const OpRow& op) {
    Trace trace;
    Watcher memory(trace);
    Ctx ctx(Backend::simt, 1);
    watch_scratch(ctx, trace);
    op.run(ctx, memory);
    double moved = 0, distinct = 0;
    for (const Watched& w : trace.watched()) {
        moved += 32.0 * double(w.load.sectors + w.store.sectors);
        distinct += 32.0 * double(w.sectors_read + w.sectors_written);
    }
    const auto& shared = trace.shared();
    return format("%-16s %-18s | %9.0f %9.0f %6.3f %6.3f | %8ld %8ld | %ld\n", op.name, op.shape,
                  moved, op.floor_bytes, moved / op.floor_bytes, distinct / op.floor_bytes,
                  long(shared.wavefronts), long(shared.ideal), long(trace.races()));
}

// Attention over one document of T rows, bf16. Tiles of 64 rows; columns pass, 64 or 32 at a time.
struct AttentionCase {
    int T, H, HKV, D, backward_columns;
};

// mma of `products` products for each piece of 16 rows by `columns` with a visible pair.
int64_t needed_mma(const AttentionCase& c, int heads, int columns, int products) {
    int64_t pieces = 0;
    for (int row = 0; row < c.T; row += 16)
        for (int column = 0; column < c.T; column += columns) pieces += column <= row + 15;
    return pieces * heads * products * (columns / 8) * (c.D / 16);
}

std::string row_of(const AttentionCase& c, bool backward) {
    Trace trace;
    Watcher m(trace);
    const Dtype x = Dtype::bf16;
    const View q = m.make("q", x, c.T, c.H * c.D), k = m.make("k", x, c.T, c.HKV * c.D);
    const View v = m.make("v", x, c.T, c.HKV * c.D), lse = m.make("lse", Dtype::f32, c.T, c.H);
    const View out = m.make("out", x, c.T, c.H * c.D),
               start = vector_view(m, "start", Dtype::i32, c.T);
    Ctx ctx(Backend::simt, 1);
    ctx.simt.trace = &trace;
    if (!backward) attention_forward(ctx, out, lse, q, k, v, start, c.H, c.HKV);
    else
        attention_backward(ctx, m.make("dq", x, c.T, c.H * c.D), m.make("dk", x, c.T, c.HKV * c.D),
                           m.make("dv", x, c.T, c.HKV * c.D), m.make("dout", x, c.T, c.H * c.D),
                           out, lse, q, k, v, start, c.H, c.HKV);
    double pairs = 0; // of a tile of 64 rows and a column that passes by it
    for (int row = 0; row < c.T; row += 64) pairs += row + 64;
    const double pass = 2 * 2.0 * c.D * pairs * c.H, own = 2.0 * c.T * c.H * c.D;
    const double own_kv = 2 * 2.0 * c.T * c.HKV * c.D;
    const double floor = backward ? 2 * pass + own_kv + 4 * own : pass + own;
    const int64_t needed =
        backward ? needed_mma(c, c.H, c.backward_columns, 7) : needed_mma(c, c.H, 64, 2);
    double loaded = 0;
    for (const char* name : {"q", "k", "v", "out"})
        loaded += 32.0 * double(trace.watched(name).load.sectors);
    if (backward) loaded += 32.0 * double(trace.watched("dout").load.sectors);
    const auto& shared = trace.shared();
    return format("attention %-8s T=%d H=%d+%d D=%-3d | %8.0f %8.0f %5.3f | %7ld %7ld %5.3f | %7ld "
                  "%7ld %5.3f | %ld\n",
                  backward ? "backward" : "forward", c.T, c.H, c.HKV, c.D, loaded, floor,
                  loaded / floor, long(trace.mma()), long(needed),
                  double(trace.mma()) / double(needed), long(shared.wavefronts), long(shared.ideal),
                  double(shared.wavefronts) / double(shared.ideal), long(trace.races()));
}

const AttentionCase kAttentionCases[] = {
    {128, 4, 2, 32, 64}, {128, 4, 2, 64, 64}, {128, 4, 1, 128, 32}};

const char kAttentionHeader[] =
    "#\n"
    "# Attention, bf16, one document. Loaded: bytes of q, k, v, out and dout in 32-byte sectors; "
    "floor:\n"
    "# what passes by a tile of 64 rows, once for each tile, and the tile's own rows. mma; needed: "
    "those\n"
    "# of pieces of 16 rows by 64 (D = 128, backward: 32) columns with a pair that counts. Shared\n"
    "# memory: wavefronts, ideal.\n"
    "# op               shape            |   loaded    floor ratio |     mma  needed ratio |   "
    "waves "
    "  ideal ratio | races\n";

const char kOpHeader[] =
    "#\n"
    "# Bytes moved in 32-byte sectors, weights and partial sums included; floor: the op's rows, "
    "each\n"
    "# once. Shared memory: wavefronts, ideal.\n"
    "# op             shape              |     moved     floor  ratio |    waves    ideal | "
    "races\n";

const char kGroupedHeader[] =
    "#\n"
    "# Grouped products, bf16, slots by expert 12, 64, 0 and 180: bytes in 32-byte sectors between "
    "L2 and\n"
    "# blocks; mma instructions, those of the tiles.\n"
    "# op                             |      inp   out,dout weight   d(both) |     mma    need "
    "|    waves    ideal  ratio | races\n";

const char kHeader[] =
    "# Counted by test/traced/traffic.cpp, per row of logits, all features of the loss on. Bytes "
    "per\n"
    "# logit in 32-byte sectors: loaded, stored, both; least = distinct sectors. Shared memory:\n"
    "# wavefronts, ideal (no bank conflicts), their ratio. Remote: bytes from other blocks' "
    "memory.\n"
    "# op path  dtype         V     k |   load  store   both |  least |    waves    ideal  ratio | "
    " remote | races\n";

} // namespace

TEST_CASE("traffic: the table is what the kernels move", "[traced]") {
    std::string table = kHeader;
    for (const LossCase& c : kCases) table += row_of(c);
    table += kOpHeader;
    for (const OpRow& op : op_rows()) table += row_of(op);
    for (const OpRow& op : paged_rows()) table += row_of(op);
    for (const OpRow& op : moe_rows()) table += row_of(op);
    table += kAttentionHeader;
    for (const AttentionCase& c : kAttentionCases)
        for (bool backward : {false, true}) table += row_of(c, backward);
    table += kGroupedHeader;
    table += grouped_row("gate, up", 640, 1024, false);
    table += grouped_row("down", 1024, 320, false);
    table += grouped_row("gate, up backward", 640, 1024, true);
    table += grouped_row("down backward", 1024, 320, true);
    const std::string committed = read_file("test/traced/traffic.txt");
    if (table != committed) write_file_atomic("build/traffic.txt", table);
    INFO("counted (also in build/traffic.txt):\n" << table);
    CHECK(table == committed);
}

TEST_CASE("races: no kernel has one on any op case, under any schedule", "[traced]") {
    for (const OpCase& op : all_op_cases())
        for (int path : op.kernel_paths)
            for (uint32_t seed = 0; seed < 4 && !op.perf; seed++) {
                const bool narrow = seed % 2 == 1 && op.bf16_tolerance > 0;
                Trace trace;
                Ctx ctx(Backend::simt, 1);
                ctx.simt.path = path;
                ctx.simt.seed = seed;
                ctx.simt.eager_copies = seed >= 2;
                ctx.simt.trace = &trace;
                CHECK(check_races(op, ctx, narrow ? Dtype::bf16 : Dtype::f32) == "");
            }
}

TEST_CASE("races: the loss has none where lists overflow or rows are constant", "[traced]") {
    for (int path : {0, 1, 8})
        for (const auto& [V, k] :
             {std::pair(1, 1), {257, 20}, {3001, 100}, {3001, 2000}, {9000, 100}})
            for (uint32_t seed = 0; seed < 4; seed++) {
                const Dtype dtype = seed < 2 ? Dtype::f32 : Dtype::bf16;
                Trace trace;
                run_loss({"", 90, path, V, 4, k, dtype}, trace, seed, seed % 2 == 1);
                CAPTURE(path, V, k, seed, trace.first_race());
                CHECK(trace.races() == 0);
            }
}
