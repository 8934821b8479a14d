// Bytes as tokens: 0..255, and 256 = end of text.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

class Tokenizer {
  public:
    int vocab_size() const { return 257; }
    int end_of_text() const { return 256; }
    std::vector<int32_t> encode(const std::string& text) const;    // no end of text added
    std::string decode(const int32_t* tokens, size_t count) const; // end of text decodes to nothing
    std::string decode(const std::vector<int32_t>& tokens) const;
    int bytes_of(int32_t token) const { return token < 256 ? 1 : 0; } // for bits per byte
    // tokenizer.json: the vocabulary in the Hugging Face byte-level form.
    void save(const std::string& path) const;
};
