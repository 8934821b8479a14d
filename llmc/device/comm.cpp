// Contract: comm.h.
#include "llmc/device/comm.h"

#include <algorithm>
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

// A launcher leaves its mark; without one MPI is not started at all (its start costs a second).
bool launched() {
    for (const char* name :
         {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK", "SLURM_STEP_NUM_TASKS"})
        if (std::getenv(name)) return true;
    return false;
}

[[maybe_unused]] int launched_size() {
    for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"})
        if (const char* size = std::getenv(name)) return std::atoi(size);
    return 1;
}

template <class T> void add_in_order(T* out, const T* parts, int64_t n, int ranks) {
    for (int64_t i = 0; i < n; i++) {
        T sum = parts[i];
        for (int r = 1; r < ranks; r++) sum += parts[r * n + i];
        out[i] = sum;
    }
}

void add_parts(View out, const char* parts, int64_t begin, int64_t n, int ranks) {
    if (out.dtype == Dtype::f32)
        add_in_order(out.as<float>() + begin, reinterpret_cast<const float*>(parts), n, ranks);
    else if (out.dtype == Dtype::f64)
        add_in_order(out.as<double>() + begin, reinterpret_cast<const double*>(parts), n, ranks);
    else add_in_order(out.as<int32_t>() + begin, reinterpret_cast<const int32_t*>(parts), n, ranks);
}

} // namespace

Comm::Range Comm::shard(int64_t n, int rank, int size) {
    const int64_t even = (n + size - 1) / size;
    const int64_t length = (even + kAlignment - 1) / kAlignment * kAlignment;
    return {std::min(n, length * rank), std::min(n, length * (rank + 1))};
}

int64_t Comm::exchange_bytes(int64_t n, Dtype dtype, int size) {
    const Range first = shard(n, 0, size);
    const int64_t piece = std::min(first.end - first.begin, kExchange);
    return size == 1 ? 0 : 2 * size * piece * int64_t(dtype_bytes(dtype));
}

#ifdef PRIOR_MPI

Comm::Comm() {
    if (!launched()) return;
    int provided;
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
    joined_ = true;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
    MPI_Comm local;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &local);
    MPI_Comm_size(local, &local_size_);
    MPI_Comm_free(&local);
}

Comm::~Comm() {
    if (joined_) MPI_Finalize();
}

void Comm::barrier() {
    if (size_ > 1) MPI_Barrier(MPI_COMM_WORLD);
}

double Comm::all_max(double value) {
    if (size_ == 1) return value;
    std::vector<double> values(size_);
    MPI_Allgather(&value, 1, MPI_DOUBLE, values.data(), 1, MPI_DOUBLE, MPI_COMM_WORLD);
    for (double v : values)
        if (!(v <= value)) value = v;
    return value;
}

void Comm::all_sum(View values) {
    if (size_ == 1) return;
    const size_t bytes = values.bytes();
    buffer_.resize(bytes * size_t(size_));
    MPI_Allgather(values.data, int(bytes), MPI_BYTE, buffer_.data(), int(bytes), MPI_BYTE,
                  MPI_COMM_WORLD);
    add_parts(values, buffer_.data(), 0, values.size(), size_);
}

// Round by round: every rank sends a piece of each shard to its owner, who adds them up.
void Comm::reduce_scatter(View flat) {
    if (size_ == 1) return;
    const int64_t element = int64_t(dtype_bytes(flat.dtype)), n = flat.size();
    const Range own = shard(n);
    buffer_.resize(size_t(exchange_bytes(n, flat.dtype, size_)));
    const int64_t piece_bytes = int64_t(buffer_.size()) / (2 * size_);
    const int64_t round = piece_bytes / element; // elements of one shard moved at a time
    char* packed = buffer_.data();
    char* parts = packed + piece_bytes * size_;
    std::vector<int> send_counts(size_), send_at(size_), recv_counts(size_), recv_at(size_);
    const Range first = shard(n, 0, size_); // the longest
    for (int64_t done = 0; done < first.end - first.begin; done += round) {
        auto piece = [&](const Range& range) {
            return std::clamp<int64_t>(range.end - range.begin - done, 0, round);
        };
        const int64_t mine = piece(own);
        for (int r = 0; r < size_; r++) {
            const Range range = shard(n, r, size_);
            send_counts[r] = int(piece(range) * element);
            send_at[r] = int(r * piece_bytes); // offsets of MPI are ints: packed, then sent
            recv_counts[r] = int(mine * element);
            recv_at[r] = int(r * mine * element);
            std::memcpy(packed + send_at[r],
                        static_cast<char*>(flat.data) + (range.begin + done) * element,
                        size_t(send_counts[r]));
        }
        MPI_Alltoallv(packed, send_counts.data(), send_at.data(), MPI_BYTE, parts,
                      recv_counts.data(), recv_at.data(), MPI_BYTE, MPI_COMM_WORLD);
        if (mine > 0) add_parts(flat, parts, own.begin + done, mine, size_);
    }
}

void Comm::all_gather(View flat) {
    const int64_t element = int64_t(dtype_bytes(flat.dtype));
    for (int r = 0; r < size_ && size_ > 1; r++) {
        const Range range = shard(flat.size(), r, size_);
        char* data = static_cast<char*>(flat.data);
        for (int64_t at = range.begin * element; at < range.end * element; at += kMessage)
            MPI_Bcast(data + at, int(std::min(kMessage, range.end * element - at)), MPI_BYTE, r,
                      MPI_COMM_WORLD);
    }
}

std::vector<std::string> Comm::gather(const std::string& bytes) {
    std::vector<std::string> all(size_);
    for (int r = 0; r < size_; r++) {
        if (r == rank_) all[r] = bytes;
        if (size_ == 1) break;
        int64_t length = int64_t(all[r].size());
        MPI_Bcast(&length, 1, MPI_INT64_T, r, MPI_COMM_WORLD);
        all[r].resize(size_t(length));
        for (int64_t at = 0; at < length; at += kMessage)
            MPI_Bcast(all[r].data() + at, int(std::min(kMessage, length - at)), MPI_BYTE, r,
                      MPI_COMM_WORLD);
    }
    return all;
}

std::string Comm::broadcast(const std::string& bytes) {
    return gather(root() ? bytes : std::string())[0];
}

void Comm::end_job(int code) {
    if (size_ > 1) MPI_Abort(MPI_COMM_WORLD, code);
}

#else

Comm::Comm() {
    if (launched() && launched_size() > 1)
        fatal("started by mpirun, but built without MPI",
              "install libopenmpi-dev (scripts/setup.sh) and build again, or run without mpirun");
}
Comm::~Comm() = default;
void Comm::barrier() {}
double Comm::all_max(double value) { return value; }
void Comm::all_sum(View) {}
void Comm::reduce_scatter(View) {}
void Comm::all_gather(View) {}
std::vector<std::string> Comm::gather(const std::string& bytes) { return {bytes}; }
std::string Comm::broadcast(const std::string& bytes) { return bytes; }
void Comm::end_job(int) {}

#endif

int Comm::run(const std::function<int()>& body) {
    try {
        return body();
    } catch (...) {
        // mpirun's SIGTERM cuts sleep() short; its SIGKILL comes before the time is up.
        for (unsigned left = root() ? 0 : 5; left > 0;) left = ::sleep(left);
        const int code = report_exception(size_ > 1 ? format("rank %d: ", rank_) : "");
        end_job(code);
        return code;
    }
}
