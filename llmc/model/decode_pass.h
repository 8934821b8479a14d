// Forward of single tokens over a paged KV cache: N rows, each the next token (or one of the
// prompt's tokens) of some sequence. The same ops as TrainPass::forward, so that a row's hidden
// state and logits are bit for bit those of a training forward over the whole sequence. The weights
// are read from a second copy, packed for few rows (device/gemm_rows.h), which follows them when
// they change.
#pragma once
#include "llmc/device/gemm_rows.h"
#include "llmc/model/kv_cache.h"
#include "llmc/model/model.h"

struct DecodeBatch {
    View tokens, positions; // (N) i32
    View row;               // (N) i32 line of page_table
    View length;            // (N) i32 keys seen, this token included: position + 1
    View slot;              // (N) i32 where its key goes: page * page_size + line
    View page_table;        // (R, max_pages) i32
};

class DecodePass {
  public:
    // rows: largest N of one call; logits_rows: largest M of logits_forward.
    DecodePass(Ctx& ctx, const Model& model, KvCache& cache, int64_t rows, int64_t logits_rows);

    void forward(const DecodeBatch& batch);

    // Logits of chosen rows of the last forward.
    //   rows (M) i32; returns (M, Vp), valid until the next call
    View logits_forward(const View& rows);

    size_t bytes() const { return pool_.bytes() + packed_.bytes(); }

  private:
    void pack_weights();

    Ctx& ctx_;
    const Model& model_;
    KvCache& cache_;
    BufferPool pool_;
    BlockActs acts_;
    View delta_, stream_[2], hidden_, hidden_rstd_, chosen_, logits_;
    PackedWeights packed_;
    uint64_t packed_version_ = UINT64_MAX; // none yet
    int64_t rows_, N_ = 0;
};
