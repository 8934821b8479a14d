// Is an answer right? Rational values exactly, irrational ones to 1e-10, containers part by part;
// the rules are in test/golden/grading/README.md. Time and memory are bounded on any text.
#pragma once
#include <optional>
#include <string>

// The content of the last \boxed{...} or \fbox{...} with balanced braces; boxes joined by commas or
// "and" are one list: "3, 5". Nothing if there is none; a box that never closes hides what follows.
std::optional<std::string> extract_boxed(const std::string& text);

// For models that were not taught to box: the last box, else the last line with "Answer: X" or
// "final answer is X", else the last "#### X", else the last number.
std::optional<std::string> extract_lenient(const std::string& text);

// What stands behind the last "answer is", up to the end of its line; and the letter A to J of it
// that stands alone: "(C)", "C.", "C".
std::optional<std::string> extract_phrase(const std::string& text);
std::optional<std::string> extract_letter(const std::string& text);

struct Verdict {
    bool equal;
    std::string reason; // a few words, for people
};
Verdict grade_answer(const std::string& gold, const std::string& answer);
bool answers_equal(const std::string& gold, const std::string& answer);

// A name that equal answers share but for rare rounding, for counting votes: "3/4" for 0.75,
// \frac{3}{4} and x = 75/100. Longer than the answer only by a constant factor.
std::string canonical_answer(const std::string& answer);
