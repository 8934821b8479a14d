// data/prepare: text, JSONL and Parquet to token shards. The work is llmc/data/prepare.cpp.
#include "llmc/data/prepare.h"
#include "llmc/core/error.h"
#include "llmc/core/recipe.h"

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <thread>
#include <unistd.h>

namespace {

const char* kSynopsis = "data/prepare -out FOLDER [-tokenizer tokenizer.json] FILE|FOLDER ...\n"
                        "\n"
                        "Makes token shards of .txt, .jsonl (.gz, .zst) and .parquet files; "
                        "./train -data FOLDER reads\n"
                        "them. Documents fall into training and validation by their text's hash. "
                        "Interrupted, the same\n"
                        "command goes on. Parquet needs a Python with pyarrow: "
                        "PYTHON=/path/to/python data/prepare ...\n";

KeyTable prepare_keys() {
    return {
        kSynopsis,
        {},
        {{"out", "output", kWord, "", 0, 0, "folder", "where the shards go"},
         {"tokenizer", "output", kWord, "", 0, 0, "file", "tokenizer.json; empty = bytes"},
         {"val_fraction", "output", kReal, "0.005", 0, 0.5, "", "share of the documents held out"},
         {"part_bytes", "output", kInt, "64000000", 1, 1e12, "bytes",
          "input of one shard, about; memory is some ten times that per thread"},
         {"field", "input", kWord, "", 0, 0, "",
          "JSONL, Parquet: field of the text; empty = text, or question/prompt and answer"},
         {"prompt_field", "input", kWord, "", 0, 0, "",
          "field of a prompt before it, which -prompt_loss no of ./train leaves out of the loss"},
         {"separator", "input", kWord, "", 0, 0, "",
          "between documents of a .txt, \\n is a line end; empty = a file is one document"},
         {"bad_lines", "input", kOneOf, "stop", 0, 0, "",
          "a line that is no JSON or lacks the field: stop, or skip it and count", "stop|skip"},
         {"threads", "run", kInt, "0", 0, 1024, "threads", "0 = one per core"}}};
}

std::string unescaped(const std::string& text) {
    std::string out;
    for (size_t i = 0; i < text.size(); i++) {
        const bool line_end = text[i] == '\\' && i + 1 < text.size() && text[i + 1] == 'n';
        out += line_end ? '\n' : text[i];
        i += line_end;
    }
    return out;
}

// One line that is written over: [=====>     ] 43%, 12 of 28 parts, 18.2 MB/s, 0:41 left
class ProgressBar {
  public:
    void show(const PrepareProgress& p) {
        if (p.parts == 0 || !isatty(STDERR_FILENO)) return;
        const double elapsed =
            std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
        const double share = p.bytes ? double(p.bytes_done) / double(p.bytes) : 1;
        const double rate = double(p.bytes_done) / std::max(elapsed, 1e-3);
        const int left = rate > 0 ? int(double(p.bytes - p.bytes_done) / rate) : 0;
        std::string bar(30, ' ');
        for (int i = 0; i < int(share * 30); i++) bar[size_t(i)] = '=';
        if (share < 1) bar[size_t(share * 30)] = '>';
        std::fprintf(stderr, "\r[%s] %3.0f%%, %ld of %ld parts, %.1f MB/s, %d:%02d left ",
                     bar.c_str(), 100 * share, long(p.parts_done + p.parts_before), long(p.parts),
                     rate / 1e6, left / 60, left % 60);
        if (p.parts_done + p.parts_before == p.parts) std::fprintf(stderr, "\n");
    }

  private:
    const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

int prepare_main(int argc, char** argv) {
    std::vector<std::string> arguments(argv + 1, argv + argc);
    Recipe recipe(prepare_keys());
    const bool help = take_help_flag(&arguments);
    const std::vector<std::string> inputs = recipe.read_arguments(arguments);
    if (help) {
        std::printf("%s", recipe.usage().c_str());
        return 0;
    }
    if (inputs.empty() || recipe.text("", "out").empty())
        usage_error("expected files or folders to read, and -out FOLDER", "see data/prepare -h");
    if (recipe.text("", "field").empty() && !recipe.text("", "prompt_field").empty())
        usage_error("-prompt_field without -field", "-field names what follows the prompt");
    const char* python = std::getenv("PYTHON");
    const std::string script =
        std::filesystem::read_symlink("/proc/self/exe").parent_path() / "parquet_lines.py";
    const int64_t threads = recipe.integer("", "threads");
    const PrepareSettings settings{
        recipe.text("", "out"),
        recipe.text("", "tokenizer"),
        recipe.text("", "field"),
        recipe.text("", "prompt_field"),
        unescaped(recipe.text("", "separator")),
        recipe.real("", "val_fraction"),
        recipe.integer("", "part_bytes"),
        threads > 0 ? int(threads) : std::max(1, int(std::thread::hardware_concurrency())),
        recipe.text("", "bad_lines") == "skip",
        {python ? python : "python3", script}};
    ProgressBar bar;
    const PrepareTotals totals =
        prepare_corpus(inputs, settings, [&](const PrepareProgress& p) { bar.show(p); });
    std::printf("%s: %ld documents, %ld tokens for training; %ld, %ld for validation",
                settings.out.c_str(), long(totals.documents[0]), long(totals.tokens[0]),
                long(totals.documents[1]), long(totals.tokens[1]));
    if (settings.skip_bad_lines) std::printf("; %ld bad lines skipped", long(totals.bad_lines));
    std::printf("\n");
    if (totals.documents[1] == 0 && settings.val_fraction > 0)
        std::fprintf(stderr,
                     "note: no document's hash falls into val_fraction %g; a larger one holds out "
                     "more, or train "
                     "with -val_fraction 0 or -val_data FILE\n",
                     settings.val_fraction);
    return 0;
}

} // namespace

int main(int argc, char** argv) { return run_main(prepare_main, argc, argv); }
