// An answer as tokens: what LaTeX dress it wears falls off here, what is left is shared by the
// readers of containers (form.cpp) and of expressions (expression.cpp).
#pragma once
#include <optional>
#include <span>
#include <string>
#include <vector>

enum class TokenKind {
    number,  // 12  0.5  4.5e33  0.1(6), the last with repeating digits
    letter,  // one letter, or a name of several as in \vec{v}
    command, // \frac, \pi: with its backslash, spellings unified (\dfrac is \frac)
    symbol,  // one of + - * / ^ _ ! ( ) [ ] { } \{ \} | |< |> , : = < > ' & \\ . deg
    join,    // "or", "and": separates like a comma
    begin,   // \begin{text}
    end,     // \end{text}
    other    // anything else
};

struct Token {
    TokenKind kind;
    std::string text;
    bool blank_before; // a blank or a dollar sign
    bool word;         // a letter of a word, never a factor
    int run;           // letters that stand together

    bool is(const char* symbol) const { return kind == TokenKind::symbol && text == symbol; }
    bool is_command(const char* name) const { return kind == TokenKind::command && text == name; }
};
using Tokens = std::span<const Token>;

constexpr size_t kLongestAnswer = 4000; // bytes; what is longer is only compared as text
constexpr int kDeepest = 30;            // nested groups

// Dollars, spacing, \left and \right, percent signs, units behind a value, "{,}" and the like
// between digits are gone. Nothing if braces are not balanced, groups nest deeper than kDeepest or
// the text is longer than kLongestAnswer.
std::optional<std::vector<Token>> tokenize(const std::string& text);

// The tokens as text without blanks: equal texts are equal answers.
std::string text_of(Tokens tokens);
std::string lower_case(std::string text);

int depth_change(const Token& token);             // +1, -1 or 0: opens, closes
size_t closing_token(Tokens tokens, size_t open); // index of the closer; size() if there is none
bool function_name(const std::string& name);      // "sin", "ln", ...
