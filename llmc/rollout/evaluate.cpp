// Contract: evaluate.h.
#include "llmc/rollout/evaluate.h"

#include "llmc/rollout/estimators.h"
#include "llmc/rollout/grader.h"

#include <algorithm>

std::vector<Answer> answer_problems(Engine& engine, const Tokenizer& tokenizer,
                                    const std::vector<Problem>& problems, int samples,
                                    uint64_t first_id, const SampleSettings& settings) {
    std::vector<Request> requests;
    for (size_t i = 0; i < problems.size(); i++)
        requests.push_back({first_id + i, tokenizer.encode(problems[i].prompt), samples});
    std::vector<Answer> answers;
    for (Completion& completion : engine.generate(requests, settings)) {
        Answer answer;
        answer.text = tokenizer.decode(completion.tokens);
        answer.extracted = extract_boxed(answer.text);
        answer.right = answer.extracted &&
                       answers_equal(problems[completion.request].answer, *answer.extracted);
        answer.completion = std::move(completion);
        answers.push_back(std::move(answer));
    }
    return answers;
}

// What an answer votes for; right answers and no others vote for the gold one.
static std::optional<std::string> vote_name(const Answer& answer, const std::string& gold) {
    if (answer.right) return gold;
    if (!answer.extracted) return std::nullopt;
    const std::string name = canonical_answer(*answer.extracted);
    return name == gold ? name + " (wrong)" : name;
}

EvalResult summarize_answers(const std::vector<Problem>& problems,
                             const std::vector<Answer>& answers, int n) {
    EvalResult r{};
    r.problems = int(problems.size());
    r.samples = n;
    for (int k = 1; k <= n; k *= 2) r.pass.push_back({k, 0.0});
    int64_t tokens = 0;
    for (size_t p = 0; p < problems.size(); p++) {
        const std::string gold = canonical_answer(problems[p].answer);
        std::vector<std::optional<std::string>> names;
        int right = 0;
        for (int g = 0; g < n; g++) {
            const Answer& a = answers[p * n + g];
            names.push_back(vote_name(a, gold));
            right += a.right;
            r.answered += a.extracted.has_value();
            r.finished += a.completion.finish == Finish::stop;
            tokens += int64_t(a.completion.tokens.size());
            for (float h : a.completion.entropy) r.entropy += double(h);
        }
        r.avg += double(right) / n;
        r.cons += cons_at_n(names, gold);
        for (auto& [k, value] : r.pass) value += pass_at_k(n, right, k);
    }
    const double P = double(problems.size()), all = P * n;
    r.avg /= P;
    r.cons /= P;
    for (auto& [k, value] : r.pass) value /= P;
    r.answered /= all;
    r.finished /= all;
    r.mean_length = double(tokens) / all;
    r.entropy /= double(std::max<int64_t>(tokens, 1));
    return r;
}
