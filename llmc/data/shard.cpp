// Contract and layout: shard.h.
#include "llmc/data/shard.h"

#include "llmc/core/error.h"

#include <algorithm>
#include <cstring>

namespace {
constexpr char kMagic[8] = {'P', 'R', 'I', 'O', 'R', 'S', 'H', 'D'};
constexpr size_t kHeaderBytes = 40;

template <class T> T read_at(const uint8_t* data, size_t offset) {
    T value;
    std::memcpy(&value, data + offset, sizeof value);
    return value;
}
} // namespace

void write_shard(const std::string& path, const std::vector<std::vector<int32_t>>& documents) {
    int32_t largest = 0;
    std::string ends, tokens;
    uint64_t total = 0;
    for (const auto& document : documents)
        for (int32_t token : document) largest = std::max(largest, token);
    const uint32_t token_bytes = largest < 65536 ? 2 : 4;
    for (const auto& document : documents) {
        total += document.size();
        ends.append(reinterpret_cast<const char*>(&total), sizeof total);
        for (int32_t token : document)
            tokens.append(reinterpret_cast<const char*>(&token), token_bytes);
    }
    const std::string body = ends + tokens;
    const uint64_t count = documents.size(), hash = hash64(body.data(), body.size());
    const uint32_t version = 1;
    std::string out(kMagic, sizeof kMagic);
    out.append(reinterpret_cast<const char*>(&version), 4);
    out.append(reinterpret_cast<const char*>(&token_bytes), 4);
    out.append(reinterpret_cast<const char*>(&count), 8);
    out.append(reinterpret_cast<const char*>(&total), 8);
    out.append(reinterpret_cast<const char*>(&hash), 8);
    write_file_atomic(path, out + body);
}

Shard::Shard(const std::string& path, int vocab) : file_(path) {
    const char* hint =
        "write shards with the scripts in data/; a cut or damaged one must be made again";
    const uint8_t* data = file_.data();
    if (file_.size() < kHeaderBytes || std::memcmp(data, kMagic, sizeof kMagic) != 0)
        fatal(path + ": expected a shard (PRIORSHD), found something else", hint);
    const uint32_t version = read_at<uint32_t>(data, 8);
    token_bytes_ = read_at<uint32_t>(data, 12);
    const uint64_t documents = read_at<uint64_t>(data, 16), tokens = read_at<uint64_t>(data, 24);
    if (version != 1 || (token_bytes_ != 2 && token_bytes_ != 4))
        fatal(format("%s: expected version 1 with 2 or 4 bytes a token, found version %u with %u",
                     path.c_str(), version, token_bytes_),
              hint);
    const uint64_t body = file_.size() - kHeaderBytes;
    if (documents > body / 8 || tokens > (body - documents * 8) / token_bytes_ ||
        documents * 8 + tokens * token_bytes_ != body)
        fatal(format("%s: %llu documents and %llu tokens do not fit its %llu bytes", path.c_str(),
                     (unsigned long long)documents, (unsigned long long)tokens,
                     (unsigned long long)file_.size()),
              hint);
    if (hash64(data + kHeaderBytes, body) != read_at<uint64_t>(data, 32))
        fatal(path + ": the checksum does not match", hint);
    uint64_t previous = 0;
    for (uint64_t i = 0; i < documents; i++) {
        const uint64_t end = read_at<uint64_t>(data, kHeaderBytes + 8 * i);
        if (end < previous || end > tokens)
            fatal(format("%s: document %llu ends at token %llu, before it begins or past the end",
                         path.c_str(), (unsigned long long)i, (unsigned long long)end),
                  hint);
        ends_.push_back(previous = end);
    }
    tokens_ = data + kHeaderBytes + documents * 8;
    for (uint64_t i = 0; i < tokens; i++) {
        const uint32_t token = token_bytes_ == 2 ? read_at<uint16_t>(tokens_, 2 * i)
                                                 : read_at<uint32_t>(tokens_, 4 * i);
        if (token >= uint32_t(vocab))
            fatal(format("%s: token %llu is %u, the vocabulary is %d", path.c_str(),
                         (unsigned long long)i, token, vocab),
                  "the shard was made with another tokenizer");
    }
}

std::vector<int32_t> Shard::document(int64_t index) const {
    const uint64_t begin = index ? ends_[index - 1] : 0, end = ends_[index];
    std::vector<int32_t> tokens;
    for (uint64_t i = begin; i < end; i++)
        tokens.push_back(token_bytes_ == 2 ? read_at<uint16_t>(tokens_, 2 * i)
                                           : int32_t(read_at<uint32_t>(tokens_, 4 * i)));
    return tokens;
}
