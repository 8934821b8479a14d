// What a run says about itself after every stage: held-out text, held-out problems, the final
// table.
#include "llmc/core/error.h"
#include "llmc/core/file.h"
#include "llmc/core/unicode.h"
#include "llmc/train/keys.h"
#include "llmc/train/run.h"

#include <algorithm>
#include <cmath>

// What validation reads: files of -val_data that no stage learns as a whole, of other text what
// val_fraction holds out. Null if nothing is.
std::unique_ptr<DataStream> Run::validation_stream() const {
    StreamOptions options = stream_options(recipe_, "pretrain", Split::validation);
    std::string data = recipe_.text("", "val_data");
    std::set<std::string> learnt = mixture_files(recipe_.text("pretrain", "data"));
    learnt.merge(mixture_files(recipe_.text("midtrain", "data")));
    bool apart = !data.empty();
    for (const std::string& file : mixture_files(data))
        apart = apart && !is_embedded(file) && !learnt.contains(file);
    if (apart) options.val_fraction = 1;
    if (data.empty()) data = recipe_.text("pretrain", "data");
    if (options.val_fraction == 0 || data.empty()) return nullptr;
    return std::make_unique<DataStream>(data, options, tokenizer_);
}

// Opens the texts that later stages and evaluations will read: a wrong path or a file without
// held-out text stops the run before its first step, not days later.
void Run::check_data() const {
    if (position_.stage == stage_names_.size()) return;
    for (size_t i = position_.stage + 1; i < stage_names_.size(); i++) {
        const std::string& stage = stage_names_[i];
        if (stage == "rl") continue; // its problems are in memory already
        DataStream(recipe_.text(stage, "data"), stream_options(recipe_, stage, Split::train),
                   tokenizer_);
    }
    validation_stream();
}

// Cross-entropy, entropy and masses of held-out text, on the pre-training distribution.
void Run::validate(Json& line) {
    const std::unique_ptr<DataStream> stream = validation_stream();
    if (!stream) return;
    const int64_t context = recipe_.integer("pretrain", "context");
    const int64_t rows = recipe_.integer("", "val_rows");
    const int64_t at_a_time = rows_at_a_time(recipe_, context, rows);
    const LossShape shape = recipe_loss(recipe_, "pretrain", model_->config.vocab);
    std::vector<PackedRows> seen;
    StatSums sums;
    for (int64_t done = 0, turn = 0; done < rows; done += at_a_time, turn++) {
        PackedRows packed;
        stream->next_rows(std::min(at_a_time, rows - done), packed);
        if (recipe_.integer("", "save_batches") > 0 && comm_.root()) seen.push_back(packed);
        if (turn % comm_.size() != comm_.rank()) continue;
        for (const MicroBatch& micro :
             cut_rows(text_rows(std::move(packed)), 0, 1, pass_->rows())) {
            views_->fill(micro);
            pass_->forward(views_->batch, false);
            pass_->loss_forward(views_->stats, views_->targets, shape);
            sums.add(micro, views_->read_stats(), shape, tokenizer_);
        }
    }
    if (!seen.empty()) {
        make_directories(folder_ + "/batches");
        write_rows(folder_ + "/batches/validation.safetensors", seen);
    }
    sums.all_sum(comm_);
    line["val_ce"] = sums.mean(kStatCe);
    line["val_entropy"] = sums.mean(kStatEntropy);
    line["val_head_mass"] = sums.mean(kStatHeadMass);
    line["val_tail_mass"] = sums.mean(kStatTailMass);
    line["bits_per_byte"] =
        sums.sum[kStatCe] / std::log(2.0) / double(std::max<int64_t>(sums.bytes, 1));
}

static void write_estimate(Json& line, const std::string& key, const Estimate& value) {
    line[key] = value.mean;
    if (std::isfinite(value.error)) line[key + "_error"] = value.error; // not of one problem
}

void Run::evaluate_stage(const std::string& name) {
    log_->end_progress();
    Json line = {{"kind", "eval"}, {"stage", name}, {"global_step", position_.global_step}};
    validate(line);
    std::string said = name + ":";
    if (line.contains("val_ce"))
        said +=
            format(" val CE %.4f, entropy %.4f, %.3f bits per byte", line["val_ce"].get<double>(),
                   line["val_entropy"].get<double>(), line["bits_per_byte"].get<double>());
    const std::vector<std::string> shown = answer_held_out(name, line);
    if (line.contains("avg"))
        said += format(", Avg@%d %.3f, %.1f tokens", line["samples"].get<int>(),
                       line["avg"].get<double>(), line["answer_length"].get<double>());
    log_->say(said);
    for (const std::string& sample : shown) log_->say("  sample: " + sample);
    log_->metrics(line);
}

// Held-out problems, graded; returns the first answer to each of the first two of them.
std::vector<std::string> Run::answer_held_out(const std::string& stage, Json& line) {
    std::vector<Problem> problems = problems_.held_out;
    if (problems.empty()) return {};
    const int samples = int(recipe_.integer("", "eval_samples"));
    const std::unique_ptr<SampleSource> source = make_source();
    // A key of its own: the numbers are those of no training step.
    const SampleSettings settings{recipe_.real("", "eval_temperature"),
                                  recipe_.real("", "eval_top_p"),
                                  0,
                                  int(recipe_.integer("", "eval_new_tokens")),
                                  {tokenizer_.end_of_text()},
                                  uint64_t(recipe_.integer("", "seed")),
                                  ~uint64_t(0)};
    SampleLog log(comm_, folder_ + "/samples/after_" + stage + ".jsonl",
                  sampling_fingerprint(*model_, settings), SampleLog::Others::removed);
    if (log.size() > 0) log_->say(format("%zu samples were drawn before", log.size()));
    const std::vector<Answer> answers =
        answer_problems(comm_, *source, tokenizer_, problems, samples, 0, settings, {}, log)
            .answers;
    log.finish();
    std::vector<Outcome> outcomes;
    for (const Answer& a : answers) outcomes.push_back(outcome_of(a));
    const EvalResult r = summarize_outcomes(problems, outcomes, samples, 0);
    line["problems"] = r.problems;
    line["samples"] = r.samples;
    write_estimate(line, "avg", r.avg);
    write_estimate(line, "cons", r.cons);
    for (const auto& [k, value] : r.pass) write_estimate(line, format("pass_%d", k), value);
    line["answered"] = r.answered;
    line["finished"] = r.finished;
    line["answer_length"] = r.mean_length;
    line["answer_entropy"] = r.entropy;
    std::vector<std::string> shown;
    for (size_t i = 0; i < answers.size() && i < size_t(2 * samples); i += size_t(samples)) {
        std::string text =
            printable_text(problems[answers[i].completion.request].prompt + answers[i].text);
        std::replace(text.begin(), text.end(), '\n', '|');
        shown.push_back(text);
    }
    return shown;
}

void Run::print_table() const {
    if (!comm_.root()) return;
    std::vector<Json> rows;
    const std::string path = folder_ + "/metrics.jsonl";
    for (const std::string& line : split_text(read_file(path), '\n'))
        if (line.find("\"kind\":\"eval\"") != std::string::npos)
            rows.push_back(json_parse(line, path));
    const std::pair<const char*, const char*> columns[] = {
        {"val CE", "val_ce"},      {"entropy", "val_entropy"}, {"bits/byte", "bits_per_byte"},
        {"head", "val_head_mass"}, {"tail", "val_tail_mass"},  {"Avg@n", "avg"},
        {"Pass@8", "pass_8"},      {"Cons@n", "cons"},         {"length", "answer_length"}};
    std::string head = format("%-10s", "stage");
    for (const auto& [title, key] : columns) head += format("%10s", title);
    log_->say("\n" + head);
    for (const Json& row : rows) {
        std::string line = format("%-10s", row["stage"].get<std::string>().c_str());
        for (const auto& [title, key] : columns)
            line += row.contains(key) ? format(row[key].get<double>() < 0.001 ? "%10.2e" : "%10.4f",
                                               row[key].get<double>())
                                      : format("%10s", "-");
        log_->say(line);
    }
    log_->say("");
}
