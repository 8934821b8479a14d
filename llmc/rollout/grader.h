// Is an answer right? Exact for whatever has a rational value; no floating point.
#pragma once
#include <optional>
#include <string>

// The content of the last \boxed{...} or \fbox{...} with balanced braces; boxes joined by commas or
// "and" are one list: "3, 5". Nothing if there is none; a box that never closes hides what follows.
std::optional<std::string> extract_boxed(const std::string& text);

// For models that were not taught to box: the last box, else the last line with "Answer: X" or
// "final answer is X", else the last "#### X", else the last number.
std::optional<std::string> extract_lenient(const std::string& text);

// True if both sides have the same canonical form, and not the empty one.
bool answers_equal(const std::string& gold, const std::string& answer);

// What equal answers share, and what Cons@n clusters by: "3/4" for 0.75, \frac{3}{4}, x = 75/100.
//   number     decimal, fraction, mixed number, power, factorial, binomial, product, sum or exact
//              root of those, with sign, thousands separators, currency, percent, degrees, a unit:
//              reduced, "-12", "3/4"
//   container  tuple, interval, union, list, set: element by element; the last three in any order
//   the rest   its text without LaTeX dress, blanks, final period; words in lower case
std::string canonical_answer(const std::string& answer);
