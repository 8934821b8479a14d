#include "llmc/core/json.h"

#include "llmc/core/error.h"

#include <set>

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

template <class J>
J parse(const std::string& text, const std::string& what,
        const typename J::parser_callback_t& callback) {
    if (const size_t zero = text.find('\0'); zero != std::string::npos) // the library stops there
        fatal(format("%s: not valid JSON at byte %zu", what.c_str(), zero + 1),
              "the file is damaged or of another kind");
    if (nesting_depth(text) > kMaxDepth)
        fatal(format("%s: JSON nested deeper than %d levels", what.c_str(), kMaxDepth),
              "this is not a file prior.cu or the usual tools write");
    try {
        return J::parse(text, callback);
    } catch (const typename J::parse_error& e) {
        fatal(format("%s: not valid JSON at byte %zu", what.c_str(), e.byte),
              "the file is damaged or of another kind");
    } catch (
        const typename J::out_of_range& e) { // 1e999; the library ends with the number in quotes
        fatal(what + ": a number that no double holds: " + e.what(),
              "the file is damaged or of another kind");
    }
}
} // namespace

Json json_parse(const std::string& text, const std::string& what) {
    return parse<Json>(text, what, nullptr);
}

SortedJson json_parse_sorted(const std::string& text, const std::string& what) {
    return parse<SortedJson>(text, what, nullptr);
}

SortedJson json_parse_unique(const std::string& text, const std::string& what) {
    std::set<std::string> keys;
    std::string twice;
    SortedJson json = parse<SortedJson>(
        text, what, [&](int depth, SortedJson::parse_event_t event, SortedJson& value) {
            if (depth == 1 && event == SortedJson::parse_event_t::key &&
                !keys.insert(value.get_ref<const std::string&>()).second)
                twice = value.get<std::string>();
            return true;
        });
    if (!twice.empty())
        fatal(what + ": \"" + twice + "\" appears twice", "the file is damaged or of another kind");
    return json;
}

std::string field_names(const Json& object) {
    if (!object.is_object()) return std::string("no object but ") + object.type_name();
    std::string names;
    size_t shown = 0;
    for (const auto& [name, value] : object.items()) {
        if (shown++ == 8) return names + ", ...";
        names += (names.empty() ? "" : ", ") +
                 Json(name).dump(-1, ' ', false, Json::error_handler_t::replace);
    }
    return names.empty() ? "no field" : names;
}

void for_each_jsonl_line(const std::string& path, std::string_view content,
                         const std::function<void(const JsonlLine&)>& take) {
    int number = 0;
    for (size_t at = 0; at < content.size();) {
        const std::string_view line = content.substr(at, content.find('\n', at) - at);
        at += line.size() + 1;
        number++;
        if (line.find_first_not_of(" \t\r") == line.npos) continue;
        take({std::string(line), number, format("%s:%d", path.c_str(), number)});
    }
}

std::string json_line(const Json& value) {
    return value.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}
