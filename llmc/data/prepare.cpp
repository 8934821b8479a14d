// Contract: prepare.h.
#include "llmc/data/prepare.h"

#include "llmc/core/error.h"
#include "llmc/core/file.h"
#include "llmc/core/json.h"
#include "llmc/core/process.h"
#include "llmc/core/recipe.h"
#include "llmc/data/shard.h"
#include "llmc/data/source.h"

#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <thread>

namespace {

// Documents that begin in bytes [begin, end) of a file; of Parquet: row groups.
struct Part {
    std::string path;
    uint64_t begin, end;
    int64_t bytes; // for the progress
};

// gzip or zstd for a packed file, else nothing.
std::vector<std::string> unpacker(const std::string& path) {
    if (path.ends_with(".gz")) return {"gzip", "-dc", path};
    if (path.ends_with(".zst")) return {"zstd", "-dcq", path};
    return {};
}

bool is_corpus(const std::string& path) {
    for (const char* tail : {".txt", ".jsonl", ".jsonl.gz", ".json.gz", ".jsonl.zst", ".parquet"})
        if (path.ends_with(tail)) return true;
    return false;
}

std::vector<std::string> corpus_files(const std::vector<std::string>& inputs) {
    std::vector<std::string> files;
    for (const std::string& input : inputs) {
        if (!path_exists(input)) fatal("data: no file or folder " + input, "check the path");
        if (!is_directory(input)) {
            if (!is_corpus(input))
                fatal("data: " + input +
                          ": expected .txt, .jsonl, .jsonl.gz, .jsonl.zst or .parquet",
                      "rename or convert the file");
            files.push_back(input);
            continue;
        }
        for (const std::string& name : list_directory(input))
            if (is_corpus(name)) files.push_back(input + "/" + name);
    }
    if (files.empty()) fatal("data: no corpus file among the inputs", "see data/prepare -h");
    return files;
}

// Row groups of a Parquet file with about part_bytes each: the command prints the bytes of each.
void add_parquet_parts(const std::string& path, const PrepareSettings& settings,
                       std::vector<Part>& parts) {
    std::vector<std::string> argv = settings.parquet_command;
    argv.push_back(path);
    uint64_t group = 0, first = 0;
    int64_t bytes = 0;
    for (const std::string& line : split_text(read_command(argv), '\n')) {
        int64_t size = 0;
        if (!parse_integer(trim_text(line), &size)) continue;
        bytes += size;
        group++;
        if (bytes < settings.part_bytes) continue;
        parts.push_back({path, first, group, bytes});
        first = group;
        bytes = 0;
    }
    if (first < group) parts.push_back({path, first, group, bytes});
}

std::vector<Part> cut_parts(const std::vector<std::string>& files,
                            const PrepareSettings& settings) {
    std::vector<Part> parts;
    for (const std::string& path : files) {
        if (path.ends_with(".parquet")) {
            add_parquet_parts(path, settings, parts);
            continue;
        }
        const uint64_t size = file_size(path);
        const bool whole =
            !unpacker(path).empty() || (path.ends_with(".txt") && settings.separator.empty());
        const uint64_t step = whole ? std::max<uint64_t>(size, 1) : uint64_t(settings.part_bytes);
        for (uint64_t begin = 0; begin < size; begin += step)
            parts.push_back(
                {path, begin, std::min(begin + step, size), int64_t(std::min(step, size - begin))});
    }
    return parts;
}

// Where the first document at or behind `begin` begins. Separators may overlap ("\n\n" in three
// line ends): the search starts where no other search could have been inside of one.
size_t first_document(std::string_view text, const std::string& separator, size_t begin) {
    const size_t length = separator.size();
    size_t from = begin >= length ? begin - length : 0;
    for (bool inside = true; inside;) {
        inside = false;
        for (size_t q = from - std::min(from, length - 1); q < from && !inside; q++)
            if (text.substr(q, length) == separator) from = q, inside = true;
    }
    size_t found = text.find(separator, from);
    while (found != std::string_view::npos && found + length < begin)
        found = text.find(separator, found + length);
    return found == std::string_view::npos ? text.size() : found + length;
}

// Calls `take(text, byte)` for what lies between separators and begins in [begin, end).
template <class Take>
void for_each_between(std::string_view text, const std::string& separator, uint64_t begin,
                      uint64_t end, const Take& take) {
    size_t at = begin == 0 ? 0 : first_document(text, separator, begin);
    while (at < end && at < text.size()) {
        const size_t stop = std::min(text.find(separator, at), text.size());
        take(text.substr(at, stop - at), at);
        at = stop + separator.size();
    }
}

// Makes the shards of one part.
class PartWriter {
  public:
    PartWriter(const PrepareSettings& settings, const Tokenizer& tokenizer,
               std::atomic<int64_t>& bad_lines)
        : settings_(settings), tokenizer_(tokenizer), bad_lines_(bad_lines) {}

    void write(const Part& part, const std::string& stem) {
        content_[0] = content_[1] = {};
        if (part.path.ends_with(".txt")) read_text(part);
        else if (part.path.ends_with(".parquet")) read_parquet(part);
        else read_jsonl(part);
        if (!content_[1].ends.empty())
            write_shard(stem + ".val.shard", content_[1], tokenizer_, Split::validation);
        write_shard(stem + ".train.shard", content_[0], tokenizer_, Split::train);
    }

  private:
    void add(const std::string& text, size_t prompt_bytes) {
        if (text.empty()) return;
        content_[in_validation(text, settings_.val_fraction) ? 1 : 0].add(
            text_document(tokenizer_, text, prompt_bytes));
    }
    void read_text(const Part& part) {
        const MappedFile file(part.path);
        const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
        const size_t begin = text_begin(text, part.path);
        if (settings_.separator.empty()) return add(std::string(text.substr(begin)), 0);
        for_each_between(text, settings_.separator, part.begin, part.end,
                         [&](std::string_view document, size_t at) {
                             document.remove_prefix(at == 0 ? begin : 0);
                             add(std::string(document), 0);
                         });
    }
    void read_jsonl(const Part& part) {
        const std::vector<std::string> argv = unpacker(part.path);
        if (!argv.empty()) {
            const std::string text = read_command(argv);
            return read_lines(text, 0, text.size(), by_byte(part.path));
        }
        const MappedFile file(part.path);
        read_lines({reinterpret_cast<const char*>(file.data()), file.size()}, part.begin, part.end,
                   by_byte(part.path));
    }
    void read_parquet(const Part& part) {
        std::vector<std::string> argv = settings_.parquet_command;
        argv.insert(argv.end(), {part.path, std::to_string(part.begin), std::to_string(part.end)});
        if (settings_.field.empty() && settings_.prompt_field.empty()) argv.push_back("text");
        for (const std::string& field : {settings_.prompt_field, settings_.field})
            if (!field.empty()) argv.push_back(field);
        const std::string text = read_command(argv);
        read_lines(text, 0, text.size(), [&](size_t, int64_t number) {
            return format("%s: row %ld, counted from row group %llu", part.path.c_str(),
                          long(number), (unsigned long long)part.begin);
        });
    }
    // What a message calls a line, by its first byte or its number from 0.
    using Where = std::function<std::string(size_t at, int64_t number)>;
    static Where by_byte(const std::string& path) {
        return
            [path](size_t at, int64_t) { return format("%s: line at byte %zu", path.c_str(), at); };
    }
    void read_lines(std::string_view text, uint64_t begin, uint64_t end, const Where& where) {
        int64_t number = -1;
        for_each_between(text, "\n", begin, end, [&](std::string_view line, size_t at) {
            number++;
            if (trim_text(std::string(line)).empty()) return;
            try {
                read_line(std::string(line), where(at, number));
            } catch (const UserError& error) {
                if (!settings_.skip_bad_lines)
                    fatal(error.what(), error.hint + "; -bad_lines skip leaves such out");
                bad_lines_++;
            }
        });
    }
    void read_line(const std::string& line, const std::string& where) {
        if (settings_.field.empty()) {
            const JsonlRow row = parse_jsonl_row(line, where);
            return add(row.text, row.prompt.size());
        }
        const Json row = json_parse(line, where);
        auto field = [&](const std::string& name) {
            if (!row.is_object() || !row.contains(name) || !row[name].is_string())
                fatal(where + ": expected an object with a string \"" + name + "\"",
                      "-field and -prompt_field choose others");
            return row[name].get<std::string>();
        };
        if (settings_.prompt_field.empty()) return add(field(settings_.field), 0);
        const std::string prompt = field(settings_.prompt_field) + "\n";
        add(prompt + field(settings_.field), prompt.size());
    }

    const PrepareSettings& settings_;
    const Tokenizer& tokenizer_;
    std::atomic<int64_t>& bad_lines_;
    ShardContent content_[2]; // training, validation
};

std::string stem_of(const PrepareSettings& settings, size_t part) {
    return format("%s/part-%06zu", settings.out.c_str(), part);
}

// What the shards are a function of; the same command continues, another one is refused.
void bind_folder(const PrepareSettings& settings, const Tokenizer& tokenizer,
                 const std::vector<Part>& parts) {
    Json now = {{"tokenizer", hash_text(tokenizer.hash())},  {"field", settings.field},
                {"prompt_field", settings.prompt_field},     {"separator", settings.separator},
                {"val_fraction", settings.val_fraction},     {"part_bytes", settings.part_bytes},
                {"skip_bad_lines", settings.skip_bad_lines}, {"parts", Json::array()}};
    for (const Part& part : parts)
        now["parts"].push_back(Json::array({part.path, part.begin, part.end}));
    make_directories(settings.out);
    const std::string path = settings.out + "/prepare.json", text = now.dump(1) + "\n";
    if (!path_exists(path)) return write_file_atomic(path, text);
    const Json before = json_parse(read_file(path), path);
    for (const auto& [key, value] : now.items())
        if (!before.is_object() || !before.contains(key) || before[key] != value)
            fatal(settings.out + ": was made with another " + key,
                  "repeat the command it was begun with, or give another -out");
}

} // namespace

PrepareTotals prepare_corpus(const std::vector<std::string>& inputs,
                             const PrepareSettings& settings,
                             const std::function<void(const PrepareProgress&)>& progress) {
    const Tokenizer tokenizer(settings.tokenizer);
    const std::vector<Part> parts = cut_parts(corpus_files(inputs), settings);
    bind_folder(settings, tokenizer, parts);
    std::vector<size_t> open;
    PrepareProgress shown;
    shown.parts = int64_t(parts.size());
    for (size_t i = 0; i < parts.size(); i++) {
        if (path_exists(stem_of(settings, i) + ".train.shard")) shown.parts_before++;
        else open.push_back(i), shown.bytes += parts[i].bytes;
    }
    std::atomic<size_t> next = 0;
    std::atomic<int64_t> bad_lines = 0, parts_done = 0, bytes_done = 0;
    std::atomic<int> working = 0;
    std::exception_ptr failure;
    std::mutex failure_lock;
    auto work = [&] {
        try {
            const Tokenizer own(settings.tokenizer); // a tokenizer is for one thread
            PartWriter writer(settings, own, bad_lines);
            for (size_t i; (i = next++) < open.size();) {
                writer.write(parts[open[i]], stem_of(settings, open[i]));
                bytes_done += parts[open[i]].bytes;
                parts_done++;
            }
        } catch (...) {
            const std::lock_guard<std::mutex> guard(failure_lock);
            if (!failure) failure = std::current_exception();
            next = open.size(); // the others end with their part
        }
        working--;
    };
    std::vector<std::thread> threads;
    const size_t count = std::min(size_t(settings.threads), open.size());
    working = int(count);
    for (size_t t = 0; t < count; t++) threads.emplace_back(work);
    auto report = [&] {
        shown.parts_done = parts_done;
        shown.bytes_done = bytes_done;
        progress(shown);
    };
    for (int tick = 0; working > 0; tick++) {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        if (tick % 10 == 0) report();
    }
    for (std::thread& thread : threads) thread.join();
    report();
    if (failure) std::rethrow_exception(failure);

    PrepareTotals totals;
    totals.bad_lines = bad_lines;
    for (size_t i = 0; i < parts.size(); i++)
        for (int split : {0, 1}) {
            const std::string path = stem_of(settings, i) + (split ? ".val.shard" : ".train.shard");
            if (!path_exists(path)) continue;
            const Shard shard(path, tokenizer);
            totals.documents[split] += shard.documents();
            totals.tokens[split] += shard.tokens();
        }
    if (totals.documents[0] + totals.documents[1] == 0)
        fatal("data: not one document in " + std::to_string(parts.size()) + " parts of the input",
              totals.bad_lines > 0 ? "every line was left out as a bad one: is -field right?"
                                   : "are the files empty?");
    return totals;
}
