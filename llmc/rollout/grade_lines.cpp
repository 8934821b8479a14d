// Contract: grade_lines.h.
#include "llmc/rollout/grade_lines.h"

#include "llmc/core/error.h"
#include "llmc/rollout/grader.h"

namespace {

constexpr size_t kLargestText = size_t(64) << 20;
constexpr int kDeepestText = 8; // parts within parts

void append_text(std::string* out, const Json& value, int depth, const std::string& where) {
    const auto add = [&](const std::string& text, int64_t times) {
        if (times < 0 ||
            (times > 0 && text.size() > (kLargestText - out->size()) / uint64_t(times)))
            fatal(where + ": a text of more than 64 MB", "\"repeat\" wants [text, times]");
        for (int64_t i = 0; i < times && !text.empty(); i++) *out += text;
    };
    if (value.is_string()) return add(value.get<std::string>(), 1);
    if (value.is_number()) return add(value.dump(), 1);
    const Json parts = value.is_object() ? value.value("concat", Json()) : Json();
    if (parts.is_array() && depth < kDeepestText) {
        for (const Json& part : parts) append_text(out, part, depth + 1, where);
        return;
    }
    const Json repeat = value.is_object() ? value.value("repeat", Json()) : Json();
    if (!repeat.is_array() || repeat.size() != 2 || !repeat[0].is_string() ||
        !repeat[1].is_number_integer())
        fatal(where + ": not a text: " + value.dump(-1, ' ', true).substr(0, 60),
              "a text is a string, a number, {\"repeat\": [text, times]}, {\"concat\": [part, "
              "...]} or null");
    add(repeat[0].get<std::string>(), repeat[1].get<int64_t>());
}

} // namespace

std::optional<std::string> expand_text(const Json& value, const std::string& where) {
    if (value.is_null()) return std::nullopt;
    std::string out;
    append_text(&out, value, 0, where);
    return out;
}

Json grade_line(const Json& line, const std::string& extract, const std::string& where) {
    const bool response = line.is_object() && line.contains("response");
    const char* gold_field = line.is_object() && line.contains("gold") ? "gold" : "answer";
    const char* field = response ? "response" : "answer";
    if (!line.is_object() || !line.contains(gold_field) || !line.contains(field) ||
        std::string(gold_field) == field)
        fatal(where + ": nothing to grade, found " + field_names(line),
              "a line is an object with \"gold\" and \"answer\" or \"response\"");
    const std::optional<std::string> gold = expand_text(line[gold_field], where);
    std::optional<std::string> found = expand_text(line[field], where);
    if (response && found)
        found = extract == "lenient" ? extract_lenient(*found) : extract_boxed(*found);
    const Verdict verdict = !gold    ? Verdict{false, "no gold answer"}
                            : !found ? Verdict{false, "no answer"}
                                     : grade_answer(*gold, *found);
    return {{"id", line.value("id", Json())},
            {"equal", verdict.equal},
            {"extracted", found ? Json(*found) : Json(nullptr)},
            {"reason", verdict.reason}};
}
