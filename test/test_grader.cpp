// The grader (llmc/rollout/grader.h) and its exact arithmetic (rational.h).
#include "test/catch.h"

#include "llmc/core/error.h"
#include "llmc/core/file.h"
#include "llmc/core/json.h"
#include "llmc/core/recipe.h"
#include "llmc/core/rng.h"
#include "llmc/rollout/grade_lines.h"
#include "llmc/rollout/grader.h"
#include "llmc/rollout/rational.h"

#include <chrono>
#include <numeric>

namespace {

const char* const kFolders[] = {"test/golden/grading/", "test/golden/grading_more/"};

std::vector<Json> read_rows(const std::string& name) {
    std::vector<Json> rows;
    for (const std::string folder : kFolders)
        for (const std::string& line : split_text(read_file(folder + name), '\n'))
            if (!line.empty()) rows.push_back(json_parse(line, name));
    return rows;
}

std::string number(const std::string& text) { return canonical_answer(text); }

std::string repeated(const std::string& text, int times) {
    std::string out;
    for (int i = 0; i < times; i++) out += text;
    return out;
}

} // namespace

TEST_CASE("grader: every golden pair, either side first", "[grader][golden]") {
    for (const Json& row : read_rows("pairs.jsonl")) {
        const Json verdict = grade_line(row, "boxed", "pairs.jsonl");
        CAPTURE(row["id"].get<std::string>(), row["gold"].dump(),
                row["answer"].dump().substr(0, 99), verdict["reason"].get<std::string>());
        CHECK(verdict["equal"] == row["equal"]);
        const auto gold = expand_text(row["gold"], ""), answer = expand_text(row["answer"], "");
        if (answer) CHECK(answers_equal(*answer, *gold) == row["equal"].get<bool>());
    }
}

TEST_CASE("grader: every golden extraction", "[grader][golden]") {
    for (const Json& row : read_rows("extraction.jsonl")) {
        const std::string response = *expand_text(row["response"], "extraction.jsonl");
        CAPTURE(row["id"].get<std::string>(), response.substr(0, 100));
        const auto boxed = extract_boxed(response), lenient = extract_lenient(response);
        CHECK((boxed ? Json(*boxed) : Json(nullptr)) == row["expected_boxed"]);
        CHECK((lenient ? Json(*lenient) : Json(nullptr)) == row["expected_lenient"]);
    }
}

TEST_CASE("grader: a line of a file says what was read and why", "[grader]") {
    const auto grade = [](const char* line) {
        return grade_line(json_parse(line, "line"), "lenient", "line");
    };
    const Json right = grade(R"({"id": 7, "gold": "1/2", "response": "so 0.5"})");
    CHECK(right.dump() == R"({"id":7,"equal":true,"extracted":"0.5","reason":"same value"})");
    CHECK(grade(R"({"gold": 27.0, "answer": "27"})")["equal"] == true);
    CHECK(grade(R"({"answer": "5", "response": "\\boxed{5}"})")["equal"] == true);
    const Json none = grade(R"({"id": "a", "gold": "5", "answer": null})");
    CHECK(none.dump() == R"({"id":"a","equal":false,"extracted":null,"reason":"no answer"})");
    CHECK(grade(R"({"gold": "77", "answer": {"concat": ["7", {"repeat": ["7", 1]}]}})")["equal"] ==
          true);
    for (const char* bad : {R"({"gold": "5"})", R"({"answer": "5"})", R"([1])",
                            R"({"gold": "5", "answer": {"repeat": ["5", -1]}})",
                            R"({"gold": "5", "answer": {"repeat": ["5", 1000000000000]}})",
                            R"({"gold": "5", "answer": {"repeat": [5, 5]}})"})
        CHECK_THROWS(grade(bad));
}

TEST_CASE("grader: equal numbers have one canonical form", "[grader]") {
    CHECK(number("0.750") == "3/4");
    CHECK(number("\\dfrac{-6}{-8}") == "3/4");
    CHECK(number("x = 75\\%") == "75");
    CHECK(number("-0") == "0");
    CHECK(number("-1\\frac12") == "-3/2");
    CHECK(number("\\sqrt{\\frac{9}{16}}") == "3/4");
    CHECK(number("2^{-2}") == "1/4");
    CHECK(number("10!/8!") == "90");
    CHECK(number("\\boxed") == "");
    CHECK_FALSE(answers_equal("2", "\\sqrt{4.1}"));
}

TEST_CASE("grader: votes have one name for equal answers", "[grader]") {
    for (const char* pair : {"\\sqrt{50} 5\\sqrt2", "(x+1)^2 x^2+2x+1", "\\pm2 \\{-2,2\\}",
                             "y=2x 2x", "2\\pi \\pi+\\pi", "x>3 3<x", "[0,.5] [0,\\frac12]",
                             "x+y=5 5-x=y", "\\text{Yes} yes", "\\sin\\pi \\cos\\frac{\\pi}2"}) {
        const std::vector<std::string> sides = split_text(pair, ' ');
        CAPTURE(pair);
        CHECK(canonical_answer(sides[0]) == canonical_answer(sides[1]));
    }
}

TEST_CASE("grader: a megabyte of hostile text is refused at once", "[grader]") {
    for (const char* unit :
         {"9", "(", "{", "\\", "\\frac", "\\boxed{", "\\text{", "x^", "1,", "5 or ", "$"}) {
        const std::string text = repeated(unit, 1000000 / int(std::string(unit).size()));
        const auto start = std::chrono::steady_clock::now();
        CHECK_FALSE(answers_equal("5", text));
        CHECK_FALSE(answers_equal("x^2+1", text));
        const double elapsed_ms =
            std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
                .count();
        CAPTURE(unit);
        CHECK(elapsed_ms < 200); // some 0.1 ms alone on a core, without a sanitizer
        extract_boxed(text);
        extract_lenient(text);
    }
}

TEST_CASE("grader: no text up to the limit takes long or loses to itself", "[grader]") {
    const auto start = std::chrono::steady_clock::now();
    Rng rng(5, 1);
    const std::string alphabet = "0123456789+-*/^!(){}[],.\\ $%e";
    for (int i = 0; i < 3000; i++) {
        std::string text;
        const int64_t length = rng.below(i % 100 == 0 ? 4000 : 60);
        for (int64_t c = 0; c < length; c++)
            text += rng.chance(0.1) ? "\\frac" : std::string(1, alphabet[size_t(rng.below(29))]);
        const std::string form = canonical_answer(text);
        if (!form.empty()) CHECK(answers_equal(text, text));
        extract_lenient("\\boxed{" + text);
    }
    for (const char* unit : {"5+", "1/7+", "800!*", "1500!/", "2^{8000}*", "1e4800*",
                             "\\sqrt{2^{500}}+", "\\sin x+", "f(x)", "\\sqrt2", "[1,2]\\cup",
                             "x=", "1<", "\\pm1,", "a_b", "1&", "||x|", "\\binom{99999}{50000}+"})
        CHECK_FALSE(answers_equal("5", repeated(unit, 3990 / int(std::string(unit).size()))));
    const std::string factor = "(" + repeated("x+", 20) + "x)\\begin{pmatrix}";
    CHECK_FALSE(answers_equal("5", factor + repeated("1&", 1900) + "1\\end{pmatrix}"));
    for (const auto& [open, close] : {std::pair("(", ")"),
                                      {"x=(", ")"},
                                      {"1=(", ")=1"},
                                      {"\\frac{1}{", "}"},
                                      {"x^{", "}"},
                                      {"\\{", "\\}"},
                                      {"f(", ")"},
                                      {"\\text{", "}"},
                                      {"\\left|", "\\right|"}})
        for (const int depth : {25, 100, 400})
            CHECK_FALSE(answers_equal("7", repeated(open, depth) + "2" + repeated(close, depth)));
    const double elapsed_s =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    CHECK(elapsed_s < 20);
}

TEST_CASE("rational: arithmetic agrees with 64-bit integers and with itself", "[grader]") {
    Rng rng(9, 2);
    for (int i = 0; i < 500; i++) {
        const int64_t a = rng.between(1, 1 << 30), b = rng.between(1, 1 << 30),
                      c = rng.between(1, 999);
        const Natural x{uint64_t(a)}, y{uint64_t(b)};
        Natural rest;
        CHECK((x * y).digits() == std::to_string(a * b));
        CHECK((x * y).divided_by(Natural(uint64_t(c)), &rest).digits() ==
              std::to_string(a * b / c));
        CHECK((x * y - x).digits() == std::to_string(a * b - a));
        const Natural large = x * y * x * y * y;
        CHECK(Natural::compare(large.divided_by(x * y, &rest), x * y * y) == 0);
        CHECK(Natural::greatest_divisor(x * y, x * Natural(uint64_t(c))).digits() ==
              std::to_string(a * std::gcd(b, c)));
        CHECK(Natural::compare(Natural::from_digits(large.digits()), large) == 0);
        CHECK(Natural::compare((x * x * x).root(3), x) == 0);
        CHECK(Natural::compare((x * x + x).root(2), x) == 0);
    }
}
