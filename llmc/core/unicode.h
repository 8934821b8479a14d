// UTF-8, NFC and character properties, the same whatever Unicode version the installed libraries
// know: properties are those of Unicode 16 and NFC is that of Unicode 9, as in Hugging Face's
// tokenizers, whose token ids must come out.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

constexpr int32_t kNotUtf8 = -1, kCutUtf8 = -2;

struct Utf8Char {
    int32_t code; // kNotUtf8; kCutUtf8 = the text ends inside a character
    int bytes;    // of the character, or of the longest ill-formed part, at least 1
};
Utf8Char first_char(std::string_view text); // text not empty
size_t valid_utf8_prefix(std::string_view text);
void append_utf8(std::string* out, int32_t code);

// Bytes in, UTF-8 out: what is ill-formed becomes one U+FFFD per longest ill-formed part (the
// Unicode standard's practice), and a character that is not complete yet is held back.
class Utf8Stream {
  public:
    std::string push(std::string_view bytes);
    std::string finish(); // what was held back is ill-formed now
  private:
    std::string held_;
};

// Sampled bytes for a terminal or a log: UTF-8, line ends and tabs as they are, other controls (an
// untrained model writes escape sequences too) as their pictures, U+2400 and on.
std::string printable_text(std::string_view bytes);

// Bytes of UTF-8's byte order mark at the begin of a file, which Windows editors write: 3 or 0.
size_t byte_order_mark(std::string_view text);

std::string to_nfc(std::string_view text); // text is UTF-8; linear time

// `text` with every character whose properties the libraries may not know replaced by one of equal
// category and length, for matching only.
std::string with_known_properties(std::string_view text);

bool is_space(int32_t code); // White_Space
bool is_word(int32_t code);  // \w: alphabetic, mark, decimal digit, connector or joiner
