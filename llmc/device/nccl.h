// Tensors between the GPUs of a job by NCCL, which only moves bytes: pieces go to their owner, and
// a kernel of ours adds them in rank order. So the sums are those of MPI's ranks bit for bit,
// whichever rings and protocols the library chooses. As much travels as in its reduce-scatter.
#pragma once
#include "llmc/device/context.h"

#include <functional>

class Nccl {
  public:
    virtual ~Nccl() = default;
    // Own part of n elements, as of Comm::shard: the sum over ranks of `part`, elements
    // [begin, begin + part.size()) of n, replaces it in `part`, or where `own` is given is added
    // there. f32; in order with the work of ctx.
    virtual void reduce(Ctx& ctx, View own, const View& part, int64_t begin, int64_t n) = 0;
    virtual void all_gather(Ctx& ctx, View flat) = 0;
};

// All ranks together; exchange(id of the root) gives every rank the root's. Null on every rank if
// the root has no library.
std::shared_ptr<Nccl> join_nccl(int rank, int size,
                                const std::function<std::string(const std::string&)>& exchange);

// "" or what of the library cannot be loaded.
std::string nccl_missing();
