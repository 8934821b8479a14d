// Contract: tokenizer.h.
#include "llmc/data/tokenizer.h"

#include "llmc/core/error.h"
#include "llmc/core/file.h"
#include "llmc/core/json.h"
#include "llmc/data/bpe.h"

#include <algorithm>

namespace {

// Names of the token behind a document, the first one that a file has as an added token counts.
const char* const kEndNames[] = {"<|endoftext|>",
                                 "<|end_of_text|>",
                                 "<|end_of_document|>",
                                 "<eos>",
                                 "</s>",
                                 "<|eot_id|>",
                                 "<|im_end|>",
                                 "<\xEF\xBD\x9C"
                                 "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>"};

// What lies beside a tokenizer.json and goes with it, unchanged.
const char* const kCompanions[] = {"tokenizer_config.json",
                                   "special_tokens_map.json",
                                   "added_tokens.json",
                                   "vocab.json",
                                   "merges.txt",
                                   "chat_template.jinja"};

Json tokenizer_config(const std::string& end_of_text) {
    Json json;
    json["tokenizer_class"] = "PreTrainedTokenizerFast"; // everything is in tokenizer.json
    json["bos_token"] = nullptr;
    json["eos_token"] = end_of_text;
    json["pad_token"] = end_of_text;
    json["clean_up_tokenization_spaces"] = false;
    return json;
}

Json byte_tokenizer_json() {
    Json vocab = Json::object();
    for (int byte = 0; byte < 256; byte++) vocab[printable_byte(byte)] = byte;
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
    return json;
}

} // namespace

Tokenizer::Tokenizer() : json_(byte_tokenizer_json().dump(1) + "\n"), end_of_text_(256) {
    for (int byte = 0; byte < 256; byte++) bytes_.push_back(std::string(1, char(byte)));
    bytes_.push_back("<|endoftext|>");
    special_.assign(256, false);
    special_.push_back(true);
}

Tokenizer::Tokenizer(const std::string& path) : Tokenizer() {
    if (path.empty()) return;
    std::string text = read_file(path);
    if (text == json_) return;
    path_ = path;
    json_ = std::move(text);
    const std::string folder = path.substr(0, path.find_last_of('/') + 1);
    for (const char* name : kCompanions)
        if (path_exists(folder + name)) companions_[name] = read_file(folder + name);
    auto bpe = std::make_shared<const Bpe>(read_tokenizer_file(json_, path));
    const TokenizerFile& file = bpe->file();
    bytes_ = file.bytes;
    special_ = file.special;
    prefix_ = file.prefix;
    suffix_ = file.suffix;
    end_of_text_ = -1;
    for (const char* name : kEndNames)
        for (const AddedToken& token : file.added)
            if (end_of_text_ < 0 && token.content == name) end_of_text_ = token.id;
    bpe_ = std::move(bpe);
}

int Tokenizer::end_of_text() const {
    if (end_of_text_ >= 0) return end_of_text_;
    std::string names;
    for (const char* name : kEndNames) names += std::string(names.empty() ? "" : ", ") + name;
    fatal(path_ + ": added_tokens: no token for the end of a document, expected one of " + names,
          "add <|endoftext|> as a special token; a document must end for the model to learn it");
}

void Tokenizer::append(const std::string& text, std::vector<int32_t>& tokens) const {
    tokens.reserve(tokens.size() + text.size() / (bpe_ ? 3 : 1) + 2);
    if (bpe_) return bpe_->encode(text, tokens);
    for (unsigned char byte : text) tokens.push_back(byte);
}

std::vector<int32_t> Tokenizer::encode(const std::string& text) const {
    std::vector<int32_t> tokens;
    append(text, tokens);
    return tokens;
}

std::vector<int32_t> Tokenizer::encode_start(const std::string& text) const {
    std::vector<int32_t> tokens = prefix_;
    append(text, tokens);
    return tokens;
}

std::vector<int32_t> Tokenizer::encode_whole(const std::string& text) const {
    std::vector<int32_t> tokens = encode_start(text);
    tokens.insert(tokens.end(), suffix_.begin(), suffix_.end());
    return tokens;
}

std::string Tokenizer::decode(const int32_t* tokens, size_t count, Specials specials) const {
    std::string text;
    for (size_t i = 0; i < count; i++) {
        const bool known = tokens[i] >= 0 && tokens[i] < vocab_size();
        if (known && (specials == Specials::keep || !special_[size_t(tokens[i])]))
            text += bytes_[size_t(tokens[i])];
    }
    return text;
}

std::string Tokenizer::decode(const std::vector<int32_t>& tokens, Specials specials) const {
    return decode(tokens.data(), tokens.size(), specials);
}

uint64_t Tokenizer::hash() const { return hash64(json_.data(), json_.size()); }

std::map<std::string, uint64_t> Tokenizer::save(const std::string& folder) const {
    std::map<std::string, std::string> files = companions_;
    files["tokenizer.json"] = json_;
    if (!files.count("tokenizer_config.json"))
        files["tokenizer_config.json"] =
            tokenizer_config(decode({end_of_text()}, Specials::keep)).dump(2) + "\n";
    std::map<std::string, uint64_t> hashes;
    for (const auto& [name, content] : files) {
        write_file_atomic(folder + "/" + name, content);
        hashes[name] = hash64(content.data(), content.size());
    }
    return hashes;
}

Tokenizer folder_tokenizer(const std::string& folder) {
    const std::string path = folder + "/tokenizer.json";
    return Tokenizer(path_exists(path) ? path : "");
}

std::string StreamDecoder::push(int32_t token) {
    return stream_.push(tokenizer_.decode(&token, 1, specials_));
}

std::string decode_utf8(const Tokenizer& tokenizer, const std::vector<int32_t>& tokens,
                        Specials specials) {
    Utf8Stream stream;
    std::string text = stream.push(tokenizer.decode(tokens, specials));
    return text + stream.finish();
}
