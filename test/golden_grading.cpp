// Golden vectors of the grader: pairs.jsonl (equality, per kind) and extraction.jsonl; the error is
// the share of lines with another verdict. Formats: test/golden/grading/README.md.
#include "llmc/core/file.h"
#include "llmc/core/recipe.h"
#include "llmc/rollout/grade_lines.h"
#include "llmc/rollout/grader.h"
#include "test/golden_report.h"

#include <map>

namespace {

std::vector<Json> read_lines(const std::string& path) {
    std::vector<Json> lines;
    for (const std::string& line : split_text(read_file(path), '\n'))
        if (!line.empty()) lines.push_back(json_parse(line, path));
    return lines;
}

struct Tally {
    int wrong = 0, all = 0;
    void add(bool right) {
        wrong += !right;
        all++;
    }
    double error() const { return double(wrong) / all; }
};

} // namespace

void run_grading(GoldenReport& report, const std::string& directory) {
    std::map<std::string, Tally> kinds;
    for (const Json& row : read_lines(directory + "/pairs.jsonl")) {
        const bool equal = grade_line(row, "boxed", directory).at("equal").get<bool>();
        kinds[row.at("kind").get<std::string>()].add(equal == row.at("equal").get<bool>());
    }
    for (const auto& [kind, tally] : kinds)
        report.add(format("pairs.%s (%d of %d)", kind.c_str(), tally.all - tally.wrong, tally.all),
                   tally.error(), 0);
    Tally boxed, lenient;
    for (const Json& row : read_lines(directory + "/extraction.jsonl")) {
        const std::string response = *expand_text(row.at("response"), directory);
        auto json = [](const std::optional<std::string>& found) {
            return found ? Json(*found) : Json(nullptr);
        };
        boxed.add(json(extract_boxed(response)) == row.at("expected_boxed"));
        lenient.add(json(extract_lenient(response)) == row.at("expected_lenient"));
    }
    report.add("extraction.boxed", boxed.error(), 0);
    report.add("extraction.lenient", lenient.error(), 0);
}
