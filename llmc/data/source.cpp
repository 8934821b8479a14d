// Contract: source.h.
#include "llmc/data/source.h"

#include "llmc/core/error.h"
#include "llmc/core/json.h"
#include "llmc/core/recipe.h"
#include "llmc/core/unicode.h"
#include "llmc/data/corpus.h"
#include "llmc/data/shard.h"

#include <algorithm>

namespace {

constexpr size_t kPieceBytes = 2048; // of a long text: what is shuffled
constexpr size_t kLongText = 4 * kPieceBytes;
constexpr size_t kAheadBytes = 64; // behind a piece: the first token in them is its last target

void add_end(Document& document, const Tokenizer& tokenizer) {
    document.tokens.push_back(tokenizer.end_of_text());
    if (!document.trained.empty()) document.trained.push_back(1);
}

// The first `prompt_bytes` of the text are context; a token that reaches beyond them is not.
Document whole_document(const Tokenizer& tokenizer, const std::string& text, size_t prompt_bytes) {
    Document document = text_document(tokenizer, text, prompt_bytes);
    add_end(document, tokenizer);
    return document;
}

// ------------------------------------------------------------------------------------------------
// embedded

// Generated texts fall into the two splits by their hash, like any other: the validation split has
// the same distribution and no text of the training split.
class EmbeddedSource : public Source {
  public:
    EmbeddedSource(const std::string& family, double flaw, const Tokenizer& tokenizer, Split split,
                   double val_fraction, uint64_t seed)
        : family_(family), flaw_(flaw), tokenizer_(tokenizer), split_(split),
          val_fraction_(val_fraction), key_(mix(seed, hash64(family.data(), family.size()))) {}

    int64_t size() const override { return 0; }
    Document document(int64_t index) const override {
        for (uint64_t attempt = 0;; attempt++) {
            Rng rng(key_, mix(uint64_t(index) * 2 + (split_ == Split::validation), attempt));
            const std::string text = generate(rng);
            if (in_validation(text, val_fraction_) == (split_ == Split::validation))
                return whole_document(tokenizer_, text, 0);
        }
    }

  private:
    std::string generate(Rng& rng) const {
        if (family_ == "arithmetic") return arithmetic_document(flaw_, rng);
        if (family_ == "sentences") return sentences_document(rng);
        Chain chain = make_chain(rng);
        while (is_held_out_chain(chain.question)) chain = make_chain(rng);
        const int shown =
            rng.chance(flaw_) ? chain.result + (rng.chance(0.5) ? 1 : 2) : chain.result;
        return chain.question + chain.worked + format(" \\boxed{%d}", shown);
    }
    std::string family_;
    double flaw_;
    const Tokenizer& tokenizer_;
    Split split_;
    double val_fraction_;
    uint64_t key_;
};

std::unique_ptr<Source> open_embedded(const std::string& spec, const Tokenizer& tokenizer,
                                      Split split, double val_fraction, uint64_t seed) {
    const std::vector<std::string> parts = split_text(spec, ':');
    const char* hint =
        "the embedded sources are embedded:arithmetic, embedded:chains and embedded:sentences, the "
        "first two with an optional share of wrong answers, e.g. embedded:arithmetic:flaw=0.35";
    const std::string family = parts.size() > 1 ? parts[1] : "";
    if (family != "arithmetic" && family != "chains" && family != "sentences")
        usage_error("data: no source " + spec, hint);
    double flaw = 0;
    for (size_t i = 2; i < parts.size(); i++)
        if (parts[i].rfind("flaw=", 0) != 0 || !parse_real(parts[i].substr(5), &flaw) || flaw < 0 ||
            flaw > 1 || family == "sentences")
            usage_error("data: " + spec + ": bad part \"" + parts[i] + "\"", hint);
    if (split == Split::validation && val_fraction <= 0)
        usage_error("data: val_fraction = 0 leaves no validation text", "set -val_fraction 0.02");
    return std::make_unique<EmbeddedSource>(family, flaw, tokenizer, split, val_fraction, seed);
}

// ------------------------------------------------------------------------------------------------
// files

// The documents of shards that belong to a split, numbered through: ranges, so that a corpus of
// any size takes a few numbers.
class ShardDocuments {
  public:
    void add(std::unique_ptr<Shard> shard, Split split, double val_fraction) {
        const int64_t count = shard->documents();
        documents_ += count;
        if (!shard->split()) { // each by its hash
            for (int64_t i = 0; i < count; i++) {
                const std::vector<int32_t> tokens = shard->document(i).tokens;
                const std::string bytes(reinterpret_cast<const char*>(tokens.data()),
                                        tokens.size() * sizeof(int32_t));
                if (!tokens.empty() &&
                    in_validation(bytes, val_fraction) == (split == Split::validation))
                    add_range(shard.get(), i, 1);
            }
        } else if (*shard->split() == split) add_range(shard.get(), 0, count);
        shards_.push_back(std::move(shard));
    }
    int64_t size() const { return ranges_.empty() ? 0 : ranges_.back().end; }
    int64_t documents() const { return documents_; }
    Document document(int64_t index) const {
        const auto range = std::upper_bound(ranges_.begin(), ranges_.end(), index,
                                            [](int64_t i, const Range& r) { return i < r.end; });
        return range->shard->document(range->last - (range->end - index));
    }

  private:
    struct Range {
        const Shard* shard;
        int64_t last, end; // documents before `last` of the shard are numbered before `end`
    };
    void add_range(const Shard* shard, int64_t first, int64_t count) {
        if (count == 0) return;
        if (!ranges_.empty() && ranges_.back().shard == shard && ranges_.back().last == first) {
            ranges_.back().last += count;
            ranges_.back().end += count;
        } else ranges_.push_back({shard, first + count, size() + count});
    }
    std::vector<std::unique_ptr<Shard>> shards_;
    std::vector<Range> ranges_;
    int64_t documents_ = 0;
};

// The first byte from `at` on that begins a character.
size_t character_begin(const std::string& text, size_t at, size_t end) {
    while (at < end && (text[at] & 0xC0) == 0x80) at++;
    return at;
}

// Where the held-out part of a long text begins: behind the line that begins before it, or inside
// that line if the line is long or the last.
size_t val_border(const std::string& text, double val_fraction) {
    const size_t border = size_t(double(text.size()) * (1 - val_fraction));
    if (border == 0 || border == text.size()) return border;
    const size_t line_end = text.find('\n', border - 1) + 1; // 0 = none
    if (line_end > 0 && line_end < text.size() && line_end - border <= kLongText) return line_end;
    return character_begin(text, border, text.size());
}

class FileSource : public Source {
  public:
    FileSource(const Tokenizer& tokenizer, Split split, double val_fraction)
        : tokenizer_(tokenizer), split_(split), val_fraction_(val_fraction) {}

    // Text documents are in the split their hash says.
    void add_document(const std::string& text, size_t prompt_bytes) {
        left_out_ += text.empty();
        documents_ += !text.empty();
        if (!text.empty() && in_validation(text, val_fraction_) == (split_ == Split::validation))
            items_.push_back({store(text), text.size(), 0, prompt_bytes, true});
    }
    // A long text alone: the last val_fraction of it is the validation split.
    void add_text(const std::string& text) {
        documents_ += !text.empty();
        const size_t border = val_border(text, val_fraction_);
        const size_t begin = split_ == Split::train ? 0 : border;
        const size_t end = split_ == Split::train ? border : text.size();
        for (size_t at = begin; at < end;) {
            size_t stop = std::min(at + kPieceBytes, end);
            while (stop < end && text[stop - 1] != '\n' && stop - at < 2 * kPieceBytes) stop++;
            stop = character_begin(text, stop, end);
            const bool last = stop == text.size();
            const size_t ahead = std::min(kAheadBytes, end - stop);
            const size_t begin = store(text.substr(at, stop - at + ahead));
            items_.push_back({begin, stop - at, ahead, 0, last});
            at = stop;
        }
    }
    void add_shard(const std::string& path) {
        shards_.add(std::make_unique<Shard>(path, tokenizer_), split_, val_fraction_);
    }

    int64_t size() const override { return int64_t(items_.size()) + shards_.size(); }
    int64_t left_out() const override { return left_out_; }
    // Of both splits; of shards that were made for one split only its own.
    int64_t documents() const { return documents_ + shards_.documents(); }
    Document document(int64_t index) const override {
        if (index >= int64_t(items_.size())) {
            Document document = shards_.document(index - int64_t(items_.size()));
            add_end(document, tokenizer_);
            return document;
        }
        const Item& item = items_[size_t(index)];
        const std::string text = memory_.substr(item.begin, item.bytes);
        if (item.ends) return whole_document(tokenizer_, text, item.prompt_bytes);
        Document document{tokenizer_.encode_start(text), {}, true};
        const std::string ahead = memory_.substr(item.begin + item.bytes, item.ahead);
        const std::vector<int32_t> next = tokenizer_.encode(ahead);
        if (!next.empty()) document.tokens.push_back(next.front());
        return document;
    }

  private:
    struct Item {
        size_t begin, bytes; // in memory_
        size_t ahead;        // bytes behind them
        size_t prompt_bytes;
        bool ends;
    };
    size_t store(const std::string& text) {
        memory_ += text;
        return memory_.size() - text.size();
    }
    const Tokenizer& tokenizer_;
    Split split_;
    double val_fraction_;
    std::string memory_;
    std::vector<Item> items_;
    ShardDocuments shards_;
    int64_t documents_ = 0, left_out_ = 0;
};

[[noreturn]] void no_text(const std::string& spec, Split split, int64_t documents,
                          double val_fraction) {
    if (documents == 0)
        fatal("data: " + spec + ": expected documents, found none",
              "is it empty, or are its texts? A folder needs .txt, .jsonl or .shard files");
    if (split == Split::train)
        fatal(format("data: %s: all of its %ld documents are held out", spec.c_str(),
                     long(documents)),
              "with a smaller -val_fraction some are left for training");
    fatal(format("data: %s: none of its %ld documents is held out for validation", spec.c_str(),
                 long(documents)),
          format("val_fraction is %g (shards: data/prepare's); a larger one holds out more, "
                 "-val_data FILE is held out as a whole, -val_fraction 0 goes without",
                 val_fraction));
}

void add_file(FileSource& source, const std::string& path, bool alone) {
    if (path.ends_with(".shard")) {
        source.add_shard(path);
        return;
    }
    if (!path.ends_with(".txt") && !path.ends_with(".jsonl"))
        fatal("data: " + path + ": expected a .txt, .jsonl or .shard file",
              "rename it if it is text; data/prepare makes shards of .parquet, .jsonl.gz and "
              ".jsonl.zst");
    std::string text = read_file(path);
    if (path.ends_with(".txt")) {
        text.erase(0, text_begin(text, path));
        if (alone || text.size() > kLongText) source.add_text(text);
        else source.add_document(text, 0);
        return;
    }
    for_each_jsonl_line(path, text, [&](const JsonlLine& line) {
        const JsonlRow row = parse_jsonl_row(line.text, line.where);
        source.add_document(row.text, row.prompt.size());
    });
}

std::string replace_final(const std::string& answer) {
    // GSM8K ends with "#### 42": the same answer in the form the grader reads.
    const size_t mark = answer.rfind("#### ");
    if (mark == std::string::npos) return answer;
    return answer.substr(0, mark) + "\\boxed{" + trim_text(answer.substr(mark + 5)) + "}";
}

} // namespace

Document text_document(const Tokenizer& tokenizer, const std::string& text, size_t prompt_bytes) {
    Document document{tokenizer.encode_start(text), {}, false};
    if (prompt_bytes == 0) return document;
    const size_t start = tokenizer.encode_start("").size(); // what stands before every text
    size_t bytes = 0;
    for (size_t t = 0; t < document.tokens.size(); t++) {
        if (t >= start) bytes += tokenizer.decode({document.tokens[t]}, Specials::keep).size();
        document.trained.push_back(bytes > prompt_bytes);
    }
    return document;
}

size_t text_begin(std::string_view file, const std::string& path) {
    if (file.starts_with("\xff\xfe") || file.starts_with("\xfe\xff"))
        fatal("data: " + path + ": expected UTF-8, found the mark of UTF-16 at byte 0",
              "iconv -f UTF-16 -t UTF-8 converts it");
    return byte_order_mark(file);
}

bool in_validation(const std::string& text, double fraction) {
    return double(hash64(text.data(), text.size()) >> 11) * 0x1p-53 < fraction;
}

JsonlRow parse_jsonl_row(const std::string& line, const std::string& where) {
    const Json json = json_parse(line, where);
    if (!json.is_object()) fatal(where + ": expected a JSON object", "one object per line");
    auto field = [&](const char* name) -> std::string {
        if (!json.contains(name)) return "";
        const Json& value = json[name];
        if (value.is_string()) return value.get<std::string>();
        if (value.is_number()) return value.dump();
        fatal(where + ": \"" + name + "\": expected a string or a number, found " + value.dump(),
              "write it as a string");
    };
    JsonlRow row;
    row.id = field("id");
    row.text = field("text");
    row.prompt = field(json.contains("prompt")     ? "prompt"
                       : json.contains("question") ? "question"
                                                   : "problem");
    row.answer = field("answer");
    if (!row.prompt.empty()) {
        row.prompt += "\n";
        row.text = row.prompt + replace_final(row.answer);
        const size_t mark = row.answer.rfind("#### ");
        if (mark != std::string::npos) row.answer = trim_text(row.answer.substr(mark + 5));
    }
    const bool no_document = row.prompt.empty() && json.contains("text"); // corpora have such
    const bool unanswered = !row.prompt.empty() && !json.contains("answer");
    if ((row.text.empty() && !no_document) || unanswered)
        fatal(where + ": expected \"text\", or \"question\"/\"prompt\" with \"answer\", found " +
                  field_names(json),
              "rename the fields, or choose them with data/prepare's -field and -prompt_field");
    return row;
}

bool is_embedded(const std::string& source) { return source.starts_with("embedded:"); }

std::vector<std::string> source_files(const std::string& spec) {
    if (is_embedded(spec) || !is_directory(spec)) return {spec};
    std::vector<std::string> files;
    for (const std::string& name : list_directory(spec))
        if (name.ends_with(".txt") || name.ends_with(".jsonl") || name.ends_with(".shard"))
            files.push_back(spec + "/" + name);
    return files;
}

std::unique_ptr<Source> open_source(const std::string& spec, const Tokenizer& tokenizer,
                                    Split split, double val_fraction, uint64_t seed) {
    if (is_embedded(spec)) return open_embedded(spec, tokenizer, split, val_fraction, seed);
    if (!path_exists(spec))
        fatal("data: no file or folder " + spec,
              "give a .txt, .jsonl or .shard file, a folder of them, or embedded:arithmetic");
    auto source = std::make_unique<FileSource>(tokenizer, split, val_fraction);
    const bool alone = !is_directory(spec);
    for (const std::string& path : source_files(spec)) add_file(*source, path, alone);
    if (source->size() == 0) no_text(spec, split, source->documents(), val_fraction);
    return source;
}
