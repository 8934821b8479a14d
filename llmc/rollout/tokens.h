// An answer as tokens: made by lexer.cpp, read by form.cpp (containers) and expression.cpp.
#pragma once
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

// The tokens as text without blanks: equal texts are equal answers.
std::string text_of(Tokens tokens);
std::string lower_case(std::string text);

int depth_change(const Token& token);             // +1, -1 or 0: opens, closes
size_t closing_token(Tokens tokens, size_t open); // index of the closer; size() if there is none
bool function_name(const std::string& name);      // "sin", "ln", ...
