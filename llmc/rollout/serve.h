// Rollouts on ranks of their own: mpirun -np A ./train ... : -np B ./rollout serve
//
// The working root sends what to build, then weights whenever they have changed, then prompts: as
// many as a server's rows take, and one more whenever all samples of one are there. Samples come
// back one by one. Prompts go to whoever has room, so a slow server gets fewer of them.
//
//   root -> server   {do: model, ...}            server -> root   {rows}
//                    {do: weights, rope_base}, then the weights by broadcast
//                    {do: sample, settings, requests}
//                                                {number, sample, tokens, ...}   one sample
//                                                {finished: number}              a request
//                    {requests}                  the answer to that, often empty
//                    ""                          the job is over
#pragma once
#include "llmc/rollout/source.h"

#include <deque>

// The working side. Ranks other than the root bring no requests and return at once.
class ServedEngines : public SampleSource {
  public:
    // `longest`: prompt + answer, tokens.
    ServedEngines(Comm& comm, const Ctx& ctx, const Model& model, int longest);
    int sharers() const override { return 1; }
    void generate(const std::vector<Request>& requests, const SampleSettings& settings,
                  const EngineListener& listener) override;
    void weights_changed() override { fresh_ = false; }

  private:
    struct Server {
        int rows;
        int64_t samples = 0; // handed out, not back yet
        int requests = 0;    // not reported as finished
    };
    void send_weights();
    void add(const std::vector<Request>& requests);
    std::vector<size_t> take(Server& server); // of those that wait
    void start_idle(const std::string& settings);
    std::string requests_text(const std::vector<size_t>& numbers) const;

    Comm& comm_;
    const Model& model_;
    bool fresh_ = false; // the servers have the model's weights
    std::vector<Server> servers_;
    std::deque<Request> requests_; // of this call
    std::deque<size_t> waiting_;
};

struct ServeSettings {
    Backend backend;
    int threads;
    int rows, page_size, pages; // of EngineSettings
};

// The serving side: returns when the job is over.
void serve(Comm& comm, const ServeSettings& settings);
