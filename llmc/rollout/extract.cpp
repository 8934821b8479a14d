// Contract: grader.h. Finds the answer in a response; what it is worth is grader.cpp's business.
#include "llmc/rollout/grader.h"

#include "llmc/core/recipe.h"
#include "llmc/rollout/latex.h"

#include <algorithm>
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
    for (size_t at = 0; (at = text.find("box", at)) != std::string::npos;) {
        const bool boxed = at >= 1 && begins(text, at - 1, "\\boxed");
        const bool framed = at >= 2 && begins(text, at - 2, "\\fbox");
        const size_t begin = boxed ? at - 1 : at - 2;
        size_t open = at += boxed ? 5 : 3;
        while (open < text.size() && is_blank(text[open])) open++;
        if ((!boxed && !framed) || open >= text.size() || text[open] != '{') continue;
        const size_t close = closing_brace(text, open);
        if (close == std::string::npos) {
            *unclosed = begin;
            return boxes;
        }
        boxes.push_back({begin, close + 1, trim_text(text.substr(open + 1, close - open - 1))});
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

std::string lower_ascii(std::string text) {
    for (char& c : text) c = char(std::tolower(static_cast<unsigned char>(c)));
    return text;
}

// X of "Answer: X": without one pair of dollars around it and a final period.
std::string strip_answer(std::string text) {
    const std::string hope = "i hope it is correct.";
    const size_t at = lower_ascii(text).find(hope);
    if (at != std::string::npos) text.erase(at, hope.size());
    const auto drop_period = [&] {
        text = trim_text(text);
        const bool period = !text.empty() && text.back() == '.';
        if (period) text = trim_text(text.substr(0, text.size() - 1));
        return period;
    };
    const bool period = drop_period();
    if (text.size() > 1 && text.front() == '$' && text.back() == '$') {
        text = text.substr(1, text.size() - 2);
        if (!period) drop_period();
    }
    return trim_text(text);
}

// Index behind the number whose digits begin at `at`: comma groups of three, decimals.
size_t number_end(const std::string& text, size_t at) {
    const auto digits = [&](size_t from) {
        size_t end = from;
        while (end < text.size() && is_digit(text[end])) end++;
        return end - from;
    };
    const size_t leading = digits(at);
    size_t end = at + leading;
    if (leading <= 3)
        while (end < text.size() && text[end] == ',' && digits(end + 1) == 3) end += 4;
    const size_t decimals = end < text.size() && text[end] == '.' ? digits(end + 1) : 0;
    return decimals ? end + 1 + decimals : end;
}

// The last one in the text, with its minus.
std::optional<std::string> last_number(const std::string& text) {
    std::optional<std::string> last;
    for (size_t at = 0; at < text.size();) {
        if (!is_digit(text[at])) {
            at++;
            continue;
        }
        const size_t end = number_end(text, at);
        const bool minus = at > 0 && text[at - 1] == '-';
        last = text.substr(at - minus, end - at + minus);
        at = end;
    }
    return last;
}

// The last X that is not empty: what stands behind one of the phrases, up to the end of its line.
// Phrases are in lower case, `low` is the text in lower case.
std::optional<std::string> last_said(const std::string& text, const std::string& low,
                                     const std::vector<std::string>& phrases) {
    std::vector<size_t> at;
    for (const std::string& phrase : phrases) at.push_back(low.rfind(phrase));
    for (;;) {
        int last = -1;
        for (size_t i = 0; i < phrases.size(); i++)
            if (at[i] != std::string::npos && (last < 0 || at[i] > at[last])) last = int(i);
        if (last < 0) return std::nullopt;
        const size_t begin = at[last] + phrases[last].size();
        const std::string said = strip_answer(text.substr(begin, text.find('\n', begin) - begin));
        if (!said.empty()) return said;
        at[last] = at[last] ? low.rfind(phrases[last], at[last] - 1) : std::string::npos;
    }
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
    std::string plain = text; // **Answer:** 5
    std::erase(plain, '*');
    const std::string low = lower_ascii(plain);
    if (auto said = last_said(plain, low, {"answer:", "final answer is"})) return said;
    if (auto marked = last_said(plain, low, {"####"})) return marked;
    return last_number(text);
}

std::optional<std::string> extract_phrase(const std::string& text) {
    std::string plain = text;
    std::erase(plain, '*');
    return last_said(plain, lower_ascii(plain), {"answer is:", "answer is"});
}

std::optional<std::string> extract_letter(const std::string& text) {
    const std::optional<std::string> said = extract_phrase(text);
    auto part_of_word = [&](size_t i) { // of the phrase; beyond its ends nothing is
        return i < said->size() && std::isalnum(static_cast<unsigned char>((*said)[i])) != 0;
    };
    for (size_t i = 0; said && i < said->size(); i++)
        if ((*said)[i] >= 'A' && (*said)[i] <= 'J' && !part_of_word(i - 1) && !part_of_word(i + 1))
            return std::string(1, (*said)[i]);
    return std::nullopt;
}
