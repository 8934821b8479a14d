// Contract: context.h.
#include "llmc/device/context.h"

#include "llmc/device/cuda_device.h"
#include "llmc/device/gemm.h"

#include <algorithm>
#include <omp.h>
#include <sched.h>
#include <unistd.h>

void Scratch::reserve(size_t bytes) {
    require(total_ == 0, "scratch: reserved while it is in use");
    bytes += 1024; // an op's pieces each begin on a line of their own
    if (!blocks_.empty() && bytes <= blocks_[0].view().bytes()) return;
    blocks_.clear(); // the old room goes back first
    block_ = used_ = 0;
    blocks_.emplace_back(arena_, Segment::scratch, Dtype::u8, "scratch", int64_t(bytes));
}

void* Scratch::alloc(size_t bytes) {
    constexpr size_t kLine = 64, kLeastBlock = size_t(1) << 20;
    bytes = round_up(bytes, kLine);
    while (block_ < blocks_.size() && used_ + bytes > blocks_[block_].view().bytes()) {
        block_++;
        used_ = 0;
    }
    if (block_ == blocks_.size())
        blocks_.emplace_back(arena_, Segment::scratch, Dtype::u8, "scratch",
                             int64_t(std::max(bytes, kLeastBlock)));
    void* memory = blocks_[block_].bytes() + used_;
    used_ += bytes;
    total_ += bytes;
    peak_ = std::max(peak_, total_);
    return memory;
}

int available_cores() {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

int machine_cores() { return int(::sysconf(_SC_NPROCESSORS_ONLN)); }

int threads_per_rank(int asked, int local_ranks) {
    if (asked > 0) return asked;
    const int cores = available_cores();
    return cores < machine_cores() ? cores : std::max(1, cores / local_ranks);
}

const char* backend_name(Backend backend) {
    static const char* const names[] = {"ref", "cpu", "simt", "cuda"};
    return names[int(backend)];
}

Backend named_backend(const std::string& device) {
    for (Backend backend : {Backend::ref, Backend::cpu, Backend::simt, Backend::cuda})
        if (device == backend_name(backend)) return backend;
    require(device == "auto", "named_backend: \"%s\"", device.c_str());
    return cuda_missing().empty() ? Backend::cuda : Backend::cpu;
}

Backend choose_backend(const std::string& device) {
    const Backend backend = named_backend(device);
    const std::string missing = backend == Backend::cuda ? cuda_missing() : "";
    if (!missing.empty())
        usage_error("device = \"cuda\": " + missing,
                    "-device cpu computes on the CPU, -device simt runs the CUDA kernels on it");
    return backend;
}

bool choose_bf16(const std::string& dtype, Backend backend) {
    if (dtype == "bf16" && backend == Backend::ref)
        usage_error("-dtype bf16 with -device ref", "the reference computes in double only");
    return dtype == "bf16";
}

Ctx::Ctx(Backend backend_, int threads_, bool bf16_)
    : backend(backend_), threads(threads_ > 0 ? threads_ : available_cores()), bf16(bf16_),
      gemm_cache(make_gemm_cache()) {
    omp_set_num_threads(threads); // one OpenMP pool, shared with the GEMM library
}

Ctx::Ctx(const CtxSettings& s, int rank) : Ctx(s.backend, s.threads, s.bf16) {
    if (backend == Backend::cuda) {
        std::unique_ptr<CudaDevice> device = make_cuda_device(rank);
        cuda = device.get();
        memory = std::move(device);
    }
    if (backend == Backend::simt) {
        simt.defer = true;
        memory = make_simt_memory();
    }
    arena.use(memory.get());
}

Ctx::~Ctx() = default;

void Ctx::enqueue(std::function<void()> work) {
    if (defers()) waiting_.push_back(std::move(work));
    else work();
}

void Ctx::wait() {
    if (cuda) return memory->wait();
    if (waiting_.empty()) return;
    if (!memory) return run_waiting();
    memory->enter();
    try {
        run_waiting();
    } catch (...) {
        memory->leave();
        throw;
    }
    memory->leave();
}

void Ctx::run_waiting() {
    const std::vector<std::function<void()>> all = std::move(waiting_);
    waiting_.clear(); // also where one of them throws
    for (const auto& work : all) work();
}
