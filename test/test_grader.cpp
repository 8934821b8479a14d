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

const std::string kFolder = "test/golden/grading/";

std::vector<Json> read_rows(const std::string& name) {
    std::vector<Json> rows;
    for (const std::string& line : split_text(read_file(kFolder + name), '\n'))
        if (!line.empty()) rows.push_back(json_parse(line, name));
    return rows;
}

std::string number(const std::string& text) { return canonical_answer(text); }

} // namespace

TEST_CASE("grader: every golden pair", "[grader][golden]") {
    for (const Json& row : read_rows("pairs.jsonl")) {
        const Json verdict = grade_line(row, "boxed", "pairs.jsonl");
        CAPTURE(row["id"].get<std::string>(), row["gold"].dump(), row["answer"].dump(),
                verdict["reason"].get<std::string>());
        CHECK(verdict["equal"] == row["equal"]);
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

TEST_CASE("grader: hostile text is refused in milliseconds", "[grader]") {
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
    std::string sum = "1/7", product = "999999999999", tower = "2";
    for (int i = 8; i < 900; i++) sum += "+1/" + std::to_string(i);
    for (int i = 0; i < 300; i++) product += "*999999999999";
    for (int i = 0; i < 900; i++) tower += "^{2";
    for (const std::string& text : {sum, product, tower + std::string(900, '}'),
                                    std::string("800!/799!-800!/3!"), std::string("7^{8192}")})
        CHECK_FALSE(answers_equal("5", text));
    const double elapsed_s =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    CHECK(elapsed_s < 5);
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
