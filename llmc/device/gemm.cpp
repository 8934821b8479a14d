// Contract: gemm.h.
#include "llmc/device/gemm.h"

#include "llmc/device/buffer.h"
#include "llmc/device/gemm_cuda.h"
#include "llmc/device/memory.h"
#include "llmc/device/parallel.h"
#include "llmc/device/tensor_kernels.h"
#include "llmc/device/tile.h"

#include <algorithm>
#include <chrono>
#include <map>

#ifdef PRIOR_ONEDNN
#include <oneapi/dnnl/dnnl.hpp>
#endif

// ------------------------------------------------------------------------------------------------
// ref: double, one loop nest

static void gemm_ref(View& c, const View& a, Trans trans_a, const View& b, Trans trans_b,
                     Store store) {
    const int64_t m = c.shape[0], n = c.shape[1];
    const int64_t k = trans_a == Trans::no ? a.shape[1] : a.shape[0];
    const double *pa = a.as<double>(), *pb = b.as<double>();
    double* pc = c.as<double>();
    const int64_t a_row = trans_a == Trans::no ? a.ld : 1, a_col = trans_a == Trans::no ? 1 : a.ld;
    const int64_t b_row = trans_b == Trans::no ? b.ld : 1, b_col = trans_b == Trans::no ? 1 : b.ld;
    parallel_for(m, [&](int64_t i) {
        for (int64_t j = 0; j < n; j++) {
            double sum = store == Store::accumulate ? pc[i * c.ld + j] : 0.0;
            for (int64_t p = 0; p < k; p++)
                sum += pa[i * a_row + p * a_col] * pb[p * b_row + j * b_col];
            pc[i * c.ld + j] = sum;
        }
    });
}

GemmKey gemm_key(const View& c, const View& a, Trans trans_a, const View& b, Trans trans_b,
                 Store store) {
    return {c.shape[0],
            c.shape[1],
            trans_a == Trans::no ? a.shape[1] : a.shape[0],
            a.ld,
            b.ld,
            c.ld,
            trans_a == Trans::yes,
            trans_b == Trans::yes,
            store == Store::accumulate,
            a.dtype,
            c.dtype};
}

// ------------------------------------------------------------------------------------------------
// cpu: oneDNN matmul primitives, cached by shape

#ifdef PRIOR_ONEDNN

struct GemmCache {
    struct Primitive {
        dnnl::matmul matmul;
        dnnl::memory a, b, c, scratchpad;
        size_t scratchpad_bytes;
        // b as the library's kernel reads it, copied for every product, as its values change.
        dnnl::reorder pack;
        dnnl::memory packed_b;
        size_t packed_bytes; // 0: b is taken as it lies
    };
    dnnl::engine engine{dnnl::engine::kind::cpu, 0};
    dnnl::stream stream{engine};
    std::map<GemmKey, Primitive> primitives;
    int takes_bf16 = -1; // unknown yet
};

static dnnl::memory::data_type dnnl_type(Dtype dtype) {
    return dtype == Dtype::bf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
}

// Packing b pays where many rows share it, up to a size that does not matter beside the tensors.
// Sums keep their order, so the bits are the same (test/test_gemm.cpp compares across kPackedRows).
constexpr int64_t kPackedRows = 256, kPackedBytes = 8 << 20;

static GemmCache::Primitive make_primitive(GemmCache& cache, const GemmKey& key) {
    using dims = dnnl::memory::dims;
    auto [m, n, k, lda, ldb, ldc, ta, tb, accumulate, ab, c] = key;
    dnnl::memory::desc md_a({m, k}, dnnl_type(ab), ta ? dims{1, lda} : dims{lda, 1});
    dnnl::memory::desc md_b({k, n}, dnnl_type(ab), tb ? dims{1, ldb} : dims{ldb, 1});
    dnnl::memory::desc md_c({m, n}, dnnl_type(c), dims{ldc, 1});
    dnnl::memory::desc md_any({k, n}, dnnl_type(ab), dnnl::memory::format_tag::any);
    const bool pack = m >= kPackedRows && k * n * int64_t(dtype_bytes(ab)) <= kPackedBytes;
    dnnl::primitive_attr attr;
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (accumulate) {
        dnnl::post_ops post;
        post.append_sum(1.0f);
        attr.set_post_ops(post);
    }
#if DNNL_VERSION_MAJOR >= 3
    dnnl::matmul::primitive_desc desc(cache.engine, md_a, pack ? md_any : md_b, md_c, attr);
#else
    dnnl::matmul::primitive_desc desc({md_a, pack ? md_any : md_b, md_c}, attr, cache.engine);
#endif
    const auto md_s = desc.scratchpad_desc(), md_packed = desc.weights_desc();
    auto memory = [&](const dnnl::memory::desc& md) {
        return dnnl::memory(md, cache.engine, nullptr);
    };
    GemmCache::Primitive primitive{dnnl::matmul(desc), memory(md_a),   memory(md_b),
                                   memory(md_c),       memory(md_s),   md_s.get_size(),
                                   dnnl::reorder(),    dnnl::memory(), 0};
    if (md_packed != md_b) {
        primitive.packed_b = memory(md_packed);
        primitive.pack = dnnl::reorder(primitive.b, primitive.packed_b);
        primitive.packed_bytes = md_packed.get_size();
    }
    return primitive;
}

static GemmCache::Primitive& find_primitive(Ctx& ctx, const View& c, const View& a, Trans trans_a,
                                            const View& b, Trans trans_b, Store store) {
    GemmCache& cache = *ctx.gemm_cache;
    const GemmKey key = gemm_key(c, a, trans_a, b, trans_b, store);
    auto found = cache.primitives.find(key);
    if (found == cache.primitives.end())
        found = cache.primitives.emplace(key, make_primitive(cache, key)).first;
    return found->second;
}

// What the library does for a product; its errors are ours.
template <class Work>
static void with_library(const View& c, const View& a, int64_t k, const Work& work) {
    try {
        work();
    } catch (const dnnl::error& e) {
        fatal(format("oneDNN: matmul (%ld, %ld) x (%ld, %ld) of %s: %s", (long)c.shape[0], (long)k,
                     (long)k, (long)c.shape[1], a.name, e.what()),
              "check the installed oneDNN, or build without it: make ONEDNN=0");
    }
}

static size_t gemm_cpu_scratch(Ctx& ctx, const View& c, const View& a, Trans trans_a, const View& b,
                               Trans trans_b, Store store, int64_t k) {
    size_t bytes = 0;
    with_library(c, a, k, [&] {
        const auto& primitive = find_primitive(ctx, c, a, trans_a, b, trans_b, store);
        bytes = primitive.scratchpad_bytes + primitive.packed_bytes;
    });
    return bytes;
}

static void gemm_cpu(Ctx& ctx, View& c, const View& a, Trans trans_a, const View& b, Trans trans_b,
                     Store store, int64_t k) {
    with_library(c, a, k, [&] {
        GemmCache& cache = *ctx.gemm_cache;
        GemmCache::Primitive& primitive = find_primitive(ctx, c, a, trans_a, b, trans_b, store);
        ScratchFrame frame(ctx.scratch);
        primitive.scratchpad.set_data_handle(ctx.scratch.alloc(primitive.scratchpad_bytes));
        primitive.a.set_data_handle(a.data);
        primitive.b.set_data_handle(b.data);
        primitive.c.set_data_handle(c.data);
        const bool pack = primitive.packed_bytes > 0;
        if (pack) {
            primitive.packed_b.set_data_handle(ctx.scratch.alloc(primitive.packed_bytes));
            primitive.pack.execute(cache.stream, primitive.b, primitive.packed_b);
        }
        primitive.matmul.execute(cache.stream,
                                 {{DNNL_ARG_SRC, primitive.a},
                                  {DNNL_ARG_WEIGHTS, pack ? primitive.packed_b : primitive.b},
                                  {DNNL_ARG_DST, primitive.c},
                                  {DNNL_ARG_SCRATCHPAD, primitive.scratchpad}});
        cache.stream.wait();
    });
}

static bool cpu_takes_bf16(Ctx& ctx) {
    GemmCache& cache = *ctx.gemm_cache;
    if (cache.takes_bf16 < 0) {
        try {
            make_primitive(cache,
                           {64, 64, 64, 64, 64, 64, false, true, false, Dtype::bf16, Dtype::bf16});
            cache.takes_bf16 = 1;
        } catch (const dnnl::error&) {
            cache.takes_bf16 = 0;
        }
    }
    return cache.takes_bf16 == 1;
}

static std::string cpu_library() {
    return format("oneDNN %d.%d.%d", dnnl_version()->major, dnnl_version()->minor,
                  dnnl_version()->patch);
}

#else // ------------------------------------------------------------------------------------------
// cpu without oneDNN: B packed into panels of 32 columns, then tiles of 64 rows x one panel

struct GemmCache {};

static size_t gemm_cpu_scratch(Ctx&, const View& c, const View&, Trans, const View&, Trans, Store,
                               int64_t k) {
    const int64_t panels = (c.shape[1] + kTileColumns - 1) / kTileColumns;
    return size_t(panels * k * kTileColumns) * sizeof(float);
}

static void gemm_cpu(Ctx& ctx, View& c, const View& a, Trans trans_a, const View& b, Trans trans_b,
                     Store store, int64_t k) {
    constexpr int kRowBlock = 64;
    const int64_t m = c.shape[0], n = c.shape[1];
    const int64_t panels = (n + kTileColumns - 1) / kTileColumns;
    const int64_t row_blocks = (m + kRowBlock - 1) / kRowBlock;
    const int64_t b_row = trans_b == Trans::no ? b.ld : 1, b_col = trans_b == Trans::no ? 1 : b.ld;
    const int64_t a_row = trans_a == Trans::no ? a.ld : 1, a_col = trans_a == Trans::no ? 1 : a.ld;
    const float *pa = a.as<float>(), *pb = b.as<float>();
    float* pc = c.as<float>();
    ScratchFrame frame(ctx.scratch);
    float* packed = ctx.scratch.alloc_of<float>(panels * k * kTileColumns);
    auto pack = [&](int64_t panel) {
        float* out = packed + panel * k * kTileColumns;
        int64_t j0 = panel * kTileColumns, width = std::min<int64_t>(kTileColumns, n - j0);
        for (int64_t p = 0; p < k; p++)
            for (int64_t j = 0; j < width; j++)
                out[p * kTileColumns + j] = pb[p * b_row + (j0 + j) * b_col];
    };
    parallel_for(panels, pack);
    auto mode = store == Store::accumulate ? TileStore::accumulate : TileStore::overwrite;
    parallel_for(row_blocks * panels, [&](int64_t item) {
        int64_t i0 = item / panels * kRowBlock, panel = item % panels;
        int64_t j0 = panel * kTileColumns;
        tile_gemm(int(std::min<int64_t>(kRowBlock, m - i0)),
                  int(std::min<int64_t>(kTileColumns, n - j0)), int(k), pa + i0 * a_row, a_row,
                  a_col, packed + panel * k * kTileColumns, kTileColumns, pc + i0 * c.ld + j0, c.ld,
                  mode);
    });
}

static bool cpu_takes_bf16(Ctx&) { return false; }
static std::string cpu_library() { return "own tile kernel"; }

#endif

bool gemm_takes_bf16(Ctx& ctx) { return ctx.backend == Backend::cuda || cpu_takes_bf16(ctx); }

std::string gemm_library(const Ctx& ctx) {
    return ctx.cuda ? "cuBLASLt" : ctx.backend == Backend::ref ? "plain loops" : cpu_library();
}

std::shared_ptr<GemmCache> make_gemm_cache() { return std::make_shared<GemmCache>(); }

static void gemm_fast(Ctx& ctx, View& c, const View& a, Trans trans_a, const View& b, Trans trans_b,
                      Store store, int64_t k) {
    if (ctx.cuda) gemm_cuda(ctx, c, a, trans_a, b, trans_b, store);
    else gemm_cpu(ctx, c, a, trans_a, b, trans_b, store, k);
}

// An op's own work, not asked for anew.
static void convert_matrix(Ctx& ctx, View to, const View& from) {
    if (ctx.cuda) convert_rows(ctx, to, from);
    else convert_rows_on_host(to, from);
}

// Operands that no primitive takes as they are, through floats.
static void gemm_widened(Ctx& ctx, View& c, const View& a, Trans trans_a, const View& b,
                         Trans trans_b, Store store, int64_t k) {
    ScratchFrame frame(ctx.scratch);
    auto room = [&](const View& view) {
        float* data = ctx.scratch.alloc_of<float>(view.shape[0] * view.shape[1]);
        return make_view(data, Dtype::f32, view.name, view.shape[0], view.shape[1]);
    };
    auto widen = [&](const View& view, bool read) {
        if (view.dtype == Dtype::f32) return view;
        View wide = room(view);
        if (read) convert_matrix(ctx, wide, view);
        return wide;
    };
    View wide = widen(c, store == Store::accumulate);
    gemm_fast(ctx, wide, widen(a, true), trans_a, widen(b, true), trans_b, store, k);
    if (c.dtype == Dtype::bf16) convert_matrix(ctx, c, wide);
}

static bool takes_as_they_are(Ctx& ctx, const View& c, const View& a, const View& b) {
    return a.dtype == b.dtype &&
           (a.dtype == Dtype::f32 ? c.dtype == Dtype::f32 : gemm_takes_bf16(ctx));
}

void gemm(Ctx& ctx, View c, const View& a, Trans trans_a, const View& b, Trans trans_b,
          Store store) {
    const int64_t m = c.shape[0], n = c.shape[1];
    const int64_t k = trans_a == Trans::no ? a.shape[1] : a.shape[0];
    require(c.rank == 2 && a.rank == 2 && b.rank == 2, "gemm: %s %s %s must be matrices", c.name,
            a.name, b.name);
    require((trans_a == Trans::no ? a.shape[0] : a.shape[1]) == m &&
                (trans_b == Trans::no ? b.shape[0] : b.shape[1]) == k &&
                (trans_b == Trans::no ? b.shape[1] : b.shape[0]) == n,
            "gemm: %s %s = %s %s x %s %s", c.name, shape_text(c).c_str(), a.name,
            shape_text(a).c_str(), b.name, shape_text(b).c_str());
    if (m == 0 || n == 0) return;
    if (k == 0) {
        for (int64_t i = 0; i < m && store == Store::overwrite; i++) {
            const View row = c.slice_rows(i, 1);
            if (ctx.cuda) ctx.memory->zero(row.data, row.bytes());
            else std::memset(row.data, 0, row.bytes());
        }
        return;
    }
    if (ctx.backend == Backend::ref) gemm_ref(c, a, trans_a, b, trans_b, store);
    else if (takes_as_they_are(ctx, c, a, b)) gemm_fast(ctx, c, a, trans_a, b, trans_b, store, k);
    else gemm_widened(ctx, c, a, trans_a, b, trans_b, store, k);
}

size_t gemm_scratch(Ctx& ctx, const View& c, const View& a, Trans trans_a, const View& b,
                    Trans trans_b, Store store) {
    const int64_t k = trans_a == Trans::no ? a.shape[1] : a.shape[0];
    if (ctx.backend == Backend::ref || c.size() == 0 || k == 0) return 0;
    auto of_library = [&](const View& c, const View& a, const View& b) { // cuBLASLt has its own
        if (ctx.backend == Backend::cuda) return size_t(0);
        return gemm_cpu_scratch(ctx, c, a, trans_a, b, trans_b, store, k);
    };
    if (takes_as_they_are(ctx, c, a, b)) return of_library(c, a, b);
    size_t floats = 0;
    auto widen = [&](View view) {
        if (view.dtype == Dtype::f32) return view;
        floats += size_t(view.shape[0] * view.shape[1]);
        view.dtype = Dtype::f32;
        view.ld = view.shape[1];
        return view;
    };
    const View wide_c = widen(c), wide_a = widen(a), wide_b = widen(b);
    return floats * sizeof(float) + of_library(wide_c, wide_a, wide_b);
}

double gemm_peak(Ctx& ctx) {
    const int64_t n = ctx.backend == Backend::ref ? 128 : 1024;
    const Dtype x = ctx.storage();
    // Not the run's own arena and scratch, of whose peaks its plan knows.
    Ctx host(ctx.backend, ctx.threads, ctx.bf16);
    Ctx& on = ctx.cuda ? ctx : host;
    Arena arena;
    arena.use(on.memory.get());
    const Segment any = Segment::activations;
    const Buffer a(arena, any, x, "peak a", n, n), b(arena, any, x, "peak b", n, n);
    const Buffer c(arena, any, x, "peak c", n, n);
    double best_s = 1e9;
    for (int i = 0; i < 6; i++) { // the first prepares the primitive and touches the pages
        const auto start = std::chrono::steady_clock::now();
        on.enqueue([&] {
            gemm(on, c.view(), a.view(), Trans::no, b.view(), Trans::no, Store::overwrite);
        });
        on.wait();
        const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
        best_s = std::min(best_s, elapsed.count());
    }
    return 2.0 * double(n * n * n) / best_s;
}
