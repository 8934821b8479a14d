// Contract: nccl.h. Not run on a GPU yet.
#include "llmc/device/nccl.h"

#ifdef PRIOR_NCCL
#include "llmc/device/comm.h"
#include "llmc/device/cuda_device.h"
#include "llmc/device/library.h"
#include "llmc/device/tensor_kernels.h"

#include <algorithm>
#include <nccl.h>

namespace {

struct NcclLibrary {
    Library library{"libnccl.so.2"};
    decltype(ncclGetUniqueId)* get_id = library.find("ncclGetUniqueId");
    decltype(ncclCommInitRank)* init = library.find("ncclCommInitRank");
    decltype(ncclCommDestroy)* destroy = library.find("ncclCommDestroy");
    decltype(ncclSend)* send = library.find("ncclSend");
    decltype(ncclRecv)* recv = library.find("ncclRecv");
    decltype(ncclBroadcast)* broadcast = library.find("ncclBroadcast");
    decltype(ncclGroupStart)* begin_group = library.find("ncclGroupStart");
    decltype(ncclGroupEnd)* end_group = library.find("ncclGroupEnd");
    decltype(ncclGetErrorString)* error_string = library.find("ncclGetErrorString");
};

class NcclJob : public Nccl {
  public:
    NcclJob(std::unique_ptr<NcclLibrary> library, int rank, int size, const ncclUniqueId& id)
        : nccl_(std::move(library)), rank_(rank), size_(size) {
        check(nccl_->init(&comm_, size, id, rank), "ncclCommInitRank");
    }
    ~NcclJob() override { (void)nccl_->destroy(comm_); }

    void reduce(Ctx& ctx, View own, const View& part, int64_t begin, int64_t n) override {
        require(part.dtype == Dtype::f32, "nccl: %s is %s", part.name, dtype_name(part.dtype));
        const Comm::Range all{begin, begin + part.size()};
        const Comm::Range mine = Comm::overlap(Comm::shard(n, rank_, size_), all);
        const int64_t own_begin = Comm::shard(n, rank_, size_).begin;
        int64_t longest = 0;
        for (int r = 0; r < size_; r++) {
            const Comm::Range range = Comm::overlap(Comm::shard(n, r, size_), all);
            longest = std::max(longest, range.end - range.begin);
        }
        const cudaStream_t stream = static_cast<cudaStream_t>(ctx.cuda->stream);
        // Elements of one shard moved at a time: as much memory as by way of the host.
        const int64_t round =
            Comm::exchange_bytes(n, Dtype::f32, size_) / (size_ * int64_t(sizeof(float)));
        ScratchFrame frame(ctx.scratch);
        float* parts = ctx.scratch.alloc_of<float>(size_t(size_) * std::min(longest, round));
        for (int64_t done = 0; done < longest; done += round) {
            auto piece = [&](const Comm::Range& range) {
                return std::clamp<int64_t>(range.end - range.begin - done, 0, round);
            };
            const int64_t count = piece(mine);
            check(nccl_->begin_group(), "ncclGroupStart");
            for (int r = 0; r < size_; r++) {
                const Comm::Range range = Comm::overlap(Comm::shard(n, r, size_), all);
                if (piece(range) > 0)
                    check(nccl_->send(part.as<float>() + range.begin - begin + done,
                                      size_t(piece(range)), ncclFloat, r, comm_, stream),
                          "ncclSend");
                if (count > 0)
                    check(
                        nccl_->recv(parts + r * count, size_t(count), ncclFloat, r, comm_, stream),
                        "ncclRecv");
            }
            check(nccl_->end_group(), "ncclGroupEnd");
            if (count == 0) continue;
            const int64_t at = mine.begin + done;
            if (own.empty())
                cuda::add_parts(ctx, part.slice_rows(at - begin, count), parts, size_, false);
            else cuda::add_parts(ctx, own.slice_rows(at - own_begin, count), parts, size_, true);
        }
    }

    void all_gather(Ctx& ctx, View flat) override {
        check(nccl_->begin_group(), "ncclGroupStart");
        for (int r = 0; r < size_; r++) {
            const Comm::Range range = Comm::shard(flat.size(), r, size_);
            if (range.begin == range.end) continue;
            const View part = flat.slice_rows(range.begin, range.end - range.begin);
            check(nccl_->broadcast(part.data, part.data, part.bytes(), ncclChar, r, comm_,
                                   static_cast<cudaStream_t>(ctx.cuda->stream)),
                  "ncclBroadcast");
        }
        check(nccl_->end_group(), "ncclGroupEnd");
    }

    void check(ncclResult_t status, const char* what) const {
        if (status != ncclSuccess)
            fatal(format("NCCL: %s: %s", what, nccl_->error_string(status)),
                  "run with NCCL_DEBUG=WARN to see why");
    }

  private:
    std::unique_ptr<NcclLibrary> nccl_;
    ncclComm_t comm_{};
    const int rank_, size_;
};

} // namespace

std::shared_ptr<Nccl> join_nccl(int rank, int size,
                                const std::function<std::string(const std::string&)>& exchange) {
    auto library = std::make_unique<NcclLibrary>();
    ncclUniqueId id{};
    std::string bytes;
    if (rank == 0 && library->library.complete()) {
        const ncclResult_t status = library->get_id(&id);
        if (status != ncclSuccess)
            fatal(format("NCCL: ncclGetUniqueId: %s", library->error_string(status)),
                  "run with NCCL_DEBUG=WARN to see why");
        bytes.assign(id.internal, sizeof id.internal);
    }
    bytes = exchange(bytes);
    if (bytes.empty()) return nullptr;
    if (!library->library.complete())
        fatal("CUDA: the root has NCCL, this rank cannot load it: " + library->library.missing(),
              "put the folder of the CUDA libraries into LD_LIBRARY_PATH");
    std::copy(bytes.begin(), bytes.end(), id.internal);
    return std::make_shared<NcclJob>(std::move(library), rank, size, id);
}

std::string nccl_missing() { return NcclLibrary().library.missing(); }

#else

std::shared_ptr<Nccl> join_nccl(int, int, const std::function<std::string(const std::string&)>&) {
    return nullptr;
}

std::string nccl_missing() { return "built without NCCL"; }

#endif
