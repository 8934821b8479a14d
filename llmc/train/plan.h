// What a recipe takes, before anything is allocated: shapes of a run, memory of a rank, traffic.
#pragma once
#include "llmc/core/recipe.h"
#include "llmc/data/tokenizer.h"
#include "llmc/model/train_pass.h"
#include "llmc/rollout/engine.h"

#include <iterator>
#include <numeric>

// The sizes a run builds its parts with.
struct RunShape {
    std::vector<std::string> stages;
    ModelConfig config; // max_positions as long as the longest stage needs
    PassSettings pass;  // rows: the largest micro-batch of any stage
    EngineSettings engine;
    bool samples;           // RL or problems to evaluate: there is an engine
    int64_t reference_rows; // RL with a KL term: of a second model's forward; 0 = none
};
RunShape run_shape(const Recipe& recipe, const Tokenizer& tokenizer, Comm& comm);

// -tokenizer, else that of the checkpoint -init names, else bytes.
Tokenizer recipe_tokenizer(const Recipe& recipe);

// Bytes of one rank, by the arena's segments. Pages count when they are written, so a run stays
// below where its batches are smaller than the shape allows (RL's answers, above all).
struct MemoryPlan {
    int64_t segments[int(Segment::count)];
    int64_t exchange;       // buffers between ranks, and MPI's own
    int64_t program;        // resident already: code, libraries, the tokenizer; 0 on a GPU
    int64_t gradients_sent; // bytes a rank sends: a step, or sharded every micro-batch
    int64_t weights_sent;   // a step
    int64_t of(Segment segment) const { return segments[int(segment)]; }
    int64_t in_arena() const { return std::accumulate(segments, std::end(segments), int64_t(0)); }
    int64_t needed() const { return in_arena() + exchange; }
    int64_t total() const { return needed() + program; }
};
// On a GPU, or the one that simt plays: of its memory, without CUDA's own.
MemoryPlan plan_memory(const CtxSettings& on, const RunShape& shape, Comm& comm);

// Most that was resident of this process at a time, in bytes.
int64_t peak_resident_bytes();

// The plan as a table, for -plan.
std::string plan_text(const CtxSettings& on, const RunShape& shape, Comm& comm);

// The plan; fatal() if the ranks of this machine do not fit into its free memory, with a hint at
// what would.
MemoryPlan check_memory(Ctx& ctx, const RunShape& shape, Comm& comm);
