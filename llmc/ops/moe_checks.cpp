// Mixture of experts: contract checks. Contract: moe.h.
#include "llmc/ops/moe.h"

void check::router_forward(Ctx& ctx, View weights, View experts, View scores, const View& logits,
                           const View& bias, double) {
    const char* op = "router_forward";
    const int64_t N = logits.shape[0], E = logits.shape[1], K = weights.shape[1];
    require(K >= 1 && K <= E, "%s: K=%ld E=%ld", op, long(K), long(E));
    require_shape(op, weights, N, K);
    require_shape(op, experts, N, K);
    require_shape(op, scores, N, E);
    require_shape(op, bias, E);
    require_dtypes(op, ctx.dtype(), {&weights, &scores, &logits, &bias});
    require_dtype(op, experts, Dtype::i32);
}

void check::router_backward(Ctx& ctx, View dlogits, const View& dweights, const View& weights,
                            const View& experts, const View& scores, double) {
    const char* op = "router_backward";
    const int64_t N = scores.shape[0], K = weights.shape[1];
    require_shape(op, dlogits, N, scores.shape[1]);
    require_shape(op, dweights, N, K);
    require_shape(op, weights, N, K);
    require_shape(op, experts, N, K);
    require_dtypes(op, ctx.dtype(), {&dlogits, &dweights, &weights, &scores});
    require_dtype(op, experts, Dtype::i32);
}

void check::slots_forward(Ctx& ctx, View offsets, View slot_row, View row_slot,
                          const View& experts) {
    const char* op = "slots_forward";
    const int64_t N = experts.shape[0], K = experts.shape[1], E = offsets.shape[0] - 1;
    require_shape(op, offsets, E + 1);
    require_shape(op, slot_row, N * K);
    require_shape(op, row_slot, N, K);
    require_dtypes(op, Dtype::i32, {&offsets, &slot_row, &row_slot, &experts});
    if (!ctx.checks_values()) return;
    const int32_t* e = experts.as<int32_t>();
    for (int64_t i = 0; i < N * K; i++)
        require(e[i] >= 0 && e[i] < E, "%s: experts[%ld]=%d, E=%ld", op, long(i), e[i], long(E));
}

static void require_grouped(const char* op, const Ctx& ctx, const View& out, const View& inp,
                            const View& slot_row, const View& weight, const View& offsets) {
    const int64_t S = out.shape[0], E = weight.shape[0];
    require_shape(op, weight, E, out.shape[1], inp.shape[1]);
    require_shape(op, out, S, weight.shape[1]);
    require_shape(op, offsets, E + 1);
    require_real(op, inp, ctx);
    require_dtypes(op, inp.dtype, {&out, &weight});
    if (slot_row.empty())
        require(inp.shape[0] == S, "%s: %ld rows for %ld slots", op, long(inp.shape[0]), long(S));
    else require_shape(op, slot_row, S);
    require_dtypes(op, Dtype::i32, {&offsets, &slot_row});
    if (!ctx.checks_values()) return;
    require(offsets.as<int32_t>()[0] == 0 && offsets.as<int32_t>()[E] == S,
            "%s: offsets end at %d, S=%ld", op, offsets.as<int32_t>()[E], long(S));
}

void check::grouped_linear_forward(Ctx& ctx, View out, const View& inp, const View& slot_row,
                                   const View& weight, const View& offsets) {
    require_grouped("grouped_linear_forward", ctx, out, inp, slot_row, weight, offsets);
}

void check::grouped_linear_backward(Ctx& ctx, View dinp, View dweight, const View& dout,
                                    const View& inp, const View& slot_row, const View& weight,
                                    const View& offsets) {
    const char* op = "grouped_linear_backward";
    require_grouped(op, ctx, dout, inp, slot_row, weight, offsets);
    require_shape(op, dinp, dout.shape[0], inp.shape[1]);
    require_shape(op, dweight, weight.shape[0], weight.shape[1], weight.shape[2]);
    require_dtype(op, dinp, inp.dtype);
    require_dtype(op, dweight, ctx.dtype());
}

void check::moe_combine_forward(Ctx& ctx, View out, const View& slots, const View& weights,
                                const View& row_slot) {
    const char* op = "moe_combine_forward";
    const int64_t N = weights.shape[0], K = weights.shape[1];
    require_shape(op, out, N, slots.shape[1]);
    require_shape(op, slots, N * K, slots.shape[1]);
    require_shape(op, row_slot, N, K);
    require_real(op, slots, ctx);
    require_dtype(op, out, slots.dtype);
    require_dtype(op, weights, ctx.dtype());
    require_dtype(op, row_slot, Dtype::i32);
}

void check::moe_combine_backward(Ctx& ctx, View dslots, View dweights, const View& dout,
                                 const View& slots, const View& weights, const View& row_slot) {
    const char* op = "moe_combine_backward";
    const int64_t N = weights.shape[0], K = weights.shape[1];
    require_shape(op, dslots, N * K, slots.shape[1]);
    require_shape(op, dweights, N, K);
    require_shape(op, dout, N, slots.shape[1]);
    require_shape(op, row_slot, N, K);
    require_real(op, slots, ctx);
    require_dtypes(op, slots.dtype, {&dslots, &dout});
    require_dtypes(op, ctx.dtype(), {&dweights, &weights});
    require_dtype(op, row_slot, Dtype::i32);
}

void check::moe_gather_backward(Ctx& ctx, View dinp, const View& dslots, const View& row_slot) {
    const char* op = "moe_gather_backward";
    require_shape(op, dinp, row_slot.shape[0], dslots.shape[1]);
    require_shape(op, dslots, row_slot.shape[0] * row_slot.shape[1], dslots.shape[1]);
    require_real(op, dslots, ctx);
    require_dtype(op, dinp, dslots.dtype);
    require_dtype(op, row_slot, Dtype::i32);
}

void check::moe_counts_update(Ctx&, View counts, const View& experts) {
    require_dtype("moe_counts_update", counts, Dtype::i32);
    require_dtype("moe_counts_update", experts, Dtype::i32);
    require(experts.contiguous() && counts.rank == 1, "moe_counts_update: %s %s",
            shape_text(counts).c_str(), shape_text(experts).c_str());
}

void check::moe_bias_update(Ctx& ctx, View bias, const View& counts, double) {
    require_shape("moe_bias_update", bias, counts.shape[0]);
    require_dtype("moe_bias_update", bias, ctx.dtype());
    require_dtype("moe_bias_update", counts, Dtype::i32);
}
