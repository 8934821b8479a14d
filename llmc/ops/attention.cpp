// Attention: contract checks and reference. Contract: attention.h. Fast CPU: attention_cpu.cpp,
// attention_paged_cpu.cpp, attention_backward_cpu.cpp.
#include "llmc/ops/attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

static void require_heads(const char* op, const View& q, int H, int HKV) {
    require(H >= 1 && HKV >= 1 && H % HKV == 0 && q.shape[1] % H == 0,
            "%s: H=%d HKV=%d over %ld columns", op, H, HKV, long(q.shape[1]));
}

static void require_attention(const char* op, const Ctx& ctx, const View& q, const View& k,
                              const View& v, const View& doc_start, int H, int HKV) {
    require_heads(op, q, H, HKV);
    const int64_t N = q.shape[0], D = q.shape[1] / H;
    require_shape(op, q, N, H * D);
    require_shape(op, k, N, HKV * D);
    require_shape(op, v, N, HKV * D);
    require_shape(op, doc_start, N);
    require_real(op, q, ctx);
    require_dtypes(op, q.dtype, {&k, &v});
    require_dtype(op, doc_start, Dtype::i32);
    if (!ctx.checks_values()) return;
    const int32_t* start = doc_start.as<int32_t>();
    for (int64_t n = 0; n < N; n++)
        require(start[n] == n || (n > 0 && start[n] == start[n - 1]),
                "%s: doc_start[%ld]=%d is neither the row nor the previous one's", op, long(n),
                start[n]);
}

static void require_views(const char* op, std::initializer_list<const View*> views, int64_t n0,
                          int64_t n1, Dtype dtype) {
    for (const View* view : views) require_shape(op, *view, n0, n1);
    require_dtypes(op, dtype, views);
}

void check::attention_forward(Ctx& ctx, View out, View lse, const View& q, const View& k,
                              const View& v, const View& doc_start, int heads, int kv_heads) {
    const char* op = "attention_forward";
    require_attention(op, ctx, q, k, v, doc_start, heads, kv_heads);
    require_views(op, {&out}, q.shape[0], q.shape[1], q.dtype);
    require_views(op, {&lse}, q.shape[0], heads, ctx.dtype());
}

void check::attention_backward(Ctx& ctx, View dq, View dk, View dv, const View& dout,
                               const View& out, const View& lse, const View& q, const View& k,
                               const View& v, const View& doc_start, int heads, int kv_heads) {
    const char* op = "attention_backward";
    require_attention(op, ctx, q, k, v, doc_start, heads, kv_heads);
    require_views(op, {&dq, &dout, &out}, q.shape[0], q.shape[1], q.dtype);
    require_views(op, {&dk, &dv}, k.shape[0], k.shape[1], q.dtype);
    require_views(op, {&lse}, q.shape[0], heads, ctx.dtype());
}

void check::attention_paged_forward(Ctx& ctx, View out, const View& q, const View& k_pages,
                                    const View& v_pages, const View& page_table, const View& row,
                                    const View& length, int heads, int kv_heads) {
    const char* op = "attention_paged_forward";
    require_heads(op, q, heads, kv_heads);
    const int64_t N = q.shape[0], D = q.shape[1] / heads;
    const int64_t pages = k_pages.shape[0], page_size = k_pages.shape[2];
    require_real(op, q, ctx);
    require_views(op, {&out, &q}, N, heads * D, q.dtype);
    require_shape(op, k_pages, pages, kv_heads * D, page_size);
    require_shape(op, v_pages, pages, kv_heads * page_size, D);
    for (const View* view : {&k_pages, &v_pages}) {
        require_dtype(op, *view, q.dtype);
        require(view->contiguous(), "%s: %s has gaps between pages", op, view->name);
    }
    require_shape(op, page_table, page_table.shape[0], page_table.shape[1]);
    require_shape(op, row, N);
    require_shape(op, length, N);
    for (const View* view : {&page_table, &row, &length}) require_dtype(op, *view, Dtype::i32);
    if (!ctx.checks_values()) return;
    for (int64_t n = 0; n < N; n++) {
        const int r = row.as<int32_t>()[n], positions = length.as<int32_t>()[n];
        require(r >= 0 && r < page_table.shape[0], "%s: row[%ld]=%d", op, long(n), r);
        require(positions >= 1 && positions <= page_table.shape[1] * page_size,
                "%s: length[%ld]=%d", op, long(n), positions);
        if (n + 1 < N && row.as<int32_t>()[n + 1] == r && length.as<int32_t>()[n + 1] >= positions)
            continue; // the next query's pages include these
        for (int64_t p = 0; p * page_size < positions; p++) {
            const int page = page_table.as<int32_t>()[r * page_table.ld + p];
            require(page >= 0 && page < pages, "%s: page_table[%d][%ld]=%d", op, r, long(p), page);
        }
    }
}

// ------------------------------------------------------------------------------------------------
// reference

namespace {

// One query over `count` keys; key(j, d) and value(j, d) are their elements. Returns lse.
template <class Key, class Value>
double attend_row(double* out, const double* q, int64_t D, int64_t count, const Key& key,
                  const Value& value, std::vector<double>& p) {
    const double scale = 1 / std::sqrt(double(D));
    double max = -INFINITY, sum = 0;
    p.assign(count, 0);
    for (int64_t j = 0; j < count; j++) { // (X1)
        for (int64_t d = 0; d < D; d++) p[j] += q[d] * key(j, d);
        p[j] *= scale;
        max = std::max(max, p[j]);
    }
    for (double& x : p) sum += x = std::exp(x - max); // (X2)
    std::fill(out, out + D, 0.0);
    for (int64_t j = 0; j < count; j++) // (X3)
        for (int64_t d = 0; d < D; d++) out[d] += p[j] / sum * value(j, d);
    return max + std::log(sum);
}

} // namespace

void ref::attention_forward(Ctx&, View out, View lse, const View& q, const View& k, const View& v,
                            const View& doc_start, int heads, int kv_heads) {
    const int64_t D = q.shape[1] / heads;
    std::vector<double> p;
    for (int64_t n = 0; n < q.shape[0]; n++)
        for (int h = 0; h < heads; h++) {
            const int64_t start = doc_start.as<int32_t>()[n], column = h / (heads / kv_heads) * D;
            lse.as<double>()[n * lse.ld + h] = attend_row(
                out.as<double>() + n * out.ld + h * D, q.as<double>() + n * q.ld + h * D, D,
                n - start + 1,
                [&](int64_t j, int64_t d) {
                    return k.as<double>()[(start + j) * k.ld + column + d];
                },
                [&](int64_t j, int64_t d) {
                    return v.as<double>()[(start + j) * v.ld + column + d];
                },
                p);
        }
}

void ref::attention_backward(Ctx&, View dq, View dk, View dv, const View& dout, const View& out,
                             const View& lse, const View& q, const View& k, const View& v,
                             const View& doc_start, int heads, int kv_heads) {
    const int64_t N = q.shape[0], D = q.shape[1] / heads;
    const double scale = 1 / std::sqrt(double(D));
    for (View* view : {&dq, &dk, &dv})
        for (int64_t n = 0; n < N; n++)
            std::fill_n(view->as<double>() + n * view->ld, view->shape[1], 0.0);
    for (int64_t n = 0; n < N; n++)
        for (int h = 0; h < heads; h++) {
            const int64_t column = h / (heads / kv_heads) * D;
            const double* qn = q.as<double>() + n * q.ld + h * D;
            const double* d_out = dout.as<double>() + n * dout.ld + h * D;
            double* d_q = dq.as<double>() + n * dq.ld + h * D;
            double delta = 0;
            for (int64_t d = 0; d < D; d++)
                delta += d_out[d] * out.as<double>()[n * out.ld + h * D + d];
            for (int64_t j = doc_start.as<int32_t>()[n]; j <= n; j++) {
                const double* kj = k.as<double>() + j * k.ld + column;
                const double* vj = v.as<double>() + j * v.ld + column;
                double score = 0, dp = 0;
                for (int64_t d = 0; d < D; d++) {
                    score += qn[d] * kj[d];
                    dp += d_out[d] * vj[d];
                }
                const double p = std::exp(score * scale - lse.as<double>()[n * lse.ld + h]);
                const double ds = p * (dp - delta) * scale; // (X4)
                for (int64_t d = 0; d < D; d++) {
                    d_q[d] += ds * kj[d]; // (X5)
                    dk.as<double>()[j * dk.ld + column + d] += ds * qn[d];
                    dv.as<double>()[j * dv.ld + column + d] += p * d_out[d]; // (X6)
                }
            }
        }
}

void ref::attention_paged_forward(Ctx&, View out, const View& q, const View& k_pages,
                                  const View& v_pages, const View& page_table, const View& row,
                                  const View& length, int heads, int kv_heads) {
    const int64_t D = q.shape[1] / heads, page_size = k_pages.shape[2];
    std::vector<double> p;
    for (int64_t n = 0; n < q.shape[0]; n++)
        for (int h = 0; h < heads; h++) {
            const int32_t* pages = page_table.as<int32_t>() + row.as<int32_t>()[n] * page_table.ld;
            auto page_of = [&](const View& view, int64_t j) { // of this query's key/value head
                return view.as<double>() + pages[j / page_size] * view.ld +
                       h / (heads / kv_heads) * D * page_size;
            };
            attend_row(
                out.as<double>() + n * out.ld + h * D, q.as<double>() + n * q.ld + h * D, D,
                length.as<int32_t>()[n],
                [&](int64_t j, int64_t d) {
                    return page_of(k_pages, j)[d * page_size + j % page_size];
                },
                [&](int64_t j, int64_t d) { return page_of(v_pages, j)[j % page_size * D + d]; },
                p);
        }
}
