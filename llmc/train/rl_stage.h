// RL as a stage: the batch is sampled from the model itself, graded, and weighted by GRPO.
#pragma once
#include "llmc/data/problems.h"
#include "llmc/model/train_pass.h"
#include "llmc/rollout/evaluate.h"
#include "llmc/train/grpo.h"
#include "llmc/train/stage.h"

class RlStage : public Stage {
  public:
    RlStage(const Recipe& recipe, Ctx& ctx, Comm& comm, const Model& model,
            const Tokenizer& tokenizer, const ProblemSet& problems, const std::string& run,
            std::unique_ptr<SampleSource> source);
    // Kept groups of fresh rollouts, or the next part of them where updates > 1. No micro-batch at
    // all where no group in max_rounds had both right and wrong answers.
    void next_batch(int64_t step, StageBatch& batch) override;
    bool can_checkpoint() const override { return pending_.empty(); }
    Json state() const override;
    void restore(const Json& state) override;

  private:
    struct Sequence { // one kept answer
        std::vector<int32_t> prompt, answer;
        std::vector<float> logp;
        double advantage;
    };
    using Group = std::vector<Sequence>;
    struct Tally; // of a step's answers, rl_stage.cpp
    void roll_out(int64_t step, StageBatch& batch);
    Answered sample_round(std::vector<Problem>& problems, int64_t limit,
                          const SampleSettings& settings, SampleLog& log);
    int count_right(const Answer* group) const; // as the overlong rule counts
    double reward(const Answer& answer) const;
    void keep_group(const Problem& problem, const Answer* answers, Tally& tally);
    void pack(const std::vector<Group>& groups, StageBatch& batch) const;
    void add_reference(StageBatch& batch);
    void make_reference(int64_t step);

    Ctx& ctx_;
    Comm& comm_;
    const Model& model_;
    const Tokenizer& tokenizer_;
    const std::string run_;
    const ProblemSet& problems_;
    const std::unique_ptr<SampleSource> source_;
    const int groups_, group_size_, updates_;
    const Overlong overlong_;
    const double kl_;
    std::unique_ptr<Model> reference_; // the weights the stage began with, where kl_ > 0
    std::unique_ptr<TrainPass> reference_pass_;
    std::unique_ptr<MicroBatchViews> reference_views_;
    int64_t next_problem_ = 0, longest_answer_ = 0; // tokens, at this step
    std::vector<Group> kept_;
    std::vector<std::vector<Group>> pending_; // parts not yet given out, the last one first
};

// A run's problems, read once: what becomes of the files while it runs does not matter.
struct RunProblems {
    std::unique_ptr<const ProblemSet> rl; // null: RL is none of the stages
    std::vector<Problem> held_out;        // of the evaluations; may be none
};
// Stops at the first problem whose prompt is longer than max_prompt_tokens. Of generated problems,
// which do not end, it looks at some.
RunProblems read_problems(const Recipe& recipe, const Tokenizer& tokenizer,
                          const std::vector<std::string>& stages);
// Longest sequence (prompt and answer) the RL stage and the evaluation may make.
int longest_sequence(const Recipe& recipe);
// Most rows of the RL stage's micro-batch on one of `ranks` ranks.
int64_t rl_pass_rows(const Recipe& recipe, int ranks);
// Whether a step of it is one micro-batch, however long the answers.
bool rl_has_one_micro_batch(const Recipe& recipe, int ranks);
EngineSettings engine_settings(const Recipe& recipe);

// What samples of a run must have been drawn with to be used again: its weights bit for bit, and
// the settings.
Json sampling_fingerprint(const Model& model, const SampleSettings& settings);
