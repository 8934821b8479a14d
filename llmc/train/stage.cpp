// Contract: stage.h. The RL stage is in rl_stage.cpp.
#include "llmc/train/stage.h"

#include "llmc/core/error.h"
#include "llmc/core/file.h"
#include "llmc/core/rng.h"
#include "llmc/train/keys.h"
#include "llmc/train/schedule.h"

#include <algorithm>
#include <utility>

Stage::Stage(const Recipe& recipe, const Comm& comm, const std::string& stage_name,
             const ModelConfig& config)
    : name(stage_name), loss(recipe_loss(recipe, stage_name, config.vocab)),
      steps(recipe.integer(stage_name, "steps")), bias_rate(recipe.real(stage_name, "bias_rate")),
      rope_base(recipe.real(stage_name, "rope_base")),
      bad_steps(recipe.integer(stage_name, "bad_steps")), recipe_(recipe), comm_(comm) {}

OptimizerSettings Stage::optimizer(int64_t step) const {
    const int64_t decay = std::min(recipe_.integer(name, "decay"), steps);
    const Schedule schedule{recipe_.integer(name, "warmup"),
                            steps - decay,
                            decay,
                            recipe_.real(name, "lr"),
                            recipe_.real(name, "lr_end"),
                            decay_shape(recipe_.text(name, "decay_shape"))};
    return {learning_rate(schedule, step),      recipe_.real(name, "beta1"),
            recipe_.real(name, "beta2"),        recipe_.real(name, "eps"),
            recipe_.real(name, "weight_decay"), recipe_.real(name, "clip")};
}

int64_t rows_at_a_time(const Recipe& recipe, int64_t context, int64_t rows) {
    return std::clamp<int64_t>(recipe.integer("", "pass_rows") / context, 1, rows);
}

BatchUnits::BatchUnits(const Recipe& recipe, const std::string& stage, int ranks)
    : batch(recipe.integer(stage, "batch")), context(recipe.integer(stage, "context")),
      rows(rows_at_a_time(recipe, context, batch)), count((batch + rows - 1) / rows),
      parts(count % ranks == 0 ? 1 : ranks), per_rank(parts == 1 ? count / ranks : count) {}

StreamOptions stream_options(const Recipe& recipe, const std::string& stage, Split split) {
    return {recipe.integer(stage, "context"),
            recipe.text(stage, "doc_mask") == "yes",
            mix(uint64_t(recipe.integer("", "seed")), hash64(stage.data(), stage.size())),
            split,
            recipe.real("", "val_fraction"),
            recipe.text(stage, "prompt_loss") == "yes"};
}

TextStage::TextStage(const Recipe& recipe, const Comm& comm, const std::string& stage,
                     const ModelConfig& config, const Tokenizer& tokenizer, const std::string& run)
    : Stage(recipe, comm, stage, config), run_(run),
      stream_(recipe.text(stage, "data"), stream_options(recipe, stage, Split::train), tokenizer),
      units_(recipe, stage, comm.size()) {
    const int64_t tokens = recipe.integer(stage, "tokens"),
                  per_step = units_.batch * units_.context;
    if (steps == 0) steps = (tokens + per_step - 1) / per_step;
    if (steps == 0) usage_error("[" + stage + "] has neither steps nor tokens", "set one of them");
}

void TextStage::next_batch(int64_t step, StageBatch& batch) {
    batch = StageBatch{};
    if (!std::exchange(begun_, true)) batch.note = stream_.left_out();
    batch.rows = units_.batch * units_.context;
    const int part = comm_.rank() % units_.parts;
    const bool saved = comm_.root() && step < recipe_.integer("", "save_batches");
    std::vector<PackedRows> seen;
    for (int64_t i = 0; i < units_.count; i++) {
        PackedRows packed;
        stream_.next_rows(std::min(units_.rows, units_.batch - i * units_.rows), packed);
        for (int32_t target : packed.targets) batch.tokens += target != kIgnoredTarget;
        if (saved) seen.push_back(packed);
        if (units_.parts == 1 && i % comm_.size() != comm_.rank()) continue;
        const MicroBatch unit = text_rows(std::move(packed));
        for (MicroBatch& m : cut_rows(unit, part, units_.parts, int64_t(unit.tokens.size())))
            batch.micro.push_back(std::move(m));
    }
    // A batch may have no target at all where prompts are none: it teaches nothing.
    const double weight = batch.tokens > 0 ? 1.0 / double(batch.tokens) : 0;
    for (MicroBatch& m : batch.micro) m.scale.assign(m.tokens.size(), weight);
    if (!saved) return;
    make_directories(run_ + "/batches");
    write_rows(format("%s/batches/%s_%08lld.safetensors", run_.c_str(), name.c_str(),
                      (long long)(step + 1)),
               seen);
}
