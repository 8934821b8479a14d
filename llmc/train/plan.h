// What a recipe takes, before anything is allocated: shapes of a run, memory of a rank, traffic.
#pragma once
#include "llmc/core/recipe.h"
#include "llmc/data/tokenizer.h"
#include "llmc/model/train_pass.h"
#include "llmc/rollout/engine.h"

// The sizes a run builds its parts with.
struct RunShape {
    std::vector<std::string> stages;
    ModelConfig config; // max_positions as long as the longest stage needs
    PassSettings pass;  // rows: the largest micro-batch of any stage
    EngineSettings engine;
    bool samples;   // RL or problems to evaluate: there is an engine
    bool reference; // RL with a KL term: a second model, going forward only
};
RunShape run_shape(const Recipe& recipe, const Tokenizer& tokenizer);

// -tokenizer, else that of the checkpoint -init names, else bytes.
Tokenizer recipe_tokenizer(const Recipe& recipe);

// Bytes of one rank. Pages count when they are written, so a run stays below where its batches
// are smaller than the shape allows (RL's answers, above all).
struct MemoryPlan {
    int64_t weights, gradients, moments, activations, logits, rollouts, exchange;
    int64_t sent_per_step; // bytes a rank sends in the exchange of gradients and weights
    int64_t total() const {
        return weights + gradients + moments + activations + logits + rollouts + exchange;
    }
};
MemoryPlan plan_memory(Ctx& ctx, const RunShape& shape, int ranks);

// The plan as a table, for -plan.
std::string plan_text(Ctx& ctx, const RunShape& shape, int ranks);

// The plan; fatal() if the ranks of this machine do not fit into its free memory, with a hint at
// what would.
MemoryPlan check_memory(Ctx& ctx, const RunShape& shape, int ranks, int local_ranks);
