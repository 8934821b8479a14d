// Embedding: contract checks and reference. Contract: embed.h. Fast CPU: embed_cpu.cpp.
#include "llmc/ops/embed.h"

static void require_tokens(const char* op, const Ctx& ctx, const View& tokens, int64_t V) {
    require_shape(op, tokens, tokens.shape[0]);
    require_dtype(op, tokens, Dtype::i32);
    if (!ctx.checks_values()) return;
    const int32_t* t = tokens.as<int32_t>();
    for (int64_t n = 0; n < tokens.rows(); n++)
        require(t[n] >= 0 && t[n] < V, "%s: tokens[%ld]=%d, V=%ld", op, long(n), t[n], long(V));
}

void check::embed_forward(Ctx& ctx, View out, const View& tokens, const View& weight) {
    const char* op = "embed_forward";
    require_shape(op, out, tokens.shape[0], weight.shape[1]);
    require_real(op, weight, ctx);
    require_dtype(op, out, weight.dtype);
    require_tokens(op, ctx, tokens, weight.shape[0]);
}

void check::embed_backward(Ctx& ctx, View dweight, const View& dout, const View& tokens) {
    const char* op = "embed_backward";
    require_shape(op, dout, tokens.shape[0], dweight.shape[1]);
    require_real(op, dout, ctx);
    require_dtype(op, dweight, ctx.dtype());
    require_tokens(op, ctx, tokens, dweight.shape[0]);
}

// ------------------------------------------------------------------------------------------------
// reference

void ref::embed_forward(Ctx&, View out, const View& tokens, const View& weight) {
    for (int64_t n = 0; n < out.shape[0]; n++) {
        const double* row = weight.as<double>() + tokens.as<int32_t>()[n] * weight.ld;
        for (int64_t c = 0; c < out.shape[1]; c++) // (E1)
            out.as<double>()[n * out.ld + c] = row[c];
    }
}

void ref::embed_backward(Ctx&, View dweight, const View& dout, const View& tokens) {
    for (int64_t n = 0; n < dout.shape[0]; n++) {
        double* row = dweight.as<double>() + tokens.as<int32_t>()[n] * dweight.ld;
        for (int64_t c = 0; c < dout.shape[1]; c++) // (E2)
            row[c] += dout.as<double>()[n * dout.ld + c];
    }
}
