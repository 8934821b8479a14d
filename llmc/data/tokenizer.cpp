// Contract: tokenizer.h.
#include "llmc/data/tokenizer.h"

#include "llmc/core/file.h"
#include "llmc/core/json.h"

std::vector<int32_t> Tokenizer::encode(const std::string& text) const {
    std::vector<int32_t> tokens;
    tokens.reserve(text.size());
    for (unsigned char byte : text) tokens.push_back(byte);
    return tokens;
}

std::string Tokenizer::decode(const int32_t* tokens, size_t count) const {
    std::string text;
    for (size_t i = 0; i < count; i++)
        if (tokens[i] >= 0 && tokens[i] < 256) text += char(tokens[i]);
    return text;
}

std::string Tokenizer::decode(const std::vector<int32_t>& tokens) const {
    return decode(tokens.data(), tokens.size());
}

// Hugging Face writes a byte as a printable character: itself where it is one, else U+0100 and up
// in the order of the bytes that are not (the GPT-2 byte map).
static std::string printable_byte(int byte, int* next) {
    const bool itself = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    const int code = itself ? byte : 256 + (*next)++;
    if (code < 128) return std::string(1, char(code));
    return {char(0xC0 | code >> 6), char(0x80 | (code & 63))};
}

void Tokenizer::save(const std::string& path) const {
    Json vocab = Json::object();
    int next = 0;
    for (int byte = 0; byte < 256; byte++) vocab[printable_byte(byte, &next)] = byte;
    Json end = {
        {"id", 256},       {"content", "<|endoftext|>"}, {"single_word", false}, {"lstrip", false},
        {"rstrip", false}, {"normalized", false},        {"special", true}};
    Json byte_level = {{"type", "ByteLevel"},
                       {"add_prefix_space", false},
                       {"trim_offsets", true},
                       {"use_regex", false}};
    Json json;
    json["version"] = "1.0";
    json["truncation"] = nullptr;
    json["padding"] = nullptr;
    json["added_tokens"] = Json::array({end});
    json["normalizer"] = nullptr;
    json["pre_tokenizer"] = byte_level;
    json["post_processor"] = nullptr;
    json["decoder"] = byte_level;
    json["model"] = {{"type", "BPE"},
                     {"dropout", nullptr},
                     {"unk_token", nullptr},
                     {"continuing_subword_prefix", nullptr},
                     {"end_of_word_suffix", nullptr},
                     {"fuse_unk", false},
                     {"byte_fallback", false},
                     {"vocab", vocab},
                     {"merges", Json::array()}};
    write_file_atomic(path, json.dump(1) + "\n");
}
