// Contract: block.h.
#include "llmc/model/block.h"

#include "llmc/device/gemm.h"
#include "llmc/ops/attention.h"
#include "llmc/ops/linear.h"
#include "llmc/ops/moe.h"
#include "llmc/ops/norm.h"
#include "llmc/ops/rope.h"
#include "llmc/ops/swiglu.h"

#include <algorithm>
#include <utility>

constexpr size_t kAlignment = 64; // of a lent tensor, in bytes

void BufferPool::lend(const View& place) {
    const size_t begin = size_t(place.data);
    const size_t skipped = std::min(round_up(begin, kAlignment) - begin, place.bytes());
    lent_ = static_cast<char*>(place.data) + skipped;
    lent_bytes_ = place.empty() ? 0 : place.bytes() - skipped;
}

void* BufferPool::take_lent(int64_t elements, Dtype dtype) {
    const size_t room = round_up(size_t(elements) * dtype_bytes(dtype), kAlignment);
    if (room > lent_bytes_) return nullptr;
    lent_bytes_ -= room;
    return std::exchange(lent_, lent_ + room);
}

View BufferPool::make(Dtype dtype, const char* name, int64_t n0) {
    if (void* memory = take_lent(n0, dtype)) return make_view(memory, dtype, name, n0);
    buffers_.emplace_back(arena_, segment_, dtype, name, n0);
    return buffers_.back().view();
}

View BufferPool::make(Dtype dtype, const char* name, int64_t n0, int64_t n1) {
    if (void* memory = take_lent(n0 * n1, dtype)) return make_view(memory, dtype, name, n0, n1);
    buffers_.emplace_back(arena_, segment_, dtype, name, n0, n1);
    return buffers_.back().view();
}

// ------------------------------------------------------------------------------------------------
// tensors

static int64_t slot_rows(const ModelConfig& c, int64_t N) {
    return c.moe() ? N * c.experts_per_token : N;
}
static int64_t ffn_width(const ModelConfig& c) { return c.moe() ? c.expert_ffn : c.ffn; }

// The largest first: what is lent is filled in this order.
static void make_product_acts(BlockActs& a, BufferPool& pool, const ModelConfig& c, const Ctx& ctx,
                              int64_t N) {
    const int64_t S = slot_rows(c, N);
    const Dtype x = ctx.storage(), f = ctx.dtype();
    a.gate_up = pool.make(x, "gate_up", S, 2 * ffn_width(c));
    if (c.moe()) a.slots = pool.make(x, "slots", S, c.channels);
    a.qkv = pool.make(x, "qkv", N, c.qkv_width());
    a.attention_out = pool.make(x, "attention_out", N, c.q_width());
    a.stream_mid = pool.make(x, "stream_mid", N, c.channels);
    a.lse = pool.make(f, "lse", N, c.heads);
    if (!c.moe()) return;
    a.router_logits = pool.make(f, "router_logits", N, c.experts);
    a.scores = pool.make(f, "scores", N, c.experts);
    a.expert_weights = pool.make(f, "expert_weights", N, c.experts_per_token);
    a.experts = pool.make(Dtype::i32, "experts", N, c.experts_per_token);
    a.offsets = pool.make(Dtype::i32, "offsets", c.experts + 1);
    a.slot_row = pool.make(Dtype::i32, "slot_row", S);
    a.row_slot = pool.make(Dtype::i32, "row_slot", N, c.experts_per_token);
}

// Selective: the two norms' outputs are never needed at the same time.
static void make_elementwise_acts(BlockActs& a, BufferPool& pool, const ModelConfig& c,
                                  const Ctx& ctx, int64_t N, Recompute recompute) {
    const Dtype x = ctx.storage(), f = ctx.dtype();
    a.attention_in = pool.make(x, "attention_in", N, c.channels);
    a.attention_rstd = pool.make(f, "attention_rstd", N);
    a.ffn_in =
        recompute == Recompute::selective ? a.attention_in : pool.make(x, "ffn_in", N, c.channels);
    a.ffn_rstd = pool.make(f, "ffn_rstd", N);
    a.qk = pool.make(x, "qk", N, c.q_width() + c.kv_width());
    a.qk_rstd = pool.make(f, "qk_rstd", N, c.heads + c.kv_heads);
    a.act = pool.make(x, "act", slot_rows(c, N), ffn_width(c));
}

BlockActs make_block_acts(BufferPool& kept, BufferPool& shared, const ModelConfig& c,
                          const Ctx& ctx, int64_t N, Recompute recompute, const BlockActs* before) {
    BlockActs a = before ? *before : BlockActs{};
    const bool keep_products = recompute != Recompute::yes, keep_all = recompute == Recompute::no;
    if (keep_products || !before) make_product_acts(a, keep_products ? kept : shared, c, ctx, N);
    if (keep_all || !before)
        make_elementwise_acts(a, keep_all ? kept : shared, c, ctx, N, recompute);
    return a;
}

BlockActs first_rows(const BlockActs& acts, const ModelConfig& c, int64_t N) {
    BlockActs a = acts;
    const int64_t S = slot_rows(c, N);
    for (View* view : {&a.stream, &a.attention_in, &a.attention_rstd, &a.qkv, &a.qk, &a.qk_rstd,
                       &a.attention_out, &a.lse, &a.stream_mid, &a.ffn_in, &a.ffn_rstd,
                       &a.router_logits, &a.scores, &a.expert_weights, &a.experts, &a.row_slot})
        if (!view->empty()) *view = view->slice_rows(0, N);
    for (View* view : {&a.gate_up, &a.act, &a.slot_row, &a.slots})
        if (!view->empty()) *view = view->slice_rows(0, S);
    return a;
}

BlockGrads make_block_grads(BufferPool& pool, const ModelConfig& c, const Ctx& ctx, int64_t N) {
    const int64_t S = slot_rows(c, N), F = ffn_width(c);
    const Dtype x = ctx.storage(), f = ctx.dtype();
    BlockGrads g;
    g.dstream = pool.make(x, "dstream", N, c.channels);
    g.dnorm = pool.make(x, "dnorm", N, c.channels);
    g.dattention_out = pool.make(x, "dattention_out", N, c.q_width());
    g.dqk = pool.make(x, "dqk", N, c.q_width() + c.kv_width());
    g.dqkv = pool.make(x, "dqkv", N, c.qkv_width());
    g.dact = pool.make(x, "dact", S, F);
    if (!c.moe()) return g;
    g.dslots = pool.make(x, "dslots", S, c.channels);
    g.dweights = pool.make(f, "dweights", N, c.experts_per_token);
    g.dlogits = pool.make(f, "dlogits", N, c.experts);
    return g;
}

BlockGrads first_rows(const BlockGrads& grads, const ModelConfig& c, int64_t N) {
    BlockGrads g = grads;
    const int64_t S = slot_rows(c, N);
    for (View* view :
         {&g.dstream, &g.dnorm, &g.dattention_out, &g.dqk, &g.dqkv, &g.dweights, &g.dlogits})
        if (!view->empty()) *view = view->slice_rows(0, N);
    for (View* view : {&g.dact, &g.dslots})
        if (!view->empty()) *view = view->slice_rows(0, S);
    return g;
}

View q_columns(const View& qk, const ModelConfig& c) { return qk.slice_columns(0, c.q_width()); }
View k_columns(const View& qk, const ModelConfig& c) {
    return qk.slice_columns(c.q_width(), c.kv_width());
}
View v_columns(const View& qkv, const ModelConfig& c) {
    return qkv.slice_columns(c.q_width() + c.kv_width(), c.kv_width());
}

// ------------------------------------------------------------------------------------------------
// forward

static void ffn_forward(Ctx& ctx, const ModelConfig& c, const BlockParams& w, const BlockActs& a,
                        View out) {
    if (!c.moe()) {
        linear_forward(ctx, a.gate_up, a.ffn_in, w.gate_up);
        swiglu_forward(ctx, a.act, a.gate_up);
        linear_forward(ctx, out, a.act, w.down);
        return;
    }
    linear_forward(ctx, a.router_logits, a.ffn_in, w.router);
    router_forward(ctx, a.expert_weights, a.experts, a.scores, a.router_logits, w.router_bias,
                   c.router_scale);
    slots_forward(ctx, a.offsets, a.slot_row, a.row_slot, a.experts);
    grouped_linear_forward(ctx, a.gate_up, a.ffn_in, a.slot_row, w.experts_gate_up, a.offsets);
    swiglu_forward(ctx, a.act, a.gate_up);
    grouped_linear_forward(ctx, a.slots, a.act, View{}, w.experts_down, a.offsets);
    moe_combine_forward(ctx, out, a.slots, a.expert_weights, a.row_slot);
}

void block_forward(Ctx& ctx, const ModelConfig& c, const BlockParams& w, const BlockActs& a,
                   View delta_out, const View& inp, const View& delta, const View& rope,
                   const View& positions, const Attend& attend) {
    rmsnorm_forward(ctx, a.attention_in, a.stream, a.attention_rstd, inp, delta, w.attention_norm,
                    c.norm_eps);
    linear_forward(ctx, a.qkv, a.attention_in, w.qkv);
    qknorm_rope_forward(ctx, a.qk, a.qk_rstd, a.qkv, w.q_norm, w.k_norm, rope, positions, c.heads,
                        c.kv_heads, c.norm_eps);
    attend(a);
    linear_forward(ctx, delta_out, a.attention_out, w.o);
    rmsnorm_forward(ctx, a.ffn_in, a.stream_mid, a.ffn_rstd, a.stream, delta_out, w.ffn_norm,
                    c.norm_eps);
    ffn_forward(ctx, c, w, a, delta_out);
}

// ------------------------------------------------------------------------------------------------
// backward

// Leaves the gradient of ffn_in in g.dnorm, and that of gate_up in its place.
static void ffn_backward(Ctx& ctx, const ModelConfig& c, const BlockParams& w,
                         const BlockParams& dw, const BlockActs& a, const BlockGrads& g) {
    if (!c.moe()) {
        linear_backward(ctx, g.dact, dw.down, g.dstream, a.act, w.down, Store::overwrite);
        swiglu_backward(ctx, a.gate_up, g.dact, a.gate_up);
        linear_backward(ctx, g.dnorm, dw.gate_up, a.gate_up, a.ffn_in, w.gate_up, Store::overwrite);
        return;
    }
    moe_combine_backward(ctx, g.dslots, g.dweights, g.dstream, a.slots, a.expert_weights,
                         a.row_slot);
    grouped_linear_backward(ctx, g.dact, dw.experts_down, g.dslots, a.act, View{}, w.experts_down,
                            a.offsets);
    swiglu_backward(ctx, a.gate_up, g.dact, a.gate_up);
    grouped_linear_backward(ctx, g.dslots, dw.experts_gate_up, a.gate_up, a.ffn_in, a.slot_row,
                            w.experts_gate_up, a.offsets);
    moe_gather_backward(ctx, g.dnorm, g.dslots, a.row_slot);
    router_backward(ctx, g.dlogits, g.dweights, a.expert_weights, a.experts, a.scores,
                    c.router_scale);
    linear_backward(ctx, g.dnorm, dw.router, g.dlogits, a.ffn_in, w.router, Store::accumulate);
}

void block_backward(Ctx& ctx, const ModelConfig& c, const BlockParams& w, const BlockParams& dw,
                    const BlockActs& a, const BlockGrads& g, const View& rope,
                    const View& positions, const View& doc_start, Recompute recompute) {
    const bool again = recompute == Recompute::selective;
    auto norm_again = [&](const View& out, const View& rstd, const View& stream, const View& w) {
        if (again) rmsnorm_forward(ctx, out, View{}, rstd, stream, View{}, w, c.norm_eps);
    };
    norm_again(a.ffn_in, a.ffn_rstd, a.stream_mid, w.ffn_norm);
    if (again) swiglu_forward(ctx, a.act, a.gate_up);
    ffn_backward(ctx, c, w, dw, a, g);
    rmsnorm_backward(ctx, g.dstream, dw.ffn_norm, g.dnorm, a.stream_mid, a.ffn_rstd, w.ffn_norm);
    linear_backward(ctx, g.dattention_out, dw.o, g.dstream, a.attention_out, w.o, Store::overwrite);
    if (again)
        qknorm_rope_forward(ctx, a.qk, a.qk_rstd, a.qkv, w.q_norm, w.k_norm, rope, positions,
                            c.heads, c.kv_heads, c.norm_eps);
    attention_backward(ctx, q_columns(g.dqk, c), k_columns(g.dqk, c), v_columns(g.dqkv, c),
                       g.dattention_out, a.attention_out, a.lse, q_columns(a.qk, c),
                       k_columns(a.qk, c), v_columns(a.qkv, c), doc_start, c.heads, c.kv_heads);
    qknorm_rope_backward(ctx, g.dqkv, dw.q_norm, dw.k_norm, g.dqk, a.qk_rstd, a.qkv, w.q_norm,
                         w.k_norm, rope, positions, c.heads, c.kv_heads);
    norm_again(a.attention_in, a.attention_rstd, a.stream, w.attention_norm);
    linear_backward(ctx, g.dnorm, dw.qkv, g.dqkv, a.attention_in, w.qkv, Store::overwrite);
    rmsnorm_backward(ctx, g.dstream, dw.attention_norm, g.dnorm, a.stream, a.attention_rstd,
                     w.attention_norm);
}
