// ./rollout: answers, grades and scores with a checkpoint. The work is llmc/rollout and llmc/model.
#include "llmc/core/error.h"
#include "llmc/core/file.h"
#include "llmc/core/json.h"
#include "llmc/core/recipe.h"
#include "llmc/core/safetensors.h"
#include "llmc/model/train_pass.h"
#include "llmc/rollout/evaluate.h"
#include "llmc/rollout/grade_lines.h"
#include "llmc/train/checkpoint.h"

#include <algorithm>
#include <chrono>
#include <cstdio>

namespace {

const char* kSynopsis =
    "./rollout generate -model FOLDER -prompt TEXT     samples answers to a prompt (or to "
    "-problems)\n"
    "./rollout evaluate -model FOLDER                  answers problems: Avg@n, Pass@k, Cons@n\n"
    "./rollout score    -model FOLDER -prompt TEXT     log-probability of every token of a text\n"
    "./rollout grade    FILE.jsonl                     is each line's answer equal to its gold "
    "one?\n"
    "\n"
    "A line to grade is an object with \"id\", \"gold\" and \"answer\" or \"response\"; out comes "
    "one "
    "with\n"
    "\"id\", \"equal\", \"extracted\" and \"reason\".\n"
    "FOLDER is a Hugging Face checkpoint (config.json, model.safetensors) or a run folder: then "
    "its\n"
    "newest checkpoint counts. A sample depends on -seed, the prompt and the sample's number "
    "only.\n";

constexpr KeyType kInt = KeyType::integer, kReal = KeyType::real, kWord = KeyType::text,
                  kOneOf = KeyType::choice;

KeyTable rollout_keys() {
    return {
        kSynopsis,
        {},
        {{"model", "model", kWord, "", 0, 0, "folder", "checkpoint or run folder"},
         {"device", "model", kOneOf, "auto", 0, 0, "",
          "where to compute: cpu in fp32, ref in double (slow, the oracle)", "auto|cpu|ref"},
         {"threads", "model", kInt, "0", 0, 1024, "threads", "0 = one per core"},
         {"prompt", "input", kWord, "", 0, 0, "text", "generate, score: what to continue or score"},
         {"problems", "input", kWord, "embedded:arithmetic", 0, 0, "source",
          "evaluate, generate without -prompt: FILE.jsonl, embedded:arithmetic or embedded:chains"},
         {"split", "input", kOneOf, "validation", 0, 0, "", "which embedded problems",
          "train|validation"},
         {"count", "input", kInt, "144", 1, 1e9, "problems", "at most this many"},
         {"extract", "input", kOneOf, "boxed", 0, 0, "",
          "grade, from responses: the last \\boxed{}, or failing that \"Answer:\", \"####\", the "
          "last number",
          "boxed|lenient"},
         {"samples", "sampling", kInt, "16", 1, 65536, "samples", "answers per prompt: n"},
         {"temperature", "sampling", kReal, "0.7", 0, 100, "", "0 = greedy; score: 1 unless set"},
         {"top_p", "sampling", kReal, "0.95", 1e-6, 1, "",
          "mass kept of the distribution; 1 = off"},
         {"top_k", "sampling", kInt, "0", 0, 1e6, "tokens", "most likely tokens kept; 0 = off"},
         {"max_new_tokens", "sampling", kInt, "64", 1, 1e6, "tokens", "longest answer"},
         {"seed", "sampling", kInt, "1", 0, 1e15, "", "seed of the samples"},
         {"decode_rows", "engine", kInt, "128", 1, 65536, "sequences", "decoded at a time"},
         {"page_size", "engine", kInt, "32", 1, 4096, "tokens", "tokens of one KV cache page"},
         {"pages", "engine", kInt, "0", 0, 1e9, "pages",
          "of the KV cache; 0 = enough for all rows. With fewer, samples wait"},
         {"out", "output", kWord, "", 0, 0, "file",
          "JSONL: one line per answer; empty = generate prints text, the others a summary"}}};
}

std::string checkpoint_folder(const std::string& folder) {
    if (folder.empty()) usage_error("no model", "-model FOLDER names a checkpoint or a run folder");
    if (path_exists(folder + "/config.json")) return folder;
    std::vector<std::string> warnings;
    const std::string newest = newest_checkpoint(folder, &warnings);
    for (const std::string& warning : warnings)
        std::fprintf(stderr, "warning: %s\n", warning.c_str());
    if (newest.empty())
        fatal(folder + ": neither config.json nor ckpt/step_* with a complete checkpoint",
              "give a Hugging Face checkpoint or a run folder");
    return newest;
}

struct LoadedModel {
    Ctx ctx;
    Tokenizer tokenizer;
    Model model;

    LoadedModel(const Recipe& recipe, const Comm& comm)
        : LoadedModel(recipe, comm, checkpoint_folder(recipe.text("", "model"))) {}
    LoadedModel(const Recipe& recipe, const Comm& comm, const std::string& folder)
        : ctx(choose_backend(recipe.text("", "device")),
              threads_per_rank(int(recipe.integer("", "threads")), comm.local_size())),
          model(ctx, read_config(folder)) {
        if (model.config.vocab != tokenizer.vocab_size())
            fatal(format("%s: the model has %d tokens, this program's byte tokenizer %d",
                         folder.c_str(), model.config.vocab, tokenizer.vocab_size()),
                  "use a checkpoint that ./train made");
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
            tokenizer.end_of_text(),
            uint64_t(recipe.integer("", "seed")),
            0};
}

std::vector<Problem> read_problems(const Recipe& recipe) {
    if (!recipe.text("", "prompt").empty()) return {{"prompt", recipe.text("", "prompt"), ""}};
    const Split split = recipe.text("", "split") == "train" ? Split::train : Split::validation;
    const ProblemSet set(recipe.text("", "problems"), split, 0, 0);
    return set.first(recipe.integer("", "count"));
}

// Samples answers to `problems` and reports this rank's speed on stderr.
std::vector<Answer> answer(const Recipe& recipe, Comm& comm, LoadedModel& loaded,
                           const std::vector<Problem>& problems) {
    int64_t longest_prompt = 0;
    for (const Problem& p : problems)
        longest_prompt =
            std::max(longest_prompt, int64_t(loaded.tokenizer.encode(p.prompt).size()));
    const int samples = int(recipe.integer("", "samples"));
    const int64_t rows =
        std::min(recipe.integer("", "decode_rows"), int64_t(problems.size()) * samples);
    Engine engine(loaded.ctx, loaded.model,
                  {int(rows), int(recipe.integer("", "page_size")),
                   int(longest_prompt + recipe.integer("", "max_new_tokens")),
                   int(recipe.integer("", "pages"))});
    const auto start = std::chrono::steady_clock::now();
    std::vector<Answer> answers = answer_problems(comm, engine, loaded.tokenizer, problems, samples,
                                                  0, sample_settings(recipe, loaded.tokenizer));
    const double elapsed_s =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const EngineCounts counts = engine.counts();
    std::fprintf(stderr,
                 "%ld prompt tokens once, %ld sampled tokens in %ld steps, %.0f tok_per_s\n",
                 long(counts.prefilled), long(counts.decoded), long(counts.steps),
                 double(counts.decoded) / elapsed_s);
    return answers;
}

void write_lines(const Recipe& recipe, const std::string& lines) {
    if (!recipe.text("", "out").empty()) write_file_atomic(recipe.text("", "out"), lines);
}

int generate(const Recipe& recipe, Comm& comm) {
    LoadedModel loaded(recipe, comm);
    const std::vector<Problem> problems = read_problems(recipe);
    const std::vector<Answer> answers = answer(recipe, comm, loaded, problems);
    if (!comm.root()) return 0;
    std::string lines;
    for (const Answer& a : answers) {
        const Problem& problem = problems[a.completion.request];
        lines += json_line(answer_json(problem, a));
        if (recipe.text("", "out").empty())
            std::printf("--- %s, sample %d, %zu tokens, %s\n%s%s\n", problem.id.c_str(),
                        a.completion.sample, a.completion.tokens.size(),
                        a.completion.finish == Finish::stop ? "stop" : "length",
                        problem.prompt.c_str(), a.text.c_str());
    }
    write_lines(recipe, lines);
    return 0;
}

int evaluate(const Recipe& recipe, Comm& comm) {
    if (!recipe.text("", "prompt").empty())
        usage_error("evaluate has no -prompt", "-problems names problems with answers");
    LoadedModel loaded(recipe, comm);
    const std::vector<Problem> problems = read_problems(recipe);
    const std::vector<Answer> answers = answer(recipe, comm, loaded, problems);
    std::string lines;
    for (const Answer& a : answers)
        lines += json_line(answer_json(problems[a.completion.request], a));
    write_lines(recipe, lines);
    const EvalResult r = summarize_answers(problems, answers, int(recipe.integer("", "samples")));
    std::printf("problems           %d, %d samples each\n", r.problems, r.samples);
    std::printf("Avg@%-14d %.4f\n", r.samples, r.avg);
    for (const auto& [k, value] : r.pass) std::printf("Pass@%-13d %.4f\n", k, value);
    std::printf("Cons@%-13d %.4f\n", r.samples, r.cons);
    std::printf("with an answer     %.4f\n", r.answered);
    std::printf("finished           %.4f\n", r.finished);
    std::printf("mean length        %.2f tokens\n", r.mean_length);
    std::printf("entropy            %.4f nats per token\n", r.entropy);
    return 0;
}

// -ln p of every token of the prompt but the first, by the training forward.
int score(const Recipe& recipe, Comm& comm) {
    const std::string text = recipe.text("", "prompt");
    LoadedModel loaded(recipe, comm);
    std::vector<int32_t> tokens = loaded.tokenizer.encode(text);
    if (tokens.size() < 2) usage_error("score: nothing to score", "-prompt with two bytes or more");
    const int64_t N = int64_t(tokens.size());
    if (N > loaded.model.config.max_positions)
        fatal(format("score: %ld tokens, the model has %d positions", long(N),
                     loaded.model.config.max_positions),
              "score a shorter text");
    std::vector<int32_t> positions(N), doc_start(N, 0), targets(N, kIgnoredTarget);
    for (int64_t n = 0; n < N; n++) {
        positions[n] = int32_t(n);
        if (n + 1 < N) targets[n] = tokens[n + 1];
    }
    auto index = [&](std::vector<int32_t>& values, const char* name) {
        return make_view(values.data(), Dtype::i32, name, N);
    };
    TrainPass pass(loaded.ctx, loaded.model, {N, std::min<int64_t>(N, 1024), false, false});
    pass.forward(
        {index(tokens, "tokens"), index(positions, "positions"), index(doc_start, "doc_start")},
        false);
    Buffer stats(loaded.ctx.dtype(), "stats", N, kLossStats);
    LossShape shape{};
    shape.V = loaded.model.config.vocab;
    shape.k = 1;
    if (recipe.is_set("", "temperature") && recipe.real("", "temperature") > 0)
        shape.temperature = recipe.real("", "temperature");
    else shape.temperature = 1;
    pass.loss_forward(stats.view(), index(targets, "targets"), shape);
    std::vector<double> values(size_t(stats.view().size()));
    convert_values(stats.view().data, stats.view().dtype, values.data(), Dtype::f64,
                   stats.view().size());
    double ce = 0;
    std::string lines;
    for (int64_t n = 0; n + 1 < N; n++) {
        const double logp = -values[size_t(n * kLossStats + kStatCe)];
        const double entropy = values[size_t(n * kLossStats + kStatEntropy)];
        ce -= logp;
        lines += json_line({{"token", targets[n]}, {"logp", logp}, {"entropy", entropy}});
    }
    write_lines(recipe, lines);
    if (recipe.text("", "out").empty()) std::printf("%s", lines.c_str());
    std::printf("tokens %ld, cross-entropy %.6f nats per token\n", long(N - 1), ce / double(N - 1));
    return 0;
}

int grade(const Recipe& recipe, const std::string& path) {
    const std::string extract = recipe.text("", "extract");
    std::string lines;
    int number = 0, graded = 0, answered = 0, equal = 0;
    for (const std::string& line : split_text(read_file(path), '\n')) {
        number++;
        if (trim_text(line).empty()) continue;
        const std::string where = format("%s:%d", path.c_str(), number);
        const Json verdict = grade_line(json_parse(line, where), extract, where);
        graded++;
        answered += !verdict["extracted"].is_null();
        equal += verdict["equal"].get<bool>();
        lines += json_line(verdict);
    }
    if (graded == 0) fatal(path + ": no line to grade", "is the file empty?");
    write_lines(recipe, lines);
    if (recipe.text("", "out").empty()) std::printf("%s", lines.c_str());
    std::fprintf(stderr, "lines %d, with an answer %d, equal %d (%.4f)\n", graded, answered, equal,
                 double(equal) / graded);
    return 0;
}

int run_command(Comm& comm, const std::vector<std::string>& arguments) {
    std::vector<std::string> rest = arguments;
    Recipe recipe(rollout_keys());
    const bool help = take_help_flag(&rest);
    const std::vector<std::string> words = recipe.read_arguments(rest);
    if (help) {
        if (comm.root()) std::printf("%s", recipe.usage().c_str());
        return 0;
    }
    struct Command {
        const char* name;
        int (*run)(const Recipe&, Comm&);
        bool shared; // by all ranks; else the root does it
    };
    const Command commands[] = {
        {"generate", generate, true}, {"evaluate", evaluate, true}, {"score", score, false}};
    if (words.size() == 2 && words[0] == "grade") return comm.root() ? grade(recipe, words[1]) : 0;
    if (words.size() == 1 && words[0] == "grade") usage_error("grade: no file", "grade FILE.jsonl");
    if (words.size() == 1)
        for (const Command& command : commands)
            if (words[0] == command.name)
                return comm.root() || command.shared ? command.run(recipe, comm) : 0;
    usage_error(words.empty() ? "no command" : "no command \"" + words.back() + "\"",
                "one of generate, evaluate, score, grade; ./rollout -h explains every key");
}

int rollout_main(int argc, char** argv) {
    Comm comm;
    return comm.run([&] { return run_command(comm, {argv + 1, argv + argc}); });
}

} // namespace

int main(int argc, char** argv) { return run_main(rollout_main, argc, argv); }
