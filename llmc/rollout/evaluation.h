// An evaluation: the problems of several files answered, or their choices scored, sample by sample
// into a log that a later run continues, and the estimates of every file and of all.
#pragma once
#include "llmc/rollout/evaluate.h"
#include "llmc/rollout/sample_log.h"
#include "llmc/rollout/score.h"

struct DataSet {
    std::string name;
    std::vector<Problem> problems;
};

struct EvaluationSettings {
    int samples, k; // n and k of Pass@k
    Grading grading;
    SampleSettings sampling;
    EngineSettings engine; // `longest` and a limit of `rows` follow from the problems
};

// Estimates of one data set; those of choices are acc and acc_norm, eq. (K4)-(K5).
struct SetResult {
    std::string name;
    std::optional<EvalResult> sampled;
    std::optional<std::pair<Estimate, Estimate>> chosen;
    int too_long = 0; // problems counted as wrong for their length
};

class Evaluation {
  public:
    Evaluation(Comm& comm, Ctx& ctx, Model& model, const Tokenizer& tokenizer,
               std::vector<DataSet> sets, const EvaluationSettings& settings);
    // What a log must have been made with to be continued; `checkpoint` names the weights.
    Json fingerprint(const std::string& checkpoint) const;
    // Draws and scores what the log does not have. A sample depends on the seed, the prompt's text
    // and its number. A problem that with its answer takes more tokens than the model has positions
    // is wrong unasked, with the reason kTooLong.
    void run(SampleLog& log);
    // One per data set, and with several "all": their problems together.
    std::vector<SetResult> results(const SampleLog& log) const;
    EngineCounts counts() const { return counts_; }

  private:
    struct Item {
        size_t set;
        const Problem* problem;
        bool fits; // with its answer, into the model's positions
    };
    bool fits(const Problem& problem) const;
    void answer(SampleLog& log);
    void choose(SampleLog& log);
    SetResult result_of(const std::string& name, const std::vector<int64_t>& items,
                        const SampleLog& log) const;

    Comm& comm_;
    Ctx& ctx_;
    Model& model_;
    const Tokenizer& tokenizer_;
    const std::vector<DataSet> sets_;
    const EvaluationSettings settings_;
    std::vector<Item> items_; // problems of all sets, in order
    EngineCounts counts_;
};

// The table that ./rollout evaluate prints, and the same as JSON.
std::string results_table(const std::vector<SetResult>& results, int k);
Json results_json(const std::vector<SetResult>& results);
