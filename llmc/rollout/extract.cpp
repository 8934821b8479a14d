// Contract: grader.h. Finds the answer in a response; what it is worth is grader.cpp's business.
#include "llmc/rollout/grader.h"

#include "llmc/core/recipe.h"
#include "llmc/rollout/latex.h"

#include <cctype>
#include <vector>

namespace {

struct Box {
    size_t begin, end; // of the whole command
    std::string content;
};

// Every closed box outside of another; *unclosed = where the first one that never closes begins.
std::vector<Box> find_boxes(const std::string& text, size_t* unclosed) {
    std::vector<Box> boxes;
    *unclosed = std::string::npos;
    for (size_t at = 0; (at = text.find('\\', at)) != std::string::npos;) {
        const size_t name = begins(text, at, "\\boxed") ? 6 : begins(text, at, "\\fbox") ? 5 : 0;
        size_t open = at + name;
        while (name && open < text.size() && is_blank(text[open])) open++;
        if (!name || open >= text.size() || text[open] != '{') {
            at++;
            continue;
        }
        const size_t close = closing_brace(text, open);
        if (close == std::string::npos) {
            *unclosed = at;
            return boxes;
        }
        boxes.push_back({at, close + 1, trim_text(text.substr(open + 1, close - open - 1))});
        at = close + 1;
    }
    return boxes;
}

// Blanks and dollars around "," or "and" or both.
bool joins_boxes(std::string between) {
    std::erase(between, '$');
    between = trim_text(between);
    return between == "," || between == "and" ||
           (between[0] == ',' && trim_text(between.substr(1)) == "and");
}

// X of "Answer: X": without asterisks, dollars around it, a final period.
std::string strip_answer(std::string text) {
    const std::string hope = "I hope it is correct.";
    const size_t at = text.find(hope);
    if (at != std::string::npos) text.erase(at, hope.size());
    std::erase(text, '*');
    for (int pass = 0; pass < 2; pass++) {
        text = trim_text(text);
        if (!text.empty() && text.back() == '.') text.pop_back();
        if (text.size() > 1 && text.front() == '$' && text.back() == '$')
            text = text.substr(1, text.size() - 2);
    }
    return trim_text(text);
}

// Minus, digits with comma groups, decimals; the last one in the text.
std::optional<std::string> last_number(const std::string& text) {
    size_t end = text.size();
    while (end > 0 && !is_digit(text[end - 1])) end--;
    if (end == 0) return std::nullopt;
    size_t begin = end;
    while (begin > 0 && (is_digit(text[begin - 1]) ||
                         (begin > 1 && (text[begin - 1] == ',' || text[begin - 1] == '.') &&
                          is_digit(text[begin - 2]))))
        begin--;
    if (begin > 0 && text[begin - 1] == '-') begin--;
    return text.substr(begin, end - begin);
}

} // namespace

std::optional<std::string> extract_boxed(const std::string& text) {
    size_t unclosed;
    const std::vector<Box> boxes = find_boxes(text, &unclosed);
    if (boxes.empty()) return std::nullopt;
    size_t first = boxes.size() - 1;
    while (first > 0 && joins_boxes(text.substr(boxes[first - 1].end,
                                                boxes[first].begin - boxes[first - 1].end)))
        first--;
    std::string out = boxes[first].content;
    for (size_t i = first + 1; i < boxes.size(); i++) out += ", " + boxes[i].content;
    return out;
}

std::optional<std::string> extract_lenient(const std::string& whole) {
    if (auto boxed = extract_boxed(whole)) return boxed;
    size_t unclosed;
    find_boxes(whole, &unclosed);
    const std::string text = whole.substr(0, unclosed);
    std::optional<std::string> said, marked;
    for (const std::string& line : split_text(text, '\n')) {
        std::string small = line;
        for (char& c : small) c = char(std::tolower(static_cast<unsigned char>(c)));
        for (const char* phrase : {"answer:", "final answer is"}) {
            const size_t at = small.rfind(phrase);
            if (at == std::string::npos) continue;
            const std::string rest = strip_answer(line.substr(at + std::string(phrase).size()));
            if (!rest.empty()) said = rest;
        }
        const size_t at = line.rfind("####");
        if (at != std::string::npos) marked = strip_answer(line.substr(at + 4));
    }
    if (said) return said;
    return marked ? marked : last_number(text);
}
