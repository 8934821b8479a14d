// Contract: stream.h.
#include "llmc/data/stream.h"

#include "llmc/core/error.h"
#include "llmc/core/recipe.h"
#include "llmc/core/rng.h"
#include "llmc/core/safetensors.h"
#include "llmc/ops/loss.h"

#include <filesystem>

void write_rows(const std::string& path, const std::vector<PackedRows>& units) {
    using Member = std::vector<int32_t> PackedRows::*;
    const std::pair<const char*, Member> members[] = {{"tokens", &PackedRows::tokens},
                                                      {"targets", &PackedRows::targets},
                                                      {"positions", &PackedRows::positions},
                                                      {"doc_start", &PackedRows::doc_start}};
    int64_t rows = 0;
    for (const PackedRows& unit : units) rows += int64_t(unit.tokens.size());
    std::vector<SafetensorsWriter::Spec> specs;
    for (const auto& [name, member] : members) specs.push_back({name, Dtype::i32, {rows}});
    SafetensorsWriter writer(path, specs);
    for (const auto& [name, member] : members) {
        std::vector<int32_t> all;
        for (const PackedRows& unit : units) { // doc_start counts from the unit's first row
            const int32_t shift = member == &PackedRows::doc_start ? int32_t(all.size()) : 0;
            for (const int32_t value : unit.*member) all.push_back(value + shift);
        }
        writer.append(all.data(), all.size() * sizeof(int32_t));
    }
    writer.finish();
}

std::set<std::string> mixture_files(const std::string& spec) {
    std::set<std::string> files;
    for (const std::string& item : split_text(spec, ','))
        for (const std::string& file : source_files(trim_text(split_text(item, '*')[0])))
            files.insert(is_embedded(file) ? file
                                           : std::filesystem::weakly_canonical(file).string());
    return files;
}

DataStream::DataStream(const std::string& spec, const StreamOptions& options,
                       const Tokenizer& tokenizer)
    : options_(options), tokenizer_(tokenizer) {
    for (const std::string& item : split_text(spec, ',')) {
        Part part{};
        const std::vector<std::string> words = split_text(item, '*');
        part.spec = trim_text(words[0]);
        part.weight = 1;
        if (words.size() > 3 ||
            (words.size() > 1 &&
             (!parse_real(trim_text(words[1]), &part.weight) || part.weight <= 0)))
            usage_error("data: \"" + item + "\": expected a weight > 0 after *",
                        "a mixture is SOURCE*WEIGHT,SOURCE*WEIGHT*PASSES,...");
        if (words.size() > 2 &&
            (!parse_integer(trim_text(words[2]), &part.passes) || part.passes < 1))
            usage_error("data: \"" + item +
                            "\": expected a number of passes >= 1 after the second *",
                        "SOURCE*0.3*4: a share of 0.3, read at most four times");
        if (part.spec.empty())
            usage_error("data: \"" + spec + "\" names no source",
                        "set -data to a file, a folder or embedded:arithmetic");
        part.source = open_source(part.spec, tokenizer, options.split, options.val_fraction,
                                  mix(options.seed, parts_.size()));
        // What is endless has no passes, and held-out text is scored however little there is.
        if (part.source->size() == 0 || options.split == Split::validation) part.passes = 0;
        parts_.push_back(std::move(part));
    }
}

std::string DataStream::left_out() const {
    std::string note;
    for (const Part& part : parts_)
        if (part.source->left_out() > 0)
            note += format("%s%s: %ld empty texts left out", note.empty() ? "" : "; ",
                           part.spec.c_str(), long(part.source->left_out()));
    return note;
}

// Files are read in another order every epoch, which is a function of the seed and the epoch.
int64_t DataStream::document_index(size_t part, int64_t visit) const {
    const int64_t size = parts_[part].source->size();
    if (size == 0) return visit;
    const uint64_t epoch = uint64_t(visit / size);
    return Permutation(size, mix(options_.seed, mix(part, epoch)))(visit % size);
}

void DataStream::load_current() {
    Part& part = parts_[size_t(current_)];
    document_ = part.source->document(document_index(size_t(current_), part.visited - 1));
    part.barren = document_.tokens.size() < 2 ? part.barren + 1 : 0;
    if (part.source->size() > 0 && part.barren >= part.source->size())
        fatal(format("data: %s: none of its %ld documents has a second token, to be predicted",
                     part.spec.c_str(), long(part.source->size())),
              "take it out of the mixture, or look at the texts: they are empty");
}

void DataStream::begin_document() {
    int64_t total = 0;
    double weights = 0, most = -1e300;
    // Shares count over the sources that can still be read, from the beginning.
    for (const Part& part : parts_)
        if (!part.used_up()) total += part.tokens, weights += part.weight;
    if (weights == 0)
        fatal("data: every source was read as often as its recipe allows",
              "raise or leave out the passes (SOURCE*WEIGHT*PASSES), add a source, or lower steps");
    for (size_t i = 0; i < parts_.size(); i++) { // the part furthest behind its share
        if (parts_[i].used_up()) continue;
        const double behind =
            parts_[i].weight / weights * double(total + 1) - double(parts_[i].tokens);
        if (behind > most) most = behind, current_ = int(i);
    }
    parts_[current_].visited++;
    taken_ = 0;
    load_current();
}

void DataStream::next_rows(int64_t B, PackedRows& rows) {
    const int64_t T = options_.context, N = B * T;
    for (auto* v : {&rows.tokens, &rows.targets, &rows.positions, &rows.doc_start}) v->resize(N);
    int64_t position = 0;
    for (int64_t n = 0; n < N; n++) {
        while (current_ < 0 || taken_ + 1 >= int64_t(document_.tokens.size())) begin_document();
        if (taken_ == 0 || position == T || n == 0) position = 0;
        rows.tokens[n] = document_.tokens[taken_];
        const bool target =
            options_.prompt_loss || document_.trained.empty() || document_.trained[taken_ + 1];
        rows.targets[n] = target ? document_.tokens[taken_ + 1] : kIgnoredTarget;
        rows.positions[n] = int32_t(options_.doc_mask ? position : n % T);
        rows.doc_start[n] = int32_t(options_.doc_mask ? n - position : n - n % T);
        position++;
        taken_++;
        parts_[current_].tokens++;
    }
}

Json DataStream::state() const {
    Json state;
    state["current"] = current_;
    state["taken"] = taken_;
    state["sources"] = Json::array();
    for (const Part& part : parts_)
        state["sources"].push_back({{"source", part.spec},
                                    {"documents", part.source->size()},
                                    {"visited", part.visited},
                                    {"tokens", part.tokens}});
    return state;
}

void DataStream::restore(const Json& state) {
    const Json& sources = state.at("sources");
    if (sources.size() != parts_.size())
        fatal("data: the checkpoint has another mixture", "use the run's own recipe");
    for (size_t i = 0; i < parts_.size(); i++) {
        Part& part = parts_[i];
        if (sources[i].at("source").get<std::string>() != part.spec ||
            sources[i].at("documents").get<int64_t>() != part.source->size())
            fatal("data: " + part.spec + " is not what the checkpoint was reading",
                  "restore the file, or start a new run with another -name");
        part.visited = sources[i].at("visited").get<int64_t>();
        part.tokens = sources[i].at("tokens").get<int64_t>();
    }
    current_ = state.at("current").get<int>();
    taken_ = state.at("taken").get<int64_t>();
    if (current_ >= 0) load_current();
}
