// Lines of ./rollout tokenize, one JSON object each. fatal() names `where`: file and line.
#pragma once
#include "llmc/core/json.h"
#include "llmc/data/tokenizer.h"

// {"id", "text"} -> {"id", "ids"}
Json encode_line(const Tokenizer& tokenizer, const Json& line, const std::string& where);

// {"id", "ids"} -> {"id", "text"}; bytes that are not UTF-8 become U+FFFD.
Json decode_line(const Tokenizer& tokenizer, const Json& line, Specials specials,
                 const std::string& where);
