// LaTeX or plain text as tokens, without the dress that never matters: dollars, spacing, \left and
// \right, percent signs, units behind a value, "{,}" and the like between digits, \dfrac for \frac.
#pragma once
#include "llmc/rollout/tokens.h"

#include <optional>

constexpr size_t kLongestAnswer = 4000; // bytes; what is longer is only compared as text
constexpr int kDeepest = 30;            // nested groups

// Nothing if braces are not balanced or a limit is exceeded.
std::optional<std::vector<Token>> tokenize(const std::string& text);
