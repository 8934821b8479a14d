// Text and tokens. Two vocabularies: bytes (0..255, and 256 = end of text), which is built in, and
// a tokenizer.json of Hugging Face with byte-level BPE (bpe.h).
#pragma once
#include "llmc/core/unicode.h"

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

class Bpe;

enum class Specials { skip, keep }; // decoded to nothing, or to their names

class Tokenizer {
  public:
    Tokenizer(); // bytes
    // A tokenizer.json; bytes if the path is empty or the file is what a byte Tokenizer saves.
    // fatal() names the key that is wrong or not supported.
    explicit Tokenizer(const std::string& path);

    int vocab_size() const { return int(bytes_.size()); } // the largest id + 1
    int end_of_text() const; // fatal() if the file has no token of a known name for it
    // The tokens of the text, special ones where their names are written (not with bytes); no end
    // of text is added. Not for two threads at a time.
    std::vector<int32_t> encode(const std::string& text) const;
    // The same for the start of a document, and for a text alone: with what the file's
    // post-processor puts before it, or before and behind it. Most files put nothing.
    std::vector<int32_t> encode_start(const std::string& text) const;
    std::vector<int32_t> encode_whole(const std::string& text) const;
    // Bytes, of answers that need not be UTF-8. Unknown ids decode to nothing.
    std::string decode(const int32_t* tokens, size_t count, Specials specials) const;
    std::string decode(const std::vector<int32_t>& tokens, Specials specials) const;
    // Bytes of a text that the token stands for, for bits per byte: none if special or unknown.
    int bytes_of(int32_t token) const {
        return token < vocab_size() && !special_[size_t(token)] ? int(bytes_[size_t(token)].size())
                                                                : 0;
    }

    const std::string& json() const { return json_; } // the tokenizer.json that was read
    uint64_t hash() const;                            // hash64 of it
    // Writes tokenizer.json unchanged, and beside it what the tools of that ecosystem want: the
    // files that lay beside the one that was read (tokenizer_config.json, chat template, ...), or a
    // tokenizer_config.json that names the end of a text. Returns the hash64 of each by its name.
    std::map<std::string, uint64_t> save(const std::string& folder) const;

  private:
    void append(const std::string& text, std::vector<int32_t>& tokens) const;

    std::string json_, path_;
    std::map<std::string, std::string> companions_; // name -> content
    std::vector<std::string> bytes_;
    std::vector<bool> special_;
    std::vector<int32_t> prefix_, suffix_;
    int32_t end_of_text_ = -1;
    std::shared_ptr<const Bpe> bpe_; // null = bytes
};

// The tokenizer.json of a Hugging Face folder; bytes if it has none.
Tokenizer folder_tokenizer(const std::string& folder);

// Tokens in, UTF-8 out, as they come: a character whose bytes are not complete is held back.
class StreamDecoder {
  public:
    StreamDecoder(const Tokenizer& tokenizer, Specials specials)
        : tokenizer_(tokenizer), specials_(specials) {}
    std::string push(int32_t token);
    std::string finish() { return stream_.finish(); } // U+FFFD for what never got complete
  private:
    const Tokenizer& tokenizer_;
    Specials specials_;
    Utf8Stream stream_;
};

// All tokens at once, as UTF-8.
std::string decode_utf8(const Tokenizer& tokenizer, const std::vector<int32_t>& tokens,
                        Specials specials);
