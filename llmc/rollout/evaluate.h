// Answering problems: sample, extract, grade, estimate.
#pragma once
#include "llmc/core/json.h"
#include "llmc/data/problems.h"
#include "llmc/data/tokenizer.h"
#include "llmc/rollout/sample_log.h"
#include "llmc/rollout/source.h"

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
    double entropy;     // sum over the tokens, nats
};
Answer grade_completion(const Problem& problem, const Tokenizer& tokenizer, const Grading& grading,
                        Completion completion);

// Text as words: lower case, no punctuation, no articles, single blanks.
std::string plain_words(const std::string& text);

// One answer as every samples file has it: id, sample, prompt, response, finish, tokens (a count),
// logp and entropy (sums over them) and, where the problem has an answer, answer, extracted, right
// and reason. With `tokens` also ids and token_logp, one for each.
enum class LineForm { short_form, tokens };
Json answer_json(const Problem& problem, const Answer& answer, LineForm form);
// An answer from its line with tokens. Of its completion `plain_logp` and `entropy` are empty.
Answer answer_of_line(const Json& line, const Tokenizer& tokenizer);

// Dynamic sampling: `wanted` is asked about every problem all answers of which are there; where it
// says yes, `next` gives a problem to be answered too. Empty functions: none.
struct Refill {
    std::function<bool(const Answer* group)> wanted;
    std::function<Problem()> next;
};

struct Answered {
    std::vector<Answer> answers; // in the order of problems, then samples
    double grade_s = 0;          // what extracting and grading took, on this rank
};

// `samples` graded answers per problem. Prompt id = problem of the log = index in `problems` +
// first_id: what the random numbers are keyed by. Answers in the log are not drawn again, others
// are appended to it. The source's sharers share the problems, and every rank gets all answers.
// Refill needs a source with one sharer; its problems are appended to `problems`.
Answered answer_problems(Comm& comm, SampleSource& source, const Tokenizer& tokenizer,
                         std::vector<Problem>& problems, int samples, int64_t first_id,
                         const SampleSettings& settings, const Refill& refill, SampleLog& log);

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
