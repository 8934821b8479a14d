// Contract: train_pass.h.
#include "llmc/model/train_pass.h"

#include "llmc/device/gemm.h"
#include "llmc/device/memory.h"
#include "llmc/ops/attention.h"
#include "llmc/ops/embed.h"
#include "llmc/ops/linear.h"
#include "llmc/ops/moe.h"
#include "llmc/ops/norm.h"

TrainPass::TrainPass(Ctx& ctx, Model& model, const PassSettings& settings)
    : ctx_(ctx), model_(model), settings_(settings), pool_(ctx.arena, Segment::activations),
      shared_(ctx.arena, Segment::activations) {
    const ModelConfig& c = model.config;
    logits_memory_ = Buffer(ctx.arena, Segment::logits, ctx.storage(), "logits",
                            std::min(settings.loss_rows, settings.rows), c.padded_vocab());
    logits_ = logits_memory_.view();
    shared_.lend(logits_);
    if (settings.backward) make_gradients();
    make_activations();
    ctx.scratch.reserve(scratch_bytes());
}

void TrainPass::make_gradients() {
    const ModelConfig& c = model_.config;
    grads_ = std::make_unique<ParamSet>(ctx_.arena, Segment::gradients, c, model_.table,
                                        sharded() ? Layout::folded : Layout::whole, ctx_.dtype(),
                                        "gradients");
    if (!sharded()) return;
    const Comm::Range own = settings_.shards->shard(model_.table.trained_size);
    own_grads_ =
        Buffer(ctx_.arena, Segment::gradients, ctx_.dtype(), "own gradients", own.end - own.begin);
}

void TrainPass::make_activations() {
    const ModelConfig& c = model_.config;
    const Dtype x = ctx_.storage();
    const int64_t N = settings_.rows;
    const Recompute recompute = settings_.backward ? settings_.recompute : Recompute::yes;
    auto lend_gradients_of = [&](int l) {
        if (lends_gradients()) pool_.lend(grads_->span(model_.table.block_span(l)));
    };
    for (int l = 0; l < c.layers; l++) {
        if (l > 0) lend_gradients_of(l - 1);
        BlockActs acts =
            make_block_acts(pool_, shared_, c, ctx_, N, recompute, l ? &layers_[l - 1] : nullptr);
        if (settings_.backward || l < 2) // two streams suffice to go forward
            acts.stream = pool_.make(x, "stream", N, c.channels);
        else acts.stream = layers_[l - 2].stream;
        layers_.push_back(acts);
    }
    lend_gradients_of(c.layers - 1);
    final_stream_ = pool_.make(x, "final_stream", N, c.channels);
    hidden_ = pool_.make(x, "hidden", N, c.channels);
    hidden_rstd_ = pool_.make(ctx_.dtype(), "hidden_rstd", N);
    if (settings_.backward) dhidden_ = pool_.make(x, "dhidden", N, c.channels);
    pool_.lend(View{});
    if (c.moe()) expert_counts_ = pool_.make(Dtype::i32, "expert_counts", c.layers, c.experts);
    delta_ = shared_.make(x, "delta", N, c.channels);
    if (settings_.backward) block_grads_ = make_block_grads(shared_, c, ctx_, N);
}

// The largest of what its ops take: products, attention, and on a GPU gradients that are sums over
// rows. All others need less.
size_t TrainPass::scratch_bytes() {
    if (ctx_.backend == Backend::ref) return 0;
    const ModelConfig& c = model_.config;
    const BlockActs& a = layers_[0];
    const BlockParams w = model_.pass_weights().block(0);
    size_t most = attention_forward_scratch(ctx_, settings_.rows, c.kv_heads, c.head_dim);
    auto linear = [&](const View& out, const View& inp, const View& weight) {
        most = std::max(most, linear_scratch(ctx_, out, inp, weight, settings_.backward));
    };
    linear(a.qkv, a.attention_in, w.qkv);
    linear(delta_, a.attention_out, w.o);
    linear(logits_, hidden_.slice_rows(0, logits_.rows()), model_.pass_weights().head());
    if (c.moe()) linear(a.router_logits, a.ffn_in, w.router);
    else {
        linear(a.gate_up, a.ffn_in, w.gate_up);
        linear(delta_, a.act, w.down);
    }
    if (!settings_.backward) return most;
    most = std::max(most, embed_backward_scratch(ctx_, settings_.rows));
    most = std::max(most, rmsnorm_backward_scratch(ctx_, settings_.rows, c.channels));
    const int64_t longest = std::min<int64_t>(settings_.rows, c.max_positions);
    return std::max(most, attention_backward_scratch(ctx_, settings_.rows, longest, c.heads,
                                                     c.kv_heads, c.head_dim));
}

void TrainPass::zero_grads() {
    blocks_have_gradients_ = false;
    if (lends_gradients()) { // those of the blocks when they get some
        const ParamTable& table = model_.table;
        for (const Span& span : {table.embed_span(), table.head_span(), table.norm_span()})
            if (span.size() > 0) fill_zero(ctx_, grads_->span(span));
    } else fill_zero(ctx_, sharded() ? own_grads_.view() : grads_->trained());
    if (!expert_counts_.empty()) fill_zero(ctx_, expert_counts_);
}

View TrainPass::summed_grads(Comm& comm) {
    if (lends_gradients() && !blocks_have_gradients_)
        zero_blocks(); // no micro-batch was this rank's
    ctx_.wait();
    if (sharded()) return own_grads_.view();
    comm.reduce_scatter(ctx_, grads_->trained());
    const Comm::Range own = comm.shard(model_.table.trained_size);
    return grads_->flat().slice_rows(own.begin, own.end - own.begin);
}

void TrainPass::zero_blocks() {
    for (int l = 0; l < model_.config.layers; l++)
        fill_zero(ctx_, grads_->span(model_.table.block_span(l)));
}

void TrainPass::open_span(const Span& span) {
    if (!sharded() || span.size() == 0) return;
    fill_zero(ctx_, grads_->span(span));
}

void TrainPass::close_span(const Span& span) {
    if (!sharded() || span.size() == 0) return;
    ctx_.wait();
    settings_.shards->reduce_add(ctx_, own_grads_.view(), grads_->span(span), span.begin,
                                 model_.table.trained_size);
}

View TrainPass::stream(int layer) const { return layers_[layer].stream.slice_rows(0, N_); }

void TrainPass::run_block(int l, const View& inp, const View& delta, const BlockActs& acts) {
    const ModelConfig& c = model_.config;
    auto attend = [&](const BlockActs& a) {
        attention_forward(ctx_, a.attention_out, a.lse, q_columns(a.qk, c), k_columns(a.qk, c),
                          v_columns(a.qkv, c), batch_.doc_start, c.heads, c.kv_heads);
    };
    block_forward(ctx_, c, model_.pass_weights().block(l), acts, delta_.slice_rows(0, N_), inp,
                  delta, model_.rope(), batch_.positions, attend);
}

void TrainPass::forward(const Batch& batch, bool count_experts) {
    const ModelConfig& c = model_.config;
    batch_ = batch;
    N_ = batch.tokens.rows();
    require(N_ <= settings_.rows, "TrainPass: %ld rows, room for %ld", long(N_),
            long(settings_.rows));
    embed_forward(ctx_, stream(0), batch.tokens, model_.pass_weights().embed());
    View inp = stream(0), delta;
    for (int l = 0; l < c.layers; l++) {
        const BlockActs acts = first_rows(layers_[l], c, N_);
        run_block(l, inp, delta, acts);
        inp = acts.stream_mid;
        delta = delta_.slice_rows(0, N_);
        if (!count_experts || !c.moe()) continue;
        const View counts = expert_counts_.slice_rows(l, 1);
        moe_counts_update(ctx_, make_view(counts.data, counts.dtype, counts.name, c.experts),
                          acts.experts.slice_rows(0, N_ - batch.padding));
    }
    rmsnorm_forward(ctx_, hidden(), final_stream_.slice_rows(0, N_), hidden_rstd_.slice_rows(0, N_),
                    inp, delta, model_.pass_weights().final_norm(), c.norm_eps);
}

void TrainPass::logits_forward(View out, int64_t begin) {
    linear_forward(ctx_, out, hidden_.slice_rows(begin, out.rows()), model_.pass_weights().head());
}

void TrainPass::loss_forward(View stats, const View& targets, const LossShape& shape) {
    for (int64_t begin = 0; begin < N_; begin += settings_.loss_rows) {
        const int64_t count = std::min(settings_.loss_rows, N_ - begin);
        logits_forward(logits_.slice_rows(0, count), begin);
        ::loss_forward(ctx_, stats.slice_rows(begin, count), logits_.slice_rows(0, count),
                       targets.slice_rows(begin, count), shape);
    }
}

void TrainPass::loss_backward(View stats, const View& targets, const View& scale,
                              const View& old_logp, const LossShape& shape) {
    require(settings_.backward, "TrainPass: built without backward");
    const bool tied = model_.config.tied;
    const Span head = tied ? model_.table.embed_span() : model_.table.head_span();
    open_span(head);
    for (int64_t begin = 0; begin < N_; begin += settings_.loss_rows) {
        const int64_t count = std::min(settings_.loss_rows, N_ - begin);
        const View logits = logits_.slice_rows(0, count);
        logits_forward(logits, begin);
        loss_forward_backward(ctx_, logits, stats.slice_rows(begin, count),
                              targets.slice_rows(begin, count), scale.slice_rows(begin, count),
                              old_logp.empty() ? View{} : old_logp.slice_rows(begin, count), shape);
        linear_backward(ctx_, dhidden_.slice_rows(begin, count), grads_->head(), logits,
                        hidden_.slice_rows(begin, count), model_.pass_weights().head(),
                        Store::overwrite);
    }
    if (!tied) {
        close_span(head);
        open_span(model_.table.embed_span());
    }
    backward();
}

void TrainPass::backward_of_nothing() {
    const ParamTable& table = model_.table;
    auto nothing = [&](const Span& span) {
        open_span(span);
        close_span(span);
    };
    if (!model_.config.tied) nothing(table.head_span());
    for (int l = model_.config.layers - 1; l >= 0; l--) nothing(table.block_span(l));
    nothing(table.embed_span());
    nothing(table.norm_span());
}

void TrainPass::backward() {
    const ModelConfig& c = model_.config;
    require(!lends_gradients() || !blocks_have_gradients_, "TrainPass: a second micro-batch");
    blocks_have_gradients_ = true;
    open_span(model_.table.norm_span());
    const BlockGrads g = first_rows(block_grads_, c, N_);
    fill_zero(ctx_, g.dstream);
    rmsnorm_backward(ctx_, g.dstream, grads_->final_norm(), dhidden_.slice_rows(0, N_),
                     final_stream_.slice_rows(0, N_), hidden_rstd_.slice_rows(0, N_),
                     model_.pass_weights().final_norm());
    for (int l = c.layers - 1; l >= 0; l--) {
        const BlockActs acts = first_rows(layers_[l], c, N_);
        if (settings_.recompute == Recompute::yes) run_block(l, acts.stream, View{}, acts);
        const Span block = model_.table.block_span(l);
        if (lends_gradients()) fill_zero(ctx_, grads_->span(block)); // activations were there
        open_span(block);
        block_backward(ctx_, c, model_.pass_weights().block(l), grads_->block(l), acts, g,
                       model_.rope(), batch_.positions, batch_.doc_start, settings_.recompute);
        close_span(block);
    }
    embed_backward(ctx_, grads_->embed(), g.dstream, batch_.tokens);
    close_span(model_.table.embed_span());
    close_span(model_.table.norm_span());
}
