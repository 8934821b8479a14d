// Contract: evaluate.h.
#include "llmc/rollout/evaluate.h"

#include "llmc/rollout/estimators.h"
#include "llmc/rollout/grader.h"

#include <algorithm>

namespace {

// Answers as bytes, for the exchange between ranks. Floats are exact in MessagePack's doubles.
std::string pack_answers(const std::vector<Answer>& answers) {
    Json all = Json::array();
    for (const Answer& a : answers) {
        const Completion& c = a.completion;
        all.push_back({c.request, c.sample, c.tokens, c.logp, c.entropy, int(c.finish), a.text,
                       a.extracted.has_value(), a.extracted.value_or(""), a.right});
    }
    std::string bytes;
    Json::to_msgpack(all, bytes);
    return bytes;
}

void unpack_answers(const std::string& bytes, std::vector<Answer>& answers) {
    for (const Json& row : Json::from_msgpack(bytes)) {
        Answer a;
        a.completion = {row[0].get<size_t>(),
                        row[1].get<int>(),
                        row[2].get<std::vector<int32_t>>(),
                        row[3].get<std::vector<float>>(),
                        row[4].get<std::vector<float>>(),
                        Finish(row[5].get<int>())};
        a.text = row[6].get<std::string>();
        if (row[7].get<bool>()) a.extracted = row[8].get<std::string>();
        a.right = row[9].get<bool>();
        answers.push_back(std::move(a));
    }
}

// Every rank's answers on every rank, in the order of one rank.
std::vector<Answer> exchange_answers(Comm& comm, const std::vector<Answer>& own) {
    std::vector<Answer> all;
    for (const std::string& bytes : comm.gather(pack_answers(own))) unpack_answers(bytes, all);
    std::stable_sort(all.begin(), all.end(), [](const Answer& x, const Answer& y) {
        return x.completion.request < y.completion.request; // samples are in order already
    });
    return all;
}

} // namespace

std::vector<Answer> answer_problems(Comm& comm, Engine& engine, const Tokenizer& tokenizer,
                                    const std::vector<Problem>& problems, int samples,
                                    uint64_t first_id, const SampleSettings& settings) {
    std::vector<Request> requests;
    for (size_t i = size_t(comm.rank()); i < problems.size(); i += size_t(comm.size()))
        requests.push_back({first_id + i, tokenizer.encode(problems[i].prompt), samples});
    std::vector<Answer> answers;
    for (Completion& completion : engine.generate(requests, settings)) {
        completion.request = completion.request * size_t(comm.size()) + size_t(comm.rank());
        Answer answer;
        answer.text = tokenizer.decode(completion.tokens);
        answer.extracted = extract_boxed(answer.text);
        answer.right = answer.extracted &&
                       answers_equal(problems[completion.request].answer, *answer.extracted);
        answer.completion = std::move(completion);
        answers.push_back(std::move(answer));
    }
    if (comm.size() > 1) answers = exchange_answers(comm, answers);
    return answers;
}

Json answer_json(const Problem& problem, const Answer& a) {
    Json line = {{"id", problem.id},
                 {"sample", a.completion.sample},
                 {"prompt", problem.prompt},
                 {"response", a.text},
                 {"finish", a.completion.finish == Finish::stop ? "stop" : "length"},
                 {"logp", a.completion.logp}};
    if (problem.answer.empty()) return line;
    line["answer"] = problem.answer;
    line["extracted"] = a.extracted ? Json(*a.extracted) : Json(nullptr);
    line["right"] = a.right;
    return line;
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
