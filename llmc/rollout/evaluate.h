// Answering problems: sample, extract, grade, estimate.
#pragma once
#include "llmc/core/json.h"
#include "llmc/data/problems.h"
#include "llmc/data/tokenizer.h"
#include "llmc/device/comm.h"
#include "llmc/rollout/engine.h"

#include <optional>

struct Answer {
    Completion completion;
    std::string text;
    std::optional<std::string> extracted; // content of the last \boxed{}
    bool right;
};

// `samples` graded answers per problem, in the order of problems, then samples. Prompt id = index
// in `problems` + first_id: what the random numbers are keyed by. The ranks share the problems, and
// each gets all answers.
std::vector<Answer> answer_problems(Comm& comm, Engine& engine, const Tokenizer& tokenizer,
                                    const std::vector<Problem>& problems, int samples,
                                    uint64_t first_id, const SampleSettings& settings);

// One answer as every samples file has it: id, sample, prompt, response, finish, logp of its tokens
// and, where the problem has an answer, answer, extracted and right.
Json answer_json(const Problem& problem, const Answer& answer);

struct EvalResult {
    int problems, samples;
    double avg, cons;                                // Avg@n, Cons@n
    std::vector<std::pair<int, double>> pass;        // (k, Pass@k) for k = 1, 2, 4, ... <= n
    double answered, finished, mean_length, entropy; // shares, tokens, nats per token
};
EvalResult summarize_answers(const std::vector<Problem>& problems,
                             const std::vector<Answer>& answers, int samples);
