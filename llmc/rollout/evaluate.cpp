// Contract: evaluate.h.
#include "llmc/rollout/evaluate.h"

#include "llmc/core/error.h"
#include "llmc/core/recipe.h"
#include "llmc/rollout/estimators.h"
#include "llmc/rollout/grader.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <set>

namespace {

// Answers as bytes, for the exchange between ranks. Floats are exact in MessagePack's doubles.
std::string pack_answers(const std::vector<Answer>& answers) {
    Json all = Json::array();
    for (const Answer& a : answers) {
        const Completion& c = a.completion;
        all.push_back({c.request, c.sample, c.tokens, c.logp, c.plain_logp, c.entropy,
                       int(c.finish), a.text, a.extracted.has_value(), a.extracted.value_or(""),
                       a.right, a.reason, a.grade_s});
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
                        row[5].get<std::vector<float>>(),
                        Finish(row[6].get<int>())};
        a.text = row[7].get<std::string>();
        if (row[8].get<bool>()) a.extracted = row[9].get<std::string>();
        a.right = row[10].get<bool>();
        a.reason = row[11].get<std::string>();
        a.grade_s = row[12].get<double>();
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

// Equal as words; answers that are none, such as ">" or "a", letter by letter.
bool same_words(const std::string& gold, const std::string& answer) {
    const std::string words = plain_words(gold);
    return words.empty() ? trim_text(gold) == trim_text(answer) : words == plain_words(answer);
}

} // namespace

std::string plain_words(const std::string& text) {
    std::string words, word;
    auto end_word = [&] {
        if (!word.empty() && word != "a" && word != "an" && word != "the")
            words += (words.empty() ? "" : " ") + word;
        word.clear();
    };
    for (char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if (std::isspace(byte)) end_word();
        else if (!std::ispunct(byte)) word += char(std::tolower(byte));
    }
    end_word();
    return words;
}

Answer grade_completion(const Problem& problem, const Tokenizer& tokenizer, const Grading& grading,
                        Completion completion) {
    Answer a;
    a.text = tokenizer.decode(completion.tokens, Specials::skip);
    a.completion = std::move(completion);
    a.right = false;
    a.grade_s = 0;
    std::vector<std::string> golds = problem.accepted;
    golds.insert(golds.begin(), problem.answer);
    std::string read = a.text;
    for (const std::string& stop : problem.stop) read = read.substr(0, read.find(stop));
    const std::string& metric = problem.metric;
    if (metric == "code") {
        a.reason = "data/benchmarks/run_code.py judges programs";
        return a;
    }
    if (metric.empty() ? grading.exact
                       : metric == "words" || metric == "phrase" || metric == "letter") {
        a.extracted = metric == "phrase"   ? extract_phrase(read)
                      : metric == "letter" ? extract_letter(read)
                                           : read.substr(0, read.find('\n'));
        for (const std::string& gold : golds)
            a.right |= a.extracted && same_words(gold, *a.extracted);
        a.reason = a.right ? "same words" : a.extracted ? "other words" : "no answer";
        return a;
    }
    const bool lenient = metric.empty() ? grading.lenient : metric == "lenient";
    a.extracted = lenient ? extract_lenient(read) : extract_boxed(read);
    a.reason = "no answer";
    for (const std::string& gold : golds) {
        if (!a.extracted || a.right || problem.answer.empty()) break;
        const Verdict verdict = grade_answer(gold, *a.extracted);
        a.right = verdict.equal;
        a.reason = verdict.reason;
    }
    return a;
}

std::vector<Answer> answer_problems(Comm& comm, Engine& engine, const Tokenizer& tokenizer,
                                    std::vector<Problem>& problems, int samples, uint64_t first_id,
                                    const SampleSettings& settings,
                                    const Replacement& replacement) {
    const size_t ranks = size_t(comm.size()), rank = size_t(comm.rank());
    require(ranks == 1 || !replacement, "answer_problems: replacements on %zu ranks", ranks);
    auto request = [&](size_t i) {
        return Request{first_id + i, tokenizer.encode_start(problems[i].prompt),
                       first_samples(samples)};
    };
    std::vector<Request> requests;
    for (size_t i = rank; i < problems.size(); i += ranks) requests.push_back(request(i));
    std::map<std::pair<size_t, int>, Answer> answers; // by problem and sample
    auto grade = [&](Completion completion) {
        const size_t i = completion.request = completion.request * ranks + rank;
        const int sample = completion.sample;
        const auto start = std::chrono::steady_clock::now();
        Answer& answer = answers[{i, sample}];
        answer = grade_completion(problems[i], tokenizer, {false, false}, std::move(completion));
        answer.grade_s =
            std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    };
    auto replace = [&](size_t i) {
        std::vector<Answer> group;
        for (int g = 0; g < samples; g++) group.push_back(answers.at({i, g}));
        Problem more;
        if (!replacement(group.data(), &more)) return std::vector<Request>();
        problems.push_back(std::move(more));
        return std::vector<Request>{request(problems.size() - 1)};
    };
    EngineListener listener;
    listener.finished = grade;
    if (replacement) listener.request_finished = replace;
    engine.listen(std::move(listener));
    engine.generate(requests, settings);
    engine.listen({});
    std::vector<Answer> own;
    for (auto& [place, answer] : answers) own.push_back(std::move(answer));
    if (ranks > 1) own = exchange_answers(comm, own);
    return own;
}

Json answer_json(const Problem& problem, const Answer& a) {
    Json line = {{"id", problem.id},
                 {"sample", a.completion.sample},
                 {"prompt", problem.prompt},
                 {"response", a.text},
                 {"finish", finish_name(a.completion.finish)},
                 {"logp", a.completion.logp}};
    if (problem.answer.empty()) return line;
    line["answer"] = problem.answer;
    line["extracted"] = a.extracted ? Json(*a.extracted) : Json(nullptr);
    line["right"] = a.right;
    line["reason"] = a.reason;
    return line;
}

Outcome outcome_of(const Answer& a) {
    double entropy = 0;
    for (float h : a.completion.entropy) entropy += double(h);
    return {a.extracted, a.right, a.completion.finish == Finish::stop,
            int64_t(a.completion.tokens.size()), entropy};
}

Estimate estimate(const std::vector<double>& per_problem) {
    const double P = double(per_problem.size());
    double sum = 0, squares = 0;
    for (double x : per_problem) sum += x;
    const double mean = sum / P;
    for (double x : per_problem) squares += (x - mean) * (x - mean);
    return {mean, P > 1 ? std::sqrt(squares / (P - 1) / P) : NAN};
}

// What an answer votes for; right answers and no others vote for the gold one.
static std::optional<std::string> vote_name(const Outcome& answer, const std::string& gold) {
    if (answer.right) return gold;
    if (!answer.extracted) return std::nullopt;
    const std::string name = canonical_answer(*answer.extracted);
    return name == gold ? name + " (wrong)" : name;
}

EvalResult summarize_outcomes(const std::vector<Problem>& problems,
                              const std::vector<Outcome>& outcomes, int n, int extra_k) {
    require(outcomes.size() == problems.size() * size_t(n), "summarize_outcomes: %zu of %zu x %d",
            outcomes.size(), problems.size(), n);
    EvalResult r{};
    r.problems = int(problems.size());
    r.samples = n;
    std::set<int> ks = {n};
    if (extra_k > 0) ks.insert(extra_k);
    for (int k = 1; k <= n; k *= 2) ks.insert(k);
    std::vector<double> avg, cons;
    std::map<int, std::vector<double>> pass;
    int64_t tokens = 0;
    double entropy = 0, answered = 0, finished = 0;
    for (size_t p = 0; p < problems.size(); p++) {
        const std::string gold = canonical_answer(problems[p].answer);
        std::vector<std::optional<std::string>> names;
        int right = 0;
        for (int g = 0; g < n; g++) {
            const Outcome& a = outcomes[p * size_t(n) + size_t(g)];
            names.push_back(vote_name(a, gold));
            right += a.right;
            answered += a.extracted.has_value();
            finished += a.stopped;
            tokens += a.tokens;
            entropy += a.entropy;
        }
        avg.push_back(double(right) / n);
        cons.push_back(cons_at_n(names, gold));
        for (int k : ks) pass[k].push_back(pass_at_k(n, right, k));
    }
    r.avg = estimate(avg);
    r.cons = estimate(cons);
    for (int k : ks) r.pass.push_back({k, estimate(pass[k])});
    const double all = double(outcomes.size());
    r.answered = answered / all;
    r.finished = finished / all;
    r.mean_length = double(tokens) / all;
    r.entropy = entropy / double(std::max<int64_t>(tokens, 1));
    return r;
}
