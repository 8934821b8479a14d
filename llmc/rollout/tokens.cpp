// Contract: tokens.h.
#include "llmc/rollout/tokens.h"

#include <set>

bool function_name(const std::string& name) {
    static const std::set<std::string> names = {
        "sin",    "cos",  "tan",  "cot",  "sec", "csc", "arcsin", "arccos", "arctan",
        "arccot", "sinh", "cosh", "tanh", "exp", "ln",  "log",    "lg",     "sqrt"};
    return names.count(name) > 0;
}

std::string lower_case(std::string text) {
    for (char& c : text)
        if (c >= 'A' && c <= 'Z') c = char(c - 'A' + 'a');
    return text;
}

int depth_change(const Token& token) {
    if (token.kind == TokenKind::begin) return 1;
    if (token.kind == TokenKind::end) return -1;
    for (const char* open : {"(", "[", "{", "\\{", "\\lfloor", "\\lceil", "\\langle"})
        if (token.text == open) return 1;
    for (const char* close : {")", "]", "}", "\\}", "\\rfloor", "\\rceil", "\\rangle"})
        if (token.text == close) return -1;
    return 0;
}

size_t closing_token(Tokens tokens, size_t open) {
    int depth = 0;
    for (size_t i = open; i < tokens.size(); i++) {
        depth += depth_change(tokens[i]);
        if (depth == 0) return i;
    }
    return tokens.size();
}

// x_5 is x_{5}; a blank stays where it tells a list from a number.
std::string text_of(Tokens tokens) {
    std::string out;
    const auto splits = [&](size_t at) {
        return tokens[at].kind == TokenKind::number || tokens[at].is(",");
    };
    for (size_t i = tokens.size() > 1 && tokens[0].is("+"); i < tokens.size(); i++) {
        const Token& token = tokens[i];
        if (token.is("deg")) continue;
        const bool index =
            i > 0 && (tokens[i - 1].is("_") || tokens[i - 1].is("^")) && !token.is("{");
        if (token.blank_before && i > 0 && splits(i) && splits(i - 1)) out += ' ';
        out += index ? "{" + token.text + "}" : token.text;
    }
    return out;
}
