// Contract: plan.h. The parts are built as a run builds them: their pages are never written, so
// that costs nothing and cannot drift from what is planned.
#include "llmc/train/plan.h"

#include "llmc/core/error.h"
#include "llmc/device/comm.h"
#include "llmc/device/gemm_cuda.h"
#include "llmc/train/keys.h"
#include "llmc/train/micro_batch.h"
#include "llmc/train/rl_stage.h"
#include "llmc/train/stage.h"

#include <algorithm>
#include <fstream>
#include <tuple>

namespace {

// A field of /proc/self/status, in bytes.
int64_t status_bytes(const std::string& field) {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);)
        if (line.rfind(field, 0) == 0) return std::atoll(line.c_str() + field.size()) << 10;
    return 0;
}

// A small step of a model of the same kind: its code becomes resident, and the library's.
void touch_code(const CtxSettings& on, bool moe) {
    if (on.backend != Backend::cpu) return;
    constexpr int64_t kRows = 64;
    Ctx own(on.backend, on.threads, on.bf16);
    Model model(own, model_preset(moe ? "tiny-moe" : "tiny"));
    model.weights_changed();
    TrainPass pass(own, model, {kRows, kRows, true, Recompute::no});
    const Buffer zeros(Dtype::i32, "zeros", kRows), stats(own.dtype(), "stats", kRows, kLossStats);
    const Buffer scale(own.dtype(), "scale", kRows);
    const Batch batch{zeros.view(), zeros.view(), zeros.view()};
    pass.zero_grads();
    pass.forward(batch, false);
    pass.loss_backward(stats.view(), zeros.view(), scale.view(), View{},
                       {model.config.vocab, 1, 0, 0, 0, RewardForm::factor, 1, 0, 0});
    own.wait();
}

// Bytes this process may still take: of the machine, or of its control group where that is less.
int64_t free_memory() {
    int64_t free = INT64_MAX;
    std::ifstream meminfo("/proc/meminfo"); // of no size: read by lines
    for (std::string line; std::getline(meminfo, line);)
        if (line.rfind("MemAvailable:", 0) == 0) free = std::atoll(line.c_str() + 13) << 10;
    int64_t limit = 0, used = 0; // the limit reads "max" where there is none
    if (std::ifstream("/sys/fs/cgroup/memory.max") >> limit &&
        std::ifstream("/sys/fs/cgroup/memory.current") >> used)
        free = std::min(free, limit - used);
    return free;
}

std::string size_text(int64_t bytes) {
    const double mib = double(bytes) / (1 << 20);
    return mib < 10240 ? format("%.1f MiB", mib) : format("%.1f GiB", mib / 1024);
}

std::vector<std::string> stage_names(const Recipe& recipe) {
    std::vector<std::string> names;
    const auto& known = train_keys().sections;
    for (const std::string& part : split_text(recipe.text("", "stages"), ',')) {
        names.push_back(trim_text(part));
        if (std::find(known.begin(), known.end(), names.back()) == known.end())
            usage_error("stages: unknown stage \"" + names.back() + "\"",
                        "the stages are pretrain, midtrain and rl");
        if (std::count(names.begin(), names.end(), names.back()) > 1)
            usage_error("stages: " + names.back() + " is there twice",
                        "a run has each stage once; -init CHECKPOINT starts another run from it");
    }
    return names;
}

// A recipe of one's own that says what the model is must say what the checkpoint -init is.
void check_same_model(const Recipe& recipe, const Tokenizer& tokenizer, const ModelConfig& is) {
    bool said = !recipe.text("", "recipe").empty() && recipe.is_set("", "model");
    for (const Key& key : train_keys().keys)
        for (const auto& [name, value] : recipe.flags())
            said |= name == key.name && std::string(key.group) == "model" && name != "init_std";
    if (!said) return;
    const ModelConfig says = recipe_model(recipe, tokenizer.vocab_size());
    const std::tuple<const char*, int, int> fields[] = {
        {"layers", says.layers, is.layers},
        {"channels", says.channels, is.channels},
        {"heads", says.heads, is.heads},
        {"kv_heads", says.kv_heads, is.kv_heads},
        {"head_dim", says.head_dim, is.head_dim},
        {"experts", says.experts, is.experts},
        {"ffn", says.moe() ? says.expert_ffn : says.ffn, is.moe() ? is.expert_ffn : is.ffn},
        {"experts_per_token", says.experts_per_token, is.experts_per_token},
        {"tied", says.tied, is.tied}};
    for (const auto& [name, asked, found] : fields)
        if (asked != found)
            fatal(format("the recipe's model has %s = %d, the checkpoint %s has %d", name, asked,
                         recipe.text("", "init").c_str(), found),
                  "with -init leave the model's keys out: config.json of the checkpoint has them");
}

ModelConfig first_config(const Recipe& recipe, const Tokenizer& tokenizer) {
    const std::string init = recipe.text("", "init");
    if (init.empty()) return recipe_model(recipe, tokenizer.vocab_size());
    const ModelConfig config = read_config(init, tokenizer.vocab_size());
    check_same_model(recipe, tokenizer, config);
    return config;
}

Recompute recipe_recompute(const Recipe& recipe) {
    const std::string value = recipe.text("", "recompute");
    return value == "yes"         ? Recompute::yes
           : value == "selective" ? Recompute::selective
                                  : Recompute::no;
}

} // namespace

Tokenizer recipe_tokenizer(const Recipe& recipe) {
    const std::string file = recipe.text("", "tokenizer"), init = recipe.text("", "init");
    if (!file.empty() || init.empty()) return Tokenizer(file);
    return folder_tokenizer(init);
}

RunShape run_shape(const Recipe& recipe, const Tokenizer& tokenizer, Comm& comm) {
    RunShape shape{stage_names(recipe),     first_config(recipe, tokenizer),           {},
                   engine_settings(recipe), !recipe.text("", "eval_problems").empty(), 0};
    int64_t rows = 1;
    bool one_micro_batch = true;
    for (const std::string& stage : shape.stages) {
        recipe_loss(recipe, stage, shape.config.vocab); // its keys are checked before all else
        if (stage == "rl") {
            shape.samples = true;
            if (recipe.real("rl", "kl") > 0)
                shape.reference_rows = padded_pass_rows(rl_pass_rows(recipe, comm.size()));
            rows = std::max(rows, rl_pass_rows(recipe, comm.size()));
            one_micro_batch &= rl_has_one_micro_batch(recipe, comm.size());
            continue;
        }
        const BatchUnits units(recipe, stage, comm.size());
        rows = std::max(rows, units.pass_rows());
        one_micro_batch &= units.per_rank == 1;
        shape.config.max_positions =
            std::max(shape.config.max_positions, int(recipe.integer(stage, "context")));
    }
    shape.config.max_positions = std::max(shape.config.max_positions, shape.engine.longest);
    shape.pass = {padded_pass_rows(rows),
                  recipe.integer("", "loss_rows"),
                  true,
                  recipe_recompute(recipe),
                  comm.size() > 1 && recipe.text("", "zero") == "2" ? &comm : nullptr,
                  one_micro_batch};
    return shape;
}

MemoryPlan plan_memory(const CtxSettings& on, const RunShape& shape, Comm& comm) {
    const bool cuda = on.backend == Backend::cuda, apart = cuda || on.backend == Backend::simt;
    Ctx dry(on.backend, on.threads, on.bf16); // addresses of the host, never written
    Model model(dry, shape.config);
    const Optimizer optimizer(dry, comm, model);
    const TrainPass pass(dry, model, shape.pass);
    const MicroBatchViews views(dry, shape.pass.rows);
    std::unique_ptr<Model> reference;
    std::unique_ptr<TrainPass> reference_pass;
    std::unique_ptr<MicroBatchViews> reference_views;
    std::unique_ptr<Engine> engine;
    if (shape.reference_rows > 0) {
        const PassSettings forward{shape.reference_rows, shape.pass.loss_rows, false,
                                   Recompute::yes};
        reference = std::make_unique<Model>(dry, shape.config);
        reference_pass = std::make_unique<TrainPass>(dry, *reference, forward);
        reference_views = std::make_unique<MicroBatchViews>(dry, shape.reference_rows);
    }
    if (shape.samples) engine = std::make_unique<Engine>(dry, model, shape.engine);
    MemoryPlan plan{};
    for (int i = 0; i < int(Segment::count); i++)
        plan.segments[i] = int64_t(dry.arena.bytes(Segment(i)));
    if (cuda) plan.segments[int(Segment::scratch)] += int64_t(kCudaGemmWorkspace);
    const int64_t element = int64_t(dtype_bytes(dry.dtype())), trained = model.table.trained_size;
    const Comm::Range own = comm.shard(trained);
    touch_code(on, shape.config.moe());
    plan.program = apart ? 0 : status_bytes("VmRSS:");
    plan.exchange = Comm::exchange_bytes(trained, dry.dtype(), comm.size());
    if (!apart) plan.exchange += comm.mpi_bytes();
    plan.gradients_sent = plan.weights_sent = (trained - (own.end - own.begin)) * element;
    return plan;
}

int64_t peak_resident_bytes() { return status_bytes("VmHWM:"); }

std::string plan_text(const CtxSettings& on, const RunShape& shape, Comm& comm) {
    const MemoryPlan p = plan_memory(on, shape, comm);
    const int ranks = comm.size();
    std::string text = format("memory of a rank, %d rank%s\n", ranks, ranks == 1 ? "" : "s");
    auto add = [&](const char* name, int64_t bytes, const std::string& note) {
        text += format("  %-12s %12s  %s\n", name, size_text(bytes).c_str(), note.c_str());
    };
    auto segment = [&](Segment which, const std::string& note) {
        add(segment_name(which), p.of(which), note);
    };
    segment(Segment::parameters, shape.reference_rows
                                     ? "twice, for the KL term, and the rotation table"
                                     : "and the rotation table");
    segment(Segment::gradients,
            shape.pass.shards ? "a rank's own, and those of a block, the embedding and the norms"
                              : "");
    segment(Segment::optimizer, ranks > 1 ? "Adam's moments, sharded" : "Adam's moments");
    const char* const again[] = {"", ", element-wise ops recomputed", ", blocks recomputed"};
    const bool lent = shape.pass.one_micro_batch && !shape.pass.shards;
    segment(Segment::activations,
            format("%ld rows a pass%s%s", long(shape.pass.rows), again[int(shape.pass.recompute)],
                   lent ? ", beside those in place of gradients" : ""));
    segment(Segment::logits,
            format("%ld rows at a time", long(std::min(shape.pass.rows, shape.pass.loss_rows))));
    segment(Segment::scratch, "of the largest product or attention");
    segment(Segment::rollouts, shape.samples
                                   ? format("%sKV cache and pass of %d sequences of %d tokens",
                                            on.backend == Backend::cpu ? "packed weights, " : "",
                                            shape.engine.rows, shape.engine.longest)
                                   : "no problems, no RL");
    add("exchange", p.exchange, "between ranks, MPI's own included");
    if (p.program > 0)
        add("program", p.program, "resident before the first tensor, libraries included");
    add("total", p.total(), p.program > 0 ? "" : "on the GPU, without what CUDA itself takes");
    text += format("traffic of a rank: sends %s of gradients a %s, %s of weights a step\n",
                   size_text(p.gradients_sent).c_str(), shape.pass.shards ? "micro-batch" : "step",
                   size_text(p.weights_sent).c_str());
    return text;
}

MemoryPlan check_memory(Ctx& ctx, const RunShape& shape, Comm& comm) {
    const int64_t free = ctx.cuda ? ctx.memory->free_bytes() : free_memory() / comm.machine_ranks();
    const MemoryPlan plan = plan_memory(ctx.settings(), shape, comm);
    if (plan.needed() <= free) return plan;
    auto with = [&](bool shards, Recompute recompute, int64_t rows) {
        RunShape other = shape;
        if (shards) other.pass.shards = &comm;
        other.pass.recompute = std::max(other.pass.recompute, recompute);
        other.pass.rows = std::min(other.pass.rows, padded_pass_rows(rows));
        other.pass.one_micro_batch &= other.pass.rows == shape.pass.rows;
        return plan_memory(ctx.settings(), other, comm).needed();
    };
    // What would fit, the cheapest first.
    const int64_t all = shape.pass.rows, longest = shape.config.max_positions;
    const std::string rows = format("-pass_rows %ld", long(longest));
    const std::string selective = "-recompute selective", yes = "-recompute yes";
    struct Remedy {
        bool shards;
        Recompute recompute;
        int64_t rows;
        std::string flags;
    };
    std::vector<Remedy> remedies = {{false, Recompute::selective, all, selective},
                                    {false, Recompute::yes, all, yes},
                                    {false, Recompute::no, longest, rows},
                                    {false, Recompute::selective, longest, selective + " " + rows},
                                    {false, Recompute::yes, longest, yes + " " + rows}};
    if (comm.size() > 1)
        for (size_t i = 0, alone = remedies.size(); i < alone; i++)
            remedies.push_back(
                {true, remedies[i].recompute, remedies[i].rows, "-zero 2 " + remedies[i].flags});
    std::string hint;
    for (const Remedy& r : remedies)
        if (hint.empty() && with(r.shards, r.recompute, r.rows) <= free) hint = r.flags + " fits";
    if (hint.empty())
        hint = format("with %s it is still %s: take a smaller model, a shorter context or more "
                      "machines",
                      remedies.back().flags.c_str(),
                      size_text(with(comm.size() > 1, Recompute::yes, longest)).c_str());
    fatal(format("the recipe needs %s a rank, free are %s", size_text(plan.needed()).c_str(),
                 size_text(free).c_str()),
          hint + "; ./train -plan yes lists the parts");
}
