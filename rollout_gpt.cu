// ./rollout: answers, grades and scores with a checkpoint. The work is llmc/rollout and llmc/model.
#include "llmc/core/error.h"
#include "llmc/core/file.h"
#include "llmc/core/json.h"
#include "llmc/core/recipe.h"
#include "llmc/core/safetensors.h"
#include "llmc/data/tokenize_lines.h"
#include "llmc/rollout/evaluation.h"
#include "llmc/rollout/grade_lines.h"
#include "llmc/rollout/keys.h"
#include "llmc/rollout/live_view.h"
#include "llmc/rollout/serve.h"
#include "llmc/train/checkpoint.h"
#include "llmc/train/export.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <unistd.h>

namespace {

std::string checkpoint_folder(const Comm& comm, const std::string& folder) {
    if (folder.empty()) usage_error("no model", "-model FOLDER names a checkpoint or a run folder");
    if (path_exists(folder + "/config.json")) {
        check_sums(folder);
        return folder;
    }
    std::vector<std::string> warnings;
    const std::string newest = newest_checkpoint(folder, &warnings);
    for (const std::string& warning : warnings)
        if (comm.root()) std::fprintf(stderr, "warning: %s\n", warning.c_str());
    if (newest.empty())
        fatal(folder + ": neither config.json nor ckpt/step_* with a complete checkpoint",
              "give a Hugging Face checkpoint or a run folder");
    return newest;
}

Tokenizer checkpoint_tokenizer(const Recipe& recipe, const std::string& folder) {
    const std::string& file = recipe.text("", "tokenizer");
    return file.empty() ? folder_tokenizer(folder) : Tokenizer(file);
}

struct LoadedModel {
    const std::string folder;
    Ctx ctx;
    Tokenizer tokenizer;
    Model model;

    static CtxSettings settings_of(const Recipe& recipe, const Comm& comm) {
        const Backend backend = choose_backend(recipe.text("", "device"));
        return {backend, threads_per_rank(int(recipe.integer("", "threads")), comm.local_size()),
                choose_bf16(recipe.text("", "dtype"), backend)};
    }
    LoadedModel(const Recipe& recipe, const Comm& comm)
        : LoadedModel(recipe, comm, checkpoint_folder(comm, recipe.text("", "model"))) {}
    LoadedModel(const Recipe& recipe, const Comm& comm, const std::string& checkpoint)
        : folder(checkpoint), ctx(settings_of(recipe, comm), comm.local_rank()),
          tokenizer(checkpoint_tokenizer(recipe, folder)),
          model(ctx, read_config(folder, tokenizer.vocab_size()), Masters::none) {
        load_weights(model, folder);
        if (comm.root())
            std::fprintf(stderr, "model %s, %s, %d threads\n", folder.c_str(),
                         backend_name(ctx.backend), ctx.threads);
    }
};

SampleSettings sample_settings(const Recipe& recipe, const Tokenizer& tokenizer) {
    return {recipe.real("", "temperature"),
            recipe.real("", "top_p"),
            int(recipe.integer("", "top_k")),
            int(recipe.integer("", "max_new_tokens")),
            {tokenizer.end_of_text()},
            uint64_t(recipe.integer("", "seed")),
            0};
}

using Words = std::vector<std::string>; // of the command line, behind the command

std::vector<DataSet> read_sets(const Recipe& recipe, const Words& sources) {
    const Split split = recipe.text("", "split") == "train" ? Split::train : Split::validation;
    std::vector<DataSet> sets;
    for (const std::string& source : sources.empty() ? Words{"embedded:arithmetic"} : sources)
        sets.push_back({data_set_name(source),
                        ProblemSet(source, split, 0, 0).first(recipe.integer("", "count"))});
    return sets;
}

void say_counts(const EngineCounts& counts, double elapsed_s) { // of this rank
    std::fprintf(stderr,
                 "%ld prompt tokens once, %ld sampled tokens in %ld steps, %ld computed again, "
                 "%.0f tok_per_s\n",
                 long(counts.prefilled), long(counts.decoded), long(counts.steps),
                 long(counts.recomputed), double(counts.decoded) / elapsed_s);
}

double seconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void write_lines(const Recipe& recipe, const std::string& lines) {
    if (!recipe.text("", "out").empty()) write_file_atomic(recipe.text("", "out"), lines);
}

int generate(const Recipe& recipe, Comm& comm, const Words& sources) {
    LoadedModel loaded(recipe, comm);
    std::vector<Problem> problems;
    if (!recipe.text("", "prompt").empty())
        problems.push_back({"prompt", recipe.text("", "prompt"), "", {}, {}, {}, {}, {}});
    else
        for (const DataSet& set : read_sets(recipe, sources))
            problems.insert(problems.end(), set.problems.begin(), set.problems.end());
    const int n = int(recipe.integer("", "n"));
    const size_t ranks = size_t(comm.size()), rank = size_t(comm.rank());
    std::vector<Request> requests;
    int64_t longest = 0;
    for (size_t i = rank; i < problems.size(); i += ranks) {
        requests.push_back(
            {i, loaded.tokenizer.encode_start(problems[i].prompt), first_samples(n)});
        longest = std::max(longest, int64_t(requests.back().prompt.size()));
        if (longest + recipe.integer("", "max_new_tokens") > loaded.model.config.max_positions)
            fatal(format("generate: %s: a prompt of %ld tokens with %ld new ones exceeds the "
                         "model's %d positions",
                         problems[i].id.c_str(), long(longest),
                         long(recipe.integer("", "max_new_tokens")),
                         loaded.model.config.max_positions),
                  "lower max_new_tokens or leave that problem out");
    }
    Engine engine(loaded.ctx, loaded.model,
                  {int(std::min(recipe.integer("", "decode_rows"), int64_t(problems.size()) * n)),
                   int(recipe.integer("", "page_size")),
                   int(longest + recipe.integer("", "max_new_tokens")),
                   int(recipe.integer("", "pages"))});
    std::string lines;
    auto problem_of = [&](const Completion& c) -> const Problem& {
        return problems[c.request * ranks + rank];
    };
    const bool to_file = !recipe.text("", "out").empty();
    LiveView view(
        loaded.tokenizer,
        [&](const Completion& c) {
            return format("--- %s, sample %d, %zu tokens, %s", problem_of(c).id.c_str(), c.sample,
                          c.tokens.size(), finish_name(c.finish));
        },
        [&](const Completion& c) { return problem_of(c).prompt; },
        isatty(STDOUT_FILENO) && ranks == 1);
    std::map<std::pair<size_t, int>, std::string> line_of;
    EngineListener listener;
    listener.token = [&](const Completion& c) { view.token(c); };
    listener.finished = [&](const Completion& c) {
        const Problem& problem = problem_of(c);
        if (to_file)
            line_of[{c.request * ranks + rank, c.sample}] = json_line(
                answer_json(problem, grade_completion(problem, loaded.tokenizer, {false, false}, c),
                            LineForm::tokens));
        else view.finished(c);
    };
    engine.listen(std::move(listener));
    const auto start = std::chrono::steady_clock::now();
    engine.generate(requests, sample_settings(recipe, loaded.tokenizer));
    say_counts(engine.counts(), seconds_since(start));
    if (!to_file) return 0;
    for (const auto& [place, line] : line_of) lines += line;
    std::string all;
    for (const std::string& part : comm.gather(lines)) all += part;
    if (comm.root()) write_lines(recipe, all);
    return 0;
}

std::vector<DataSet> gradable_sets(const Recipe& recipe, const Words& sources) {
    std::vector<DataSet> sets = read_sets(recipe, sources);
    for (const DataSet& set : sets)
        for (const Problem& problem : set.problems)
            if (problem.metric == "code")
                usage_error("evaluate: " + set.name + " asks for programs, which are run apart",
                            "./rollout generate FILE -out samples.jsonl, then "
                            "data/benchmarks/run_code.py FILE samples.jsonl");
    return sets;
}

int evaluate(const Recipe& recipe, Comm& comm, const Words& sources) {
    if (!recipe.text("", "prompt").empty())
        usage_error("evaluate has no -prompt", "evaluate FILE.jsonl names problems with answers");
    const int n = int(recipe.integer("", "n")), k = int(recipe.integer("", "k"));
    if (k > n)
        usage_error(format("Pass@k of k = %d needs n >= k samples, n = %d", k, n), "raise -n");
    std::vector<DataSet> sets = gradable_sets(recipe, sources);
    LoadedModel loaded(recipe, comm);
    Evaluation evaluation(
        comm, loaded.ctx, loaded.model, loaded.tokenizer, std::move(sets),
        {n,
         k,
         {recipe.text("", "extract") == "lenient", recipe.text("", "match") == "words"},
         sample_settings(recipe, loaded.tokenizer),
         {int(recipe.integer("", "decode_rows")), int(recipe.integer("", "page_size")), 0,
          int(recipe.integer("", "pages"))}});
    const std::string out = recipe.text("", "out");
    SampleLog log(comm, out, evaluation.fingerprint(loaded.folder), SampleLog::Others::refused);
    if (log.size() > 0 && comm.root())
        std::fprintf(stderr, "%zu samples are in %s already\n", log.size(), out.c_str());
    const auto start = std::chrono::steady_clock::now();
    evaluation.run(log);
    if (evaluation.counts().decoded > 0) say_counts(evaluation.counts(), seconds_since(start));
    log.finish();
    if (!comm.root()) return 0;
    const std::vector<SetResult> results = evaluation.results(log);
    std::printf("%s", results_table(results, k == 0 ? n : k).c_str());
    if (!out.empty()) write_file_atomic(out + ".json", results_json(results).dump(1) + "\n");
    return 0;
}

// ln p of every token of the texts but the first, by the training forward.
int score(const Recipe& recipe, Comm& comm, const Words& files) {
    LoadedModel loaded(recipe, comm);
    std::vector<std::vector<int32_t>> texts;
    std::vector<Json> ids;
    auto add = [&](const Json& id, const std::string& text) {
        ids.push_back(id);
        texts.push_back(loaded.tokenizer.encode_start(text));
        if (texts.back().size() < 2)
            usage_error("score: nothing to score in " + id.dump(), "a text of two tokens or more");
    };
    for (const std::string& path : files)
        for_each_jsonl_line(path, read_input(path), [&](const JsonlLine& line) {
            const Json row = json_parse(line.text, line.where);
            if (!row.is_object() || !row.contains("text") || !row["text"].is_string())
                fatal(line.where + ": nothing to score, found " + field_names(row),
                      "a line is an object with \"text\"");
            add(row.value("id", Json(line.number)), row["text"].get<std::string>());
        });
    if (files.empty()) add("prompt", recipe.text("", "prompt"));
    const bool tempered = recipe.is_set("", "temperature") && recipe.real("", "temperature") > 0;
    size_t longest = 0, count = 0;
    for (const std::vector<int32_t>& text : texts) longest = std::max(longest, text.size());
    Scorer scorer(loaded.ctx, loaded.model, int64_t(longest));
    const std::vector<TokenScores> scores =
        scorer.score(texts, tempered ? recipe.real("", "temperature") : 1);
    if (!recipe.text("", "logits").empty()) scorer.write_logits(recipe.text("", "logits"), texts);
    double ce = 0;
    std::string lines;
    for (size_t t = 0; t < texts.size(); t++) {
        double sum = 0, entropy = 0;
        for (double logp : scores[t].logp) sum += logp;
        for (double h : scores[t].entropy) entropy += h;
        count += scores[t].logp.size();
        ce -= sum;
        if (files.empty())
            for (size_t i = 0; i < scores[t].logp.size(); i++)
                lines += json_line({{"token", texts[t][i + 1]},
                                    {"logp", scores[t].logp[i]},
                                    {"entropy", scores[t].entropy[i]}});
        else
            lines += json_line({{"id", ids[t]},
                                {"tokens", texts[t].size()},
                                {"logp", sum},
                                {"entropy", entropy},
                                {"ids", texts[t]},
                                {"token_logp", scores[t].logp},
                                {"token_entropy", scores[t].entropy}});
    }
    write_lines(recipe, lines);
    if (recipe.text("", "out").empty()) std::printf("%s", lines.c_str());
    std::printf("tokens %zu, cross-entropy %.6f nats per token\n", count, ce / double(count));
    return 0;
}

// Rollouts of a ./train of the same job.
int serve_command(const Recipe& recipe, Comm& comm) {
    if (comm.workers() == 0)
        usage_error("serve: there is no ./train in this job",
                    "mpirun -np 1 ./train ... : -np 1 ./rollout serve");
    for (const auto& [key, value] : recipe.flags())
        if (key != "device" && key != "threads" && key != "decode_rows" && key != "page_size" &&
            key != "pages")
            usage_error("serve: -" + key + " is not its to say",
                        "model and sampling are ./train's; serve has -device, -threads, "
                        "-decode_rows, -page_size and -pages");
    serve(comm, {choose_backend(recipe.text("", "device")),
                 threads_per_rank(int(recipe.integer("", "threads")), comm.local_size()),
                 int(recipe.integer("", "decode_rows")), int(recipe.integer("", "page_size")),
                 int(recipe.integer("", "pages"))});
    return 0;
}

int export_model(const Recipe& recipe, Comm& comm, const Words& words) {
    if (!words.empty() || recipe.text("", "out").empty())
        usage_error("export: expected -model FOLDER and -out FOLDER", "the first is read, the "
                                                                      "second made");
    const std::string folder = checkpoint_folder(comm, recipe.text("", "model"));
    const WeightFormat format{recipe.text("", "dtype") == "bf16" ? Dtype::bf16 : Dtype::f32,
                              uint64_t(recipe.integer("", "shard_bytes"))};
    const uint64_t bytes = export_checkpoint(folder, checkpoint_tokenizer(recipe, folder),
                                             recipe.text("", "out"), format);
    std::fprintf(stderr, "%s: weights of %.1f MB in %s, from %s\n", recipe.text("", "out").c_str(),
                 double(bytes) / 1e6, dtype_name(format.dtype), folder.c_str());
    return 0;
}

int grade(const Recipe& recipe, const std::string& path) {
    const std::string extract = recipe.text("", "extract");
    std::string lines;
    int graded = 0, answered = 0, equal = 0;
    for_each_jsonl_line(path, read_input(path), [&](const JsonlLine& line) {
        const Json verdict = grade_line(json_parse(line.text, line.where), extract, line.where);
        graded++;
        answered += !verdict["extracted"].is_null();
        equal += verdict["equal"].get<bool>();
        lines += json_line(verdict);
    });
    if (graded == 0) fatal(path + ": no line to grade", "is the file empty?");
    write_lines(recipe, lines);
    if (recipe.text("", "out").empty()) std::printf("%s", lines.c_str());
    std::fprintf(stderr, "lines %d, with an answer %d, equal %d (%.4f)\n", graded, answered, equal,
                 double(equal) / graded);
    return 0;
}

int tokenize(const Recipe& recipe, const std::string& path) {
    const Tokenizer tokenizer(recipe.text("", "tokenizer"));
    const bool decode = recipe.text("", "decode") == "yes";
    const Specials specials =
        recipe.text("", "specials") == "keep" ? Specials::keep : Specials::skip;
    std::string lines;
    for_each_jsonl_line(path, read_input(path), [&](const JsonlLine& line) {
        const Json row = json_parse(line.text, line.where);
        lines += json_line(decode ? decode_line(tokenizer, row, specials, line.where)
                                  : encode_line(tokenizer, row, line.where));
    });
    write_lines(recipe, lines);
    if (recipe.text("", "out").empty()) std::fwrite(lines.data(), 1, lines.size(), stdout);
    return 0;
}

int run_command(Comm& comm, const std::vector<std::string>& arguments) {
    std::vector<std::string> rest = arguments;
    Recipe recipe(rollout_keys());
    const bool help = take_help_flag(&rest);
    const std::vector<std::string> words = recipe.read_arguments(rest);
    if (help) {
        if (comm.role() == Role::serve && comm.workers() > 0) // which would wait for this rank
            usage_error("serve: -h beside a ./train", "./rollout -h, without mpirun, explains");
        if (comm.root()) std::printf("%s", recipe.usage().c_str());
        return 0;
    }
    if (comm.role() == Role::serve) return serve_command(recipe, comm);
    if (comm.servers() > 0)
        usage_error("./rollout serve works for ./train only", "leave it out of this mpirun");
    for (const char* key : {"out", "logits"})
        if (comm.root() && !recipe.text("", key).empty() && (words.empty() || words[0] != "export"))
            prepare_output(recipe.text("", key)); // before hours of work, not after them
    if (recipe.is_set("", "prompt") && recipe.text("", "prompt").empty())
        usage_error("-prompt is empty", "a model continues what it is given: -prompt TEXT, or a "
                                        "FILE of prompts");
    struct Command {
        const char* name;
        int (*run)(const Recipe&, Comm&, const Words&);
        bool shared; // by all ranks; else the root does it
    };
    const Command commands[] = {{"generate", generate, true},
                                {"evaluate", evaluate, true},
                                {"score", score, false},
                                {"export", export_model, false}};
    const std::pair<const char*, int (*)(const Recipe&, const std::string&)> on_files[] = {
        {"grade", grade}, {"tokenize", tokenize}};
    for (const auto& [name, run] : on_files) {
        if (words.empty() || words[0] != name) continue;
        if (words.size() != 2)
            usage_error(format("%s: expected one file, found %zu", name, words.size() - 1),
                        format("%s FILE.jsonl, or - for standard input", name));
        return comm.root() ? run(recipe, words[1]) : 0;
    }
    for (const Command& command : commands)
        if (!words.empty() && words[0] == command.name)
            return comm.root() || command.shared
                       ? command.run(recipe, comm, {words.begin() + 1, words.end()})
                       : 0;
    usage_error(
        words.empty() ? "no command" : "no command \"" + words[0] + "\"",
        "one of generate, evaluate, score, serve, export, grade, tokenize; ./rollout -h explains "
        "every key");
}

int rollout_main(int argc, char** argv) {
    // What a rank is must be known before its flags are read: all ranks find each other by it.
    Comm comm(argc > 1 && argv[1] == std::string("serve") ? Role::serve : Role::work);
    return comm.run([&] { return run_command(comm, {argv + 1, argv + argc}); });
}

} // namespace

int main(int argc, char** argv) { return run_main(rollout_main, argc, argv); }
