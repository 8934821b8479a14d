// Device code that both kernels of loss.cu share: a row's columns as vectors of 16 bytes, the sums
// over them, the scalars of a row and its gradient. Equations (1)-(13) in doc/equations.md.
#pragma once
#include "llmc/ops/loss.h"
#include "llmc/ops/loss_topk.cuh"

namespace {

// Arguments of both kernels.
template <class T> struct LossRows {
    T* logits;
    float* stats;
    const int* targets;
    const float *scale, *old_logp; // old_logp may be null
    int64_t logits_ld, stats_ld;
    int columns;  // Vp
    bool aligned; // rows start at multiples of 16 bytes
    Exponent exponent;
    LossShape shape;
};

// ------------------------------------------------------------------------------------------------
// a row's columns, a vector of 16 bytes at a time

template <class T> struct Row {
    T* z;
    int V, columns;
    bool aligned;

    // Vectors that hold a real column, and all of them.
    __device__ int vectors() const { return vectors_of<T>(V); }
    __device__ int all_vectors() const { return vectors_of<T>(columns); }
    __device__ bool whole(int vector) const { return aligned && (vector + 1) * kVector<T> <= V; }

    // Columns >= V are -inf.
    __device__ Pack<T> load(int vector) const {
        return load_vector(z, V, vector, aligned, -INFINITY);
    }
    __device__ void store(int vector, const Pack<T>& pack) const {
        store_vector(z, columns, vector, aligned, pack);
    }
};

template <class T> __device__ Row<T> row_of(const LossRows<T>& rows, int n) {
    return {rows.logits + n * rows.logits_ld, rows.shape.V, rows.columns, rows.aligned};
}

template <int N> __device__ __forceinline__ float largest(const float (&z)[N]) { // drops NaN
    float m = z[0];
#pragma unroll
    for (int i = 1; i < N; i++) m = fmaxf(m, z[i]);
    return m;
}

template <class T> __device__ __forceinline__ Pack<T> zero_vector() {
    Pack<T> zero;
#pragma unroll
    for (T& x : zero.v) x = from_float<T>(0.0f);
    return zero;
}
template <class T> __device__ void zero_row(const Row<T>& row, int first, int step) {
    for (int v = first; v < row.all_vectors(); v += step) row.store(v, zero_vector<T>());
}

// ------------------------------------------------------------------------------------------------
// sums

// What to do with columns that reach the bound: into the list, or K is known and they are its.
struct Members {
    Bound bound;
    Key cut; // the bound's key, 0 where everything reaches it
    bool listing;
    Key* list;
    ListState* state;
    int room;  // of the list
    int limit; // `full` says that it holds more than this
    bool full;

    // A selection among the list's keys may stop at a cut below the list's own bound.
    __device__ void raise(Key found) {
        if (found <= cut) return;
        cut = found;
        bound = bound_of(found);
    }
};

struct Sums { // of one thread; weighted = sum of e_j (z_j - max)
    float head = 0, tail = 0, weighted = 0;

    // Columns first, first + 1, ... with the largest logit `top`. Takes z apart. Every lane of the
    // warp takes part, with columns >= V where it has none.
    template <int N>
    __device__ void add(float (&z)[N], int first, float top, int V, int x, float max,
                        const Exponent& exponent, Members& members) {
        if (__any_sync(~0u, top >= members.bound.value))
            take_members(z, first, V, x, max, exponent, members);
        if (unsigned(x - first) < unsigned(N)) {
#pragma unroll
            for (int i = 0; i < N; i++)
                if (first + i == x) z[i] = -INFINITY;
        }
#pragma unroll
        for (int i = 0; i < N; i++) {
            const float d = distance(z[i], max), e = exp_at(d, exponent);
            tail += e;
            weighted = fmaf(e, d, weighted);
        }
    }

    template <int N>
    __device__ void take_members(float (&z)[N], int first, int V, int x, float max,
                                 const Exponent& exponent, Members& m) {
#pragma unroll
        for (int i = 0; i < N; i++) {
            const bool member = first + i < V && reaches(z[i], first + i, m.bound);
            if (m.listing) {
                const Key key = make_key(z[i], first + i);
                m.full |= append(*m.state, m.list, m.room, member, key) > unsigned(m.limit);
            } else if (member && first + i != x) {
                const float d = distance(z[i], max), e = exp_at(d, exponent);
                head += e;
                weighted = fmaf(e, d, weighted);
            }
            if (member) z[i] = -INFINITY;
        }
    }

    // From maximum `from` to the larger one `to`.
    __device__ void rescale(float from, float to, const Exponent& exponent) {
        const float d = distance(from, to), r = exp_at(d, exponent);
        weighted = r * fmaf(d, head + tail, weighted);
        head *= r;
        tail *= r;
    }
};

struct WarpSums {
    double head, tail, weighted;
};
__device__ __forceinline__ WarpSums warp_sums(const WarpSums& s) {
    return {warp_sum(s.head), warp_sum(s.tail), warp_sum(s.weighted)};
}

// The sums of a block's warps, in their order.
template <int kWarps> struct Partials {
    double head[kWarps], tail[kWarps], weighted[kWarps];

    // Every lane of warp `warp` takes part.
    __device__ void store(int warp, const Sums& sums) {
        const WarpSums s = warp_sums({double(sums.head), double(sums.tail), double(sums.weighted)});
        if (threadIdx.x % 32 != 0) return;
        head[warp] = s.head;
        tail[warp] = s.tail;
        weighted[warp] = s.weighted;
    }
    __device__ void add_to(WarpSums& s, int warp) const {
        s.head += head[warp];
        s.tail += tail[warp];
        s.weighted += weighted[warp];
    }
};

// ------------------------------------------------------------------------------------------------
// the scalars of a row, and its gradient

struct Factors {
    float max, head, tail, target; // dlogits_j = e_j * (head or tail), dlogits_x = target
    bool zero;
    Bound bound;
};

// By one thread, in double: the threads' sums and the list's, relative to `max`.
template <class T>
__device__ void finish_row(Factors& f, const LossRows<T>& rows, int n, float max, float target_z,
                           const WarpSums& sums, const ListSums& listed, bool store) {
    const LossShape& shape = rows.shape;
    const GroupSums list_head = at_maximum(listed.head, max, shape.temperature);
    const GroupSums list_tail = at_maximum(listed.tail, max, shape.temperature);
    const double head = sums.head + list_head.sum;
    double tail = sums.tail + list_tail.sum;
    const double weighted =
        sums.weighted / shape.temperature + list_head.weighted + list_tail.weighted;
    const bool finite = max > -INFINITY && max < INFINITY;
    if (!finite) tail = max = NAN; // nothing but -inf, or +inf somewhere: the row says so
    const float d = distance(target_z, max);
    const double target_e = double(exp_at(d, rows.exponent));
    const double target_u = double(d) / shape.temperature, others = head + tail;
    // One column holds the maximum, e = 1: x, or one of the others.
    double rest = target_u == 0 ? others : others + target_e - 1;
    if (rest < 0) rest = 0;
    const LossRow row = loss_row(double(max) / shape.temperature, target_e, target_u, head, tail,
                                 rest, weighted, 1e-37, shape);
    double weight = 1, ratio = 1;
    if (rows.scale) weight = double(rows.scale[n]);
    if (rows.old_logp) {
        ratio = grpo_ratio(double(float(-row.ce)), double(rows.old_logp[n]));
        weight = grpo_weight(weight, ratio, shape);
    }
    if (store) store_stats(rows.stats + n * rows.stats_ld, row, ratio);
    const double factor = -weight / shape.temperature, S = others + target_e; // (13)
    f.max = max;
    f.head = float(factor * (shape.lambda_head - row.reward) / S);
    f.tail = float(factor * (shape.lambda_tail - row.reward) / S);
    f.target = float(factor * row.target_gradient);
    f.zero = weight == 0;
}

template <int N, class T>
__device__ __forceinline__ Pack<T> gradient(const Pack<T>& logits, int first, int V, int x,
                                            const Factors& f, const Exponent& exponent) {
    Pack<T> out;
#pragma unroll
    for (int i = 0; i < N; i++) {
        const float z = to_float(logits.v[i]), e = exp_at(distance(z, f.max), exponent);
        float g = e * (reaches(z, first + i, f.bound) ? f.head : f.tail); // (13)
        if (first + i == x) g = f.target;
        out.v[i] = from_float<T>(first + i < V ? g : 0.0f);
    }
    return out;
}

__device__ inline void ignore_row(float* stats) {
    if (threadIdx.x < kLossStats) stats[threadIdx.x] = 0;
}

// K where it needs no search; k in (0, V) else.
__device__ __forceinline__ bool known_bound(Bound& bound, int k, int V) {
    if (k > 0 && k < V) return false;
    bound = k == 0 ? Bound{INFINITY, 0} : Bound{-INFINITY, ~0u};
    return true;
}

} // namespace
