// Contract: dispatch.h.
#include "llmc/ops/dispatch.h"

namespace {
void require_dims(const char* op, const View& view, int rank, int64_t n0, int64_t n1, int64_t n2) {
    const int64_t want[3] = {n0, n1, n2};
    bool same = view.rank == rank;
    std::string text = "(";
    for (int i = 0; i < rank; i++) {
        same = same && view.shape[i] == want[i];
        text += (i ? ", " : "") + std::to_string((long long)want[i]);
    }
    require(same, "%s: %s is %s, expected %s)", op, view.name, shape_text(view).c_str(),
            text.c_str());
    require(view.data != nullptr || view.size() == 0, "%s: %s is null", op, view.name);
}
} // namespace

void require_shape(const char* op, const View& view, int64_t n0) {
    require_dims(op, view, 1, n0, 1, 1);
}
void require_shape(const char* op, const View& view, int64_t n0, int64_t n1) {
    require_dims(op, view, 2, n0, n1, 1);
}
void require_shape(const char* op, const View& view, int64_t n0, int64_t n1, int64_t n2) {
    require_dims(op, view, 3, n0, n1, n2);
}
void require_dtype(const char* op, const View& view, Dtype dtype) {
    require(view.dtype == dtype, "%s: %s is %s, expected %s", op, view.name, dtype_name(view.dtype),
            dtype_name(dtype));
}
void require_dtypes(const char* op, Dtype dtype, std::initializer_list<const View*> views) {
    for (const View* view : views)
        if (!view->empty()) require_dtype(op, *view, dtype);
}
void require_real(const char* op, const View& view, const Ctx& ctx) {
    if (ctx.backend != Backend::ref && view.dtype == Dtype::bf16) return;
    require_dtype(op, view, ctx.dtype());
}
