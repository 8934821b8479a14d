// Token shards: our binary corpus format, little-endian, version 2. data/prepare writes it.
//
//   offset  0  "PRIORSHD"       8 bytes
//           8  version 2        u32
//          12  bytes per token  u32    2 or 4
//          16  vocabulary       u32    every id is below it
//          20  split            u32    0 = none, 1 = training, 2 = validation
//          24  documents D      u64
//          32  tokens T         u64
//          40  tokenizer        u64    xxh3 of its tokenizer.json
//          48  loss mask        u32    1 = there is one; then u32 0
//          56  checksum         u64    xxh3 of bytes 0..55 and of the two tables, mixed
//          64  document ends    u64[D] in tokens, ascending, the last one = T
//        ....  block checksums  u64[ceil(P / 1 MiB)]
//        ....  P bytes of tokens, T values, then with a loss mask ceil(T / 8) bytes: bit t % 8 of
//              byte t / 8 = token t is a target
//
// Header and tables are checked when a shard is opened, a block of data when it is first read: a
// corpus larger than memory opens at once, and no damaged token reaches a model.
#pragma once
#include "llmc/core/file.h"
#include "llmc/data/document.h"
#include "llmc/data/tokenizer.h"

#include <optional>

// Documents on their way into a shard.
struct ShardContent {
    std::vector<int32_t> tokens;
    std::vector<uint64_t> ends;
    std::vector<uint8_t> trained; // per token, as Document's; empty = no loss mask
    void add(const Document& document);
};

void write_shard(const std::string& path, const ShardContent& content, const Tokenizer& tokenizer,
                 std::optional<Split> split);

// Puts the right checksums into a shard's bytes, whose header and size fit: D documents, P bytes.
void shard_checksums(std::string& bytes, uint64_t documents, uint64_t data_bytes);

// A memory-mapped shard. fatal() names the file and the byte of a fault.
class Shard {
  public:
    Shard(const std::string& path, const Tokenizer& tokenizer);
    int64_t documents() const { return documents_; }
    int64_t tokens() const { return int64_t(tokens_); }
    std::optional<Split> split() const { return split_; }
    Document document(int64_t index) const; // as it was added; not for two threads at a time

  private:
    void check_header(const Tokenizer& tokenizer);
    void check_tables();
    void check_blocks(uint64_t begin, uint64_t end) const; // bytes of the data

    MappedFile file_;
    uint32_t token_bytes_ = 0, vocab_ = 0;
    bool masked_ = false;
    int64_t documents_ = 0;
    uint64_t tokens_ = 0, data_begin_ = 0, data_bytes_ = 0;
    std::optional<Split> split_;
    mutable std::vector<bool> checked_; // blocks
};
