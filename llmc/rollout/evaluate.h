// Answering problems: sample, extract, grade, estimate.
#pragma once
#include "llmc/core/json.h"
#include "llmc/data/problems.h"
#include "llmc/data/tokenizer.h"
#include "llmc/device/comm.h"
#include "llmc/rollout/engine.h"

#include <optional>

// How an answer is read and compared.
struct Grading {
    bool lenient; // extract_lenient() instead of extract_boxed()
    bool exact;   // the first line, as words, equals an accepted spelling (TriviaQA, NQ)
};

struct Answer {
    Completion completion;
    std::string text;
    std::optional<std::string> extracted;
    bool right;
    std::string reason; // of the verdict, a few words
    double grade_s;     // what extracting and grading took
};
Answer grade_completion(const Problem& problem, const Tokenizer& tokenizer, const Grading& grading,
                        Completion completion);

// Text as words: lower case, no punctuation, no articles, single blanks.
std::string plain_words(const std::string& text);

// `samples` graded answers per problem, in the order of problems, then samples. Prompt id = index
// in `problems` + first_id: what the random numbers are keyed by. The ranks share the problems, and
// each gets all answers. `replacement`, on one rank only, is asked for a problem more, to be
// appended to `problems`, whenever all answers to one are there; it returns false for none.
using Replacement = std::function<bool(const Answer* group, Problem* more)>;
std::vector<Answer> answer_problems(Comm& comm, Engine& engine, const Tokenizer& tokenizer,
                                    std::vector<Problem>& problems, int samples, uint64_t first_id,
                                    const SampleSettings& settings, const Replacement& replacement);

// One answer as every samples file has it: id, sample, prompt, response, finish, logp of its tokens
// and, where the problem has an answer, answer, extracted, right and reason.
Json answer_json(const Problem& problem, const Answer& answer);

// What of an answer the estimates need.
struct Outcome {
    std::optional<std::string> extracted;
    bool right, stopped;
    int64_t tokens;
    double entropy; // sum over the tokens, nats
};
Outcome outcome_of(const Answer& answer);

// A mean over problems and its standard error, NaN with one problem.
struct Estimate {
    double mean, error;
};
Estimate estimate(const std::vector<double>& per_problem);

struct EvalResult {
    int problems, samples;
    Estimate avg, cons; // Avg@n, Cons@n
    struct Pass {
        int k;
        Estimate value;
    };
    std::vector<Pass> pass;                          // k = 1, 2, 4, ... <= n, and n
    double answered, finished, mean_length, entropy; // shares, tokens, nats per token
};
// outcomes (problems, samples); `extra_k` is one more k of the curve, 0 = none.
EvalResult summarize_outcomes(const std::vector<Problem>& problems,
                              const std::vector<Outcome>& outcomes, int samples, int extra_k);
