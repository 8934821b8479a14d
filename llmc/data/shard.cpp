// Contract and layout: shard.h.
#include "llmc/data/shard.h"

#include "llmc/core/error.h"
#include "llmc/core/rng.h"

#include <algorithm>
#include <cstring>

namespace {

constexpr char kMagic[8] = {'P', 'R', 'I', 'O', 'R', 'S', 'H', 'D'};
constexpr uint64_t kHeaderBytes = 64, kSummedBytes = 56, kBlockBytes = 1 << 20;
constexpr uint32_t kVersion = 2;
const char* const kHint = "cut or damaged? Make it again with data/prepare";

template <class T> T read_at(const uint8_t* data, uint64_t offset) {
    T value;
    std::memcpy(&value, data + offset, sizeof value);
    return value;
}

template <class T> void append(std::string& out, T value) {
    out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

uint64_t block_count(uint64_t bytes) { return (bytes + kBlockBytes - 1) / kBlockBytes; }

uint64_t header_sum(const uint8_t* data, uint64_t table_bytes) {
    return mix(hash64(data, kSummedBytes), hash64(data + kHeaderBytes, table_bytes));
}

} // namespace

void ShardContent::add(const Document& document) {
    const bool masked = !trained.empty() || !document.trained.empty();
    if (masked) trained.resize(tokens.size(), 1); // those before had none
    tokens.insert(tokens.end(), document.tokens.begin(), document.tokens.end());
    trained.insert(trained.end(), document.trained.begin(), document.trained.end());
    if (masked) trained.resize(tokens.size(), 1);
    ends.push_back(tokens.size());
}

void shard_checksums(std::string& bytes, uint64_t documents, uint64_t data_bytes) {
    const uint64_t blocks = block_count(data_bytes), tables = 8 * (documents + blocks);
    if (bytes.size() != kHeaderBytes + tables + data_bytes) return;
    const char* data = bytes.data() + bytes.size() - data_bytes;
    for (uint64_t b = 0; b < blocks; b++) {
        const uint64_t at = b * kBlockBytes;
        const uint64_t sum = hash64(data + at, std::min(kBlockBytes, data_bytes - at));
        std::memcpy(bytes.data() + kHeaderBytes + 8 * (documents + b), &sum, sizeof sum);
    }
    const uint64_t sum = header_sum(reinterpret_cast<const uint8_t*>(bytes.data()), tables);
    std::memcpy(bytes.data() + kSummedBytes, &sum, sizeof sum);
}

void write_shard(const std::string& path, const ShardContent& content, const Tokenizer& tokenizer,
                 std::optional<Split> split) {
    const uint32_t vocab = uint32_t(tokenizer.vocab_size());
    const uint32_t token_bytes = vocab <= 65536 ? 2 : 4, masked = !content.trained.empty();
    std::string data;
    data.reserve(content.tokens.size() * token_bytes + content.tokens.size() / 8 + 1);
    for (const int32_t token : content.tokens) // little-endian: the low bytes are the first
        data.append(reinterpret_cast<const char*>(&token), token_bytes);
    for (size_t t = 0; t < content.trained.size(); t++) {
        if (t % 8 == 0) data += '\0';
        data.back() = char(data.back() | (content.trained[t] ? 1 << t % 8 : 0));
    }
    std::string out(kMagic, sizeof kMagic);
    append(out, kVersion);
    append(out, token_bytes);
    append(out, vocab);
    append(out, uint32_t(!split ? 0 : *split == Split::train ? 1 : 2));
    append(out, uint64_t(content.ends.size()));
    append(out, uint64_t(content.tokens.size()));
    append(out, tokenizer.hash());
    append(out, masked);
    append(out, uint32_t(0));
    append(out, uint64_t(0)); // the checksum, below
    for (const uint64_t end : content.ends) append(out, end);
    out.append(block_count(data.size()) * 8, '\0');
    const uint64_t data_bytes = data.size();
    out += data;
    shard_checksums(out, content.ends.size(), data_bytes);
    write_file_atomic(path, out);
}

Shard::Shard(const std::string& path, const Tokenizer& tokenizer) : file_(path) {
    check_header(tokenizer);
    check_tables();
}

void Shard::check_header(const Tokenizer& tokenizer) {
    const std::string& path = file_.path();
    const uint8_t* data = file_.data();
    if (file_.size() < kHeaderBytes || std::memcmp(data, kMagic, sizeof kMagic) != 0)
        fatal(path + ": byte 0: expected a shard (PRIORSHD) of 64 bytes or more, found something "
                     "else",
              kHint);
    const uint32_t version = read_at<uint32_t>(data, 8), split = read_at<uint32_t>(data, 20);
    if (version != kVersion)
        fatal(format("%s: byte 8: expected version %u, found %u", path.c_str(), kVersion, version),
              "make it again with this program's data/prepare");
    token_bytes_ = read_at<uint32_t>(data, 12);
    vocab_ = read_at<uint32_t>(data, 16);
    if ((token_bytes_ != 2 && token_bytes_ != 4) || split > 2 || vocab_ == 0 || vocab_ > 1u << 30)
        fatal(format("%s: bytes 12 to 23: %u bytes a token, vocabulary %u, split %u make no sense",
                     path.c_str(), token_bytes_, vocab_, split),
              kHint);
    if (split > 0) split_ = split == 1 ? Split::train : Split::validation;
    const uint64_t documents = read_at<uint64_t>(data, 24);
    tokens_ = read_at<uint64_t>(data, 32);
    masked_ = read_at<uint32_t>(data, 48) != 0;
    const uint64_t body = file_.size() - kHeaderBytes; // bounds first, so that nothing overflows
    data_bytes_ = tokens_ * token_bytes_ + (masked_ ? (tokens_ + 7) / 8 : 0);
    if (documents > body / 8 || tokens_ > body || data_bytes_ > body ||
        documents * 8 + block_count(data_bytes_) * 8 + data_bytes_ != body)
        fatal(format("%s: byte 24: %llu documents and %llu tokens do not fit its %llu bytes",
                     path.c_str(), (unsigned long long)documents, (unsigned long long)tokens_,
                     (unsigned long long)file_.size()),
              kHint);
    documents_ = int64_t(documents);
    data_begin_ = file_.size() - data_bytes_;
    if (header_sum(data, data_begin_ - kHeaderBytes) != read_at<uint64_t>(data, kSummedBytes))
        fatal(format("%s: byte 56: the checksum of the header and of the tables up to byte %llu "
                     "does not match",
                     path.c_str(), (unsigned long long)data_begin_),
              kHint);
    if (read_at<uint64_t>(data, 40) != tokenizer.hash() ||
        vocab_ != uint32_t(tokenizer.vocab_size()))
        fatal(
            format("%s: made with another tokenizer: of %u tokens, hash %s; this one has %d and %s",
                   path.c_str(), vocab_, hash_text(read_at<uint64_t>(data, 40)).c_str(),
                   tokenizer.vocab_size(), hash_text(tokenizer.hash()).c_str()),
            "give -tokenizer the file the shards were made with, or make them again");
}

void Shard::check_tables() {
    uint64_t previous = 0;
    for (int64_t i = 0; i < documents_; i++) {
        const uint64_t at = kHeaderBytes + 8 * uint64_t(i),
                       end = read_at<uint64_t>(file_.data(), at);
        const bool last = i + 1 == documents_;
        if (end < previous || end > tokens_ || (last && end != tokens_))
            fatal(format("%s: byte %llu: document %ld ends at token %llu of %llu, the one before "
                         "at %llu",
                         file_.path().c_str(), (unsigned long long)at, long(i),
                         (unsigned long long)end, (unsigned long long)tokens_,
                         (unsigned long long)previous),
                  kHint);
        previous = end;
    }
    if (documents_ == 0 && tokens_ > 0)
        fatal(file_.path() + ": byte 24: tokens of no document", kHint);
    checked_.assign(block_count(data_bytes_), false);
}

void Shard::check_blocks(uint64_t begin, uint64_t end) const {
    const uint8_t* sums = file_.data() + kHeaderBytes + 8 * uint64_t(documents_);
    for (uint64_t b = begin / kBlockBytes; b * kBlockBytes < end; b++) {
        if (checked_[b]) continue;
        const uint64_t at = data_begin_ + b * kBlockBytes;
        const uint64_t bytes = std::min(kBlockBytes, file_.size() - at);
        if (hash64(file_.data() + at, bytes) != read_at<uint64_t>(sums, 8 * b))
            fatal(format("%s: the checksum of bytes %llu to %llu does not match",
                         file_.path().c_str(), (unsigned long long)at,
                         (unsigned long long)(at + bytes)),
                  kHint);
        checked_[b] = true;
    }
}

Document Shard::document(int64_t index) const {
    const uint8_t* ends = file_.data() + kHeaderBytes;
    const uint64_t begin = index ? read_at<uint64_t>(ends, 8 * uint64_t(index - 1)) : 0;
    const uint64_t end = read_at<uint64_t>(ends, 8 * uint64_t(index));
    check_blocks(begin * token_bytes_, end * token_bytes_);
    const uint8_t* data = file_.data() + data_begin_;
    Document document;
    document.tokens.resize(end - begin);
    for (uint64_t t = begin; t < end; t++) {
        const uint32_t token =
            token_bytes_ == 2 ? read_at<uint16_t>(data, 2 * t) : read_at<uint32_t>(data, 4 * t);
        if (token >= vocab_)
            fatal(format("%s: byte %llu: token %u, the vocabulary is %u", file_.path().c_str(),
                         (unsigned long long)(data_begin_ + t * token_bytes_), token, vocab_),
                  kHint);
        document.tokens[t - begin] = int32_t(token);
    }
    if (!masked_ || begin == end) return document;
    const uint64_t mask = tokens_ * token_bytes_;
    check_blocks(mask + begin / 8, mask + (end + 7) / 8);
    for (uint64_t t = begin; t < end; t++)
        document.trained.push_back(data[mask + t / 8] >> t % 8 & 1);
    return document;
}
