// Contract: problems.h.
#include "llmc/data/problems.h"

#include "llmc/core/error.h"
#include "llmc/core/file.h"
#include "llmc/core/json.h"
#include "llmc/core/recipe.h"
#include "llmc/core/rng.h"
#include "llmc/data/corpus.h"

#include <algorithm>

namespace {

constexpr int64_t kHeldOutChains = 200;

// ------------------------------------------------------------------------------------------------
// fields of the usual problem files; the first one that a line has counts

const char* const kPromptFields[] = {
    "prompt",   // ours, generic
    "question", // GSM8K, OlympiadBench, MMLU, ARC, TriviaQA, NQ
    "problem",  // AIME24, AIME25, AMC23, MATH-500, Minerva
    "ctx",      // HellaSwag
};
const char* const kContextField = "context"; // OlympiadBench: goes before the question
const char* const kIdFields[] = {"id", "unique_id", "idx", "ind"}; // last two: Minerva, HellaSwag
const char* const kChoiceFields[] = {"choices", "endings", "options"}; // MMLU and ARC, HellaSwag
const char* const kRightFields[] = {"answer", "answerKey", "label"};   // MMLU, ARC, HellaSwag

enum class AnswerForm {
    value,    // a string or number; after "#### " where it has that (GSM8K); a list: spellings
    list,     // of strings, all of which are the answer: joined by commas
    last_box, // the last \boxed{} of a worked solution
};
struct AnswerField {
    const char* name;
    AnswerForm form;
};
const AnswerField kAnswerFields[] = {
    {"answer", AnswerForm::value},      // GSM8K, AIME24, AIME25, AMC23, MATH-500, TriviaQA, NQ
    {"final_answer", AnswerForm::list}, // OlympiadBench
    {"solution", AnswerForm::last_box}, // Minerva
};

bool has_value(const Json& row, const char* name) {
    return row.contains(name) && !row[name].is_null();
}

std::string text_value(const Json& value, const char* name, const std::string& where) {
    if (value.is_string()) return value.get<std::string>();
    if (value.is_number()) return value.dump();
    fatal(where + ": \"" + name + "\": expected a string or a number, found " +
              value.dump().substr(0, 60),
          "write it as a string");
}

std::vector<std::string> list_value(const Json& value, const char* name, const std::string& where) {
    if (!value.is_array()) return {text_value(value, name, where)};
    std::vector<std::string> values;
    for (const Json& item : value) values.push_back(text_value(item, name, where));
    return values;
}

std::string last_box(const std::string& text) {
    const size_t open = text.rfind("\\boxed{");
    if (open == std::string::npos) return "";
    int depth = 0;
    for (size_t i = open + 6; i < text.size(); i++) {
        if (text[i] == '\\') i++;
        else if (text[i] == '{') depth++;
        else if (text[i] == '}' && --depth == 0) return text.substr(open + 7, i - open - 7);
    }
    return "";
}

void read_answer(const Json& row, const std::string& where, Problem& problem) {
    for (const auto& [name, form] : kAnswerFields) {
        if (!has_value(row, name)) continue;
        std::vector<std::string> values = list_value(row[name], name, where);
        if (values.empty()) continue;
        problem.answer = values[0];
        if (form == AnswerForm::last_box) problem.answer = last_box(values.back());
        for (size_t i = 1; i < values.size() && form == AnswerForm::list; i++)
            problem.answer += ", " + values[i];
        if (form == AnswerForm::value) {
            problem.accepted.assign(values.begin() + 1, values.end());
            const size_t mark = problem.answer.rfind("#### ");
            if (mark != std::string::npos)
                problem.answer = trim_text(problem.answer.substr(mark + 5));
        }
        return;
    }
}

// Choices are a list, or ARC's {"text": [...], "label": [...]}; the right one is named by its
// label, its letter or its index from 0.
void read_choices(const Json& row, const std::string& where, Problem& problem) {
    std::vector<std::string> labels;
    for (const char* name : kChoiceFields) {
        if (!has_value(row, name) || !problem.choices.empty()) continue;
        const bool labelled = row[name].is_object();
        problem.choices =
            list_value(labelled ? row[name].value("text", Json()) : row[name], name, where);
        if (labelled && has_value(row[name], "label"))
            labels = list_value(row[name]["label"], "label", where);
    }
    if (problem.choices.empty()) return;
    std::string right;
    for (const char* name : kRightFields)
        if (has_value(row, name) && right.empty()) right = text_value(row[name], name, where);
    int64_t index = -1;
    for (size_t i = 0; i < labels.size(); i++)
        if (labels[i] == right) index = int64_t(i);
    if (index < 0 && right.size() == 1 && right[0] >= 'A' && right[0] <= 'Z')
        index = right[0] - 'A';
    else if (index < 0 && !parse_integer(right, &index)) index = -1;
    if (index < 0 || index >= int64_t(problem.choices.size()))
        fatal(where + ": \"" + right + "\" names none of the choices",
              "the right choice is named by its label, its letter or its index from 0");
    problem.answer = std::to_string(index);
}

// A line of data/benchmarks/convert.py.
void read_converted(const Json& row, const std::string& where, Problem& problem) {
    auto words = [&](const char* name) {
        return has_value(row, name) ? list_value(row[name], name, where)
                                    : std::vector<std::string>();
    };
    problem.metric = text_value(row["metric"], "metric", where);
    if (std::find(kMetrics.begin(), kMetrics.end(), problem.metric) == kMetrics.end())
        fatal(where + ": no metric \"" + problem.metric + "\"",
              "convert the file again with this program's data/benchmarks/convert.py");
    if (has_value(row, "prompt")) problem.prompt = text_value(row["prompt"], "prompt", where);
    problem.choices = words("choices");
    problem.prompts = words("prompts");
    problem.stop = words("stop");
    const std::vector<std::string> answers = words("answer");
    if (answers.empty()) return;
    problem.answer = answers[0];
    problem.accepted.assign(answers.begin() + 1, answers.end());
    if (problem.metric != "choices") return;
    int64_t index = -1;
    const int64_t count = int64_t(problem.choices.size());
    if (!parse_integer(problem.answer, &index) || index < 0 || index >= count ||
        (!problem.prompts.empty() && int64_t(problem.prompts.size()) != count))
        fatal(where + ": answer \"" + problem.answer + "\" of " + std::to_string(count) +
                  " choices and " + std::to_string(problem.prompts.size()) + " prompts",
              "the answer is the index of a choice; prompts are none, or one per choice");
}

} // namespace

const std::vector<std::string> kMetrics = {"boxed", "lenient", "letter", "phrase",
                                           "words", "choices", "code"};

Problem parse_problem(const std::string& line, const std::string& where) {
    const Json row = json_parse(line, where);
    if (!row.is_object()) fatal(where + ": expected a JSON object", "one problem per line");
    Problem problem;
    for (const char* name : kIdFields)
        if (has_value(row, name) && problem.id.empty())
            problem.id = text_value(row[name], name, where);
    const bool converted = has_value(row, "metric");
    if (converted) read_converted(row, where, problem);
    for (const char* name : kPromptFields)
        if (has_value(row, name) && problem.prompt.empty())
            problem.prompt = text_value(row[name], name, where);
    if (!converted) read_choices(row, where, problem);
    if (!converted && problem.choices.empty()) {
        read_answer(row, where, problem);
        if (has_value(row, kContextField))
            problem.prompt =
                text_value(row[kContextField], kContextField, where) + "\n" + problem.prompt;
        if (!problem.prompt.empty()) problem.prompt += "\n";
    }
    if (problem.prompt.empty() || problem.answer.empty())
        fatal(where +
                  ": expected a problem with \"question\" or \"prompt\" and \"answer\", found " +
                  field_names(row),
              "text without an answer cannot be graded; doc/operating.md lists the forms");
    return problem;
}

std::string data_set_name(const std::string& spec) {
    std::vector<std::string> parts = split_text(spec, '/');
    std::string name = parts.back().substr(0, parts.back().rfind('.'));
    if (parts.size() > 1 && (name == "test" || name == "train" || name == "validation"))
        name = parts[parts.size() - 2];
    return name;
}

ProblemSet::ProblemSet(const std::string& spec, Split split, double val_fraction, uint64_t seed)
    : spec_(spec), split_(split), seed_(seed) {
    if (is_embedded(spec)) {
        family_ = spec.substr(9);
        if (family_ != "arithmetic" && family_ != "chains")
            usage_error("problems: no source " + spec,
                        "the embedded ones are embedded:arithmetic and embedded:chains");
        if (split == Split::validation)
            size_ = family_ == "arithmetic" ? kHeldOutTriples : kHeldOutChains;
        return;
    }
    for_each_jsonl_line(spec, read_file(spec), [&](const JsonlLine& line) {
        Problem problem = parse_problem(line.text, line.where);
        if (val_fraction > 0 &&
            in_validation(problem.prompt, val_fraction) != (split == Split::validation))
            return;
        if (problem.id.empty()) problem.id = format("line%d", line.number);
        problem.where = line.where;
        problems_.push_back(std::move(problem));
    });
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
                question_text(t, int(rng.below(kPhrasings)), rng),
                std::to_string(t.result()),
                {},
                {}};
    }
    for (uint64_t attempt = 0;; attempt++) {
        Rng rng(split_ == Split::validation ? 2 : seed_, mix(uint64_t(index), attempt));
        const Chain chain = make_chain(rng);
        if (is_held_out_chain(chain.question) != (split_ == Split::validation)) continue;
        return {format("%s/%ld", family_.c_str(), long(index)),
                chain.question,
                std::to_string(chain.result),
                {},
                {}};
    }
}
