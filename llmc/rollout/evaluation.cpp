// Contract: evaluation.h.
#include "llmc/rollout/evaluation.h"

#include "llmc/core/error.h"
#include "llmc/core/file.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace {

const char* const kTooLong = "prompt too long";

uint64_t text_hash(const std::string& text) { return hash64(text.data(), text.size()); }

Json answer_line(const std::string& set, int64_t index, const Problem& problem, const Answer& a) {
    Json line = {{"set", set}, {"problem", index}};
    line.update(answer_json(problem, a, LineForm::short_form));
    return line;
}

Json choice_line(const std::string& set, int64_t index, const Problem& problem,
                 const Json& verdict) {
    Json line = {{"set", set},
                 {"problem", index},
                 {"id", problem.id},
                 {"sample", 0},
                 {"prompt", problem.prompt},
                 {"choices", problem.choices},
                 {"answer", problem.answer}};
    line.update(verdict);
    return line;
}

Outcome outcome_of_line(const Json& line) {
    const Json& extracted = line.at("extracted");
    return {extracted.is_null() ? std::nullopt : std::optional(extracted.get<std::string>()),
            line.at("right").get<bool>(), line.at("finish") == finish_name(Finish::stop),
            line.at("tokens").get<int64_t>(), line.at("entropy").get<double>()};
}

const std::string& prompt_of(const Problem& problem, size_t choice) {
    return problem.prompts.empty() ? problem.prompt : problem.prompts[choice];
}

// A choice as it continues its prompt; what was converted says itself where a blank is.
std::string continuation(const Problem& problem, const std::string& choice) {
    const bool apart = !problem.metric.empty() || choice.empty() ||
                       std::isspace(static_cast<unsigned char>(choice[0])) ||
                       std::isspace(static_cast<unsigned char>(problem.prompt.back()));
    return apart ? choice : " " + choice;
}

std::string choice_text(const Problem& problem, size_t choice) {
    return prompt_of(problem, choice) + continuation(problem, problem.choices[choice]);
}

size_t largest(const std::vector<double>& values) { // the first of its equals
    return size_t(std::max_element(values.begin(), values.end()) - values.begin());
}

} // namespace

Evaluation::Evaluation(Comm& comm, Ctx& ctx, Model& model, const Tokenizer& tokenizer,
                       std::vector<DataSet> sets, const EvaluationSettings& settings)
    : comm_(comm), ctx_(ctx), model_(model), tokenizer_(tokenizer), sets_(std::move(sets)),
      settings_(settings) {
    for (size_t s = 0; s < sets_.size(); s++)
        for (const Problem& problem : sets_[s].problems)
            items_.push_back({s, &problem, fits(problem)});
}

Json Evaluation::fingerprint(const std::string& checkpoint) const {
    std::string problems;
    for (const Item& item : items_) {
        problems +=
            sets_[item.set].name + "\n" + item.problem->prompt + "\n" + item.problem->answer;
        for (const auto* texts :
             {&item.problem->choices, &item.problem->prompts, &item.problem->stop})
            for (const std::string& text : *texts) problems += "\n" + text;
        problems += item.problem->metric;
    }
    const SampleSettings& s = settings_.sampling;
    return {{"model", checkpoint},
            {"problems", hash_text(text_hash(problems))},
            {"temperature", s.temperature},
            {"top_p", s.top_p},
            {"top_k", s.top_k},
            {"max_new_tokens", s.max_new_tokens},
            {"seed", s.seed},
            {"lenient", settings_.grading.lenient},
            {"exact", settings_.grading.exact}};
}

bool Evaluation::fits(const Problem& problem) const {
    const int64_t room = model_.config.max_positions;
    if (problem.choices.empty())
        return int64_t(tokenizer_.encode_start(problem.prompt).size()) +
                   settings_.sampling.max_new_tokens <=
               room;
    for (size_t c = 0; c < problem.choices.size(); c++)
        if (int64_t(tokenizer_.encode_start(choice_text(problem, c)).size()) > room) return false;
    return true;
}

void Evaluation::run(SampleLog& log) {
    if (comm_.root()) {
        int64_t too_long = 0;
        for (const Item& item : items_) too_long += !item.fits;
        if (too_long == int64_t(items_.size()))
            fatal(format("evaluate: no problem fits with its answer into the model's %d positions",
                         model_.config.max_positions),
                  "lower max_new_tokens, or use fewer shots");
        if (too_long > 0)
            std::fprintf(stderr,
                         "warning: %ld of %zu problems are longer than the model's %d positions "
                         "with their answer and count as wrong\n",
                         long(too_long), items_.size(), model_.config.max_positions);
    }
    choose(log);
    answer(log);
}

void Evaluation::answer(SampleLog& log) {
    std::vector<Request> requests;
    std::vector<int64_t> item_of; // request
    int64_t longest = 0, missing = 0;
    for (int64_t i = comm_.rank(); i < int64_t(items_.size()); i += comm_.size()) {
        const Item& item = items_[size_t(i)];
        const Problem& problem = *item.problem;
        if (!problem.choices.empty()) continue;
        if (!item.fits) {
            for (int sample = 0; sample < settings_.samples; sample++) {
                Answer unasked{
                    {0, sample, {}, {}, {}, {}, Finish::length}, "", {}, false, kTooLong, 0};
                if (!log.has({i, sample}))
                    log.append(answer_line(sets_[item.set].name, i, problem, unasked));
            }
            continue;
        }
        Request request{text_hash(problem.prompt), tokenizer_.encode_start(problem.prompt), {}};
        for (int sample = 0; sample < settings_.samples; sample++)
            if (!log.has({i, sample})) request.samples.push_back(sample);
        if (request.samples.empty()) continue;
        missing += int64_t(request.samples.size());
        longest = std::max(longest, int64_t(request.prompt.size()));
        requests.push_back(std::move(request));
        item_of.push_back(i);
    }
    if (requests.empty()) return;
    EngineSettings shape = settings_.engine;
    shape.rows = int(std::min<int64_t>(shape.rows, missing));
    shape.longest = int(longest) + settings_.sampling.max_new_tokens;
    Engine engine(ctx_, model_, shape);
    EngineListener listener;
    listener.finished = [&](Completion completion) {
        const int64_t i = item_of[completion.request];
        const Item& item = items_[size_t(i)];
        log.append(answer_line(
            sets_[item.set].name, i, *item.problem,
            grade_completion(*item.problem, tokenizer_, settings_.grading, std::move(completion))));
    };
    engine.listen(std::move(listener));
    engine.generate(requests, settings_.sampling);
    counts_ = engine.counts();
}

// Log-likelihood of every choice after the prompt; length-normalised by its bytes.
void Evaluation::choose(SampleLog& log) {
    std::vector<std::vector<int32_t>> texts;
    std::vector<std::pair<int64_t, size_t>> place; // item, choice
    size_t longest = 0;
    for (int64_t i = comm_.rank(); i < int64_t(items_.size()); i += comm_.size()) {
        const Item& item = items_[size_t(i)];
        const Problem& problem = *item.problem;
        if (log.has({i, 0})) continue;
        if (!problem.choices.empty() && !item.fits) {
            log.append(choice_line(sets_[item.set].name, i, problem,
                                   {{"logp", nullptr},
                                    {"chosen", nullptr},
                                    {"chosen_norm", nullptr},
                                    {"right", false},
                                    {"right_norm", false},
                                    {"reason", kTooLong}}));
            continue;
        }
        for (size_t c = 0; c < problem.choices.size(); c++) {
            texts.push_back(tokenizer_.encode_start(choice_text(problem, c)));
            longest = std::max(longest, texts.back().size());
            place.push_back({i, c});
        }
    }
    if (texts.empty()) return;
    Scorer scorer(ctx_, model_, int64_t(longest));
    for (size_t begin = 0, end; begin < texts.size(); begin = end) { // problem by problem
        const int64_t i = place[begin].first;
        const Problem& problem = *items_[size_t(i)].problem;
        end = begin + problem.choices.size();
        std::vector<double> sums, normed;
        for (const TokenScores& scores :
             scorer.score({texts.begin() + int64_t(begin), texts.begin() + int64_t(end)}, 1)) {
            const size_t prompt = tokenizer_.encode_start(prompt_of(problem, sums.size())).size();
            const size_t first = std::min(prompt - 1, scores.logp.size());
            double sum = 0;
            for (size_t t = first; t < scores.logp.size(); t++) sum += scores.logp[t];
            const std::string& choice = problem.choices[sums.size()];
            sums.push_back(sum);
            normed.push_back(sum / double(std::max<size_t>(choice.size(), 1)));
        }
        const std::string best = std::to_string(largest(sums)),
                          best_normed = std::to_string(largest(normed));
        log.append(choice_line(sets_[items_[size_t(i)].set].name, i, problem,
                               {{"logp", sums},
                                {"chosen", best},
                                {"chosen_norm", best_normed},
                                {"right", best == problem.answer},
                                {"right_norm", best_normed == problem.answer}}));
    }
}

SetResult Evaluation::result_of(const std::string& name, const std::vector<int64_t>& items,
                                const SampleLog& log) const {
    SetResult result{name, {}, {}, 0};
    std::vector<Problem> problems;
    std::vector<Outcome> outcomes;
    std::vector<double> right, right_norm;
    for (int64_t i : items) {
        const Problem& problem = *items_[size_t(i)].problem;
        const Json line = log.line({i, 0});
        result.too_long += line.value("reason", "") == kTooLong;
        if (!problem.choices.empty()) {
            right.push_back(line.at("right").get<bool>());
            right_norm.push_back(line.at("right_norm").get<bool>());
            continue;
        }
        problems.push_back(problem);
        for (int sample = 0; sample < settings_.samples; sample++)
            outcomes.push_back(outcome_of_line(log.line({i, sample})));
    }
    if (!problems.empty())
        result.sampled = summarize_outcomes(problems, outcomes, settings_.samples, settings_.k);
    if (!right.empty()) result.chosen = {estimate(right), estimate(right_norm)};
    return result;
}

std::vector<SetResult> Evaluation::results(const SampleLog& log) const {
    std::vector<SetResult> results;
    std::vector<int64_t> all;
    for (size_t s = 0; s < sets_.size(); s++) {
        std::vector<int64_t> items;
        for (size_t i = 0; i < items_.size(); i++)
            if (items_[i].set == s) items.push_back(int64_t(i));
        results.push_back(result_of(sets_[s].name, items, log));
        all.insert(all.end(), items.begin(), items.end());
    }
    if (sets_.size() > 1) results.push_back(result_of("all", all, log));
    return results;
}

// ------------------------------------------------------------------------------------------------
// what is printed

static std::string estimate_text(const Estimate& e) {
    return std::isnan(e.error) ? format("%.4f          ", e.mean)
                               : format("%.4f +- %.4f", e.mean, e.error);
}

std::string results_table(const std::vector<SetResult>& results, int k) {
    std::string text;
    for (const SetResult& result : results) {
        if (result.too_long > 0)
            text += format("%s: %d problems too long for the model, counted as wrong\n",
                           result.name.c_str(), result.too_long);
        if (result.chosen)
            text += format("%s: acc %s  acc_norm %s\n", result.name.c_str(),
                           estimate_text(result.chosen->first).c_str(),
                           estimate_text(result.chosen->second).c_str());
        if (!result.sampled) continue;
        const EvalResult& r = *result.sampled;
        const auto headline = std::find_if(r.pass.begin(), r.pass.end(),
                                           [k](const EvalResult::Pass& p) { return p.k == k; });
        text += format("%s: %d problems, %d samples each\n", result.name.c_str(), r.problems,
                       r.samples);
        text += format("  Avg@%-7d %s\n", r.samples, estimate_text(r.avg).c_str());
        text += format("  Cons@%-6d %s\n", r.samples, estimate_text(r.cons).c_str());
        if (headline != r.pass.end())
            text += format("  Pass@%-6d %s\n", k, estimate_text(headline->value).c_str());
        text += "  Pass@k curve";
        for (const EvalResult::Pass& p : r.pass) text += format("  %d: %.4f", p.k, p.value.mean);
        text += format("\n  answered %.4f, finished %.4f, length %.2f tokens, entropy %.4f nats\n",
                       r.answered, r.finished, r.mean_length, r.entropy);
    }
    return text;
}

Json results_json(const std::vector<SetResult>& results) {
    auto pair = [](const Estimate& e) { return Json{{"mean", e.mean}, {"error", e.error}}; };
    Json all = Json::object();
    for (const SetResult& result : results) {
        Json entry = Json::object();
        if (result.too_long > 0) entry["too_long"] = result.too_long;
        if (result.chosen) {
            entry["acc"] = pair(result.chosen->first);
            entry["acc_norm"] = pair(result.chosen->second);
        }
        if (result.sampled) {
            const EvalResult& r = *result.sampled;
            entry["problems"] = r.problems;
            entry["samples"] = r.samples;
            entry["avg"] = pair(r.avg);
            entry["cons"] = pair(r.cons);
            for (const EvalResult::Pass& p : r.pass) entry[format("pass_%d", p.k)] = pair(p.value);
            entry["answered"] = r.answered;
            entry["finished"] = r.finished;
            entry["length"] = r.mean_length;
            entry["entropy"] = r.entropy;
        }
        all[result.name] = entry;
    }
    return all;
}
