// Contract: grader.h. Numbers are digit strings of any length.
#include "llmc/rollout/grader.h"

#include <algorithm>
#include <vector>

namespace {

// A non-negative integer: decimal digits without leading zeros, "0" for zero.
using Digits = std::string;

Digits strip_zeros(const Digits& digits) {
    const size_t first = digits.find_first_not_of('0');
    return first == std::string::npos ? "0" : digits.substr(first);
}

int compare(const Digits& a, const Digits& b) {
    if (a.size() != b.size()) return a.size() < b.size() ? -1 : 1;
    return a.compare(b) < 0 ? -1 : a.compare(b) > 0;
}

Digits subtract(Digits a, const Digits& b) { // a >= b
    int borrow = 0;
    for (size_t i = 0; i < a.size(); i++) {
        int digit = a[a.size() - 1 - i] - '0' - borrow;
        if (i < b.size()) digit -= b[b.size() - 1 - i] - '0';
        borrow = digit < 0;
        a[a.size() - 1 - i] = char('0' + digit + 10 * borrow);
    }
    return strip_zeros(a);
}

Digits add(Digits a, Digits b) {
    if (a.size() < b.size()) std::swap(a, b);
    a.insert(a.begin(), '0');
    int carry = 0;
    for (size_t i = 0; i < a.size(); i++) {
        int digit = a[a.size() - 1 - i] - '0' + carry;
        if (i < b.size()) digit += b[b.size() - 1 - i] - '0';
        carry = digit >= 10;
        a[a.size() - 1 - i] = char('0' + digit - 10 * carry);
    }
    return strip_zeros(a);
}

Digits multiply(const Digits& a, const Digits& b) {
    std::vector<int> sum(a.size() + b.size(), 0); // least significant first
    for (size_t i = 0; i < a.size(); i++) {
        int carry = 0;
        for (size_t j = 0; j < b.size() || carry; j++) {
            const int product =
                j < b.size() ? (a[a.size() - 1 - i] - '0') * (b[b.size() - 1 - j] - '0') : 0;
            const int digit = sum[i + j] + product + carry;
            sum[i + j] = digit % 10;
            carry = digit / 10;
        }
    }
    Digits out;
    for (size_t i = sum.size(); i-- > 0;) out += char('0' + sum[i]);
    return strip_zeros(out);
}

// Schoolbook division; b > 0.
Digits divide(const Digits& a, const Digits& b, Digits* remainder) {
    Digits quotient, rest = "0";
    for (char digit : a) {
        rest = strip_zeros(rest + digit);
        char q = '0';
        for (; compare(rest, b) >= 0; q++) rest = subtract(rest, b);
        quotient += q;
    }
    *remainder = rest;
    return strip_zeros(quotient);
}

Digits greatest_divisor(Digits a, Digits b) {
    while (b != "0") {
        Digits rest;
        divide(a, b, &rest);
        a = b;
        b = rest;
    }
    return a;
}

struct Rational {
    bool negative = false;
    Digits numerator = "0", denominator = "1";
};

std::string canonical(const Rational& r) {
    if (r.numerator == "0") return "0";
    const Digits divisor = greatest_divisor(r.numerator, r.denominator);
    Digits rest;
    const Digits n = divide(r.numerator, divisor, &rest), d = divide(r.denominator, divisor, &rest);
    return (r.negative ? "-" : "") + n + (d == "1" ? "" : "/" + d);
}

bool all_digits(const std::string& text) {
    return !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
}

// "1,234,567": groups of exactly three.
std::string drop_thousands(const std::string& text) {
    const size_t first = text.find(',');
    if (first == std::string::npos) return text;
    const std::string whole = text.substr(0, text.find('.'));
    if (first == 0 || first > 3) return text;
    for (size_t at = first; at < whole.size(); at += 4)
        if (whole[at] != ',' || !all_digits(whole.substr(at + 1, 3)) ||
            (at + 4 < whole.size() && whole[at + 4] != ',') || at + 4 > whole.size())
            return text;
    std::string out;
    for (char c : text)
        if (c != ',') out += c;
    return out;
}

// Longest number that is compared by value: longer ones are compared as text.
constexpr size_t kLongestNumber = 2000;

std::optional<Rational> parse_decimal(const std::string& grouped) {
    const std::string text = drop_thousands(grouped);
    if (text.size() > kLongestNumber) return std::nullopt;
    const size_t point = text.find('.');
    const std::string whole = text.substr(0, point);
    const std::string fraction = point == std::string::npos ? "" : text.substr(point + 1);
    if ((whole.empty() && fraction.empty()) || (!whole.empty() && !all_digits(whole)) ||
        (!fraction.empty() && !all_digits(fraction)))
        return std::nullopt;
    return Rational{false, strip_zeros(whole + fraction), "1" + std::string(fraction.size(), '0')};
}

void replace_all(std::string* text, const std::string& from, const std::string& to) {
    for (size_t at = 0; (at = text->find(from, at)) != std::string::npos; at += to.size())
        text->replace(at, from.size(), to);
}

// Drops "\name{...}" with what is inside.
void drop_command(std::string* text, const std::string& name) {
    for (size_t at; (at = text->find(name + "{")) != std::string::npos;) {
        const size_t close = text->find('}', at);
        if (close == std::string::npos) return;
        text->erase(at, close + 1 - at);
    }
}

// Without LaTeX dress and blanks: "$\dfrac{3}{4}$ " -> "\frac{3}{4}". Blanks between digits stay.
std::string undress(std::string text) {
    const bool worded = text.rfind("\\text{", 0) == 0;
    for (const char* name : {"\\text", "\\mathrm", "\\mbox"})
        if (!worded) drop_command(&text, name);
    for (const char* drop :
         {"\\$", "$", "\\%", "%", "\\(", "\\)", "\\left", "\\right", "\\!", "\\,", "\\;", "\\quad",
          "^\\circ", "^{\\circ}", "{,}", "\\text{", "\\mathrm{"})
        replace_all(&text, drop, std::string(drop) == "{,}" ? "," : "");
    if (worded) std::erase(text, '}');
    for (const char* fraction : {"\\dfrac", "\\tfrac", "\\cfrac"})
        replace_all(&text, fraction, "\\frac");
    replace_all(&text, "\xE2\x88\x92", "-"); // U+2212
    std::string out;
    for (size_t i = 0; i < text.size(); i++) {
        const bool blank = std::isspace(static_cast<unsigned char>(text[i])) || text[i] == '~';
        const bool between = !out.empty() && std::isdigit(static_cast<unsigned char>(out.back())) &&
                             i + 1 < text.size() &&
                             std::isdigit(static_cast<unsigned char>(text[i + 1]));
        if (!blank) out += text[i];
        else if (between) out += ' ';
    }
    while (!out.empty() && out.back() == '.' && out.size() > 1 && out.find('.') == out.size() - 1)
        out.pop_back();
    return out;
}

std::optional<Rational> divide_rationals(const std::optional<Rational>& a,
                                         const std::optional<Rational>& b) {
    if (!a || !b || b->numerator == "0") return std::nullopt;
    return Rational{a->negative != b->negative, multiply(a->numerator, b->denominator),
                    multiply(a->denominator, b->numerator)};
}

std::optional<Rational> parse_number(const std::string& dressed);

std::optional<Rational> parse_unsigned(const std::string& text) {
    const size_t fraction = text.find("\\frac");
    if (fraction != std::string::npos) {
        std::string rest = text.substr(fraction + 5), part[2];
        for (std::string& p : part) { // \frac{a}{b}, \frac ab
            if (rest.empty()) return std::nullopt;
            const size_t close = rest[0] == '{' ? rest.find('}') : 0;
            if (close == std::string::npos) return std::nullopt;
            p = rest[0] == '{' ? rest.substr(1, close - 1) : rest.substr(0, 1);
            rest = rest.substr(close + 1);
        }
        if (!rest.empty()) return std::nullopt;
        std::optional<Rational> value =
            divide_rationals(parse_number(part[0]), parse_number(part[1]));
        if (!value || fraction == 0) return value;
        const std::string whole = text.substr(0, fraction); // 1\frac{4}{5}
        if (!all_digits(whole) || !all_digits(part[0]) || !all_digits(part[1])) return std::nullopt;
        value->numerator = add(value->numerator, multiply(strip_zeros(whole), value->denominator));
        return value;
    }
    const size_t slash = text.find('/');
    if (slash == std::string::npos) return parse_decimal(text);
    std::string top = text.substr(0, slash);
    const size_t blank = top.find(' ');
    std::optional<Rational> bottom = parse_decimal(text.substr(slash + 1));
    if (blank == std::string::npos) return divide_rationals(parse_decimal(top), bottom);
    const std::string whole = top.substr(0, blank); // 2 3/4
    std::optional<Rational> value = divide_rationals(parse_decimal(top.substr(blank + 1)), bottom);
    if (!value || !all_digits(whole)) return std::nullopt;
    value->numerator = add(value->numerator, multiply(strip_zeros(whole), value->denominator));
    return value;
}

std::optional<Rational> parse_number(const std::string& dressed) {
    std::string text = dressed;
    bool negative = false;
    if (text.size() > 2 && text.front() == '(' && text.back() == ')')
        text = text.substr(1, text.size() - 2);
    if (!text.empty() && (text[0] == '-' || text[0] == '+')) {
        negative = text[0] == '-';
        text = text.substr(1);
    }
    std::optional<Rational> value = parse_unsigned(text);
    if (value && negative) value->negative = !value->negative;
    return value;
}

} // namespace

std::optional<std::string> extract_boxed(const std::string& text) {
    const std::string mark = "\\boxed{";
    for (size_t at = text.rfind(mark); at != std::string::npos;
         at = at ? text.rfind(mark, at - 1) : std::string::npos) {
        int depth = 1;
        for (size_t i = at + mark.size(); i < text.size(); i++) {
            const bool escaped = text[i - 1] == '\\';
            if (text[i] == '{' && !escaped) depth++;
            if (text[i] == '}' && !escaped) depth--;
            if (depth == 0) return text.substr(at + mark.size(), i - at - mark.size());
        }
    }
    return std::nullopt;
}

std::string canonical_answer(const std::string& answer) {
    const std::string text = undress(answer);
    const std::optional<Rational> value = parse_number(text);
    return value ? canonical(*value) : text;
}

bool answers_equal(const std::string& gold, const std::string& answer) {
    const std::string canonical_gold = canonical_answer(gold);
    return !canonical_gold.empty() && canonical_gold == canonical_answer(answer);
}
