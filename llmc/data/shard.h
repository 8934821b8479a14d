// Token shards: our binary corpus format, little-endian.
//
//   offset  0  "PRIORSHD"      8 bytes
//           8  version 1       u32
//          12  bytes per token u32    2 or 4
//          16  documents D     u64
//          24  tokens T        u64
//          32  xxh3 of all that follows  u64
//          40  document ends   u64[D]  in tokens, ascending, the last one = T
//        ....  tokens          T values
#pragma once
#include "llmc/core/file.h"

#include <cstdint>
#include <string>
#include <vector>

void write_shard(const std::string& path, const std::vector<std::vector<int32_t>>& documents);

// A memory-mapped shard; every bound and the checksum are tested on opening.
class Shard {
  public:
    Shard(const std::string& path, int vocab);
    int64_t documents() const { return int64_t(ends_.size()); }
    std::vector<int32_t> document(int64_t index) const;

  private:
    MappedFile file_;
    std::vector<uint64_t> ends_;
    const uint8_t* tokens_ = nullptr;
    uint32_t token_bytes_ = 0;
};
