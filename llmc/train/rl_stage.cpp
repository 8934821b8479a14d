// Contract: rl_stage.h.
#include "llmc/train/rl_stage.h"

#include "llmc/core/error.h"
#include "llmc/core/file.h"
#include "llmc/device/memory.h"

#include <algorithm>
#include <chrono>
#include <filesystem>

static void check_prompts(const std::vector<Problem>& problems, const Tokenizer& tokenizer,
                          const char* key, size_t most) {
    std::string where;
    size_t found = 0, longest = 0;
    for (const Problem& problem : problems) {
        const size_t tokens = tokenizer.encode_start(problem.prompt).size();
        if (tokens > most && where.empty()) {
            where = problem.where.empty() ? problem.id : problem.where;
            found = tokens;
        }
        longest = std::max(longest, tokens);
    }
    if (!where.empty())
        fatal(format("%s: %s: a prompt of %zu tokens, max_prompt_tokens is %zu", key, where.c_str(),
                     found, most),
              format("set -max_prompt_tokens %zu, which all of them fit into, or leave the long "
                     "ones out",
                     longest));
}

RunProblems read_problems(const Recipe& recipe, const Tokenizer& tokenizer,
                          const std::vector<std::string>& stages) {
    constexpr int64_t kGenerated = 1000; // of a source that has no end
    const size_t most = size_t(recipe.integer("", "max_prompt_tokens"));
    const double val_fraction = recipe.real("", "val_fraction");
    RunProblems problems;
    if (std::find(stages.begin(), stages.end(), "rl") != stages.end()) {
        problems.rl =
            std::make_unique<const ProblemSet>(recipe.text("rl", "data"), Split::train,
                                               val_fraction, uint64_t(recipe.integer("", "seed")));
        const int64_t size = problems.rl->size();
        check_prompts(problems.rl->first(size > 0 ? size : kGenerated), tokenizer, "rl.data", most);
    }
    const std::string source = recipe.text("", "eval_problems");
    if (!source.empty())
        problems.held_out = ProblemSet(source, Split::validation, val_fraction, 0)
                                .first(recipe.integer("", "eval_count"));
    check_prompts(problems.held_out, tokenizer, "eval_problems", most);
    return problems;
}

int longest_sequence(const Recipe& recipe) {
    const int64_t answer = std::max({recipe.integer("rl", "max_new_tokens"),
                                     recipe.integer("rl", "max_new_tokens_late"),
                                     recipe.integer("", "eval_new_tokens")});
    return int(answer + recipe.integer("", "max_prompt_tokens"));
}

EngineSettings engine_settings(const Recipe& recipe) {
    return {int(recipe.integer("", "decode_rows")), int(recipe.integer("", "page_size")),
            longest_sequence(recipe), int(recipe.integer("", "pages"))};
}

// Rows of a rank's part of a step, at most.
static int64_t rl_step_rows(const Recipe& recipe, int ranks) {
    const int64_t longest = longest_sequence(recipe),
                  answers = recipe.integer("rl", "groups") * recipe.integer("rl", "group_size");
    return part_rows(answers * longest, ranks, longest);
}

int64_t rl_pass_rows(const Recipe& recipe, int ranks) {
    const int64_t rows = std::min(recipe.integer("", "pass_rows"), rl_step_rows(recipe, ranks));
    return std::max<int64_t>(longest_sequence(recipe), rows);
}

bool rl_has_one_micro_batch(const Recipe& recipe, int ranks) {
    return rl_step_rows(recipe, ranks) <= recipe.integer("", "pass_rows");
}

RlStage::RlStage(const Recipe& recipe, Ctx& ctx, Comm& comm, const Model& model,
                 const Tokenizer& tokenizer, const ProblemSet& problems, const std::string& run,
                 std::unique_ptr<SampleSource> source)
    : Stage(recipe, comm, "rl", model.config), ctx_(ctx), comm_(comm), model_(model),
      tokenizer_(tokenizer), run_(run), problems_(problems), source_(std::move(source)),
      groups_(int(recipe.integer("rl", "groups"))),
      group_size_(int(recipe.integer("rl", "group_size"))),
      updates_(int(recipe.integer("rl", "updates"))),
      overlong_(overlong_rule(recipe.text("rl", "overlong"))), kl_(recipe.real("rl", "kl")) {
    if (steps == 0) usage_error("[rl] steps = 0", "set -rl.steps");
    if (updates_ > groups_)
        usage_error(format("[rl] updates = %d exceeds groups = %d", updates_, groups_),
                    "every update needs a group");
}

Json sampling_fingerprint(const Model& model, const SampleSettings& s) {
    const HostRead weights(model.ctx(), model.weights.flat());
    return {{"weights", hash_text(hash64(weights.bytes(), weights.view().bytes()))},
            {"step", s.step},
            {"seed", s.seed},
            {"temperature", s.temperature},
            {"top_p", s.top_p},
            {"max_new_tokens", s.max_new_tokens}};
}

Json RlStage::state() const {
    require(can_checkpoint(), "RlStage: checkpoint between the updates of one rollout");
    return {{"next_problem", next_problem_}};
}

void RlStage::restore(const Json& state) {
    next_problem_ = state.at("next_problem").get<int64_t>();
    pending_.clear();
}

// ------------------------------------------------------------------------------------------------
// rollouts

struct RlStage::Tally {
    int64_t sampled = 0, right = 0, tokens = 0, truncated = 0, answered = 0, longest = 0;
    int64_t finished_tokens = 0, zero_groups = 0, one_groups = 0;
    double reward = 0, entropy = 0, least = 0, most = 0; // least and most advantage kept

    void write(Json& m, int64_t kept, int64_t prompts) const {
        const double all = double(sampled);
        m["reward"] = reward / all;
        m["accuracy"] = double(right) / all;
        m["length"] = double(tokens) / all;
        m["length_max"] = longest;
        m["length_finished"] =
            double(finished_tokens) / double(std::max<int64_t>(sampled - truncated, 1));
        m["truncated"] = double(truncated) / all;
        m["answered"] = double(answered) / all;
        m["rollout_entropy"] = entropy / double(tokens);
        m["kept_groups"] = kept;
        m["kept_share"] = double(kept) / double(prompts);
        m["zero_groups"] = zero_groups;
        m["one_groups"] = one_groups;
        m["prompts"] = prompts;
        m["advantage_min"] = least;
        m["advantage_max"] = most;
        m["sampled_tokens"] = tokens;
    }
};

int RlStage::count_right(const Answer* group) const {
    int right = 0;
    for (int g = 0; g < group_size_; g++)
        right += counts_as_right(group[g].right, group[g].completion.finish == Finish::length,
                                 overlong_);
    return right;
}

double RlStage::reward(const Answer& a) const {
    const double right =
        counts_as_right(a.right, a.completion.finish == Finish::length, overlong_) ? 1 : 0;
    if (overlong_ != Overlong::soft) return right;
    int64_t buffer = recipe_.integer("rl", "overlong_buffer");
    if (buffer == 0) buffer = std::max<int64_t>(longest_answer_ / 4, 1);
    return right + length_penalty(int64_t(a.completion.tokens.size()), longest_answer_,
                                  std::min(buffer, longest_answer_));
}

void RlStage::keep_group(const Problem& problem, const Answer* answers, Tally& tally) {
    const int right = count_right(answers);
    std::vector<double> rewards;
    for (int g = 0; g < group_size_; g++) {
        const Answer& a = answers[g];
        const int64_t length = int64_t(a.completion.tokens.size());
        const bool truncated = a.completion.finish == Finish::length;
        rewards.push_back(reward(a));
        tally.sampled++;
        tally.answered += a.extracted.has_value();
        tally.truncated += truncated;
        tally.tokens += length;
        if (!truncated) tally.finished_tokens += length;
        tally.longest = std::max(tally.longest, length);
        tally.reward += rewards.back();
        tally.entropy += a.entropy;
    }
    tally.right += right;
    tally.zero_groups += right == 0;
    tally.one_groups += right == group_size_;
    // By whole numbers: rewards that differ in length only do not keep a group.
    if (right == 0 || right == group_size_ || int(kept_.size()) == groups_) return;
    const AdvantageForm form =
        recipe_.text("rl", "advantage") == "std" ? AdvantageForm::std : AdvantageForm::nostd;
    const std::vector<double> advantages =
        group_advantages(rewards, form, recipe_.real("rl", "advantage_eps"));
    Group group;
    for (int g = 0; g < group_size_; g++) {
        const Completion& c = answers[g].completion;
        tally.least = std::min(tally.least, advantages[g]);
        tally.most = std::max(tally.most, advantages[g]);
        if (overlong_ == Overlong::masked && c.finish == Finish::length) continue;
        group.push_back({tokenizer_.encode_start(problem.prompt), c.tokens, c.logp, advantages[g]});
    }
    kept_.push_back(std::move(group));
}

// Answers to `problems`. With refill = group and one sharer a problem whose group turns out uniform
// is replaced at once by the next one, up to `limit` problems. Those are the problems that rounds
// of exactly as many as are missing would take, as ranks that share the work do.
Answered RlStage::sample_round(std::vector<Problem>& problems, int64_t limit,
                               const SampleSettings& settings, SampleLog& log) {
    const int64_t first = next_problem_ - int64_t(problems.size());
    Refill refill;
    if (recipe_.text("rl", "refill") == "group" && source_->sharers() == 1) {
        refill.wanted = [&](const Answer* group) {
            const int right = count_right(group);
            return (right == 0 || right == group_size_) && int64_t(problems.size()) < limit;
        };
        refill.next = [&] { return problems_.problem(next_problem_++); };
    }
    return answer_problems(comm_, *source_, tokenizer_, problems, group_size_, first, settings,
                           refill, log);
}

// Samples until `groups` groups have both right and wrong answers: dynamic sampling.
void RlStage::roll_out(int64_t step, StageBatch& batch) {
    const auto start = std::chrono::steady_clock::now();
    const int64_t rounds = recipe_.integer("rl", "max_rounds");
    const bool by_group = recipe_.text("rl", "refill") == "group";
    const SampleSettings settings{recipe_.real("rl", "temperature"),
                                  1,
                                  0,
                                  int(longest_answer_),
                                  {tokenizer_.end_of_text()},
                                  uint64_t(recipe_.integer("", "seed")),
                                  uint64_t(step)};
    source_->weights_changed();
    SampleLog log(comm_, format("%s/samples/step_%06ld.jsonl", run_.c_str(), long(step)),
                  sampling_fingerprint(model_, settings), SampleLog::Others::removed);
    if (log.size() > 0)
        batch.note =
            format("step %ld: %zu of its samples were drawn before", long(step) + 1, log.size());
    Tally tally;
    kept_.clear();
    int64_t round = 0, prompts = 0;
    while (int(kept_.size()) < groups_ &&
           (by_group ? prompts < rounds * groups_ : round < rounds)) {
        const int64_t missing = groups_ - int64_t(kept_.size()), left = rounds * groups_ - prompts;
        int64_t count = missing;
        if (by_group) count = std::min(missing, left);
        else if (round > 0) count += (missing + 1) / 2; // uniform groups recur
        std::vector<Problem> problems;
        for (int64_t i = 0; i < count; i++) problems.push_back(problems_.problem(next_problem_++));
        const Answered round_of = sample_round(problems, left, settings, log);
        for (size_t i = 0; i < problems.size(); i++)
            keep_group(problems[i], &round_of.answers[i * size_t(group_size_)], tally);
        batch.grade_s += round_of.grade_s;
        prompts += int64_t(problems.size());
        round++;
    }
    log.finish();
    tally.write(batch.metrics, int64_t(kept_.size()), prompts);
    batch.metrics["rounds"] = by_group ? (prompts + groups_ - 1) / groups_ : round;
    if (problems_.size() > 0)
        batch.metrics["epoch"] = double(next_problem_) / double(problems_.size());
    batch.sampled = tally.tokens;
    if (kept_.empty()) batch.warning = "no group had both right and wrong answers";
    else if (2 * tally.truncated > tally.sampled)
        batch.warning = "more than half of the answers reach max_new_tokens";
    batch.generate_s =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// ------------------------------------------------------------------------------------------------
// rows

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
                if (kl_ > 0) all.kl_weight.push_back(a >= 0 ? kl_ * weights[index] : 0);
            }
            batch.tokens += int64_t(s.answer.size());
            index++;
        }
    batch.rows = int64_t(all.tokens.size());
    batch.micro = cut_rows(all, comm_.rank(), comm_.size(), recipe_.integer("", "pass_rows"));
}

// The frozen reference: this stage's first weights, kept in the run folder for its resumption.
void RlStage::make_reference(int64_t step) {
    const std::string folder = run_ + "/reference";
    reference_ = std::make_unique<Model>(ctx_, model_.config);
    reference_pass_ = std::make_unique<TrainPass>(
        ctx_, *reference_,
        PassSettings{padded_pass_rows(rl_pass_rows(recipe_, comm_.size())),
                     recipe_.integer("", "loss_rows"), false, Recompute::yes});
    reference_views_ = std::make_unique<MicroBatchViews>(ctx_, reference_pass_->rows());
    reference_->set_rope_base(rope_base);
    if (step > 0) return load_weights(*reference_, folder);
    copy_tensor(ctx_, reference_->weights.flat(), model_.weights.flat());
    ctx_.wait();
    reference_->weights_changed();
    if (!comm_.root()) return;
    remove_all(folder + ".tmp");
    make_directories(folder + ".tmp");
    save_weights(model_, folder + ".tmp", tokenizer_.end_of_text(), {Dtype::f32, 0});
    remove_all(folder);
    std::filesystem::rename(folder + ".tmp", folder);
    fsync_directory(run_);
}

void RlStage::add_reference(StageBatch& batch) {
    for (MicroBatch& micro : batch.micro) {
        MicroBatchViews& rows = *reference_views_;
        rows.fill(micro);
        reference_pass_->forward(rows.batch, false);
        reference_pass_->loss_forward(rows.stats, rows.targets, loss);
        const View stats = rows.read_stats();
        for (size_t n = 0; n < micro.targets.size(); n++)
            micro.ref_logp.push_back(-read_value(stats, int64_t(n) * stats.ld + kStatCe));
    }
}

void RlStage::next_batch(int64_t step, StageBatch& batch) {
    batch = StageBatch{};
    if (kl_ > 0 && !reference_) make_reference(step); // before anything is learnt
    if (pending_.empty()) {
        const int64_t late = recipe_.integer("rl", "max_new_tokens_late");
        const bool is_late = late > 0 && step >= recipe_.integer("rl", "late_step");
        longest_answer_ = is_late ? late : recipe_.integer("rl", "max_new_tokens");
        roll_out(step, batch);
        const size_t parts = std::min(size_t(updates_), kept_.size());
        for (size_t u = parts; u-- > 0;)
            pending_.emplace_back(kept_.begin() + int64_t(kept_.size() * u / parts),
                                  kept_.begin() + int64_t(kept_.size() * (u + 1) / parts));
        if (parts == 0) return;
    }
    pack(pending_.back(), batch);
    pending_.pop_back();
    if (kl_ > 0) add_reference(batch);
}
