// Contract: decode_pass.h.
#include "llmc/model/decode_pass.h"

#include "llmc/ops/attention.h"
#include "llmc/ops/embed.h"
#include "llmc/ops/kv.h"
#include "llmc/ops/linear.h"
#include "llmc/ops/norm.h"

DecodePass::DecodePass(Ctx& ctx, const Model& model, KvCache& cache, int64_t rows,
                       int64_t logits_rows)
    : ctx_(ctx), model_(model), cache_(cache), pool_(ctx.arena, Segment::rollouts),
      packed_(ctx.arena), rows_(rows) {
    const ModelConfig& c = model.config;
    const Dtype x = ctx.storage();
    acts_ = make_block_acts(pool_, pool_, c, ctx, rows, Recompute::no, nullptr);
    for (View& stream : stream_) stream = pool_.make(x, "stream", rows, c.channels);
    delta_ = pool_.make(x, "delta", rows, c.channels);
    hidden_ = pool_.make(x, "hidden", rows, c.channels);
    hidden_rstd_ = pool_.make(ctx.dtype(), "hidden_rstd", rows);
    chosen_ = pool_.make(x, "chosen", logits_rows, c.channels);
    logits_ = pool_.make(x, "logits", logits_rows, c.padded_vocab());
    if (ctx.backend != Backend::cpu) return; // the packed products are its
    for (int l = 0; l < c.layers; l++) {
        const BlockParams& w = model.pass_weights().block(l);
        for (const View* weight :
             {&w.qkv, &w.o, &w.gate_up, &w.down, &w.router, &w.experts_gate_up, &w.experts_down})
            if (!weight->empty()) packed_.add(*weight);
    }
    packed_.add(model.pass_weights().head());
}

void DecodePass::pack_weights() {
    if (packed_version_ == model_.weights_version()) return;
    packed_.pack(ctx_);
    packed_version_ = model_.weights_version();
}

void DecodePass::forward(const DecodeBatch& batch) {
    const ModelConfig& c = model_.config;
    N_ = batch.tokens.rows();
    require(N_ <= rows_, "DecodePass: %ld rows, room for %ld", long(N_), long(rows_));
    pack_weights();
    const UsePackedWeights use(ctx_, packed_);
    const View out_delta = delta_.slice_rows(0, N_);
    View inp = stream_[0].slice_rows(0, N_), delta;
    embed_forward(ctx_, inp, batch.tokens, model_.pass_weights().embed());
    for (int l = 0; l < c.layers; l++) {
        BlockActs acts = acts_;
        acts.stream = stream_[l % 2];
        acts = first_rows(acts, c, N_);
        auto attend = [&](const BlockActs& a) {
            kv_store_forward(ctx_, cache_.keys(l), cache_.values(l), k_columns(a.qk, c),
                             v_columns(a.qkv, c), batch.slot);
            attention_paged_forward(ctx_, a.attention_out, q_columns(a.qk, c), cache_.keys(l),
                                    cache_.values(l), batch.page_table, batch.row, batch.length,
                                    c.heads, c.kv_heads);
        };
        block_forward(ctx_, c, model_.pass_weights().block(l), acts, out_delta, inp, delta,
                      model_.rope(), batch.positions, attend);
        inp = acts.stream_mid;
        delta = out_delta;
    }
    rmsnorm_forward(ctx_, hidden_.slice_rows(0, N_), stream_[c.layers % 2].slice_rows(0, N_),
                    hidden_rstd_.slice_rows(0, N_), inp, delta, model_.pass_weights().final_norm(),
                    c.norm_eps);
}

View DecodePass::logits_forward(const View& rows) {
    const UsePackedWeights use(ctx_, packed_);
    const int64_t M = rows.rows();
    const View chosen = chosen_.slice_rows(0, M), logits = logits_.slice_rows(0, M);
    embed_forward(ctx_, chosen, rows, hidden_.slice_rows(0, N_)); // a row gather
    linear_forward(ctx_, logits, chosen, model_.pass_weights().head());
    return logits;
}
