// JSON for state files, metrics, safetensors headers and JSONL. Key order is kept as written, so
// that a file rewritten from the same values is byte-identical.
#pragma once
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

using Json = nlohmann::ordered_json;
// With sorted keys, found in logarithmic time: for files with objects of very many keys.
using SortedJson = nlohmann::json;

// Parses `text`; a syntax error is fatal() and names `what` (file and line) and the byte offset.
Json json_parse(const std::string& text, const std::string& what);
SortedJson json_parse_sorted(const std::string& text, const std::string& what);
// The same where every key of the outer object must be there once; a second one is fatal().
SortedJson json_parse_unique(const std::string& text, const std::string& what);

// The names of an object's fields for a message: `"a", "b"`; the first few; in words if there is
// none or `object` is another kind of value.
std::string field_names(const Json& object);

// Calls `take` for every line of a JSONL file's content that is not blank.
struct JsonlLine {
    std::string text;
    int number;        // from 1
    std::string where; // "path:number", for messages
};
void for_each_jsonl_line(const std::string& path, std::string_view content,
                         const std::function<void(const JsonlLine&)>& take);

// One line of a JSONL file, with its newline. Sampled bytes need not be UTF-8: what is not is
// replaced by U+FFFD.
std::string json_line(const Json& value);
