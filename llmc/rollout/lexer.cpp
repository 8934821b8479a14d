// Contract: lexer.h.
#include "llmc/rollout/lexer.h"

#include "llmc/core/recipe.h"
#include "llmc/rollout/latex.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

namespace {

using Names = std::set<std::string>;
using Spellings = std::map<std::string, std::string>;

Names words(const std::string& list) {
    Names out;
    for (const std::string& word : split_text(list, ' ')) out.insert(word);
    return out;
}

// {"dfrac tfrac", "\\frac"}: each of the words is spelled as the second text.
Spellings spellings(const std::vector<std::pair<std::string, std::string>>& lists) {
    Spellings out;
    for (const auto& [list, meant] : lists)
        for (const std::string& word : split_text(list, ' ')) out[word] = meant;
    return out;
}

const Names kUnits = words("dollars percent degrees seconds minutes hours days inches feet miles "
                           "cm km units");
// A \text with one of these is no unit.
const Names kConnecting =
    words("to not nor but if when where for unless than is are as by from "
          "between until with without none except no then iff least most am pm");
const Names kTextCommands = words("text mathrm mbox textrm textnormal operatorname hbox");
// Their content counts as if it stood alone.
const Names kTransparent = words("textbf mathbf boldsymbol bm mathit textit emph mathsf texttt "
                                 "boxed fbox underline rm bf it");
const Names kAccents = words("vec overline bar hat tilde dot ddot widehat mathcal mathbb mathfrak "
                             "mathscr check overrightarrow acute widetilde");
const Names kSkipped = words("left right middle big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr "
                             "Biggl Biggr limits nolimits displaystyle textstyle scriptstyle hline "
                             "hfill mathop");
const Names kBlanks = words("quad qquad enspace thinspace space");
// Commands that no value ends with.
const Names kOperators =
    words("\\le \\ge \\ne \\in \\notin \\cup \\cap \\setminus \\pm \\mp \\frac "
          "\\binom \\sqrt \\to \\approx \\equiv \\sim \\lfloor \\lceil "
          "\\langle");
const Spellings kCommands = spellings({{"dfrac tfrac cfrac", "\\frac"},
                                       {"dbinom tbinom", "\\binom"},
                                       {"leq leqslant", "\\le"},
                                       {"geq geqslant", "\\ge"},
                                       {"neq", "\\ne"},
                                       {"varnothing empty", "\\emptyset"},
                                       {"backslash", "\\setminus"},
                                       {"rightarrow longrightarrow", "\\to"},
                                       {"ldots cdots", "\\dots"},
                                       {"bigcup", "\\cup"},
                                       {"bigcap", "\\cap"},
                                       {"lbrack", "["},
                                       {"rbrack", "]"},
                                       {"lbrace", "\\{"},
                                       {"rbrace", "\\}"},
                                       {"cdot times ast", "*"},
                                       {"div", "/"},
                                       {"lt", "<"},
                                       {"gt", ">"},
                                       {"colon", ":"},
                                       {"mid vert Vert", "|"},
                                       {"lvert", "|<"},
                                       {"rvert", "|>"},
                                       {"degree", "deg"},
                                       {"prime", "'"},
                                       {"cr newline", "\\\\"}});
// UTF-8 characters: minus, times, dot, division, degree, pi, relations, sets, powers.
const Spellings kCharacters = spellings({{"\xE2\x88\x92", "-"},
                                         {"\xC3\x97 \xC2\xB7", "*"},
                                         {"\xC3\xB7", "/"},
                                         {"\xC2\xB0", "deg"},
                                         {"\xCF\x80", "\\pi"},
                                         {"\xE2\x89\xA4", "\\le"},
                                         {"\xE2\x89\xA5", "\\ge"},
                                         {"\xE2\x89\xA0", "\\ne"},
                                         {"\xE2\x88\x9E", "\\infty"},
                                         {"\xE2\x88\xAA", "\\cup"},
                                         {"\xE2\x88\xA9", "\\cap"},
                                         {"\xE2\x88\x88", "\\in"},
                                         {"\xE2\x88\x85", "\\emptyset"},
                                         {"\xC2\xB1", "\\pm"},
                                         {"\xE2\x88\x93", "\\mp"},
                                         {"\xE2\x88\x9A", "\\sqrt"},
                                         {"\xC2\xB2", "^2"},
                                         {"\xC2\xB3", "^3"}});
const Names kNoCharacters = words("\xC2\xA0 \xE2\x82\xAC \xC2\xA3"); // no-break space, currencies

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

// "sinx" and "xsinxcosx" are functions between factors, "cosine" is a word: at most two letters
// stand between functions.
bool split_functions(const std::string& run, std::vector<std::string>* pieces) {
    size_t lone = 0;
    bool found = false;
    for (size_t at = 0; at < run.size();) {
        size_t length = 0;
        for (size_t n = 6; n >= 2 && !length; n--)
            if (at + n <= run.size() && function_name(run.substr(at, n))) length = n;
        pieces->push_back(run.substr(at, length ? length : 1));
        lone = length ? 0 : lone + 1;
        if (lone > 2) return false;
        found = found || length;
        at += length ? length : 1;
    }
    return found;
}

class Lexer {
  public:
    bool lex(const std::string& s, bool words, int depth);
    std::vector<Token> out;

  private:
    static constexpr size_t kFailed = std::string::npos;

    void push(TokenKind kind, const std::string& text) {
        if (text == "\\}" && !out.empty() && out.back().is("\\{")) // no list has no items
            out.back() = {TokenKind::command, "\\emptyset", out.back().blank_before, false, 1};
        else out.push_back({kind, text, blank_, false, 1});
        blank_ = false;
    }
    void push_spelled(const std::string& text);
    bool ends_value() const;
    bool takes_one_digit() const;
    size_t group_separator(const std::string& s, size_t at) const;
    size_t lex_number(const std::string& s, size_t at);
    size_t lex_letters(const std::string& s, size_t at, bool words);
    size_t lex_symbol(const std::string& s, size_t at);
    size_t lex_foreign(const std::string& s, size_t at);
    size_t lex_mark(const std::string& s, size_t at);
    size_t lex_command(const std::string& s, size_t at, bool words, int depth);
    size_t lex_named(const std::string& name, const std::string& s, size_t at, bool words,
                     int depth);
    size_t lex_accent(const std::string& name, const std::string& s, size_t at);
    size_t lex_text(const std::string& name, const std::string& content, int depth);
    bool drop_unit(const std::string& content, int depth);
    size_t skip_unit_tail(const std::string& s, size_t at) const;
    size_t skip_unit_quotient(const std::string& s, size_t at) const;

    bool blank_ = false;
};

size_t skip_blanks(const std::string& s, size_t at) {
    while (at < s.size() && (is_blank(s[at]) || s[at] == '~')) at++;
    return at;
}

size_t letters_end(const std::string& s, size_t at) {
    while (at < s.size() && is_letter(s[at])) at++;
    return at;
}

// Behind a unit: its power, "^2", "^{-1}".
size_t skip_power(const std::string& s, size_t at) {
    size_t end = skip_blanks(s, at);
    if (end >= s.size() || s[end] != '^') return at;
    end = skip_blanks(s, end + 1);
    if (end < s.size() && is_digit(s[end])) return end + 1;
    if (end < s.size() && s[end] == '{') {
        const size_t close = closing_brace(s, end);
        if (close != std::string::npos) return close + 1;
    }
    return at;
}

void Lexer::push_spelled(const std::string& text) {
    if (text[0] == '^' && text.size() == 2) {
        push(TokenKind::symbol, "^");
        push(TokenKind::number, text.substr(1));
    } else {
        push(text[0] == '\\' && text.size() > 2 ? TokenKind::command : TokenKind::symbol, text);
    }
}

// True where a unit may follow.
bool Lexer::ends_value() const {
    if (out.empty()) return false;
    const Token& last = out.back();
    switch (last.kind) {
    case TokenKind::number: return true;
    case TokenKind::letter: return !last.word && last.run == 1;
    case TokenKind::command: return !kOperators.count(last.text);
    case TokenKind::end: return true;
    case TokenKind::symbol:
        for (const char* closer : {")", "]", "}", "\\}", "|", "|>", "!", "'", "deg"})
            if (last.text == closer) return true;
        return false;
    default: return false;
    }
}

// \frac12, \frac{1}23 and \sqrt34 take single digits.
bool Lexer::takes_one_digit() const {
    auto two_arguments = [&](size_t at) {
        return out[at].is_command("\\frac") || out[at].is_command("\\binom");
    };
    if (out.empty()) return false;
    const size_t last = out.size() - 1;
    if (two_arguments(last) || out[last].is_command("\\sqrt")) return true;
    if (last > 0 && out[last].kind == TokenKind::number) return two_arguments(last - 1);
    if (!out[last].is("}")) return false;
    int depth = 0;
    for (size_t at = last; at > 0; at--) {
        depth += out[at].is("}") ? 1 : out[at].is("{") ? -1 : 0;
        if (depth == 0) return two_arguments(at - 1);
    }
    return false;
}

// Where the three digits begin if a mark that groups thousands stands at `at`, else 0.
size_t Lexer::group_separator(const std::string& s, size_t at) const {
    for (const char* mark : {"{,}\\!", "{,}", ",\\!", "\\,", "\\!"}) {
        if (!begins(s, at, mark)) continue;
        const size_t first = skip_blanks(s, at + std::string(mark).size());
        size_t end = first;
        while (end < s.size() && is_digit(s[end])) end++;
        if (end - first == 3) return first;
    }
    return 0;
}

size_t Lexer::lex_number(const std::string& s, size_t at) {
    std::string text;
    const bool one_digit = takes_one_digit();
    auto digits = [&] {
        while (at < s.size() && is_digit(s[at]) && !(one_digit && !text.empty())) text += s[at++];
    };
    digits();
    if (one_digit && !text.empty()) {
        push(TokenKind::number, text);
        return at;
    }
    if (!text.empty() && text.size() <= 3)
        while (const size_t next = group_separator(s, at)) {
            text += s.substr(next, 3);
            at = next + 3;
        }
    const bool point = at < s.size() && s[at] == '.';
    const bool repeats = point && begins(s, at + 1, "\\overline{");
    if (repeats || (point && at + 1 < s.size() && is_digit(s[at + 1]))) {
        text += s[at++];
        digits();
        const size_t open = at + 10, close = s.find('}', at); // 0.1\overline{6}
        if (begins(s, at, "\\overline{") && close != std::string::npos && close > open &&
            close - open < 50 && std::all_of(&s[open], &s[close], is_digit)) {
            text += "(" + s.substr(open, close - open) + ")";
            at = close + 1;
        }
    } else if (point && !begins(s, at, "..")) {
        at++; // "6." is 6
    }
    const bool e = at < s.size() && (s[at] == 'e' || s[at] == 'E');
    size_t exponent = at + 1;
    if (e && exponent < s.size() && (s[exponent] == '-' || s[exponent] == '+')) exponent++;
    if (e && exponent < s.size() && is_digit(s[exponent])) {
        text += 'e';
        if (s[at + 1] == '-') text += '-';
        for (at = exponent; at < s.size() && is_digit(s[at]); at++) text += s[at];
    }
    push(TokenKind::number, text);
    return at;
}

size_t Lexer::lex_letters(const std::string& s, size_t at, bool words) {
    const size_t end = letters_end(s, at);
    const std::string run = s.substr(at, end - at), low = lower_case(run);
    if (low == "or" || low == "and") {
        push(TokenKind::join, low);
        return end;
    }
    if (run == "np" && end < s.size() && s[end] == '.') return end + 1;
    const bool behind = ends_value();
    const bool unit = kUnits.count(run) || (run.size() > 2 && kUnits.count(low));
    if (behind && out.back().kind != TokenKind::letter && unit) return skip_power(s, end);
    if (behind && out.back().is("deg") && (run == "C" || run == "F")) return end;
    if (run == "pi" || run == "infinity") {
        push(TokenKind::command, run == "pi" ? "\\pi" : "\\infty");
        return end;
    }
    if (run == "x" && behind && out.back().kind == TokenKind::number &&
        begins(s, skip_blanks(s, end), "10^")) {
        push(TokenKind::symbol, "*"); // 3 x 10^8
        return end;
    }
    std::vector<std::string> pieces;
    if (!words && split_functions(run, &pieces)) {
        for (const std::string& piece : pieces)
            push(piece.size() > 1 ? TokenKind::command : TokenKind::letter,
                 (piece.size() > 1 ? "\\" : "") + piece);
        return end;
    }
    const std::string before = " (,=<>$", after = " ),.;:=<>$!?";
    auto found = [&](const std::string& marks, size_t i) {
        return i >= s.size() || marks.find(is_blank(s[i]) ? ' ' : s[i]) != std::string::npos;
    };
    // Four letters that stand alone are a word, not a product.
    const bool word = words || (run.size() >= 4 && found(before, at - 1) && found(after, end));
    for (char c : run) {
        push(TokenKind::letter, std::string(1, c));
        out.back().word = word;
        out.back().run = int(run.size());
    }
    return end;
}

// ^\circ and ^{\prime}: no power.
size_t Lexer::lex_mark(const std::string& s, size_t at) {
    size_t end = skip_blanks(s, at + 1);
    const bool group = end < s.size() && s[end] == '{';
    if (group) end = skip_blanks(s, end + 1);
    int primes = 0;
    bool degree = false;
    for (bool more = true; more;) {
        more = false;
        for (const char* mark : {"\\circ", "\\degree", "\xC2\xB0", "\\prime", "'"}) {
            const std::string text = mark;
            const size_t next = end + text.size();
            if (!begins(s, end, text)) continue;
            if (text[0] == '\\' && next < s.size() && is_letter(s[next])) continue;
            const bool prime = text == "'" || text == "\\prime";
            primes += prime;
            degree = degree || !prime;
            end = skip_blanks(s, next);
            more = group;
        }
    }
    if (primes == 0 && !degree) return at;
    if (group && (end >= s.size() || s[end] != '}')) return at;
    for (int i = 0; i < primes; i++) push(TokenKind::symbol, "'");
    if (degree) push(TokenKind::symbol, "deg");
    return group ? end + 1 : end;
}

size_t Lexer::lex_symbol(const std::string& s, size_t at) {
    const char c = s[at];
    if (c == '$' || c == '~' || c == '%') {
        blank_ = blank_ || c != '%';
        return at + 1;
    }
    if (begins(s, at, "{,}") || c == ';') { // separates, does not group
        blank_ = true;
        push(TokenKind::symbol, ",");
        return at + (c == ';' ? 1 : 3);
    }
    if (begins(s, at, "{}^") && ends_value()) return at + 2; // 72{}^\circ
    if (c == '^') {
        const size_t end = lex_mark(s, at);
        if (end != at) return end;
    }
    for (const auto& [typed, meant] : {std::pair("<=", "\\le"), {">=", "\\ge"}, {"**", "^"}})
        if (begins(s, at, typed)) {
            push_spelled(meant);
            return at + 2;
        }
    const bool known = std::string("+-*/^_!()[]{}|,:=<>'&.").find(c) != std::string::npos;
    push(known ? TokenKind::symbol : TokenKind::other, std::string(1, c));
    return at + 1;
}

size_t Lexer::lex_foreign(const std::string& s, size_t at) {
    size_t end = at + 1;
    while (end < s.size() && (s[end] & 0xC0) == 0x80) end++;
    const std::string character = s.substr(at, end - at);
    const auto spelling = kCharacters.find(character);
    if (kNoCharacters.count(character)) blank_ = true;
    else if (spelling != kCharacters.end()) push_spelled(spelling->second);
    else push(TokenKind::other, character);
    return end;
}

size_t Lexer::skip_unit_tail(const std::string& s, size_t at) const {
    const size_t end = skip_power(s, at);
    size_t next = skip_blanks(s, end);
    for (const char* sign : {"/", "*", "\\cdot", "\\times"}) {
        if (!begins(s, next, sign)) continue;
        const size_t unit = skip_blanks(s, next + std::string(sign).size());
        if (unit < s.size() && s[unit] == '\\' &&
            kTextCommands.count(s.substr(unit + 1, letters_end(s, unit + 1) - unit - 1)))
            return unit; // dropped like the first: it stands behind the same value
        if (*sign == '/' && letters_end(s, unit) == unit + 1) { // \mathrm{m}/s^2
            next = skip_blanks(s, skip_power(s, unit + 1));
            if (next >= s.size() || s[next] == '$' || s[next] == '.') return next;
        }
    }
    return end;
}

// Behind \frac: two groups of words, {\text{m}}{\text{s}^2}; `at` itself if these are none.
size_t Lexer::skip_unit_quotient(const std::string& s, size_t at) const {
    size_t end = at;
    for (int group = 0; group < 2; group++) {
        const size_t open = skip_blanks(s, end), word = skip_blanks(s, open + 1);
        if (open >= s.size() || s[open] != '{' || word >= s.size() || s[word] != '\\' ||
            !kTextCommands.count(s.substr(word + 1, letters_end(s, word + 1) - word - 1)))
            return at;
        const size_t close = closing_brace(s, open);
        if (close == std::string::npos) return at;
        end = close + 1;
    }
    return end;
}

// True if the words behind a value are its unit; what "or" and "and" join in them is kept.
bool Lexer::drop_unit(const std::string& content, int depth) {
    std::string all;
    for (char c : content)
        if (is_letter(c)) all += c;
    if (kConnecting.count(lower_case(all))) return false; // p.m.
    bool letters = false;
    for (size_t at = 0; at < content.size();) {
        const size_t end = letters_end(content, at);
        if (end == at) {
            at++;
            continue;
        }
        const std::string word = lower_case(content.substr(at, end - at));
        if (word == "or" || word == "and")
            return letters && lex(content.substr(at), true, depth + 1);
        if (kConnecting.count(word)) return false;
        letters = true;
        at = end;
    }
    return letters;
}

// Returns 1 if the text was a unit, 0 if its words were kept, kFailed.
size_t Lexer::lex_text(const std::string& name, const std::string& content, int depth) {
    const std::string trimmed = trim_text(content);
    if (function_name(trimmed)) {
        push(TokenKind::command, "\\" + trimmed);
        return 0;
    }
    const bool letter = trimmed.size() == 1 && is_letter(trimmed[0]);
    if (letter && name != "text" && name != "mbox" && (trimmed == "e" || trimmed == "i")) {
        push(TokenKind::letter, trimmed); // \mathrm{e}^x
        return 0;
    }
    if (name == "operatorname") {
        push(TokenKind::command, "\\" + trimmed);
        return 0;
    }
    if (ends_value() && drop_unit(content, depth)) return 1;
    int longest = 0, run = 0;
    for (char c : content) longest = std::max(longest, run = is_letter(c) ? run + 1 : 0);
    const bool index = !out.empty() && (out.back().is("_") || out.back().is("^"));
    if (index) push(TokenKind::symbol, "{");
    if (!lex(content, longest > 1, depth + 1)) return kFailed;
    if (index) push(TokenKind::symbol, "}");
    return 0;
}

// \vec{v}, \mathbb R, \dot{x}: one name.
size_t Lexer::lex_accent(const std::string& name, const std::string& s, size_t at) {
    at = skip_blanks(s, at);
    size_t end = at < s.size() ? at + 1 : at;
    if (end > at && s[at] == '\\') end = letters_end(s, end);
    if (end > at && s[at] == '{') {
        end = closing_brace(s, at);
        if (end == std::string::npos) return kFailed;
        end++;
    }
    std::string text = name + ":";
    for (char c : s.substr(at, end - at))
        if (!is_blank(c) && c != '{' && c != '}') text += c;
    push(TokenKind::letter, text);
    return end;
}

size_t Lexer::lex_named(const std::string& name, const std::string& s, size_t at, bool words,
                        int depth) {
    const bool left = name == "left";
    if (kSkipped.count(name)) {
        if (!left && name != "right") return at;
        at = skip_blanks(s, at);
        if (at < s.size() && s[at] == '.') return at + 1;
        if (at >= s.size() || s[at] != '|') return at;
        push(TokenKind::symbol, left ? "|<" : "|>");
        return at + 1;
    }
    if (kBlanks.count(name)) {
        blank_ = true;
        return at;
    }
    if (name == "lor" || name == "vee" || name == "land" || name == "wedge") {
        push(TokenKind::join, "or");
        return at;
    }
    if (kAccents.count(name)) return lex_accent(name, s, at);
    if (name == "frac" && ends_value()) {
        const size_t end = skip_unit_quotient(s, at);
        if (end != at) return end;
    }
    const bool text = kTextCommands.count(name), transparent = kTransparent.count(name);
    if (!text && !transparent && name != "begin" && name != "end") {
        const auto spelling = kCommands.find(name);
        push_spelled(spelling == kCommands.end() ? "\\" + name : spelling->second);
        return at;
    }
    const size_t open = skip_blanks(s, at);
    if (open >= s.size() || s[open] != '{') return at;
    const size_t close = closing_brace(s, open);
    if (close == std::string::npos) return kFailed;
    const std::string content = s.substr(open + 1, close - open - 1);
    if (transparent) return lex(content, words, depth + 1) ? close + 1 : kFailed;
    if (text) {
        const size_t unit = lex_text(name, content, depth);
        return unit == 1 ? skip_unit_tail(s, close + 1) : unit == kFailed ? kFailed : close + 1;
    }
    const std::string environment = trim_text(content);
    push(name == "begin" ? TokenKind::begin : TokenKind::end, environment);
    if (name == "end" || environment.find("array") == std::string::npos) return close + 1;
    const size_t columns = skip_blanks(s, close + 1); // {cc}
    if (columns >= s.size() || s[columns] != '{') return close + 1;
    const size_t columns_end = closing_brace(s, columns);
    return columns_end == std::string::npos ? kFailed : columns_end + 1;
}

size_t Lexer::lex_command(const std::string& s, size_t at, bool words, int depth) {
    const size_t end = letters_end(s, at + 1);
    if (end > at + 1) return lex_named(s.substr(at + 1, end - at - 1), s, end, words, depth);
    const char c = at + 1 < s.size() ? s[at + 1] : '\0';
    if (c == '\0' || std::string("!%()[]").find(c) != std::string::npos) return at + 2;
    if (is_blank(c) || std::string("$,;:>").find(c) != std::string::npos) {
        blank_ = true;
    } else if (c == '{' || c == '}') {
        push(TokenKind::symbol, std::string("\\") + c);
    } else if (c == '|') {
        push(TokenKind::symbol, "|");
    } else if (c == '\\') {
        push(TokenKind::symbol, "\\\\");
        const size_t close = begins(s, at + 2, "[") ? s.find(']', at) : std::string::npos;
        if (close != std::string::npos && close > at + 3 && is_letter(s[close - 1]))
            return close + 1; // \\[4pt]
    } else {
        push(TokenKind::other, s.substr(at, 2));
    }
    return at + 2;
}

bool Lexer::lex(const std::string& s, bool words, int depth) {
    if (depth > kDeepest) return false;
    for (size_t at = 0; at < s.size();) {
        const char c = s[at];
        if (is_blank(c)) {
            blank_ = true;
            at++;
        } else if (is_digit(c) || (c == '.' && at + 1 < s.size() && is_digit(s[at + 1]))) {
            at = lex_number(s, at);
        } else if (is_letter(c)) {
            at = lex_letters(s, at, words);
        } else if (c == '\\') {
            at = lex_command(s, at, words, depth);
            if (at == kFailed) return false;
        } else {
            at = c & 0x80 ? lex_foreign(s, at) : lex_symbol(s, at);
        }
    }
    return true;
}

// Braces balanced, groups not too deep.
bool well_formed(Tokens tokens) {
    int braces = 0, depth = 0;
    for (const Token& token : tokens) {
        braces += token.is("{") ? 1 : token.is("}") ? -1 : 0;
        depth += depth_change(token);
        if (braces < 0 || depth > kDeepest) return false;
    }
    return braces == 0;
}

} // namespace

std::optional<std::vector<Token>> tokenize(const std::string& text) {
    if (text.size() > kLongestAnswer) return std::nullopt;
    Lexer lexer;
    if (!lexer.lex(text, false, 0)) return std::nullopt;
    while (!lexer.out.empty() && lexer.out.back().is(".")) lexer.out.pop_back();
    if (!well_formed(lexer.out)) return std::nullopt;
    return std::move(lexer.out);
}
