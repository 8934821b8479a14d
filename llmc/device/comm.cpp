// Contract: comm.h.
#include "llmc/device/comm.h"

#include "llmc/device/memory.h"
#include "llmc/device/nccl.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <unistd.h>

#ifdef PRIOR_MPI
#include <mpi.h>
#endif

namespace {

constexpr int64_t kAlignment = 16;     // elements a shard begins at a multiple of
constexpr int64_t kExchange = 1 << 18; // elements of one shard moved at a time
constexpr int64_t kMessage = 1 << 28;  // bytes of one message: MPI counts in int
constexpr int64_t kPiece = 1 << 26;    // bytes of one piece of a broadcast to servers

enum class Sum { replaces, adds };

template <class T> void add_in_order(T* out, const void* memory, int64_t n, int ranks, Sum what) {
    const T* parts = static_cast<const T*>(memory);
    for (int64_t i = 0; i < n; i++) {
        T sum = parts[i];
        for (int r = 1; r < ranks; r++) sum += parts[r * n + i];
        out[i] = what == Sum::adds ? out[i] + sum : sum;
    }
}

// out (n): the sum of `ranks` vectors of n that follow each other.
void add_parts(View out, const void* parts, int64_t n, int ranks, Sum what) {
    if (out.dtype == Dtype::f32) add_in_order(out.as<float>(), parts, n, ranks, what);
    else if (out.dtype == Dtype::f64) add_in_order(out.as<double>(), parts, n, ranks, what);
    else add_in_order(out.as<int32_t>(), parts, n, ranks, what);
}

// The same into a tensor, which may lie where the host cannot read it.
void add_to_tensor(Ctx& ctx, const View& out, const void* parts, int ranks, Sum what) {
    const HostEdit sum(ctx, out);
    add_parts(sum.view(), parts, out.size(), ranks, what);
}

// Of a single rank, which owns all.
void add_alone(Ctx& ctx, const View& own, const View& part, int64_t begin) {
    const HostRead values(ctx, part);
    add_to_tensor(ctx, own.slice_rows(begin, part.size()), values.bytes(), 1, Sum::adds);
}

} // namespace

Comm::Range Comm::shard(int64_t n, int rank, int size) {
    const int64_t even = (n + size - 1) / size;
    const int64_t length = round_up(even, kAlignment);
    return {std::min(n, length * rank), std::min(n, length * (rank + 1))};
}

Comm::Range Comm::overlap(const Range& a, const Range& b) {
    const int64_t begin = std::max(a.begin, b.begin);
    return {begin, std::max(begin, std::min(a.end, b.end))};
}

int64_t Comm::exchange_bytes(int64_t n, Dtype dtype, int size) {
    const Range first = shard(n, 0, size);
    const int64_t piece = std::min(first.end - first.begin, kExchange);
    return size == 1 ? 0 : 2 * size * piece * int64_t(dtype_bytes(dtype));
}

#ifdef PRIOR_MPI

namespace {

enum Tag { kLength, kBytes };

// Sleeps until done() is true: a moment at first, then longer.
template <class Done> void sleep_until(const Done& done) {
    for (unsigned us = 10; !done(); us = std::min(2 * us, 1000u)) ::usleep(us);
}

void send(MPI_Comm comm, int to, const std::string& bytes) {
    const int64_t length = int64_t(bytes.size());
    MPI_Send(&length, 1, MPI_INT64_T, to, kLength, comm);
    for (int64_t at = 0; at < length; at += kMessage)
        MPI_Send(bytes.data() + at, int(std::min(kMessage, length - at)), MPI_BYTE, to, kBytes,
                 comm);
}

std::string receive(MPI_Comm comm, int from, int* sender) {
    MPI_Status status;
    sleep_until([&] {
        int there = 0;
        MPI_Iprobe(from, kLength, comm, &there, &status);
        return there != 0;
    });
    *sender = status.MPI_SOURCE;
    int64_t length;
    MPI_Recv(&length, 1, MPI_INT64_T, *sender, kLength, comm, MPI_STATUS_IGNORE);
    std::string bytes(size_t(length), 0);
    for (int64_t at = 0; at < length; at += kMessage)
        MPI_Recv(bytes.data() + at, int(std::min(kMessage, length - at)), MPI_BYTE, *sender, kBytes,
                 comm, MPI_STATUS_IGNORE);
    return bytes;
}

} // namespace

struct Comm::Groups {
    MPI_Comm own = MPI_COMM_NULL;  // the ranks of this role
    MPI_Comm link = MPI_COMM_NULL; // the working root as 0, then the servers
};

Comm::Comm(Role role) : role_(role) {
    // A launcher leaves its mark; without one MPI is not started: its start costs a second.
    bool launched = false;
    for (const char* mark :
         {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK", "SLURM_STEP_NUM_TASKS"})
        launched |= std::getenv(mark) != nullptr;
    workers_ = role == Role::work;
    servers_ = role == Role::serve;
    if (!launched) return;
    int provided, world_rank, world_size;
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
    groups_ = std::make_unique<Groups>();
    MPI_Comm_rank(MPI_COMM_WORLD, &world_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world_size);
    std::vector<int> roles(world_size);
    const int own_role = int(role);
    MPI_Allgather(&own_role, 1, MPI_INT, roles.data(), 1, MPI_INT, MPI_COMM_WORLD);
    servers_ = int(std::count(roles.begin(), roles.end(), int(Role::serve)));
    workers_ = world_size - servers_;
    MPI_Comm_split(MPI_COMM_WORLD, own_role, world_rank, &groups_->own);
    MPI_Comm_rank(groups_->own, &rank_);
    MPI_Comm_size(groups_->own, &size_);
    const bool linked = role == Role::serve || rank_ == 0;
    MPI_Comm_split(MPI_COMM_WORLD, linked ? 0 : MPI_UNDEFINED,
                   role == Role::serve ? 1 + world_rank : 0, &groups_->link);
    for (auto [ranks, count] :
         {std::pair(groups_->own, &local_size_), {MPI_COMM_WORLD, &machine_ranks_}}) {
        MPI_Comm local;
        MPI_Comm_split_type(ranks, MPI_COMM_TYPE_SHARED, world_rank, MPI_INFO_NULL, &local);
        MPI_Comm_size(local, count);
        if (ranks == MPI_COMM_WORLD) MPI_Comm_rank(local, &local_rank_);
        MPI_Comm_free(&local);
    }
}

Comm::~Comm() {
    if (!groups_) return;
    for (int s = 0; s < servers_ && role_ == Role::work && root(); s++) send_to_server(s, "");
    MPI_Finalize();
}

void Comm::send_to_server(int server, const std::string& bytes) {
    send(groups_->link, 1 + server, bytes);
}

std::string Comm::receive_from_any(int* server) {
    int sender;
    std::string bytes = receive(groups_->link, MPI_ANY_SOURCE, &sender);
    *server = sender - 1;
    return bytes;
}

void Comm::send_to_root(const std::string& bytes) { send(groups_->link, 0, bytes); }

std::string Comm::receive_from_root() {
    int sender;
    return receive(groups_->link, 0, &sender);
}

void Comm::broadcast_to_servers(View data) {
    char* bytes = static_cast<char*>(data.data);
    const int64_t length = int64_t(data.bytes());
    for (int64_t at = 0; at < length; at += kPiece)
        MPI_Bcast(bytes + at, int(std::min(kPiece, length - at)), MPI_BYTE, 0, groups_->link);
}

void Comm::barrier() {
    if (size_ > 1) MPI_Barrier(groups_->own);
}

double Comm::all_max(double value) {
    if (size_ == 1) return value;
    std::vector<double> values(size_);
    MPI_Allgather(&value, 1, MPI_DOUBLE, values.data(), 1, MPI_DOUBLE, groups_->own);
    for (double v : values) {
        if (std::isnan(v)) return v;
        value = std::max(value, v);
    }
    return value;
}

void Comm::all_sum(View values) {
    if (size_ == 1) return;
    const size_t bytes = values.bytes();
    buffer_.resize(bytes * size_t(size_));
    MPI_Allgather(values.data, int(bytes), MPI_BYTE, buffer_.data(), int(bytes), MPI_BYTE,
                  groups_->own);
    add_parts(values, buffer_.data(), values.size(), size_, Sum::replaces);
}

// Round by round: every rank sends a piece of each shard, as far as `part` has it, to its owner.
// add(parts, at, count) gets the pieces of all ranks, in rank order, from element `at` of n on.
template <class Add>
void Comm::exchange(Ctx& ctx, const View& part, int64_t begin, int64_t n, const Add& add) {
    const int64_t element = int64_t(dtype_bytes(part.dtype));
    const Range all{begin, begin + part.size()}, own = overlap(shard(n), all);
    buffer_.resize(size_t(exchange_bytes(n, part.dtype, size_)));
    const int64_t piece_bytes = int64_t(buffer_.size()) / (2 * size_);
    const int64_t round = piece_bytes / element; // elements of one shard moved at a time
    char* packed = buffer_.data();
    char* parts = packed + piece_bytes * size_;
    std::vector<int> send_counts(size_), send_at(size_), recv_counts(size_), recv_at(size_);
    int64_t longest = 0;
    for (int r = 0; r < size_; r++) {
        const Range range = overlap(shard(n, r, size_), all);
        longest = std::max(longest, range.end - range.begin);
    }
    for (int64_t done = 0; done < longest; done += round) {
        auto piece = [&](const Range& range) {
            return std::clamp<int64_t>(range.end - range.begin - done, 0, round);
        };
        const int64_t mine = piece(own);
        for (int r = 0; r < size_; r++) {
            const Range range = overlap(shard(n, r, size_), all);
            send_counts[r] = int(piece(range) * element);
            send_at[r] = int(r * piece_bytes); // offsets of MPI are ints: packed, then sent
            recv_counts[r] = int(mine * element);
            recv_at[r] = int(r * mine * element);
            const char* from =
                static_cast<const char*>(part.data) + (range.begin - begin + done) * element;
            if (ctx.memory) ctx.memory->to_host(packed + send_at[r], from, size_t(send_counts[r]));
            else std::memcpy(packed + send_at[r], from, size_t(send_counts[r]));
        }
        MPI_Alltoallv(packed, send_counts.data(), send_at.data(), MPI_BYTE, parts,
                      recv_counts.data(), recv_at.data(), MPI_BYTE, groups_->own);
        if (mine > 0) add(parts, own.begin + done, mine);
    }
}

void Comm::reduce_scatter(Ctx& ctx, View flat) {
    ctx.wait();
    if (size_ == 1) return;
    if (Nccl* fast = nccl(ctx)) return fast->reduce(ctx, {}, flat, 0, flat.size());
    exchange(ctx, flat, 0, flat.size(), [&](const char* parts, int64_t at, int64_t count) {
        add_to_tensor(ctx, flat.slice_rows(at, count), parts, size_, Sum::replaces);
    });
}

void Comm::reduce_add(Ctx& ctx, View own, const View& part, int64_t begin, int64_t n) {
    ctx.wait();
    if (size_ == 1) return add_alone(ctx, own, part, begin);
    if (Nccl* fast = nccl(ctx)) return fast->reduce(ctx, own, part, begin, n);
    const int64_t first = shard(n).begin;
    exchange(ctx, part, begin, n, [&](const char* parts, int64_t at, int64_t count) {
        add_to_tensor(ctx, own.slice_rows(at - first, count), parts, size_, Sum::adds);
    });
}

void Comm::all_gather(Ctx& ctx, View flat) {
    ctx.wait();
    if (size_ == 1) return;
    if (Nccl* fast = nccl(ctx)) return fast->all_gather(ctx, flat);
    const int64_t element = int64_t(dtype_bytes(flat.dtype));
    const int64_t most = ctx.memory ? kPiece : kMessage;
    if (ctx.memory) buffer_.resize(size_t(most));
    for (int r = 0; r < size_; r++) {
        const Range range = shard(flat.size(), r, size_);
        for (int64_t at = range.begin * element; at < range.end * element; at += most) {
            char* data = static_cast<char*>(flat.data) + at;
            char* bytes = ctx.memory ? buffer_.data() : data;
            const int64_t count = std::min(most, range.end * element - at);
            if (ctx.memory && r == rank_) ctx.memory->to_host(bytes, data, size_t(count));
            MPI_Bcast(bytes, int(count), MPI_BYTE, r, groups_->own);
            if (ctx.memory && r != rank_) ctx.memory->to_device(data, bytes, size_t(count));
        }
    }
}

std::vector<std::string> Comm::gather(const std::string& bytes) {
    std::vector<std::string> all(size_);
    if (size_ > 1 && servers_ > 0) { // the root may be waiting for them
        MPI_Request request;
        MPI_Ibarrier(groups_->own, &request);
        sleep_until([&] {
            int done = 0;
            MPI_Test(&request, &done, MPI_STATUS_IGNORE);
            return done != 0;
        });
    }
    for (int r = 0; r < size_; r++) {
        if (r == rank_) all[r] = bytes;
        if (size_ == 1) break;
        int64_t length = int64_t(all[r].size());
        MPI_Bcast(&length, 1, MPI_INT64_T, r, groups_->own);
        all[r].resize(size_t(length));
        for (int64_t at = 0; at < length; at += kMessage)
            MPI_Bcast(all[r].data() + at, int(std::min(kMessage, length - at)), MPI_BYTE, r,
                      groups_->own);
    }
    return all;
}

std::string Comm::broadcast(const std::string& bytes) {
    return gather(root() ? bytes : std::string())[0];
}

void Comm::end_job(int code) {
    if (workers_ + servers_ > 1) MPI_Abort(MPI_COMM_WORLD, code);
}

#else

struct Comm::Groups {};

Comm::Comm(Role role) : role_(role), workers_(role == Role::work), servers_(role == Role::serve) {
    for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"})
        if (const char* size = std::getenv(name); size && std::atoi(size) > 1)
            fatal("started by mpirun, but built without MPI",
                  "install libopenmpi-dev (scripts/setup.sh) and build again, or run without "
                  "mpirun");
}
Comm::~Comm() = default;
void Comm::barrier() {}
double Comm::all_max(double value) { return value; }
void Comm::all_sum(View) {}
void Comm::reduce_scatter(Ctx& ctx, View) { ctx.wait(); }
void Comm::reduce_add(Ctx& ctx, View own, const View& part, int64_t begin, int64_t) {
    add_alone(ctx, own, part, begin);
}
void Comm::all_gather(Ctx& ctx, View) { ctx.wait(); }
std::vector<std::string> Comm::gather(const std::string& bytes) { return {bytes}; }
std::string Comm::broadcast(const std::string& bytes) { return bytes; }
void Comm::send_to_server(int, const std::string&) {}
std::string Comm::receive_from_any(int*) { return ""; }
void Comm::send_to_root(const std::string&) {}
std::string Comm::receive_from_root() { return ""; }
void Comm::broadcast_to_servers(View) {}
void Comm::end_job(int) {}

#endif

// GPUs of one job exchange tensors by themselves; who has none, or no library, by way of the host.
Nccl* Comm::nccl(Ctx& ctx) {
    if (!ctx.cuda) return nullptr;
    if (!nccl_)
        nccl_ = join_nccl(rank_, size_, [this](const std::string& id) { return broadcast(id); });
    return nccl_.get();
}

int64_t Comm::mpi_bytes() const {
    if (size_ == 1) return 0;
    constexpr int64_t kStart = 9 << 19, kStartOfRank = 11 << 17, kMessages = 3 << 20;
    return kMessages + (groups_ ? 0 : kStart + kStartOfRank * size_);
}

Comm::Comm(int planned_ranks) : role_(Role::work), size_(planned_ranks), workers_(planned_ranks) {}

int Comm::run(const std::function<int()>& body) {
    try {
        return body();
    } catch (...) {
        // mpirun's SIGTERM cuts sleep() short; its SIGKILL comes before the time is up.
        for (unsigned left = root() && role_ == Role::work ? 0 : 5; left > 0;) left = ::sleep(left);
        const char* rank = role_ == Role::serve ? "rollout rank" : "rank";
        const int code =
            report_exception(workers_ + servers_ > 1 ? format("%s %d: ", rank, rank_) : "");
        end_job(code);
        return code;
    }
}
