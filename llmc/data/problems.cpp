// Contract: problems.h.
#include "llmc/data/problems.h"

#include "llmc/core/error.h"
#include "llmc/core/file.h"
#include "llmc/core/recipe.h"
#include "llmc/core/rng.h"
#include "llmc/data/corpus.h"

static constexpr int64_t kHeldOutChains = 200;

ProblemSet::ProblemSet(const std::string& spec, Split split, double val_fraction, uint64_t seed)
    : spec_(spec), split_(split), seed_(seed) {
    if (spec.rfind("embedded:", 0) == 0) {
        family_ = spec.substr(9);
        if (family_ != "arithmetic" && family_ != "chains")
            usage_error("problems: no source " + spec,
                        "the embedded ones are embedded:arithmetic and embedded:chains");
        if (split == Split::validation)
            size_ = family_ == "arithmetic" ? kHeldOutTriples : kHeldOutChains;
        return;
    }
    int line_number = 0;
    for (const std::string& line : split_text(read_file(spec), '\n')) {
        line_number++;
        if (trim_text(line).empty()) continue;
        const std::string where = format("%s:%d", spec.c_str(), line_number);
        JsonlRow row = parse_jsonl_row(line, where);
        if (row.prompt.empty() || row.answer.empty())
            fatal(where + ": expected a problem with \"question\" or \"prompt\" and \"answer\"",
                  "text without an answer cannot be graded");
        if (val_fraction > 0 &&
            in_validation(row.prompt, val_fraction) != (split == Split::validation))
            continue;
        if (row.id.empty()) row.id = format("line%d", line_number);
        problems_.push_back({row.id, row.prompt, row.answer});
    }
    size_ = int64_t(problems_.size());
    if (size_ == 0)
        fatal("problems: " + spec + " has no problem in this split",
              "is the file empty, or val_fraction too small or too large?");
}

std::vector<Problem> ProblemSet::first(int64_t count) const {
    std::vector<Problem> problems;
    for (int64_t i = 0; i < count && (size_ == 0 || i < size_); i++) problems.push_back(problem(i));
    return problems;
}

Problem ProblemSet::problem(int64_t index) const {
    if (!family_.empty()) return embedded(size_ ? index % size_ : index);
    return problems_[index % size_];
}

Problem ProblemSet::embedded(int64_t index) const {
    if (family_ == "arithmetic") {
        const bool held_out = split_ == Split::validation;
        Rng rng(held_out ? 1 : seed_, mix(uint64_t(index), held_out));
        const std::vector<Triple>& triples = held_out ? held_out_triples() : training_triples();
        const Triple& t = triples[held_out ? index : rng.below(int64_t(triples.size()))];
        return {format("%s/%ld", family_.c_str(), long(index)),
                question_text(t, int(rng.below(kPhrasings)), rng), std::to_string(t.result())};
    }
    for (uint64_t attempt = 0;; attempt++) {
        Rng rng(split_ == Split::validation ? 2 : seed_, mix(uint64_t(index), attempt));
        const Chain chain = make_chain(rng);
        if (is_held_out_chain(chain.question) != (split_ == Split::validation)) continue;
        return {format("%s/%ld", family_.c_str(), long(index)), chain.question,
                std::to_string(chain.result)};
    }
}
