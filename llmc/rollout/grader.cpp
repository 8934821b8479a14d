// Contract: grader.h (extraction: extract.cpp). Text is undressed once (blanks and LaTeX dress go),
// then read as a list, a container, a number or words, in this order.
#include "llmc/rollout/grader.h"

#include "llmc/core/recipe.h"
#include "llmc/rollout/latex.h"
#include "llmc/rollout/rational.h"

#include <algorithm>
#include <cctype>
#include <utility>
#include <vector>

namespace {

constexpr size_t kLongestAnswer = 4000; // characters; longer answers are compared as text
constexpr int kDeepest = 30;            // nested groups that are read

// Stand-ins for what would be ambiguous in undressed text.
constexpr char kSetOpen = '\x01', kSetClose = '\x02'; // \{ \}
constexpr char kListComma = '\x03';                   // a comma that separates for sure

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
std::string lower(std::string text) {
    for (char& c : text)
        if (c >= 'A' && c <= 'Z') c = char(c - 'A' + 'a');
    return text;
}

void replace_all(std::string* text, const std::string& from, const std::string& to) {
    for (size_t at = 0; (at = text->find(from, at)) != std::string::npos; at += to.size())
        text->replace(at, from.size(), to);
}

// Replaces a command where no letter follows: \le is not the beginning of \left.
void replace_command(std::string* text, const std::string& from, const std::string& to) {
    for (size_t at = 0; (at = text->find(from, at)) != std::string::npos;) {
        const size_t end = at + from.size();
        if (end < text->size() && is_letter((*text)[end])) {
            at = end;
            continue;
        }
        text->replace(at, from.size(), to);
        at += to.size();
    }
}

// ------------------------------------------------------------------------------------------------
// dress

// After a unit: its power, "^2" or "^{2}".
size_t skip_power(const std::string& text, size_t at) {
    if (at + 1 < text.size() && text[at] == '^') {
        if (is_digit(text[at + 1])) return at + 2;
        const size_t close = text[at + 1] == '{' ? text.find('}', at) : std::string::npos;
        if (close != std::string::npos) return close + 1;
    }
    return at;
}

// \text{...} and its kin: words are kept, joining words become commas, units after a value go.
void unwrap_words(std::string* text) {
    for (const char* name : {"\\text{", "\\mathrm{", "\\mbox{", "\\textbf{", "\\mathbf{",
                             "\\boldsymbol{", "\\textit{", "\\operatorname{"}) {
        for (size_t at; (at = text->find(name)) != std::string::npos;) {
            const size_t open = at + std::string(name).size() - 1;
            const size_t close = closing_brace(*text, open);
            if (close == std::string::npos) return;
            const std::string content = text->substr(open + 1, close - open - 1);
            const std::string word = lower(trim_text(content));
            size_t before = at, end = close + 1;
            while (before > 0 && is_blank((*text)[before - 1])) before--;
            const char last = before ? (*text)[before - 1] : '\0';
            const bool after_value = is_digit(last) || last == '}' || last == ')' || last == '.' ||
                                     last == '/' || last == '%' || last == ' ';
            const bool unit = std::string(name) != "\\textbf{" &&
                              std::string(name) != "\\boldsymbol{" && after_value;
            std::string to = content;
            if (word == "or" || word == "and" || word == ",") {
                to = std::string(1, kListComma);
            } else if (unit && word != "not" && word != "to") {
                to = "";
                end = skip_power(*text, end);
                if (last == '/') at = before - 1; // m/s
            }
            text->replace(at, end - at, to);
        }
    }
}

// Bare words that may follow a number.
void drop_unit_word(std::string* text) {
    for (const char* word : {"dollars", "percent", "degrees", "seconds", "minutes", "hours", "days",
                             "inches", "feet", "miles", "cm", "km", "units"}) {
        const size_t at = text->rfind(word);
        if (at == std::string::npos || at == 0) continue;
        if (skip_power(*text, at + std::string(word).size()) != text->size()) continue;
        const char last = (*text)[at - 1];
        if (is_digit(last) || last == '.' || last == '}') text->resize(at);
    }
}

// Blanks go, but one between digits, which may be a mixed number; "or" and "and" between blanks and
// a comma with a blank after it separate.
std::string squeeze(const std::string& text) {
    std::string out;
    for (size_t i = 0; i < text.size(); i++) {
        const char c = text[i];
        if (!is_blank(c)) {
            const bool separates = c == ',' && i + 1 < text.size() && is_blank(text[i + 1]);
            out += separates ? kListComma : c;
            continue;
        }
        size_t next = i;
        while (next < text.size() && is_blank(text[next])) next++;
        for (const char* word : {"or", "and"}) {
            const size_t end = next + std::string(word).size();
            if (begins(text, next, word) && end < text.size() && is_blank(text[end]) &&
                !out.empty()) {
                out += kListComma;
                next = end;
            }
        }
        while (next < text.size() && is_blank(text[next])) next++;
        if (!out.empty() && is_digit(out.back()) && next < text.size() && is_digit(text[next]))
            out += ' ';
        i = next - 1;
    }
    return out;
}

std::string undress(std::string text) {
    replace_all(&text, "\xE2\x88\x92", "-"); // U+2212, minus
    replace_all(&text, "\xC2\xB0", "");      // degree sign
    replace_all(&text, "\xCF\x80", "\\pi");  // Greek pi
    for (const char* space : {"\\,", "\\!", "\\;", "\\:"}) replace_all(&text, space, "");
    for (const char* space : {"\\ ", "~"}) replace_all(&text, space, " ");
    for (const char* space : {"\\quad", "\\qquad"}) replace_command(&text, space, " ");
    replace_all(&text, "{,}", ",");
    replace_all(&text, "$,", std::string("$") + kListComma); // a comma outside of mathematics
    for (const char* drop : {"\\$", "$", "\\%", "%", "\\(", "\\)", "^\\circ", "^{\\circ}",
                             "^\\degree", "\\degree", "np."})
        replace_all(&text, drop, "");
    for (const char* drop : {"\\left", "\\right", "\\displaystyle"})
        replace_command(&text, drop, "");
    unwrap_words(&text);
    const std::pair<const char*, const char*> spellings[] = {
        {"\\dfrac", "\\frac"}, {"\\tfrac", "\\frac"},
        {"\\cfrac", "\\frac"}, {"\\dbinom", "\\binom"},
        {"\\leq", "\\le"},     {"\\leqslant", "\\le"},
        {"\\geq", "\\ge"},     {"\\geqslant", "\\ge"},
        {"\\neq", "\\ne"},     {"\\varnothing", "\\emptyset"},
        {"\\cdot", "*"},       {"\\times", "*"},
        {"\\div", "/"},        {"\\lbrace", "\\{"},
        {"\\rbrace", "\\}"}};
    for (const auto& [from, to] : spellings) replace_command(&text, from, to);
    replace_all(&text, "\\{", std::string(1, kSetOpen));
    replace_all(&text, "\\}", std::string(1, kSetClose));
    text = squeeze(text);
    while (!text.empty() && (text.back() == '.' || text.back() == kListComma)) text.pop_back();
    drop_unit_word(&text);
    return text;
}

// ------------------------------------------------------------------------------------------------
// numbers

// Thousands: groups of exactly three digits in a lone number.
std::string drop_thousands(const std::string& text) {
    size_t at = !text.empty() && (text[0] == '-' || text[0] == '+') ? 1 : 0;
    std::string out = text.substr(0, at);
    size_t run = 0, groups = 0;
    for (; at < text.size() && (is_digit(text[at]) || text[at] == ','); at++) {
        if (text[at] == ',') {
            if (groups ? run != 3 : run == 0 || run > 3) return text;
            groups++;
            run = 0;
        } else {
            out += text[at];
            run++;
        }
    }
    if (groups == 0 || run != 3) return text;
    return out + text.substr(at);
}

// expr = [sign] term {(+ | -) term}, term = factor {(* | /) [sign] factor},
// factor = primary [^ group] [!]
class NumberParser {
  public:
    explicit NumberParser(const std::string& text) : text_(text) {}
    MaybeRational parse() {
        const MaybeRational value = expr(0);
        return at_ == text_.size() ? value : std::nullopt;
    }

  private:
    char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
    bool take(char c) {
        if (peek() != c) return false;
        at_++;
        return true;
    }
    bool take_word(const std::string& word) {
        if (!begins(text_, at_, word)) return false;
        at_ += word.size();
        return true;
    }

    MaybeRational expr(int depth) {
        if (depth > kDeepest) return std::nullopt;
        bool minus = take('-');
        if (!minus) take('+');
        MaybeRational sum = term(depth);
        if (minus) sum = negate(sum);
        while (sum && (peek() == '+' || peek() == '-')) {
            minus = text_[at_++] == '-';
            const MaybeRational next = term(depth);
            sum = add(sum, minus ? negate(next) : next);
        }
        return sum;
    }

    MaybeRational term(int depth) {
        MaybeRational product = factor(depth);
        while (product && (peek() == '*' || peek() == '/')) {
            const bool quotient = text_[at_++] == '/';
            const bool minus = take('-');
            MaybeRational next = factor(depth);
            if (minus) next = negate(next);
            product = quotient ? divide(product, next) : multiply(product, next);
        }
        return product;
    }

    MaybeRational factor(int depth) {
        MaybeRational value = primary(depth);
        if (value && take('^')) value = power(value, group(depth));
        if (value && take('!')) value = factorial(value);
        return value;
    }

    MaybeRational primary(int depth) {
        if (take_word("\\frac")) {
            const MaybeRational top = group(depth);
            return divide(top, group(depth));
        }
        if (take_word("\\binom")) {
            const MaybeRational n = group(depth);
            return binomial(n, group(depth));
        }
        if (take_word("\\sqrt")) {
            MaybeRational degree = Rational{false, Natural(2), Natural(1)};
            if (take('[')) {
                degree = expr(depth + 1);
                if (!take(']')) return std::nullopt;
            }
            return root(group(depth), degree);
        }
        for (const auto& [open, close] : {std::pair('(', ')'), {'{', '}'}})
            if (take(open)) {
                const MaybeRational value = expr(depth + 1);
                return take(close) ? value : std::nullopt;
            }
        return decimal(depth);
    }

    // What a LaTeX command takes: {...} or one digit.
    MaybeRational group(int depth) {
        if (take('{')) {
            const MaybeRational value = expr(depth + 1);
            return take('}') ? value : std::nullopt;
        }
        if (!is_digit(peek())) return std::nullopt;
        return Rational{false, Natural(uint64_t(text_[at_++] - '0')), Natural(1)};
    }

    std::string take_digits() {
        const size_t begin = at_;
        while (is_digit(peek())) at_++;
        return text_.substr(begin, at_ - begin);
    }

    static MaybeRational whole_number(const std::string& digits) {
        if (digits.empty() || digits.size() > kLongestAnswer) return std::nullopt;
        return Rational{false, Natural::from_digits(digits), Natural(1)};
    }

    MaybeRational decimal(int depth) {
        const MaybeRational ten = Rational{false, Natural(10), Natural(1)};
        const std::string whole = take_digits();
        std::string fraction;
        const bool point = take('.');
        if (point) fraction = take_digits();
        MaybeRational value = whole_number(whole + fraction);
        if (!fraction.empty())
            value = divide(value, power(ten, whole_number(std::to_string(fraction.size()))));
        const size_t sign =
            at_ + 1 < text_.size() && (text_[at_ + 1] == '-' || text_[at_ + 1] == '+');
        if ((peek() == 'e' || peek() == 'E') && at_ + 1 + sign < text_.size() &&
            is_digit(text_[at_ + 1 + sign])) {
            const bool minus = text_[at_ + 1] == '-';
            at_ += 1 + sign;
            const MaybeRational exponent = whole_number(take_digits());
            return multiply(value, power(ten, minus ? negate(exponent) : exponent));
        }
        return point || whole.empty() ? value : mixed(value, depth);
    }

    // An integer followed by a fraction of integers is their sum: 1\frac{4}{5}, 2 3/4.
    MaybeRational mixed(const MaybeRational& whole, int depth) {
        if (begins(text_, at_, "\\frac")) {
            const size_t begin = at_;
            const MaybeRational part = primary(depth);
            for (size_t i = begin + 5; i < at_; i++)
                if (!is_digit(text_[i]) && text_[i] != '{' && text_[i] != '}') return std::nullopt;
            return add(whole, part);
        }
        if (take(' ')) {
            const MaybeRational top = whole_number(take_digits());
            if (!take('/')) return std::nullopt;
            return add(whole, divide(top, whole_number(take_digits())));
        }
        return whole;
    }

    const std::string& text_;
    size_t at_ = 0;
};

// ------------------------------------------------------------------------------------------------
// structure

int depth_change(char c) {
    if (c == '(' || c == '[' || c == '{' || c == kSetOpen) return 1;
    return c == ')' || c == ']' || c == '}' || c == kSetClose ? -1 : 0;
}

// Parts between separators that stand in no group.
template <class IsSeparator>
std::vector<std::string> split_top(const std::string& text, const IsSeparator& is_separator) {
    std::vector<std::string> parts(1);
    int depth = 0;
    for (size_t i = 0; i < text.size();) {
        depth += depth_change(text[i]);
        const size_t skip = depth == 0 ? is_separator(i) : 0;
        if (skip) parts.emplace_back();
        else parts.back() += text[i];
        i += skip ? skip : 1;
    }
    return parts;
}

std::vector<std::string> split_commas(const std::string& text) {
    std::vector<std::string> parts =
        split_top(text, [&](size_t i) { return size_t(text[i] == ',' || text[i] == kListComma); });
    std::erase(parts, ""); // "2, 3, and 5"
    return parts;
}

// True if one group spans the whole text.
bool enclosed(const std::string& text) {
    int depth = 0;
    for (size_t i = 0; i < text.size(); i++) {
        depth += depth_change(text[i]);
        if (depth == 0) return i + 1 == text.size() && i > 0;
        if (depth < 0) return false;
    }
    return false;
}

bool balanced(const std::string& text) {
    int braces = 0;
    for (char c : text) {
        braces += c == '{' ? 1 : c == '}' ? -1 : 0;
        if (braces < 0) return false;
    }
    return braces == 0;
}

// A letter or command with subscript and primes, perhaps applied to names: x, x_1, \theta, f(x),
// (x,y).
bool is_name(const std::string& text) {
    size_t at = 0;
    const bool tuple = !text.empty() && text[0] == '(';
    if (!tuple) {
        if (text.empty() || (!is_letter(text[0]) && text[0] != '\\')) return false;
        at = 1;
        if (text[0] == '\\')
            while (at < text.size() && is_letter(text[at])) at++;
        if (at < text.size() && text[at] == '_') {
            const size_t close = begins(text, at + 1, "{") ? text.find('}', at) : at + 1;
            if (close == std::string::npos) return false;
            at = close + 1;
        }
        while (at < text.size() && text[at] == '\'') at++;
    }
    if (at >= text.size()) return true;
    if (text[at] != '(' || text.back() != ')') return false;
    for (size_t i = at + 1; i + 1 < text.size(); i++)
        if (!is_letter(text[i]) && text[i] != ',' && text[i] != kListComma) return false;
    return true;
}

// Splits "x=5" and "x\in[0,1]" into name and value; the name is empty where there is none.
std::pair<std::string, std::string> split_name(const std::string& text) {
    size_t at = text.find('='), skip = 1;
    if (at == std::string::npos) {
        at = text.find("\\in");
        skip = 3;
        if (at == std::string::npos || (at + 3 < text.size() && is_letter(text[at + 3])))
            return {"", text};
    } else if (text.find('=', at + 1) != std::string::npos) {
        return {"", text};
    }
    if (at + skip >= text.size() || !is_name(text.substr(0, at))) return {"", text};
    return {text.substr(0, at), text.substr(at + skip)};
}

std::string joined(std::vector<std::string> parts, const char* separator, bool sorted) {
    if (sorted) std::sort(parts.begin(), parts.end());
    std::string out;
    for (const std::string& part : parts) out += (out.empty() ? "" : separator) + part;
    return out;
}

// Neither number nor container.
std::string canonical_text(std::string text) {
    std::erase(text, ' ');
    for (const char mark : {'_', '^'}) // x_{5} is x_5
        for (size_t at = 0; (at = text.find(mark, at)) != std::string::npos; at++)
            if (at + 3 < text.size() && text[at + 1] == '{' && text[at + 3] == '}') {
                text.erase(at + 3, 1);
                text.erase(at + 1, 1);
            }
    if (text.size() > 1 && std::all_of(text.begin(), text.end(), [](char c) {
            return is_letter(c) || is_digit(c) || c == '-' || c == '\'';
        }))
        return lower(text);
    for (const auto& [more, less] : {std::pair(">", "<"), {"\\ge", "\\le"}, {"=", "="}}) {
        const size_t at = text.find(more);
        if (at == std::string::npos || text.find(more, at + 1) != std::string::npos) continue;
        const std::string left = text.substr(0, at),
                          right = text.substr(at + std::string(more).size());
        if (*more == '=' && left <= right) return text;
        return right + less + left; // 3<x for x>3; the sides of an equation in order
    }
    return text;
}

std::string canonical_list(const std::string& text, int depth);

std::string canonical_item(const std::string& named, int depth) {
    const std::string text = split_name(named).second;
    if (depth > kDeepest || text.empty()) return text;
    const MaybeRational number = NumberParser(text).parse();
    if (number) return number->text();
    std::vector<std::string> parts =
        split_top(text, [&](size_t i) { return begins(text, i, "\\cup") ? size_t(4) : size_t(0); });
    if (parts.size() > 1) {
        for (std::string& part : parts) part = canonical_item(part, depth + 1);
        return joined(parts, " U ", true);
    }
    if (!enclosed(text)) return begins(text, 0, "+") ? text.substr(1) : canonical_text(text);
    const std::string inner = text.substr(1, text.size() - 2);
    if (text[0] == kSetOpen || text[0] == '{') return canonical_list(inner, depth + 1);
    parts = split_commas(inner);
    if (parts.size() == 1 && text[0] == '(' && text.back() == ')')
        return canonical_item(inner, depth + 1); // (7), (C)
    for (std::string& part : parts) part = canonical_item(part, depth + 1);
    return text[0] + joined(parts, ",", false) + text.back();
}

// One item, or several in any order; a name all items share is dropped.
std::string canonical_list(const std::string& text, int depth) {
    if (depth > kDeepest) return text;
    const MaybeRational lone =
        depth == 0 ? NumberParser(drop_thousands(text)).parse() : std::nullopt;
    if (lone) return lone->text();
    std::vector<std::string> items = split_commas(text), forms;
    bool one_name = true;
    for (const std::string& item : items)
        one_name = one_name && split_name(item).first == split_name(items[0]).first;
    for (const std::string& item : items) {
        const std::string kept = one_name || items.size() == 1 ? "" : split_name(item).first + "=";
        if (item.find("\\pm") == std::string::npos && item.find("\\mp") == std::string::npos) {
            forms.push_back(kept + canonical_item(item, depth + 1));
            continue;
        }
        for (const auto& [plus, minus] : {std::pair("+", "-"), {"-", "+"}}) {
            std::string one = item;
            replace_command(&one, "\\pm", plus);
            replace_command(&one, "\\mp", minus);
            forms.push_back(kept + canonical_item(one, depth + 1));
        }
    }
    return forms.size() == 1 ? forms[0] : joined(forms, "; ", true);
}

} // namespace

std::string canonical_answer(const std::string& answer) {
    const std::string trimmed = trim_text(answer);
    if (trimmed.size() > kLongestAnswer) return trimmed;
    const std::string text = undress(trimmed);
    return balanced(text) ? canonical_list(text, 0) : text;
}

bool answers_equal(const std::string& gold, const std::string& answer) {
    const std::string canonical_gold = canonical_answer(gold);
    return !canonical_gold.empty() && canonical_gold == canonical_answer(answer);
}
