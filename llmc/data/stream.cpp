// Contract: stream.h.
#include "llmc/data/stream.h"

#include "llmc/core/error.h"
#include "llmc/core/recipe.h"
#include "llmc/core/rng.h"

#include <numeric>

DataStream::DataStream(const std::string& spec, const StreamOptions& options,
                       const Tokenizer& tokenizer)
    : options_(options), tokenizer_(tokenizer) {
    for (const std::string& item : split_text(spec, ',')) {
        Part part;
        part.weight = 1;
        part.spec = trim_text(item);
        const size_t star = part.spec.rfind('*');
        if (star != std::string::npos) {
            if (!parse_real(trim_text(part.spec.substr(star + 1)), &part.weight) ||
                part.weight <= 0)
                usage_error("data: \"" + item + "\": expected a weight > 0 after *",
                            "a mixture is SOURCE*WEIGHT,SOURCE*WEIGHT,...");
            part.spec = trim_text(part.spec.substr(0, star));
        }
        if (part.spec.empty())
            usage_error("data: \"" + spec + "\" names no source",
                        "set -data to a file, a folder or embedded:arithmetic");
        part.source = open_source(part.spec, tokenizer, options.split, options.val_fraction,
                                  mix(options.seed, parts_.size()));
        parts_.push_back(std::move(part));
    }
}

// Files are read in another order every epoch.
int64_t DataStream::document_index(Part& part, int64_t visit) {
    const int64_t size = part.source->size();
    if (size == 0) return visit;
    const int64_t epoch = visit / size;
    if (part.epoch != epoch) {
        part.order.resize(size);
        std::iota(part.order.begin(), part.order.end(), 0);
        Rng rng(options_.seed, mix(uint64_t(&part - parts_.data()), uint64_t(epoch)));
        for (int64_t i = size - 1; i > 0; i--)
            std::swap(part.order[i], part.order[rng.below(i + 1)]);
        part.epoch = epoch;
    }
    return part.order[visit % size];
}

void DataStream::load_current() {
    Part& part = parts_[current_];
    document_ = part.source->document(document_index(part, part.visited - 1));
    part.barren = document_.tokens.size() < 2 ? part.barren + 1 : 0;
    if (part.source->size() > 0 && part.barren >= part.source->size())
        fatal(format("data: %s: none of its %ld documents has a second token, to be predicted",
                     part.spec.c_str(), long(part.source->size())),
              "take it out of the mixture, or look at the texts: they are empty");
}

void DataStream::begin_document() {
    int64_t total = 0;
    double weights = 0, most = -1e300;
    for (const Part& part : parts_) total += part.tokens, weights += part.weight;
    for (size_t i = 0; i < parts_.size(); i++) { // the part furthest behind its share
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
        rows.targets[n] = document_.tokens[taken_ + 1];
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
