// Is an answer right? Exact for integers, decimals and fractions; no floating point.
#pragma once
#include <optional>
#include <string>

// The content of the last \boxed{...} with balanced braces; nothing if there is none.
std::optional<std::string> extract_boxed(const std::string& text);

// True if both sides are the same rational number - written as an integer, a decimal, a fraction (a/b,
// \frac{a}{b}), a mixed number, with sign, thousands separators, currency, percent or a unit in \text{} - or,
// where one is no number, the same text after blanks and LaTeX dress are dropped.
bool answers_equal(const std::string& gold, const std::string& answer);

// The canonical form of an answer: equal answers have equal forms ("3/4", "-12"). What Cons@n clusters by.
std::string canonical_answer(const std::string& answer);
