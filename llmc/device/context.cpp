#include "llmc/device/context.h"

#include "llmc/device/cuda_device.h"
#include "llmc/device/gemm.h"

#include <algorithm>
#include <omp.h>
#include <sched.h>
#include <unistd.h>

void Scratch::give_back() {
    for (Block& block : blocks_)
        if (block.device) block.device->release(block.begin, block.bytes);
    blocks_.clear();
}

void Scratch::reserve(Arena& arena, size_t bytes) {
    require(total_ == 0, "scratch: reserved while it is in use");
    bytes += 1024; // an op's pieces each begin on a line of their own
    if (bytes <= reserved_.view().bytes()) return;
    give_back();
    block_ = used_ = 0;
    reserved_ = Buffer(); // the old room goes back first
    reserved_ = Buffer(arena, Segment::scratch, Dtype::u8, "scratch", int64_t(bytes));
    blocks_.push_back({nullptr, reserved_.bytes(), bytes, nullptr});
}

size_t Scratch::unreserved_bytes() const {
    size_t bytes = 0;
    for (const Block& block : blocks_)
        if (block.device || block.memory) bytes += block.bytes;
    return bytes;
}

void* Scratch::alloc(size_t bytes) {
    bytes = (bytes + 63) / 64 * 64;
    while (block_ < blocks_.size() && used_ + bytes > blocks_[block_].bytes) {
        block_++;
        used_ = 0;
    }
    if (block_ == blocks_.size()) {
        size_t block_bytes = std::max(bytes, size_t(1) << 20);
        Block block{nullptr, nullptr, block_bytes, device_};
        if (device_) {
            block.begin = static_cast<char*>(device_->allocate(block_bytes));
            if (!block.begin)
                fatal(format("out of memory: an op needs %.1f MiB", double(bytes) / (1 << 20)),
                      "lower -pass_rows or the model's size");
        } else {
            block.memory.reset(new char[block_bytes + 64]);
            uintptr_t address = reinterpret_cast<uintptr_t>(block.memory.get());
            block.begin = reinterpret_cast<char*>((address + 63) / 64 * 64);
        }
        blocks_.push_back(std::move(block));
        used_ = 0;
    }
    void* memory = blocks_[block_].begin + used_;
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

Ctx::Ctx(const CtxSettings& planned)
    : backend(planned.backend), threads(planned.threads > 0 ? planned.threads : available_cores()),
      bf16(planned.bf16), gemm_cache(make_gemm_cache()) {
    omp_set_num_threads(threads); // one OpenMP pool, shared with the GEMM library
}

Ctx::Ctx(Backend backend_, int threads_, bool bf16_, int rank)
    : Ctx(CtxSettings{backend_, threads_, bf16_}) {
    if (backend != Backend::cuda) return;
    memory = make_cuda_device(rank, &cuda, &stream);
    arena.use(memory.get());
    scratch.use(memory.get());
}

Ctx::~Ctx() = default;

void Ctx::play_gpu() {
    if (backend != Backend::simt) return;
    simt.defer = true;
    memory = make_simt_memory();
    arena.use(memory.get());
    scratch.use(memory.get());
}

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
