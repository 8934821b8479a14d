// The ranks of a job and what they exchange. One interface for MPI and for a single process; sums
// are taken in rank order, so that a repeated job gets the same bits.
#pragma once
#include "llmc/device/context.h"

#include <functional>
#include <memory>
#include <string>
#include <vector>

class Nccl; // nccl.h

// What a rank does: ./train and the commands of ./rollout work, ./rollout serve serves them.
enum class Role { work, serve };

class Comm {
  public:
    // Joins the job where the process was started by mpirun or srun, else is a job of one rank.
    // One Comm per process; made before any thread. Ranks and what they exchange are those of one
    // role, but for what is said under "servers".
    explicit Comm(Role role);
    Comm() : Comm(Role::work) {}
    explicit Comm(int planned_ranks); // for plans: the root of so many, exchanges nothing
    ~Comm();                          // a working root tells the servers that the job is over
    Comm(const Comm&) = delete;

    int rank() const { return rank_; }
    int size() const { return size_; }
    int local_size() const { return local_size_; } // ranks on this machine
    int local_rank() const { return local_rank_; } // among all on this machine, of either role
    int machine_ranks() const { return machine_ranks_; } // of either role
    bool root() const { return rank_ == 0; }

    // values (n) i32 or f64: replaced by their sum over ranks, the same bits on every rank.
    void all_sum(View values);
    double all_max(double value); // NaN if any is
    bool any(bool value) { return all_max(value) > 0; }
    void barrier();

    // flat (n) f32 or f64 is owned in parts: rank r owns elements shard(n, r), 64-byte aligned.
    struct Range {
        int64_t begin, end;
    };
    static Range shard(int64_t n, int rank, int size);
    Range shard(int64_t n) const { return shard(n, rank_, size_); }
    static Range overlap(const Range& a, const Range& b); // of no length where there is none
    // Tensors of `ctx`, after all that was asked for before; between GPUs they go by NCCL where it
    // is found (nccl.h), else by way of the host. Either way the sums are taken in rank order.
    // Own part: replaced by the sum over ranks; the other parts are left undefined.
    void reduce_scatter(Ctx& ctx, View flat);
    // own (shard(n)) +=: the sum over ranks of `part`, elements [begin, begin + part.size()) of n.
    void reduce_add(Ctx& ctx, View own, const View& part, int64_t begin, int64_t n);
    // What these two keep for their exchange: bytes of a rank.
    static int64_t exchange_bytes(int64_t n, Dtype dtype, int size);
    // What MPI takes for itself from now on: to start where it has not, as in a plan, and for
    // messages. Open MPI 4.1 on one machine, measured on 1, 2 and 4 ranks.
    int64_t mpi_bytes() const;
    // Every part: replaced by its owner's.
    void all_gather(Ctx& ctx, View flat);

    // Any bytes: of every rank, in rank order; of the root.
    std::vector<std::string> gather(const std::string& bytes);
    std::string broadcast(const std::string& bytes);

    // Servers: between the working root and those that serve, numbered from 0. Who waits sleeps,
    // so that the roles can take turns on the same cores.
    Role role() const { return role_; }
    int workers() const { return workers_; } // ranks of each role, known to all
    int servers() const { return servers_; }
    void send_to_server(int server, const std::string& bytes);
    std::string receive_from_any(int* server); // the root: the next message of any
    void send_to_root(const std::string& bytes);
    std::string receive_from_root(); // "" = the job is over
    // `data` of the root to every server, in pieces; all of them call it.
    void broadcast_to_servers(View data);

    // Runs `body` and returns its exit code. An error in it ends every rank of the job, with one
    // message: ranks other than the root wait a moment first, and where all fail alike the root's
    // message was the last thing they did.
    int run(const std::function<int()>& body);

  private:
    void end_job(int code);
    template <class Add>
    void exchange(Ctx& ctx, const View& part, int64_t begin, int64_t n, const Add& add);
    Nccl* nccl(Ctx& ctx); // null: by way of the host

    const Role role_;
    int rank_ = 0, size_ = 1, local_size_ = 1, local_rank_ = 0, machine_ranks_ = 1, workers_ = 1,
        servers_ = 0;
    struct Groups; // of MPI
    std::unique_ptr<Groups> groups_;
    std::shared_ptr<Nccl> nccl_; // made by the first exchange of tensors between GPUs
    std::string buffer_;         // of the exchanges, kept between calls
};
