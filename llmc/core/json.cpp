#include "llmc/core/json.h"

#include "llmc/core/error.h"

namespace {
// nlohmann recurses once per nesting level when it destroys a value: bound the depth of untrusted
// text before it is built.
constexpr int kMaxDepth = 128;

int nesting_depth(const std::string& text) {
    int depth = 0, deepest = 0;
    bool in_string = false;
    for (size_t i = 0; i < text.size(); i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\') i++;
            else if (c == '"') in_string = false;
        } else if (c == '"') in_string = true;
        else if (c == '{' || c == '[') deepest = std::max(deepest, ++depth);
        else if (c == '}' || c == ']') depth--;
    }
    return deepest;
}

template <class J> J parse(const std::string& text, const std::string& what) {
    if (nesting_depth(text) > kMaxDepth)
        fatal(format("%s: JSON nested deeper than %d levels", what.c_str(), kMaxDepth),
              "this is not a file prior.cu or the usual tools write");
    try {
        return J::parse(text);
    } catch (const typename J::parse_error& e) {
        fatal(format("%s: not valid JSON at byte %zu", what.c_str(), e.byte),
              "the file is damaged or of another kind");
    }
}
} // namespace

Json json_parse(const std::string& text, const std::string& what) {
    return parse<Json>(text, what);
}

SortedJson json_parse_sorted(const std::string& text, const std::string& what) {
    return parse<SortedJson>(text, what);
}

std::string json_line(const Json& value) {
    return value.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}
