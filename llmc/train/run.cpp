// The loop. Contract: run.h. What is said after a stage is in evaluation.cpp.
#include "llmc/train/run.h"

#include "llmc/core/error.h"
#include "llmc/core/fault.h"
#include "llmc/core/file.h"
#include "llmc/device/gemm.h"
#include "llmc/device/memory.h"
#include "llmc/ops/moe.h"
#include "llmc/rollout/serve.h"
#include "llmc/train/keys.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

volatile std::sig_atomic_t stop_requested = 0;

namespace {

// The lines of a resolved recipe that a resumption must repeat.
std::vector<std::string> binding_lines(const Recipe& recipe, const std::string& resolved) {
    std::vector<std::string> lines;
    std::string section;
    for (const std::string& line : split_text(resolved, '\n')) {
        if (!line.empty() && line[0] == '[') section = line + " ";
        const std::string key = trim_text(line.substr(0, line.find('=')));
        if (!key.empty() && line[0] != '[' && recipe.binds(key)) lines.push_back(section + line);
    }
    return lines;
}

// RUNS/latest points to the folder last used, for scripts and for the hand.
void link_latest(const std::string& runs, const std::string& name) {
    const std::string temporary = runs + "/latest.tmp", link = runs + "/latest";
    ::unlink(temporary.c_str());
    if (::symlink(name.c_str(), temporary.c_str()) == 0) ::rename(temporary.c_str(), link.c_str());
}

void request_stop(int) { stop_requested = 1; }

} // namespace

std::string run_name(const Recipe& recipe) {
    if (!recipe.text("", "name").empty()) return recipe.text("", "name");
    std::string name = recipe.text("", "recipe");
    if (name.empty()) name = "embedded.ini";
    name = name.substr(name.find_last_of('/') + 1);
    name = name.substr(0, name.rfind('.'));
    for (const auto& [key, value] : recipe.flags())
        if (recipe.binds(key)) name += "_" + key + "=" + value;
    for (char& c : name)
        if (!std::isalnum(static_cast<unsigned char>(c)) && !std::strchr("._=-+", c)) c = '-';
    if (name.size() > 120)
        name = name.substr(0, 100) + "_" + hash_text(hash64(name.data(), name.size()));
    return name;
}

Run::Run(const Recipe& recipe, Comm& comm)
    : recipe_(recipe), comm_(comm), tokenizer_(recipe_tokenizer(recipe)) {
    tokenizer_.end_of_text(); // documents will need it
    RunShape shape = run_shape(recipe, tokenizer_, comm_);
    if (comm.servers() > 0) shape.samples = false; // their ranks have the engines
    stage_names_ = shape.stages;
    problems_ = read_problems(recipe, tokenizer_, stage_names_); // RL may be days away
    const Backend backend = choose_backend(recipe.text("", "device"));
    const int threads = threads_per_rank(int(recipe.integer("", "threads")), comm.local_size());
    ctx_ = std::make_unique<Ctx>(
        CtxSettings{backend, threads, choose_bf16(recipe.text("", "dtype"), backend)},
        comm.local_rank());
    plan_ = check_memory(*ctx_, shape, comm_);
    folder_ = recipe_.text("", "runs") + "/" + run_name(recipe_);
    if (comm_.root()) {
        open_folder();
        check_recipe();
    }
    ctx_->arena.reserve(size_t(plan_.in_arena()));
    model_ = std::make_unique<Model>(*ctx_, shape.config);
    optimizer_ = std::make_unique<Optimizer>(*ctx_, comm_, *model_);
    pass_ = std::make_unique<TrainPass>(*ctx_, *model_, shape.pass);
    views_ = std::make_unique<MicroBatchViews>(*ctx_, shape.pass.rows);
    start_or_resume();
    if (comm_.root()) check_data();
}

Run::~Run() {
    if (lock_ >= 0) ::close(lock_);
}

void Run::open_folder() {
    make_directories(folder_ + "/ckpt");
    lock_ = ::open((folder_ + "/lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (lock_ < 0)
        fatal(format("cannot write %s/lock: %s", folder_.c_str(), std::strerror(errno)),
              "a run writes into its folder: check the permissions, or choose another -runs");
    if (::flock(lock_, LOCK_EX | LOCK_NB) != 0)
        fatal(folder_ + ": another process is running in this folder",
              "wait for it, stop it, or choose another -name");
    link_latest(recipe_.text("", "runs"), run_name(recipe_));
}

void Run::check_recipe() {
    const std::string path = folder_ + "/recipe.ini", now = recipe_.resolved();
    // A start that failed before its first checkpoint binds nobody.
    if (path_exists(path) && !list_directory(folder_ + "/ckpt").empty()) {
        const std::vector<std::string> before = binding_lines(recipe_, read_file(path)),
                                       lines = binding_lines(recipe_, now);
        for (size_t i = 0; i < std::max(before.size(), lines.size()); i++) {
            const std::string was = i < before.size() ? before[i] : "nothing";
            const std::string is = i < lines.size() ? lines[i] : "nothing";
            if (was != is)
                fatal(folder_ + " was made by another recipe: there " + was + ", now " + is,
                      "give this run its own -name, or remove the folder");
        }
    }
    write_file_atomic(path, now);
}

// -stages may change between a run and its resumption, but not what is behind the checkpoint.
void Run::check_stages(const std::vector<std::string>& begun) const {
    for (size_t i = 0; i < std::min(begun.size(), stage_names_.size()); i++)
        if (begun[i] != stage_names_[i])
            fatal(format("%s: its stage %zu is %s, -stages has %s there", folder_.c_str(), i + 1,
                         begun[i].c_str(), stage_names_[i].c_str()),
                  "begin -stages with those it has begun, or give this run its own -name");
}

void Run::start_or_resume() {
    std::vector<std::string> warnings;
    const Json state =
        load_checkpoint(folder_, {*model_, *optimizer_, tokenizer_, comm_}, &warnings);
    uint64_t metrics_bytes = 0;
    if (!state.is_null()) {
        position_ = {state.at("stage").get<size_t>(), state.at("step").get<int64_t>(),
                     state.at("global_step").get<int64_t>(), state.at("tokens").get<int64_t>(),
                     state.at("skipped").get<int64_t>()};
        stage_state_ = state.at("stage_state");
        metrics_bytes = state.at("metrics_bytes").get<uint64_t>();
        check_stages(state.value("stages_begun", std::vector<std::string>()));
        last_saved_ = position_.global_step;
    } else if (!recipe_.text("", "init").empty()) {
        check_sums(recipe_.text("", "init"));
        load_weights(*model_, recipe_.text("", "init"));
    } else {
        init_params(*ctx_, model_->weights, model_->table, model_->config,
                    uint64_t(recipe_.integer("", "seed")), recipe_.real("", "init_std"));
    }
    model_->weights_changed();
    log_ = std::make_unique<RunLog>(folder_, metrics_bytes, recipe_.integer("", "log_every"),
                                    comm_.root());
    for (const std::string& warning : warnings) log_->say("warning: " + warning);
    gemm_peak_ = gemm_peak(*ctx_);
    describe();
    if (!state.is_null() && position_.stage < stage_names_.size())
        log_->say(format("resumed at %s step %ld", stage_names_[position_.stage].c_str(),
                         long(position_.step)));
}

void Run::describe() const {
    const ModelConfig& c = model_->config;
    const ParameterCounts n = count_parameters(c);
    log_->say(format("run      %s", folder_.c_str()));
    const std::string ranks = comm_.size() > 1 ? format("%d ranks of ", comm_.size()) : "";
    log_->say(format("device   %s in %s, %s%d threads, GEMM %s at %.3g GFLOP/s",
                     backend_name(ctx_->backend), dtype_name(ctx_->storage()), ranks.c_str(),
                     ctx_->threads, gemm_library(*ctx_).c_str(), gemm_peak_ / 1e9));
    if (ctx_->bf16 && !gemm_takes_bf16(*ctx_))
        log_->say("warning: no bf16 products on this CPU with this library: they go through fp32, "
                  "slower than -dtype fp32");
    if (comm_.servers() > 0)
        log_->say(format("rollouts by %d ranks of their own", comm_.servers()));
    const int wanted = comm_.local_size() * ctx_->threads, cores = machine_cores();
    if (wanted > cores)
        log_->say(format("warning: %d ranks of %d threads on %d cores: they wait for each other",
                         comm_.local_size(), ctx_->threads, cores));
    else if (comm_.size() > 1 && 2 * wanted <= cores)
        log_->say(format("note: this uses %d of %d cores; mpirun --bind-to none, or -threads, for "
                         "more",
                         wanted, cores));
    std::string shape = format("%d layers, %d wide, %d heads / %d kv of %d", c.layers, c.channels,
                               c.heads, c.kv_heads, c.head_dim);
    shape +=
        c.moe() ? format(", %d experts of %d, top %d", c.experts, c.expert_ffn, c.experts_per_token)
                : format(", ffn %d", c.ffn);
    log_->say("model    " + shape + format(", vocabulary %d", c.vocab));
    log_->say(format(
        "         %.3f M parameters, %.3f M without embeddings%s", double(n.total) / 1e6,
        double(n.non_embedding) / 1e6,
        c.moe() ? format(", %.3f M active", double(n.active_non_embedding) / 1e6).c_str() : ""));
    log_->say(format("memory   at most %.1f MiB a rank; -plan yes lists the parts",
                     double(plan_.total()) / (1 << 20)));
}

void Run::say_memory() {
    int64_t bytes = 0; // of the device, or else of the process
    for (int i = 0; i < int(Segment::count); i++) bytes += int64_t(ctx_->arena.peak(Segment(i)));
    if (!ctx_->memory) bytes = peak_resident_bytes();
    const double taken = comm_.all_max(double(bytes));
    log_->say(format("memory   took at most %.1f MiB a rank, planned were %.1f", taken / (1 << 20),
                     double(plan_.total()) / (1 << 20)));
}

std::unique_ptr<SampleSource> Run::make_source() {
    const EngineSettings settings = engine_settings(recipe_);
    if (comm_.servers() > 0)
        return std::make_unique<ServedEngines>(comm_, *ctx_, *model_, settings.longest);
    return std::make_unique<OwnEngine>(*ctx_, comm_, *model_, settings);
}

std::unique_ptr<Stage> Run::make_stage(const std::string& name) {
    if (name == "rl")
        return std::make_unique<RlStage>(recipe_, *ctx_, comm_, *model_, tokenizer_, *problems_.rl,
                                         folder_, make_source());
    return std::make_unique<TextStage>(recipe_, comm_, name, model_->config, tokenizer_, folder_);
}

int Run::train() {
    struct sigaction action {};
    action.sa_handler = request_stop;
    ::sigaction(SIGINT, &action, nullptr);
    ::sigaction(SIGTERM, &action, nullptr);
    ::sigaction(SIGUSR1, &action, nullptr);
    ::signal(SIGXFSZ, SIG_IGN); // a file-size limit is an error of write(), with its message
    while (position_.stage < stage_names_.size())
        if (!run_stage()) {
            say_memory();
            log_->say(format("stopped at %s step %ld; the same command continues",
                             stage_names_[position_.stage].c_str(), long(position_.step)));
            return 0;
        }
    print_table();
    say_memory();
    log_->say("complete: " + folder_);
    return 0;
}

bool Run::run_stage() {
    const std::string name = stage_names_[position_.stage];
    stage_ = make_stage(name);
    if (!stage_state_.is_null()) stage_->restore(stage_state_);
    stage_state_ = nullptr;
    if (position_.step == 0) {
        model_->set_rope_base(stage_->rope_base);
        if (name == "rl") optimizer_->reset(*ctx_); // another objective: its moments start anew
    }
    log_->start_clock(); // an evaluation may lie behind
    const int64_t every = recipe_.integer("", "checkpoint_every");
    const int64_t limit = recipe_.integer("", "stop_after");
    auto stopping = [&] {
        return comm_.any(stop_requested) || (limit > 0 && steps_here_ >= limit);
    };
    while (position_.step < stage_->steps) {
        train_step(*stage_);
        steps_here_++;
        const bool stop = stopping();
        const bool due = every > 0 && position_.global_step - last_saved_ >= every;
        if ((stop || due) && stage_->can_checkpoint() && position_.step < stage_->steps) {
            save(false);
            if (stop) return false;
        }
    }
    stage_.reset(); // RL's engine gives its memory back before the evaluation takes its own
    evaluate_stage(name);
    position_.stage++;
    position_.step = 0;
    save(true);
    return position_.stage == stage_names_.size() || !stopping();
}

// With save_batches, of a MoE on one rank that keeps every block's routing.
bool Run::saves_routing(const Stage& stage) const {
    return stage.name != "rl" && model_->config.moe() && comm_.size() == 1 &&
           recipe_.text("", "recompute") != "yes" &&
           position_.step < recipe_.integer("", "save_batches");
}

// Gradients of a step on their way to every rank's own: the sums of all micro-batches.
StatSums Run::sum_gradients(const Stage& stage, const StageBatch& batch) {
    pass_->zero_grads();
    StatSums sums;
    // Sharded, every rank adds at every micro-batch of any rank: asked before the first one, as the
    // ranks would meet in different exchanges after it.
    const int64_t own_turns = int64_t(batch.micro.size());
    const int64_t turns = pass_->sharded() ? int64_t(comm_.all_max(double(own_turns))) : own_turns;
    const bool routing_saved = saves_routing(stage);
    SavedRouting routing;
    MicroBatchViews& rows = *views_;
    for (const MicroBatch& micro : batch.micro) {
        rows.fill(micro);
        pass_->forward(rows.batch, true);
        if (routing_saved) routing.add(*ctx_, *pass_, model_->config, micro);
        if (!micro.ref_logp.empty()) {
            pass_->loss_forward(rows.stats, rows.targets, stage.loss);
            rows.weigh_kl(micro, stage.loss);
        }
        pass_->loss_backward(rows.stats, rows.targets, rows.scale, rows.old_logp, stage.loss);
        sums.add(micro, rows.read_stats(), stage.loss, tokenizer_);
        fault_point(stage.name + ".trained");
    }
    if (routing_saved)
        routing.write(format("%s/batches/%s_%08lld.routing.safetensors", folder_.c_str(),
                             stage.name.c_str(), (long long)(position_.step + 1)));
    for (int64_t turn = own_turns; turn < turns; turn++) pass_->backward_of_nothing();
    sums.all_sum(comm_);
    if (model_->config.moe()) {
        const HostEdit counts(*ctx_, pass_->expert_counts());
        comm_.all_sum(counts.view());
    }
    return sums;
}

// Statistics of the routing, and the bias update (M8).
void Run::balance_experts(const Stage& stage, bool learnt, Json& line) {
    const ModelConfig& c = model_->config;
    double worst = 0, mean = 0;
    int dead = 0;
    if (!c.moe()) return;
    const HostRead all(*ctx_, pass_->expert_counts());
    for (int l = 0; l < c.layers; l++) {
        const View counts = pass_->expert_counts().slice_rows(l, 1);
        const int32_t* count = all.view().as<int32_t>() + l * c.experts;
        worst = std::max(worst, max_violation(count, c.experts));
        mean += max_violation(count, c.experts) / c.layers;
        dead += int(std::count(count, count + c.experts, 0));
        if (stage.bias_rate > 0 && learnt)
            moe_bias_update(*ctx_, model_->weights.block(l).router_bias,
                            make_view(counts.data, Dtype::i32, "counts", c.experts),
                            stage.bias_rate);
    }
    ctx_->wait();
    line.update({{"max_vio", worst}, {"max_vio_mean", mean}, {"idle_experts", dead}});
}

void Run::train_step(Stage& stage) {
    StageBatch batch;
    stage.next_batch(position_.step, batch);
    const OptimizerSettings settings = stage.optimizer(position_.step);
    const StatSums sums = sum_gradients(stage, batch);
    position_.step++;
    position_.global_step++;
    position_.tokens += batch.tokens;
    Json line = {{"kind", "step"},
                 {"stage", stage.name},
                 {"step", position_.step},
                 {"global_step", position_.global_step},
                 {"tokens", position_.tokens},
                 {"lr", settings.lr}};
    double norm = 0;
    const bool finite = std::isfinite(sums.sum[kStatCe]);
    if (batch.tokens > 0 && finite)
        norm = optimizer_->update(*ctx_, *model_, pass_->summed_grads(comm_), settings);
    sums.write(line);
    line["grad_norm"] = norm;
    if (!finite || !std::isfinite(norm)) {
        position_.skipped++;
        bad_in_a_row_++;
        line["skipped"] = position_.skipped;
    } else {
        bad_in_a_row_ = 0;
        balance_experts(stage, batch.tokens > 0, line);
    }
    line.update(batch.metrics);
    log_->metrics(line);
    fault_point(stage.name + ".step");
    const double flops = forward_flops(model_->config) * double(3 * batch.rows + batch.sampled);
    log_->progress(stage.name, position_.step, stage.steps, line,
                   {batch.rows + batch.sampled, flops / (gemm_peak_ * comm_.size()),
                    batch.generate_s, batch.grade_s});
    if (!batch.note.empty()) log_->say(batch.note);
    if (!batch.warning.empty() && batch.warning != warned_) log_->say("warning: " + batch.warning);
    warned_ = batch.warning;
    if (bad_in_a_row_ >= stage.bad_steps)
        fatal(format("%s: %ld steps in a row had a non-finite loss or gradient", stage.name.c_str(),
                     long(bad_in_a_row_)),
              "lower lr or look at the data; the last good checkpoint is in " + folder_ + "/ckpt");
}

void Run::save(bool stage_end) {
    log_->flush_to_disk();
    const auto first = stage_names_.begin();
    const std::vector<std::string> begun(first,
                                         first + long(position_.stage) + (position_.step > 0));
    Json state = {{"stage", position_.stage},
                  {"stages_begun", begun},
                  {"step", position_.step},
                  {"global_step", position_.global_step},
                  {"tokens", position_.tokens},
                  {"skipped", position_.skipped},
                  {"stage_end", stage_end},
                  {"metrics_bytes", log_->metrics_bytes()},
                  {"stage_state", stage_ ? stage_->state() : Json(nullptr)}};
    if (stage_end) state["after"] = stage_names_[position_.stage - 1];
    save_checkpoint(folder_, position_.global_step, state,
                    {*model_, *optimizer_, tokenizer_, comm_}, int(recipe_.integer("", "keep")));
    last_saved_ = position_.global_step;
}
