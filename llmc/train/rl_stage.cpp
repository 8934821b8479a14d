// Contract: rl_stage.h.
#include "llmc/train/rl_stage.h"

#include "llmc/core/error.h"
#include "llmc/core/file.h"
#include "llmc/train/grpo.h"

#include <algorithm>

int longest_sequence(const Recipe& recipe) {
    const int64_t answer = std::max({recipe.integer("rl", "max_new_tokens"),
                                     recipe.integer("rl", "max_new_tokens_late"),
                                     recipe.integer("", "eval_new_tokens")});
    return int(answer + recipe.integer("", "max_prompt_tokens"));
}

EngineSettings engine_settings(const Recipe& recipe) {
    return {int(recipe.integer("", "decode_rows")), int(recipe.integer("", "page_size")),
            longest_sequence(recipe)};
}

RlStage::RlStage(const Recipe& recipe, Ctx& ctx, Comm& comm, const Model& model,
                 const Tokenizer& tokenizer, const std::string& run)
    : Stage(recipe, comm, "rl", model.config), comm_(comm), tokenizer_(tokenizer), run_(run),
      problems_(recipe.text("rl", "data"), Split::train, recipe.real("", "val_fraction"),
                uint64_t(recipe.integer("", "seed"))),
      engine_(ctx, model, engine_settings(recipe)), groups_(int(recipe.integer("rl", "groups"))),
      group_size_(int(recipe.integer("rl", "group_size"))),
      updates_(int(recipe.integer("rl", "updates"))) {
    if (steps == 0) usage_error("[rl] steps = 0", "set -rl.steps");
    if (updates_ > groups_)
        usage_error(format("[rl] updates = %d exceeds groups = %d", updates_, groups_),
                    "every update needs a group");
    if (comm.root()) make_directories(run + "/samples");
}

Json RlStage::state() const {
    require(can_checkpoint(), "RlStage: checkpoint between the updates of one rollout");
    return {{"next_problem", next_problem_}};
}

void RlStage::restore(const Json& state) {
    next_problem_ = state.at("next_problem").get<int64_t>();
    pending_.clear();
}

void RlStage::save_samples(int64_t step, const std::vector<Problem>& problems,
                           const std::vector<Answer>& answers) {
    for (const Answer& a : answers) {
        Json line = answer_json(problems[a.completion.request], a);
        line["step"] = step;
        samples_ += json_line(line);
    }
}

void RlStage::keep_group(const Problem& problem, const Answer* answers) {
    std::vector<int> correct;
    for (int g = 0; g < group_size_; g++) correct.push_back(answers[g].right);
    if (!group_is_kept(correct) || int(kept_.size()) == groups_) return;
    const std::vector<double> advantages =
        group_advantages(correct, recipe_.text("rl", "advantage") == "std" ? AdvantageForm::std
                                                                           : AdvantageForm::nostd);
    Group group;
    for (int g = 0; g < group_size_; g++)
        group.push_back({tokenizer_.encode(problem.prompt), answers[g].completion.tokens,
                         answers[g].completion.logp, advantages[g]});
    kept_.push_back(std::move(group));
}

// Samples until `groups` groups have both right and wrong answers: dynamic sampling.
void RlStage::roll_out(int64_t step, Json& metrics) {
    int64_t sampled = 0, right = 0, tokens = 0, truncated = 0, answered = 0, longest = 0;
    double entropy = 0;
    const int64_t rounds = recipe_.integer("rl", "max_rounds");
    const SampleSettings settings{recipe_.real("rl", "temperature"),
                                  1,
                                  0,
                                  int(longest_answer_),
                                  tokenizer_.end_of_text(),
                                  uint64_t(recipe_.integer("", "seed")),
                                  uint64_t(step)};
    kept_.clear();
    samples_.clear();
    int64_t round = 0;
    for (; round < rounds && int(kept_.size()) < groups_; round++) {
        // Later rounds ask for half as many more as are missing: uniform groups recur.
        const int missing = groups_ - int(kept_.size());
        const int count = round == 0 ? missing : missing + (missing + 1) / 2;
        std::vector<Problem> problems;
        const uint64_t first = uint64_t(next_problem_);
        for (int i = 0; i < count; i++) problems.push_back(problems_.problem(next_problem_++));
        const std::vector<Answer> answers =
            answer_problems(comm_, engine_, tokenizer_, problems, group_size_, first, settings);
        save_samples(step, problems, answers);
        for (const Answer& a : answers) {
            sampled++;
            right += a.right;
            answered += a.extracted.has_value();
            truncated += a.completion.finish == Finish::length;
            tokens += int64_t(a.completion.tokens.size());
            longest = std::max(longest, int64_t(a.completion.tokens.size()));
            for (float h : a.completion.entropy) entropy += double(h);
        }
        for (int i = 0; i < count; i++) keep_group(problems[i], &answers[i * group_size_]);
    }
    if (comm_.root())
        write_file_atomic(format("%s/samples/step_%06ld.jsonl", run_.c_str(), long(step)),
                          samples_);
    metrics["reward"] = double(right) / double(sampled);
    metrics["length"] = double(tokens) / double(sampled);
    metrics["length_max"] = longest;
    metrics["truncated"] = double(truncated) / double(sampled);
    metrics["answered"] = double(answered) / double(sampled);
    metrics["rollout_entropy"] = entropy / double(tokens);
    metrics["rounds"] = round;
    metrics["kept_groups"] = kept_.size();
    metrics["kept_share"] = double(kept_.size()) / (double(sampled) / group_size_);
    metrics["sampled_tokens"] = tokens;
}

void RlStage::pack(const std::vector<Group>& groups, StageBatch& batch) const {
    std::vector<int64_t> lengths;
    for (const Group& group : groups)
        for (const Sequence& s : group) lengths.push_back(int64_t(s.answer.size()));
    const std::vector<double> weights =
        token_weights(lengths, longest_answer_, aggregation(recipe_.text("rl", "aggregation")));
    MicroBatch all;
    size_t index = 0;
    for (const Group& group : groups)
        for (const Sequence& s : group) {
            const int64_t prompt = int64_t(s.prompt.size());
            const int64_t rows = prompt + int64_t(s.answer.size()) - 1;
            const int32_t start = int32_t(all.tokens.size());
            for (int64_t i = 0; i < rows; i++) {
                const int64_t a = i - prompt + 1; // answer token this row predicts
                all.tokens.push_back(i < prompt ? s.prompt[i] : s.answer[i - prompt]);
                all.targets.push_back(a >= 0 ? s.answer[a] : kIgnoredTarget);
                all.positions.push_back(int32_t(i));
                all.doc_start.push_back(start);
                all.scale.push_back(a >= 0 ? s.advantage * weights[index] : 0);
                all.old_logp.push_back(a >= 0 ? double(s.logp[a]) : 0);
            }
            batch.tokens += int64_t(s.answer.size());
            index++;
        }
    batch.work += int64_t(all.tokens.size());
    batch.micro = cut_rows(all, comm_.rank(), comm_.size(), recipe_.integer("", "pass_rows"));
}

void RlStage::next_batch(int64_t step, StageBatch& batch) {
    batch = StageBatch{};
    if (pending_.empty()) {
        const int64_t late = recipe_.integer("rl", "max_new_tokens_late");
        const bool is_late = late > 0 && step >= recipe_.integer("rl", "late_step");
        longest_answer_ = is_late ? late : recipe_.integer("rl", "max_new_tokens");
        roll_out(step, batch.metrics);
        batch.work = batch.metrics["sampled_tokens"].get<int64_t>();
        const size_t parts = std::min(size_t(updates_), kept_.size());
        for (size_t u = parts; u-- > 0;)
            pending_.emplace_back(kept_.begin() + int64_t(kept_.size() * u / parts),
                                  kept_.begin() + int64_t(kept_.size() * (u + 1) / parts));
        if (parts == 0) return;
    }
    pack(pending_.back(), batch);
    pending_.pop_back();
}
