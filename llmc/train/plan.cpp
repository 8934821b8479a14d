// Contract: plan.h. The parts are built as a run builds them: their pages are never written, so
// that costs nothing and cannot drift from what is planned.
#include "llmc/train/plan.h"

#include "llmc/core/error.h"
#include "llmc/device/comm.h"
#include "llmc/train/keys.h"
#include "llmc/train/micro_batch.h"
#include "llmc/train/rl_stage.h"
#include "llmc/train/stage.h"

#include <algorithm>
#include <fstream>

namespace {

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
    }
    return names;
}

ModelConfig first_config(const Recipe& recipe, const Tokenizer& tokenizer) {
    const std::string init = recipe.text("", "init");
    if (init.empty()) return recipe_model(recipe, tokenizer.vocab_size());
    const ModelConfig config = read_config(init);
    if (config.vocab < tokenizer.vocab_size())
        fatal(format("%s: vocabulary %d, the tokenizer has %d", init.c_str(), config.vocab,
                     tokenizer.vocab_size()),
              "give the checkpoint's own tokenizer.json as -tokenizer");
    return config;
}

} // namespace

Tokenizer recipe_tokenizer(const Recipe& recipe) {
    const std::string file = recipe.text("", "tokenizer"), init = recipe.text("", "init");
    if (!file.empty() || init.empty()) return Tokenizer(file);
    return folder_tokenizer(init);
}

RunShape run_shape(const Recipe& recipe, const Tokenizer& tokenizer) {
    RunShape shape{stage_names(recipe),     first_config(recipe, tokenizer),           {},
                   engine_settings(recipe), !recipe.text("", "eval_problems").empty(), false};
    int64_t rows = 1;
    for (const std::string& stage : shape.stages) {
        recipe_loss(recipe, stage, shape.config.vocab); // its keys are checked before all else
        if (stage == "rl") {
            shape.samples = true;
            shape.reference = recipe.real("rl", "kl") > 0;
            rows = std::max(rows, rl_pass_rows(recipe));
            continue;
        }
        const int64_t context = recipe.integer(stage, "context");
        const int64_t batch = recipe.integer(stage, "batch");
        rows = std::max(rows, rows_at_a_time(recipe, context, batch) * context);
        shape.config.max_positions = std::max(shape.config.max_positions, int(context));
    }
    shape.config.max_positions = std::max(shape.config.max_positions, shape.engine.longest);
    shape.pass = {padded_pass_rows(rows), recipe.integer("", "loss_rows"), true,
                  recipe.text("", "recompute") == "yes"};
    return shape;
}

MemoryPlan plan_memory(Ctx& ctx, const RunShape& shape, int ranks) {
    Model model(ctx, shape.config);
    TrainPass pass(ctx, model, shape.pass);
    const int64_t element = int64_t(dtype_bytes(ctx.dtype())), trained = model.table.trained_size;
    const Comm::Range own = Comm::shard(trained, 0, ranks);
    MemoryPlan plan{};
    plan.weights = int64_t(model.bytes() + model.rope().bytes());
    plan.gradients = int64_t(model.weights.flat().bytes());
    plan.moments = 2 * (own.end - own.begin) * element;
    plan.logits = int64_t(pass.logits_bytes());
    plan.activations = int64_t(pass.bytes()) - plan.logits;
    plan.exchange = Comm::exchange_bytes(trained, ctx.dtype(), ranks);
    plan.sent_per_step = 2 * (trained - (own.end - own.begin)) * element;
    if (shape.reference) {
        const PassSettings forward{shape.pass.rows, shape.pass.loss_rows, false, false};
        plan.weights += int64_t(model.bytes() + model.rope().bytes());
        plan.activations += int64_t(TrainPass(ctx, model, forward).bytes());
    }
    if (shape.samples) plan.rollouts = int64_t(Engine(ctx, model, shape.engine).bytes());
    return plan;
}

std::string plan_text(Ctx& ctx, const RunShape& shape, int ranks) {
    const MemoryPlan p = plan_memory(ctx, shape, ranks);
    std::string text = format("memory of a rank, %d rank%s\n", ranks, ranks == 1 ? "" : "s");
    auto add = [&](const char* name, int64_t bytes, const std::string& note) {
        text += format("  %-12s %12s  %s\n", name, size_text(bytes).c_str(), note.c_str());
    };
    add("parameters", p.weights,
        shape.reference ? "twice, for the KL term, and the rotation table"
                        : "and the rotation table");
    add("gradients", p.gradients, "");
    add("optimizer", p.moments, ranks > 1 ? "Adam's moments, sharded" : "Adam's moments");
    add("activations", p.activations,
        format("%ld rows a pass%s", long(shape.pass.rows),
               shape.pass.recompute ? ", blocks recomputed" : ""));
    add("logits", p.logits,
        format("%ld rows at a time", long(std::min(shape.pass.rows, shape.pass.loss_rows))));
    add("rollouts", p.rollouts,
        shape.samples ? format("KV cache and pass of %d sequences of %d tokens", shape.engine.rows,
                               shape.engine.longest)
                      : "no problems, no RL");
    add("exchange", p.exchange, "buffers between ranks");
    add("total", p.total(), "");
    text += format("traffic of a rank: %s sent per step\n", size_text(p.sent_per_step).c_str());
    return text;
}

MemoryPlan check_memory(Ctx& ctx, const RunShape& shape, int ranks, int local_ranks) {
    const int64_t free = free_memory() / local_ranks;
    const MemoryPlan plan = plan_memory(ctx, shape, ranks);
    if (plan.total() <= free) return plan;
    auto with = [&](bool recompute, int64_t rows) {
        RunShape other = shape;
        other.pass.recompute = recompute;
        other.pass.rows = std::min(other.pass.rows, padded_pass_rows(rows));
        return plan_memory(ctx, other, ranks).total();
    };
    const int64_t longest = shape.config.max_positions;
    std::string hint;
    if (with(true, shape.pass.rows) <= free) hint = "-recompute yes fits";
    else if (with(false, longest) <= free) hint = format("-pass_rows %ld fits", long(longest));
    else if (with(true, longest) <= free)
        hint = format("-recompute yes -pass_rows %ld fits", long(longest));
    else
        hint =
            format("with -recompute yes and -pass_rows %ld it is still %s: take a smaller model, "
                   "a shorter context or more machines",
                   long(longest), size_text(with(true, longest)).c_str());
    fatal(format("the recipe needs %s a rank, free are %s", size_text(plan.total()).c_str(),
                 size_text(free).c_str()),
          hint + "; ./train -plan yes lists the parts");
}
