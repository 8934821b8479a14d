// Files of answers to grade, one JSON object a line: ./rollout grade and the golden pairs.
#pragma once
#include "llmc/core/json.h"

#include <optional>
#include <string>

// A text of such a line: a string or a number; {"repeat": [text, n]} is text n times, {"concat":
// [part, ...]} joins parts; null = none. Anything else, or more than 64 MB, is fatal() and names
// `where`.
std::optional<std::string> expand_text(const Json& value, const std::string& where);

// {"id", "equal", "extracted", "reason"} of a line with "gold" and either "response", from which
// the answer is extracted, or "answer". Without "gold", "answer" is the gold one, as ./rollout
// evaluate writes it. extract = "boxed" or "lenient".
Json grade_line(const Json& line, const std::string& extract, const std::string& where);
