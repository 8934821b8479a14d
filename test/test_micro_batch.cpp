// Cutting a batch over ranks and passes, and the plan of what a rank takes.
#include "llmc/device/gemm_cuda.h"
#include "llmc/train/keys.h"
#include "llmc/train/micro_batch.h"
#include "llmc/train/optimizer.h"
#include "llmc/train/plan.h"
#include "test/catch.h"

#include <numeric>
#include <omp.h>

namespace {

MicroBatch documents(const std::vector<int>& lengths) {
    MicroBatch rows;
    for (int length : lengths) {
        const int32_t start = int32_t(rows.tokens.size());
        for (int i = 0; i < length; i++) {
            rows.tokens.push_back(start + i);
            rows.targets.push_back(start + i + 1);
            rows.positions.push_back(i);
            rows.doc_start.push_back(start);
        }
    }
    return rows;
}

} // namespace

TEST_CASE("cut_rows: every row once, documents whole, padding nobody's", "[micro_batch]") {
    const std::vector<int> lengths = {1, 300, 7, 127, 128, 129, 5, 1, 1, 511, 64};
    const MicroBatch rows = documents(lengths);
    const int parts = GENERATE(1, 2, 3, 4, 16);
    const int64_t room = GENERATE(1, 256, 512, 100000);
    std::vector<int32_t> seen;
    for (int part = 0; part < parts; part++)
        for (const MicroBatch& m : cut_rows(rows, part, parts, room)) {
            const int64_t N = int64_t(m.tokens.size()), used = N - m.padding;
            CHECK(N % kRowMultiple == 0);
            CHECK(m.padding < kRowMultiple);
            CHECK((used <= room || m.doc_start[used - 1] == 0)); // one long document may exceed it
            CHECK(m.scale.empty());
            for (int64_t n = 0; n < N; n++) {
                if (n >= used) {
                    CHECK(m.targets[n] == kIgnoredTarget);
                    CHECK(m.doc_start[n] == n);
                    continue;
                }
                seen.push_back(m.tokens[n]);
                CHECK(m.targets[n] == m.tokens[n] + 1);
                CHECK(m.positions[n] == n - m.doc_start[n]);
                CHECK(m.tokens[m.doc_start[n]] == m.tokens[n] - m.positions[n]);
            }
        }
    std::vector<int32_t> all(rows.tokens.size());
    std::iota(all.begin(), all.end(), 0);
    CHECK(seen == all); // in the order of the batch, part after part
}

TEST_CASE("shards: they cover everything once, the first is the longest", "[comm]") {
    const int64_t n = GENERATE(1, 15, 16, 17, 1000, 1048577);
    const int size = GENERATE(1, 2, 3, 4, 7);
    int64_t end = 0;
    const Comm::Range first = Comm::shard(n, 0, size);
    for (int r = 0; r < size; r++) {
        const Comm::Range range = Comm::shard(n, r, size);
        CHECK(range.begin == end);
        CHECK(range.end - range.begin <= first.end - first.begin);
        end = range.end;
    }
    CHECK(end == n);
}

TEST_CASE("plan: what a run's parts take, and less with more ranks", "[plan]") {
    const std::string model = GENERATE("tiny", "tiny-moe", "demo");
    const Recipe recipe = read_train_recipe({"-model", model, "-stages", "pretrain"});
    Comm one(1), four_ranks(4);
    const RunShape shape = run_shape(recipe, Tokenizer(), one);
    CHECK(shape.pass.rows == 16 * 128); // the batch, not pass_rows
    Ctx ctx(Backend::cpu, 1), plain(Backend::ref, 1);
    const MemoryPlan plan = plan_memory(ctx.settings(), shape, one);
    const Model built(ctx, shape.config);
    CHECK(plan.of(Segment::parameters) - int64_t(built.bytes() + built.rope().bytes()) < 4 * 4096);
    CHECK(plan.of(Segment::optimizer) - 8 * built.table.trained_size < 4 * 4096);
    CHECK(plan.exchange == 0);
    const MemoryPlan four = plan_memory(ctx.settings(), shape, four_ranks);
    CHECK(four.of(Segment::optimizer) <= plan.of(Segment::optimizer) / 4 + 2 * 4096);
    CHECK(four.weights_sent >= 4 * built.table.trained_size * 3 / 4 - 4096);
    CHECK(four.of(Segment::gradients) == plan.of(Segment::gradients));
    const Recipe sharded =
        read_train_recipe({"-model", model, "-stages", "pretrain", "-zero", "2"});
    const MemoryPlan less =
        plan_memory(ctx.settings(), run_shape(sharded, Tokenizer(), four_ranks), four_ranks);
    const ParamTable& table = built.table;
    const int64_t kept = table.trained_size / 4 + table.embed_span().size() +
                         table.block_span(0).size() + table.total_size - table.decayed_size;
    CHECK(less.of(Segment::gradients) <= 4 * kept + 4 * 4096);
    CHECK(less.of(Segment::gradients) < plan.of(Segment::gradients));
    CHECK(plan_memory(plain.settings(), shape, one).of(Segment::parameters) >
          plan.of(Segment::parameters));
    int64_t most = plan.of(Segment::activations);
    for (Recompute more : {Recompute::selective, Recompute::yes}) {
        RunShape recomputed = shape;
        recomputed.pass.recompute = more;
        const MemoryPlan less = plan_memory(ctx.settings(), recomputed, one);
        CHECK(less.of(Segment::activations) < most);
        most = less.of(Segment::activations);
    }
}

TEST_CASE("plan: a GPU's is made without one, and has nothing of the host's", "[plan]") {
    const Recipe recipe = read_train_recipe({"-model", "demo", "-stages", "pretrain"});
    Comm one(1);
    const RunShape shape = run_shape(recipe, Tokenizer(), one);
    const MemoryPlan cpu = plan_memory({Backend::cpu, 1, true}, shape, one);
    const MemoryPlan gpu = plan_memory({Backend::cuda, 1, true}, shape, one);
    for (Segment same : {Segment::parameters, Segment::gradients, Segment::optimizer,
                         Segment::activations, Segment::logits})
        CHECK(gpu.of(same) == cpu.of(same));
    CHECK(gpu.of(Segment::scratch) >= int64_t(kCudaGemmWorkspace));
    CHECK(gpu.program == 0);
}

TEST_CASE("plan: it leaves the run's thread count as it is", "[plan]") {
    Ctx ctx(Backend::cpu, 3);
    Comm two(2);
    check_memory(ctx, run_shape(read_train_recipe({}), Tokenizer(), two), two);
    CHECK(omp_get_max_threads() == 3);
}

TEST_CASE("plan: a recipe that does not fit says what would", "[plan][slow]") {
    const Recipe recipe = read_train_recipe({"-model", "10B-A0.5B", "-pretrain.context", "4096"});
    Comm one(1);
    const RunShape shape = run_shape(recipe, Tokenizer(), one);
    Ctx ctx(Backend::cpu, 1);
    CHECK_THROWS_WITH(check_memory(ctx, shape, one), Contains("a rank, free are"));
    const RunShape small = run_shape(read_train_recipe({"-model", "tiny"}), Tokenizer(), one);
    CHECK_NOTHROW(check_memory(ctx, small, one));
}
