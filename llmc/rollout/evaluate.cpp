// Contract: evaluate.h.
#include "llmc/rollout/evaluate.h"

#include "llmc/core/error.h"
#include "llmc/core/recipe.h"
#include "llmc/rollout/estimators.h"
#include "llmc/rollout/grader.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <map>
#include <set>

namespace {

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
    a.entropy = 0;
    for (float h : a.completion.entropy) a.entropy += double(h);
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

// The shortest decimal that reads back as this float.
static double short_value(float value) {
    char text[32];
    *std::to_chars(text, text + sizeof text - 1, value).ptr = 0;
    return std::strtod(text, nullptr);
}

Json answer_json(const Problem& problem, const Answer& a, LineForm form) {
    const Completion& c = a.completion;
    double logp = 0;
    for (float x : c.logp) logp += double(x);
    Json line = {
        {"id", problem.id}, {"sample", c.sample}, {"prompt", problem.prompt}, {"response", a.text}};
    if (!problem.answer.empty())
        line.update({{"answer", problem.answer},
                     {"extracted", a.extracted ? Json(*a.extracted) : Json(nullptr)},
                     {"right", a.right},
                     {"reason", a.reason}});
    line.update({{"finish", finish_name(c.finish)},
                 {"tokens", c.tokens.size()},
                 {"logp", logp},
                 {"entropy", a.entropy}});
    if (form == LineForm::short_form) return line;
    line["ids"] = c.tokens;
    Json& values = line["token_logp"] = Json::array();
    for (float x : c.logp) values.push_back(short_value(x));
    return line;
}

Answer answer_of_line(const Json& line, const Tokenizer& tokenizer) {
    Answer a;
    a.completion = {0,
                    line.at("sample").get<int>(),
                    line.at("ids").get<std::vector<int32_t>>(),
                    line.at("token_logp").get<std::vector<float>>(),
                    {},
                    {},
                    line.at("finish") == finish_name(Finish::stop) ? Finish::stop : Finish::length};
    a.text = tokenizer.decode(a.completion.tokens, Specials::skip);
    if (line.contains("extracted") && !line["extracted"].is_null())
        a.extracted = line["extracted"].get<std::string>();
    a.right = line.value("right", false);
    a.reason = line.value("reason", "");
    a.entropy = line.at("entropy").get<double>();
    return a;
}

namespace {

// One call of answer_problems() on one rank.
class Answering {
  public:
    Answering(const Tokenizer& tokenizer, std::vector<Problem>& problems, int samples,
              int64_t first_id, const Refill& refill, SampleLog& log)
        : tokenizer_(tokenizer), problems_(problems), samples_(samples), first_id_(first_id),
          refill_(refill), log_(log) {}

    // Draws what is missing of every `step`-th problem from `begin` on.
    void draw(SampleSource& source, const SampleSettings& settings, size_t begin, size_t step) {
        std::vector<Request> requests;
        const size_t count = problems_.size();
        for (size_t i = begin; i < count; i += step) ask(i, requests);
        EngineListener listener;
        listener.finished = [&](Completion c) { keep(std::move(c)); };
        if (refill_.wanted)
            listener.request_finished = [&](size_t request) {
                std::vector<Request> more;
                if (refill(problem_of_[request])) ask(problems_.size() - 1, more);
                return more;
            };
        source.generate(requests, settings, listener);
    }

    std::vector<Answer> group(size_t i) const {
        std::vector<Answer> answers;
        for (int sample = 0; sample < samples_; sample++) {
            answers.push_back(answer_of_line(log_.line(place(i, sample)), tokenizer_));
            answers.back().completion.request = i;
        }
        return answers;
    }
    double grade_s() const { return grade_s_; }

  private:
    SampleLog::Place place(size_t i, int sample) const { return {first_id_ + int64_t(i), sample}; }

    bool known(size_t i, int sample) const {
        if (!log_.has(place(i, sample))) return false;
        const Json asked = Json::parse(json_line(problems_[i].prompt));
        if (log_.line(place(i, sample)).at("prompt") != asked)
            fatal(log_.path() + " has answers to other problems",
                  "the problems were changed during the run; remove that file");
        return true;
    }

    // A request for what is missing of problem i; where nothing is, of the one that replaces it.
    void ask(size_t i, std::vector<Request>& requests) {
        for (;; i = problems_.size() - 1) {
            Request request{
                uint64_t(first_id_) + i, tokenizer_.encode_start(problems_[i].prompt), {}};
            for (int sample = 0; sample < samples_; sample++)
                if (!known(i, sample)) request.samples.push_back(sample);
            if (!request.samples.empty()) {
                requests.push_back(std::move(request));
                problem_of_.push_back(i);
                return;
            }
            if (!refill(i)) return;
        }
    }

    bool refill(size_t i) {
        if (!refill_.wanted || !refill_.wanted(group(i).data())) return false;
        problems_.push_back(refill_.next());
        return true;
    }

    void keep(Completion completion) {
        const auto start = std::chrono::steady_clock::now();
        const size_t i = problem_of_[completion.request];
        Json line = {{"problem", first_id_ + int64_t(i)}};
        line.update(answer_json(
            problems_[i],
            grade_completion(problems_[i], tokenizer_, {false, false}, std::move(completion)),
            LineForm::tokens));
        grade_s_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        log_.append(line);
    }

    const Tokenizer& tokenizer_;
    std::vector<Problem>& problems_;
    const int samples_;
    const int64_t first_id_;
    const Refill& refill_;
    SampleLog& log_;
    std::vector<size_t> problem_of_; // of the requests
    double grade_s_ = 0;
};

} // namespace

Answered answer_problems(Comm& comm, SampleSource& source, const Tokenizer& tokenizer,
                         std::vector<Problem>& problems, int samples, int64_t first_id,
                         const SampleSettings& settings, const Refill& refill, SampleLog& log) {
    const size_t sharers = size_t(source.sharers()), rank = size_t(comm.rank());
    require(sharers == 1 || !refill.wanted, "answer_problems: refill on %zu ranks", sharers);
    Answering answering(tokenizer, problems, samples, first_id, refill, log);
    answering.draw(source, settings, rank < sharers ? rank : problems.size(), sharers);
    if (refill.wanted && comm.size() > 1) { // the root has asked for more
        const size_t count = std::stoul(comm.broadcast(std::to_string(problems.size())));
        while (problems.size() < count) problems.push_back(refill.next());
    }
    log.share();
    Answered all;
    all.grade_s = answering.grade_s();
    for (size_t i = 0; i < problems.size(); i++)
        for (Answer& answer : answering.group(i)) all.answers.push_back(std::move(answer));
    return all;
}

Outcome outcome_of(const Answer& a) {
    return {a.extracted, a.right, a.completion.finish == Finish::stop,
            int64_t(a.completion.tokens.size()), a.entropy};
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
