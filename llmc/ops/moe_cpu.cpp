// Mixture of experts on the CPU. The grouped products run through tile_gemm: one task = one expert
// and one panel of output columns, so that few or uneven experts still fill the cores, every
// element is one chain in a fixed order, and a slot's result does not depend on how many the
// expert has. Right factors are packed into strips of 32 columns: lines a kilobyte apart, as they
// lie in the tensors, share a few of the first-level cache's sets. Contract: moe.h.
#include "llmc/device/gemm_rows.h"
#include "llmc/device/operand.h"
#include "llmc/device/parallel.h"
#include "llmc/device/simd.h"
#include "llmc/device/tile.h"
#include "llmc/ops/moe.h"

#include <algorithm>
#include <cmath>

namespace {

constexpr int64_t kStrip = kTileColumns; // columns
constexpr int kRows = 64;                // slots multiplied at a time
constexpr int64_t kPanelTerms = 1 << 16; // of a panel, which stays in the second-level cache
constexpr int kChain = 128;              // terms of a strip, which stay in the first-level cache

// Output columns of one task, whose weights are packed once, as strips (terms, 32).
struct Panels {
    int64_t width, count;
    Panels(int64_t columns, int64_t terms)
        : width(std::clamp<int64_t>(kPanelTerms / std::max<int64_t>(terms, 1) / kStrip * kStrip,
                                    kStrip, 256)),
          count((columns + width - 1) / width) {}
};

// The strips of a block's columns: body(first column, columns).
template <class Body> void for_strips(int64_t width, const Body& body) {
    for (int64_t j = 0; j < width; j += kStrip) body(j, int(std::min<int64_t>(kStrip, width - j)));
}

// c (m, width) = a (m, terms) times packed strips.
template <class X>
void multiply(int m, int64_t width, int64_t terms, const OperandBlock<X>& a, const X* strips,
              float* c, int64_t ldc) {
    for_strips(width, [&](int64_t j, int columns) {
        for (int64_t p = 0; p < terms; p += kChain)
            tile_gemm(m, columns, int(std::min<int64_t>(kChain, terms - p)), a.data + p, a.ld, 1,
                      strips + j * terms + p * kStrip, kStrip, c + j, ldc,
                      p == 0 ? TileStore::overwrite : TileStore::accumulate);
    });
}

// Some slots' rows of a tensor: where they lie, or in the rows `slot_row` names.
template <class T> struct SlotRows {
    const T* data;
    int64_t ld;
    const int32_t* index; // null: they follow each other
    SlotRows(const View& in, const View& slot_row, int64_t slot)
        : data(in.as<T>() + (slot_row.empty() ? slot * in.ld : 0)), ld(in.ld),
          index(slot_row.empty() ? nullptr : slot_row.as<int32_t>() + slot) {}
    const T* operator()(int64_t r) const { return data + (index ? index[r] : r) * ld; }
};

template <class T>
void grouped_forward(Ctx& ctx, View out, const View& inp, const View& slot_row, const View& weight,
                     const View& offsets) {
    typedef Operand<T> Op;
    typedef typename Op::X X;
    const int64_t E = weight.shape[0], O = weight.shape[1], C = weight.shape[2];
    const int64_t terms = Op::terms(C);
    const Panels panels(O, terms);
    const int32_t* begin = offsets.as<int32_t>();
    ScratchFrame frame(ctx.scratch);
    const int64_t room = (terms + kRows) * panels.width + (terms + C) * kRows;
    float* memory = ctx.scratch.alloc_of<float>(room * omp_get_max_threads());
    parallel_for_dynamic(E * panels.count, [&](int64_t task, int thread) {
        const int64_t e = task / panels.count, o0 = task % panels.count * panels.width;
        const int64_t width = std::min(panels.width, O - o0);
        if (begin[e] == begin[e + 1]) return;
        float* free = memory + thread * room;
        auto take = [&](int64_t count) { return (free += count) - count; };
        X* strips = reinterpret_cast<X*>(take(terms * panels.width));
        X* a_room = reinterpret_cast<X*>(take(terms * kRows));
        T* rows = reinterpret_cast<T*>(take(C * kRows));
        float* tile_room = take(panels.width * kRows);
        for_strips(width, [&](int64_t j, int columns) {
            Op::transpose(strips + j * terms, kStrip, weight.as<T>() + (e * O + o0 + j) * C, C,
                          columns, int(C), kStrip);
        });
        for (int64_t s = begin[e]; s < begin[e + 1]; s += kRows) {
            const int count = int(std::min<int64_t>(kRows, begin[e + 1] - s));
            const SlotRows<T> x(inp, slot_row, s);
            for (int r = 0; x.index && r < count; r++) std::copy_n(x(r), C, rows + r * C);
            const OperandBlock<X> a =
                Op::by_columns(x.index ? rows : x(0), x.index ? C : x.ld, count, C, a_room);
            const OutBlock<T> tile(out.as<T>() + s * out.ld + o0, out.ld, width, tile_room);
            multiply(count, width, terms, a, strips, tile.data, tile.ld); // (M5)
            tile.store(count, width);
        }
    });
}

template <class T>
void grouped_backward(Ctx& ctx, View dinp, View dweight, const View& dout, const View& inp,
                      const View& slot_row, const View& weight, const View& offsets) {
    typedef Operand<T> Op;
    typedef typename Op::X X;
    const int64_t E = weight.shape[0], O = weight.shape[1], C = weight.shape[2];
    const int64_t terms = Op::terms(O), slot_terms = Op::terms(kRows);
    const Panels panels(C, terms);
    const int32_t* begin = offsets.as<int32_t>();
    ScratchFrame frame(ctx.scratch);
    const int64_t room =
        (terms + slot_terms + kRows) * panels.width + terms * kRows + slot_terms * kStrip;
    float* memory = ctx.scratch.alloc_of<float>(room * omp_get_max_threads());
    parallel_for_dynamic(E * panels.count, [&](int64_t task, int thread) { // (M6)
        const int64_t e = task / panels.count, c0 = task % panels.count * panels.width;
        const int64_t width = std::min(panels.width, C - c0);
        if (begin[e] == begin[e + 1]) return;
        float* free = memory + thread * room;
        auto take = [&](int64_t count) { return (free += count) - count; };
        X* w_strips = reinterpret_cast<X*>(take(terms * panels.width));
        X* a_room = reinterpret_cast<X*>(take(terms * kRows));
        X* d_strip = reinterpret_cast<X*>(take(slot_terms * kStrip)); // of dout, one after another
        X* x_strips = reinterpret_cast<X*>(take(slot_terms * panels.width));
        float* tile_room = take(panels.width * kRows);
        const T* w = weight.as<T>() + e * O * C + c0;
        float* dw = dweight.as<float>() + e * O * C + c0;
        for_strips(width, [&](int64_t j, int columns) {
            auto row = [&](int64_t o) { return w + o * C + j; };
            Op::strip(w_strips + j * terms, row, O, columns);
        });
        for (int64_t s = begin[e]; s < begin[e + 1]; s += kRows) {
            const int count = int(std::min<int64_t>(kRows, begin[e + 1] - s));
            const T* d = dout.as<T>() + s * dout.ld;
            const auto a = Op::by_columns(d, dout.ld, count, O, a_room);
            const OutBlock<T> tile(dinp.as<T>() + s * dinp.ld + c0, dinp.ld, width, tile_room);
            multiply(count, width, terms, a, w_strips, tile.data, tile.ld);
            tile.store(count, width);
            const SlotRows<T> x(inp, slot_row, s);
            for_strips(width, [&](int64_t j, int columns) {
                auto row = [&](int64_t r) { return x(r) + c0 + j; };
                Op::strip(x_strips + j * slot_terms, row, count, columns);
            });
            for_strips(O, [&](int64_t i, int rows) {
                auto row = [&](int64_t r) { return d + r * dout.ld + i; };
                Op::strip(d_strip, row, count, rows);
                for_strips(width, [&](int64_t j, int columns) {
                    tile_gemm(rows, columns, int(Op::terms(count)), d_strip, 1, kStrip,
                              x_strips + j * slot_terms, kStrip, dw + i * C + j, C,
                              TileStore::accumulate);
                });
            });
        }
    });
}

} // namespace

void cpu::router_forward(Ctx&, View weights, View experts, View scores, const View& logits,
                         const View& bias, double scale) {
    const int E = int(logits.shape[1]), K = int(weights.shape[1]);
    const float* b = bias.as<float>();
    parallel_for(logits.shape[0], [&](int64_t n) {
        const float* z = logits.as<float>() + n * logits.ld;
        float* s = scores.as<float>() + n * scores.ld;
        int32_t* chosen = experts.as<int32_t>() + n * K;
        float* w = weights.as<float>() + n * K;
        for (int e = 0; e < E; e += kLanes) { // (M1)
            const int count = std::min(kLanes, E - e);
            store_tail(s + e, 1.0f / (1.0f + exp(-load_tail(z + e, count, 0.0f))), count);
        }
        int count = 0; // (M2): insertion into a list kept in order, equal ones behind
        for (int e = 0; e < E; e++) {
            const float value = s[e] + b[e];
            if (count == K && !(value > s[chosen[K - 1]] + b[chosen[K - 1]])) continue;
            int at = count < K ? count++ : K - 1;
            for (; at > 0 && value > s[chosen[at - 1]] + b[chosen[at - 1]]; at--)
                chosen[at] = chosen[at - 1];
            chosen[at] = e;
        }
        std::sort(chosen, chosen + K);
        float sum = 0;
        for (int k = 0; k < K; k++) sum += s[chosen[k]];
        for (int k = 0; k < K; k++) w[k] = float(scale) * s[chosen[k]] / sum; // (M3)
    });
}

void cpu::router_backward(Ctx&, View dlogits, const View& dweights, const View& weights,
                          const View& experts, const View& scores, double scale) {
    const int64_t E = dlogits.shape[1], K = weights.shape[1];
    parallel_for(scores.shape[0], [&](int64_t n) {
        float* d = dlogits.as<float>() + n * dlogits.ld;
        const float* s = scores.as<float>() + n * scores.ld;
        const int32_t* e = experts.as<int32_t>() + n * K;
        const float* g = dweights.as<float>() + n * K;
        std::fill_n(d, E, 0.0f);
        float sum = 0, dot = 0;
        for (int64_t k = 0; k < K; k++) sum += s[e[k]];
        for (int64_t k = 0; k < K; k++) dot += g[k] * (s[e[k]] / sum);
        for (int64_t k = 0; k < K; k++) // (M4)
            d[e[k]] = float(scale) / sum * (g[k] - dot) * s[e[k]] * (1 - s[e[k]]);
    });
}

void cpu::grouped_linear_forward(Ctx& ctx, View out, const View& inp, const View& slot_row,
                                 const View& weight, const View& offsets) {
    if (ctx.packed_weights &&
        ctx.packed_weights->multiply_grouped(ctx, out, inp, slot_row, weight, offsets))
        return;
    with_real(inp.dtype, [&](auto x) {
        grouped_forward<decltype(x)>(ctx, out, inp, slot_row, weight, offsets);
    });
}

void cpu::grouped_linear_backward(Ctx& ctx, View dinp, View dweight, const View& dout,
                                  const View& inp, const View& slot_row, const View& weight,
                                  const View& offsets) {
    with_real(inp.dtype, [&](auto x) {
        grouped_backward<decltype(x)>(ctx, dinp, dweight, dout, inp, slot_row, weight, offsets);
    });
}

void cpu::moe_combine_forward(Ctx&, View out, const View& slots, const View& weights,
                              const View& row_slot) {
    const int64_t C = out.shape[1], K = weights.shape[1];
    const int32_t* slot = row_slot.as<int32_t>();
    with_real(slots.dtype, [&](auto x) {
        using T = decltype(x);
        parallel_for(out.shape[0], [&](int64_t n) {
            T* o = out.as<T>() + n * out.ld;
            for_vectors(C, [&](int64_t c, int count) {
                Vf sum{};
                for (int64_t k = 0; k < K; k++) { // (M7)
                    const T* y = slots.as<T>() + slot[n * K + k] * slots.ld;
                    sum += weights.as<float>()[n * K + k] * load_tail(y + c, count, 0.0f);
                }
                store_tail(o + c, sum, count);
            });
        });
    });
}

void cpu::moe_combine_backward(Ctx&, View dslots, View dweights, const View& dout,
                               const View& slots, const View& weights, const View& row_slot) {
    const int64_t C = dout.shape[1], K = weights.shape[1];
    const int32_t* slot = row_slot.as<int32_t>();
    with_real(slots.dtype, [&](auto x) {
        using T = decltype(x);
        parallel_for(dout.shape[0], [&](int64_t n) {
            const T* g = dout.as<T>() + n * dout.ld;
            for (int64_t k = 0; k < K; k++) {
                const float w = weights.as<float>()[n * K + k];
                const T* y = slots.as<T>() + slot[n * K + k] * slots.ld;
                T* d = dslots.as<T>() + slot[n * K + k] * dslots.ld;
                Vf sum{};
                for_vectors(C, [&](int64_t c, int count) {
                    const Vf grad = load_tail(g + c, count, 0.0f);
                    sum += grad * load_tail(y + c, count, 0.0f);
                    store_tail(d + c, grad * w, count);
                });
                dweights.as<float>()[n * K + k] = lane_sum(sum);
            }
        });
    });
}

void cpu::moe_gather_backward(Ctx&, View dinp, const View& dslots, const View& row_slot) {
    const int64_t C = dinp.shape[1], K = row_slot.shape[1];
    const int32_t* slot = row_slot.as<int32_t>();
    with_real(dslots.dtype, [&](auto x) {
        using T = decltype(x);
        parallel_for(dinp.shape[0], [&](int64_t n) {
            T* d = dinp.as<T>() + n * dinp.ld;
            for_vectors(C, [&](int64_t c, int count) {
                Vf sum{};
                for (int64_t k = 0; k < K; k++)
                    sum += load_tail(dslots.as<T>() + slot[n * K + k] * dslots.ld + c, count, 0.0f);
                store_tail(d + c, sum, count);
            });
        });
    });
}
