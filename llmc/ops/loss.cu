// The shaped loss on the GPU, and on the CPU under the SIMT runtime. Contract and scalars of a row:
// loss.h; equations (1)-(13) in doc/equations.md. Steps that both kernels share: loss_row.cuh,
// loss_topk.cuh.
//
//   loss_cluster_kernel  the row stays in the shared memory of 1 to 8 blocks: one read and one
//                        write of global memory, 4 bytes per logit in bf16; clusters need sm_90
//   loss_sweep_kernel    a block per row, any GPU and any V: two reads and one write, 6 bytes
//
// Both take a row's sums relative to its maximum, as e_j = exp(u_j), u_j = (z_j - max) /
// temperature, over all columns but x, apart for K (head) and the rest (tail): no mass is ever
// formed as a difference. Steps are tagged A-E in both.
//
// Top-k costs no global traffic. A lower bound of the k-th largest logit is known while the sums
// are taken; what reaches it goes to a list in shared memory instead of the sums (100 to 700 of
// 50304 columns), K is selected there, and the list's sums join. k > kListed, or a list that
// overflows: selection over the row itself.
#include "llmc/ops/loss.h"
#include "llmc/ops/loss_row.cuh"

#include <algorithm>

namespace {

constexpr int kListed = 1024; // largest k that goes through the list
constexpr int kMaxCluster = 8;
constexpr int kClusterThreads = 256;
constexpr int kSweepThreads = 512;
constexpr int kSweepRoom = 6144; // keys: kListed and a chunk of 512 x 8 columns

// ------------------------------------------------------------------------------------------------
// two sweeps

struct SweepShared {
    Selection<unsigned> selection;
    ListState list;
    Partials<kSweepThreads / 32> partial;
    float warp_top[kSweepThreads / 32];
    float target_z;
    Factors factors;
};

// Cuts the list down to its k largest; the others join thread 0's sums. Returns the cut.
template <class T>
__device__ Key compact(SweepShared& s, Key* list, int x, const LossRows<T>& rows, float& max,
                       Sums& sums) {
    const int t = int(threadIdx.x), count = int(s.list.count);
    auto visit = [&](auto&& use) {
        for (int i = t; i < count; i += kSweepThreads) use(list[i]);
    };
    const Key cut =
        kth_largest(BlockTeam{}, s.selection, KeyDigits<T>{rows.shape.V}, rows.shape.k, 0, visit);
    const double temperature = rows.shape.temperature;
    const ListSums out = list_sums(s.list, list, count, cut, x, temperature, rows.exponent);
    if (t == 0 && out.tail.sum > 0) {
        if (out.tail.top > max) {
            sums.rescale(max, out.tail.top, rows.exponent);
            max = out.tail.top;
        }
        const GroupSums tail = at_maximum(out.tail, max, temperature);
        sums.tail += float(tail.sum);
        sums.weighted += float(tail.weighted * temperature);
    }
    Key kept[kSweepRoom / kSweepThreads];
#pragma unroll
    for (int i = 0; i < kSweepRoom / kSweepThreads; i++) {
        const int at = t + i * kSweepThreads;
        kept[i] = at < count && list[at] >= cut ? list[at] : 0;
    }
    if (t == 0) s.list.count = 0;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kSweepRoom / kSweepThreads; i++)
        append(s.list, list, kSweepRoom, kept[i] != 0, kept[i]);
    return cut;
}

// One block = one row, 512 threads, 48 KiB for the list. Sweep 1 reads the row: running maximum
// and sums of each thread, list. Sweep 2 reads it again and writes the gradient; it finds what
// fits of the row in L2. Bound by memory: 6 bytes per logit, 2 without gradient.
template <class T, bool kGradient>
__global__ void __launch_bounds__(kSweepThreads, 2) loss_sweep_kernel(LossRows<T> rows) {
    constexpr int N = Pack<T>::kSize;
    SHARED(SweepShared, s);
    DYNAMIC_SHARED(Key, list);
    const int n = int(blockIdx.x), t = int(threadIdx.x), x = rows.targets[n];
    const int V = rows.shape.V, k = rows.shape.k;
    const Row<T> row = row_of(rows, n);
    if (x == kIgnoredTarget) {
        if (kGradient) zero_row(row, t, kSweepThreads);
        return ignore_row(rows.stats + n * rows.stats_ld);
    }
    // A. What is known of K before the sums: the first vectors' largest logits are k columns of
    // their own that the k-th of all cannot be below.
    const KeyDigits<T> digits{V};
    Members members{{-INFINITY, ~0u},
                    0,
                    k <= kListed,
                    list,
                    &s.list,
                    kSweepRoom,
                    kSweepRoom - kSweepThreads * N,
                    false};
    Pack<T> next = row.load(t);
    if (known_bound(members.bound, k, V)) members.listing = false;
    else if (members.listing) {
        float z[N];
        unpack(z, next);
        const Key top = Key(ordered(largest(z))) << 32;
        auto visit = [&](auto&& use) { use(top); };
        members.raise(kth_largest(BlockTeam{}, s.selection, digits, k, 48, visit));
    } else {
        auto visit = [&](auto&& use) {
            for (int v = t; v < row.vectors(); v += kSweepThreads) {
                const Pack<T> pack = row.load(v);
                for (int i = 0; i < N && v * N + i < V; i++)
                    use(make_key(to_float(pack.v[i]), v * N + i));
            }
        };
        members.raise(kth_largest(BlockTeam{}, s.selection, digits, k, 0, visit));
    }
    if (t == 0) s.list.count = 0;
    __syncthreads();
    // B. Sums, relative to each thread's own running maximum.
    Sums sums;
    float max = -INFINITY;
    for (int begin = 0; begin < row.vectors(); begin += kSweepThreads) {
        const int first = (begin + t) * N;
        float z[N];
        unpack(z, next);
        next = row.load(begin + kSweepThreads + t); // on its way meanwhile
        const float top = largest(z);
        if (top > max) {
            sums.rescale(max, top, rows.exponent);
            max = top;
        }
        if (unsigned(x - first) < unsigned(N)) {
#pragma unroll
            for (int i = 0; i < N; i++)
                if (first + i == x) s.target_z = z[i];
        }
        sums.add(z, first, top, V, x, fmaxf(max, -FLT_MAX), rows.exponent, members);
        if (members.listing && __syncthreads_or(members.full)) {
            members.raise(compact(s, list, x, rows, max, sums));
            members.full = false;
        }
    }
    // C. The row's maximum, and the sums relative to it.
    const float warp_top = warp_max(max);
    if (t % 32 == 0) s.warp_top[t / 32] = warp_top;
    __syncthreads();
    const float row_max = warp_max(s.warp_top[t % (kSweepThreads / 32)]);
    sums.rescale(max, row_max, rows.exponent);
    s.partial.store(t / 32, sums);
    __syncthreads();
    // D. K, and the list's share.
    ListSums listed{};
    if (members.listing) {
        const int count = int(s.list.count);
        auto visit = [&](auto&& use) {
            for (int i = t; i < count; i += kSweepThreads) use(list[i]);
        };
        const Key cut = kth_largest(BlockTeam{}, s.selection, digits, k, 0, visit);
        listed = list_sums(s.list, list, count, cut, x, rows.shape.temperature, rows.exponent);
        members.raise(cut);
    }
    // E. Scalars, gradient.
    if (t == 0) {
        WarpSums total{};
        for (int warp = 0; warp < kSweepThreads / 32; warp++) s.partial.add_to(total, warp);
        finish_row(s.factors, rows, n, row_max, s.target_z, total, listed, true);
        s.factors.bound = members.bound;
    }
    if (!kGradient) return;
    __syncthreads();
    const Factors f = s.factors;
    if (f.zero) return zero_row(row, t, kSweepThreads);
    for (int v = t; v < row.all_vectors(); v += kSweepThreads)
        row.store(v, gradient<N>(row.load(v), v * N, V, x, f, rows.exponent));
}

// ------------------------------------------------------------------------------------------------
// the row in shared memory

struct ClusterShared {
    Selection<unsigned> selection;
    ListState own, joined;
    Partials<kClusterThreads / 32> partial; // read by the whole cluster, like own.count
    float tops[kClusterThreads];            // and this
    float warp_top[kClusterThreads / 32];
    Factors factors;
};

// Dynamic shared memory of one block:
//   | resident: rounds x 256 vectors | own: room keys | joined: joined_room keys |
struct ClusterPlan {
    int blocks, rounds, room, joined_room;
    int delegate; // lanes that share one maximum in the search for a bound: 1, 2, 4 or 8
    size_t bytes() const {
        return size_t(rounds) * kClusterThreads * 16 + size_t(room + joined_room) * sizeof(Key);
    }
};

// The vectors of a row go to warps in turn, 32 at a time, through all blocks: whole 512-byte
// pieces to each warp, and no warp has more than one piece more than another.
struct Slice {
    int blocks, rank;
    __device__ int piece(int round) const { // warp-uniform
        return (round * (kClusterThreads / 32) + int(threadIdx.x) / 32) * blocks + rank;
    }
    __device__ int vector(int round) const { return piece(round) * 32 + int(threadIdx.x) % 32; }
    // Where a vector lies: block and place in its shared memory.
    __device__ static int owner(int vector, int blocks) { return vector / 32 % blocks; }
    __device__ static int place(int vector, int blocks) {
        return vector / 32 / blocks * 32 + vector % 32; // piece / blocks = round * warps + warp
    }
};

// B. A lower bound of the k-th largest logit: the k-th largest of maxima over disjoint sets of
// columns, each of which is a column of its own. Also returns the row's maximum.
template <class T>
__device__ Key delegate_cut(ClusterShared& s, const ClusterPlan& plan, int k, bool search,
                            float& row_max) {
    const int t = int(threadIdx.x), per_block = kClusterThreads / plan.delegate;
    float tops[kMaxCluster], top = -INFINITY;
#pragma unroll
    for (int i = 0; i < kMaxCluster; i++) {
        const int at = t + i * kClusterThreads;
        const bool exists = at < per_block * plan.blocks;
        tops[i] = exists ? cluster_map(s.tops, at / per_block)[at % per_block] : -INFINITY;
        top = fmaxf(top, tops[i]);
    }
    top = warp_max(top);
    if (t % 32 == 0) s.warp_top[t / 32] = top;
    __syncthreads();
    row_max = warp_max(s.warp_top[t % (kClusterThreads / 32)]);
    if (!search) return 0;
    auto visit = [&](auto&& use) {
#pragma unroll
        for (int i = 0; i < kMaxCluster; i++)
            if (t + i * kClusterThreads < per_block * plan.blocks) use(Key(ordered(tops[i])) << 32);
    };
    return kth_largest(BlockTeam{}, s.selection, KeyDigits<T>{}, k, 48, visit);
}

// D. The lists of all blocks in one. False if one has overflowed or they do not fit. The joined one
// may be read after the next barrier, which the selection in it begins with.
__device__ inline bool join_lists(ClusterShared& s, const ClusterPlan& plan, Key* own, Key* joined,
                                  int& count) {
    const int lane = int(threadIdx.x) % 32;
    const int mine = lane < plan.blocks ? int(cluster_map(&s.own, lane)->count) : 0;
    count = warp_sum(mine);
    if (__any_sync(~0u, mine > plan.room) || count > plan.joined_room) return false;
    for (int rank = 0, first = 0; rank < plan.blocks; rank++) {
        const int n = __shfl_sync(~0u, mine, rank);
        const Key* list = cluster_map(own, rank);
        for (int i = int(threadIdx.x); i < n; i += kClusterThreads) joined[first + i] = list[i];
        first += n;
    }
    return true;
}

// One cluster of plan.blocks blocks = one row, 256 threads each. Global memory is read once into
// shared memory and written once: 4 bytes per logit. What a thread reads there it has copied
// itself; the blocks meet three times: maxima, sums and lists, end. In fp32 three blocks share an
// SM: four leave 64 registers to a thread, and sm_100 spills.
template <class T, bool kGradient>
__global__ void __launch_bounds__(kClusterThreads, sizeof(T) == 4 ? 3 : 4)
    loss_cluster_kernel(LossRows<T> rows, ClusterPlan plan) {
    constexpr int N = Pack<T>::kSize;
    SHARED(ClusterShared, s);
    DYNAMIC_SHARED(T, resident);
    Key* own = reinterpret_cast<Key*>(resident + plan.rounds * kClusterThreads * N);
    Key* joined = own + plan.room;
    const Slice slice{plan.blocks, cluster_rank()};
    const int n = int(blockIdx.x) / plan.blocks, t = int(threadIdx.x), x = rows.targets[n];
    const int V = rows.shape.V, k = rows.shape.k;
    const Row<T> row = row_of(rows, n);
    if (x == kIgnoredTarget) {
        if (kGradient)
            zero_row(row, slice.rank * kClusterThreads + t, plan.blocks * kClusterThreads);
        if (slice.rank == 0) ignore_row(rows.stats + n * rows.stats_ld);
        return;
    }
    // A. The row into shared memory; each thread's largest logit.
    auto for_rounds = [&](auto&& use) {
        for (int round = 0; slice.piece(round) * 32 < row.vectors(); round++)
            use(slice.vector(round), resident + (round * kClusterThreads + t) * N);
    };
    for_rounds([&](int v, T* place) {
        if (row.whole(v)) cp_async16(place, row.z + v * N);
        else st128(place, row.load(v));
    });
    cp_async_commit();
    cp_async_wait<0>();
    auto for_vectors = [&](auto&& use) {
        for_rounds([&](int v, const T* place) {
            float z[N];
            unpack(z, ld128(place));
            use(z, v * N);
        });
    };
    float top = -INFINITY;
    for_vectors([&](float(&z)[N], int) { top = fmaxf(top, largest(z)); });
    for (int lanes = 1; lanes < plan.delegate; lanes *= 2)
        top = fmaxf(top, __shfl_xor_sync(~0u, top, lanes));
    if (t % plan.delegate == 0) s.tops[t / plan.delegate] = top;
    if (t == 0) s.own.count = 0;
    cluster_sync();
    // B. Maximum, bound of K.
    Members members{{-INFINITY, ~0u}, 0, k <= kListed, own, &s.own, plan.room, plan.room, false};
    float row_max;
    members.raise(delegate_cut<T>(s, plan, k, k > 0 && k < V && V > plan.room, row_max));
    if (known_bound(members.bound, k, V)) members.listing = false;
    auto visit_row = [&](auto&& use) {
        for_vectors([&](float(&z)[N], int first) {
            for (int i = 0; i < N && first + i < V; i++) use(make_key(z[i], first + i));
        });
    };
    ListSums listed{};
    for (bool searched = false;; searched = true) {
        if (searched || (!members.listing && k > 0 && k < V)) {
            const ClusterTeam team{plan.blocks};
            members.raise(kth_largest(team, s.selection, KeyDigits<T>{V}, k, 0, visit_row));
            members.listing = false;
        }
        // C. Sums.
        Sums sums;
        for_vectors([&](float(&z)[N], int first) {
            sums.add(z, first, largest(z), V, x, row_max, rows.exponent, members);
        });
        s.partial.store(t / 32, sums);
        cluster_sync();
        // D. K, and the lists' share.
        if (!members.listing) break;
        int count;
        if (!join_lists(s, plan, own, joined, count)) continue;
        auto visit = [&](auto&& use) {
            for (int i = t; i < count; i += kClusterThreads) use(joined[i]);
        };
        const Key cut = kth_largest(BlockTeam{}, s.selection, KeyDigits<T>{V}, k, 0, visit);
        listed = list_sums(s.joined, joined, count, cut, x, rows.shape.temperature, rows.exponent);
        members.raise(cut);
        break;
    }
    // E. Scalars, alike in every block; gradient.
    if (t < 32) {
        constexpr int kWarps = kClusterThreads / 32;
        WarpSums total{};
        for (int i = t; i < kWarps * plan.blocks; i += 32)
            cluster_map(&s.partial, i / kWarps)->add_to(total, i % kWarps);
        total = warp_sums(total);
        if (t == 0) {
            const int owner = Slice::owner(x / N, plan.blocks);
            const int place = Slice::place(x / N, plan.blocks) * N + x % N;
            const float target_z = to_float(cluster_map(resident, owner)[place]);
            finish_row(s.factors, rows, n, row_max, target_z, total, listed, slice.rank == 0);
            s.factors.bound = members.bound;
        }
    }
    cluster_arrive(); // nobody looks into another block from here on
    __syncthreads();
    const Factors f = s.factors;
    if (kGradient && f.zero) {
        zero_row(row, slice.rank * kClusterThreads + t, plan.blocks * kClusterThreads);
    } else if (kGradient) {
        for_rounds([&](int v, const T* place) {
            row.store(v, gradient<N>(ld128(place), v * N, V, x, f, rows.exponent));
        });
        // Vectors of padding that no round has.
        for (int v = (row.vectors() + 31) / 32 * 32 + slice.rank * kClusterThreads + t;
             v < row.all_vectors(); v += plan.blocks * kClusterThreads)
            row.store(v, zero_vector<T>());
    }
    cluster_wait();
}

// ------------------------------------------------------------------------------------------------
// launch

template <class T> int rounds_of(int V, int blocks) {
    const int per_round = kClusterThreads * blocks * Pack<T>::kSize;
    return (V + per_round - 1) / per_round;
}

// blocks = 0: two sweeps.
template <class T> ClusterPlan plan_of(const Ctx& ctx, const LossShape& shape) {
    const int k = shape.k <= kListed ? std::min(shape.k, shape.V) : 0;
    const int path = kernel_path(ctx), largest = gpu_arch(ctx) >= 90 ? kMaxCluster : 1;
    ClusterPlan plan{1, 0, std::max(256, k / 2), std::max(512, 2 * k), 8};
    // Few rows per SM fill its pipes badly: at most 4 rounds a block while more blocks can help.
    while (plan.blocks < largest && rounds_of<T>(shape.V, plan.blocks) > 4) plan.blocks *= 2;
    if (path >= 0) plan.blocks = path;
    if (plan.blocks == 0) return plan;
    plan.rounds = rounds_of<T>(shape.V, plan.blocks);
    while (plan.delegate > 1 && kClusterThreads * plan.blocks / plan.delegate < 4 * k)
        plan.delegate /= 2;
    // Without clusters a row is one block's. Up to 32 KiB four of 256 threads share an SM of 164
    // KiB, as many threads as the sweep's two blocks have.
    const size_t limit = gpu_arch(ctx) >= 90 ? shared_limit(ctx) : 32 << 10;
    if (plan.bytes() + sizeof(ClusterShared) > limit) plan.blocks = 0;
    return plan;
}

template <class T>
LossRows<T> rows_of(View stats, const View& logits, const View& targets, const View& scale,
                    const View& old_logp, const LossShape& shape) {
    const double factor = 1.4426950408889634074 / shape.temperature; // log2(e)
    const float log2 = float(factor);
    LossRows<T> rows{};
    rows.logits = static_cast<T*>(logits.data);
    rows.stats = stats.as<float>();
    rows.targets = targets.as<int32_t>();
    if (!scale.empty()) rows.scale = scale.as<float>();
    if (!old_logp.empty()) rows.old_logp = old_logp.as<float>();
    rows.logits_ld = logits.ld;
    rows.stats_ld = stats.ld;
    rows.columns = int(logits.shape[1]);
    rows.aligned =
        reinterpret_cast<uintptr_t>(logits.data) % 16 == 0 && logits.ld % Pack<T>::kSize == 0;
    rows.exponent = {log2, float((factor - double(log2)) * 0.693147180559945309)};
    rows.shape = shape;
    return rows;
}

template <class T, bool kGradient> void run(Ctx& ctx, const LossRows<T>& rows, int N) {
    const ClusterPlan plan = plan_of<T>(ctx, rows.shape);
    if (plan.blocks == 0) {
        const LaunchShape shape{N, kSweepThreads, 1, kSweepRoom * sizeof(Key)};
        LAUNCH(ctx, (loss_sweep_kernel<T, kGradient>), shape, rows);
    } else {
        const LaunchShape shape{N * plan.blocks, kClusterThreads, plan.blocks, plan.bytes()};
        LAUNCH(ctx, (loss_cluster_kernel<T, kGradient>), shape, rows, plan);
    }
}

template <class T, bool kGradient>
void run_rows(Ctx& ctx, View stats, const View& logits, const View& targets, const View& scale,
              const View& old_logp, const LossShape& shape) {
    run<T, kGradient>(ctx, rows_of<T>(stats, logits, targets, scale, old_logp, shape),
                      int(logits.shape[0]));
}

} // namespace

void gpu::loss_forward(Ctx& ctx, View stats, const View& logits, const View& targets,
                       const LossShape& shape) {
    auto* rows = logits.dtype == Dtype::bf16 ? run_rows<bf16, false> : run_rows<float, false>;
    rows(ctx, stats, logits, targets, View{}, View{}, shape);
}

void gpu::loss_forward_backward(Ctx& ctx, View logits, View stats, const View& targets,
                                const View& scale, const View& old_logp, const LossShape& shape) {
    auto* rows = logits.dtype == Dtype::bf16 ? run_rows<bf16, true> : run_rows<float, true>;
    rows(ctx, stats, logits, targets, scale, old_logp, shape);
}
