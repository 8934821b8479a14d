// Reading LaTeX text by characters: shared by extract.cpp and grader.cpp.
#pragma once
#include <cctype>
#include <string>

inline bool is_digit(char c) { return c >= '0' && c <= '9'; }
inline bool is_blank(char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; }
inline bool begins(const std::string& text, size_t at, const std::string& what) {
    return text.compare(at, what.size(), what) == 0;
}

// Index of the brace that closes the one at `open`; npos if none does. \{ and \} are no groups.
inline size_t closing_brace(const std::string& text, size_t open) {
    int depth = 0;
    for (size_t i = open; i < text.size(); i++) {
        if (text[i] == '\\') i++;
        else if (text[i] == '{') depth++;
        else if (text[i] == '}' && --depth == 0) return i;
    }
    return std::string::npos;
}
