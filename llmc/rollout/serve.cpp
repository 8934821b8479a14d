// Contract: serve.h.
#include "llmc/rollout/serve.h"

#include "llmc/core/error.h"
#include "llmc/core/json.h"
#include "llmc/device/memory.h"

#include <algorithm>
#include <csignal>
#include <cstdio>

namespace {

std::string pack(const Json& message) { // floats are exact in it
    std::string bytes;
    Json::to_msgpack(message, bytes);
    return bytes;
}

Json settings_json(const SampleSettings& s) {
    return {s.temperature, s.top_p, s.top_k, s.max_new_tokens, s.stop_tokens, s.seed, s.step};
}

SampleSettings settings_of(const Json& s) {
    return {s[0].get<double>(),
            s[1].get<double>(),
            s[2].get<int>(),
            s[3].get<int>(),
            s[4].get<std::vector<int32_t>>(),
            s[5].get<uint64_t>(),
            s[6].get<uint64_t>()};
}

Json completion_json(size_t number, const Completion& c) {
    return {{"number", number},  {"sample", c.sample},         {"tokens", c.tokens},
            {"logp", c.logp},    {"plain_logp", c.plain_logp}, {"entropy", c.entropy},
            {"finish", c.finish}};
}

Completion completion_of(const Json& m) {
    return {m["number"].get<size_t>(),
            m["sample"].get<int>(),
            m["tokens"].get<std::vector<int32_t>>(),
            m["logp"].get<std::vector<float>>(),
            m["plain_logp"].get<std::vector<float>>(),
            m["entropy"].get<std::vector<float>>(),
            m["finish"].get<Finish>()};
}

} // namespace

// ------------------------------------------------------------------------------------------------
// the working side

ServedEngines::ServedEngines(Comm& comm, const Ctx& ctx, const Model& model, int longest)
    : comm_(comm), model_(model) {
    if (!comm_.root()) return;
    const std::string build = pack({{"do", "model"},
                                    {"config", config_to_json(model.config, 0, ctx.dtype())},
                                    {"weights", dtype_name(ctx.dtype())},
                                    {"bf16", ctx.bf16},
                                    {"longest", longest}});
    for (int s = 0; s < comm_.servers(); s++) comm_.send_to_server(s, build);
    servers_.resize(size_t(comm_.servers()));
    for (int s = 0; s < comm_.servers(); s++) {
        int from;
        const Json hello = Json::from_msgpack(comm_.receive_from_any(&from));
        servers_[size_t(from)].rows = hello["rows"].get<int>();
    }
}

void ServedEngines::send_weights() {
    const std::string message = pack({{"do", "weights"}, {"rope_base", model_.config.rope_base}});
    for (int s = 0; s < comm_.servers(); s++) comm_.send_to_server(s, message);
    const HostRead weights(model_.ctx(), model_.weights.flat());
    comm_.broadcast_to_servers(weights.view());
    fresh_ = true;
}

void ServedEngines::add(const std::vector<Request>& requests) {
    for (const Request& request : requests) {
        waiting_.push_back(requests_.size());
        requests_.push_back(request);
    }
}

// As many as fill its rows, and two more that begin when the first samples end.
std::vector<size_t> ServedEngines::take(Server& server) {
    std::vector<size_t> numbers;
    while (!waiting_.empty()) {
        const int64_t samples = int64_t(requests_[waiting_.front()].samples.size());
        if (server.samples > 0 && server.samples >= server.rows + 2 * samples) break;
        numbers.push_back(waiting_.front());
        waiting_.pop_front();
        server.samples += samples;
        server.requests++;
    }
    return numbers;
}

std::string ServedEngines::requests_text(const std::vector<size_t>& numbers) const {
    Json list = Json::array();
    for (size_t number : numbers) {
        const Request& r = requests_[number];
        list.push_back({number, r.prompt_id, r.prompt, r.samples});
    }
    return pack(list);
}

// Servers without a request begin anew; what waits is dealt out evenly first.
void ServedEngines::start_idle(const std::string& settings) {
    std::vector<std::vector<size_t>> dealt(servers_.size());
    std::vector<size_t> idle;
    for (size_t s = 0; s < servers_.size(); s++)
        if (servers_[s].requests == 0) idle.push_back(s);
    const size_t share = idle.empty() ? 0 : (waiting_.size() + idle.size() - 1) / idle.size();
    for (size_t s : idle) {
        std::deque<size_t> later;
        if (waiting_.size() > share) {
            later.assign(waiting_.begin() + int64_t(share), waiting_.end());
            waiting_.resize(share);
        }
        dealt[s] = take(servers_[s]);
        waiting_.insert(waiting_.end(), later.begin(), later.end());
    }
    for (size_t s : idle) {
        if (dealt[s].empty()) continue;
        comm_.send_to_server(int(s), settings);
        comm_.send_to_server(int(s), requests_text(dealt[s]));
    }
}

void ServedEngines::generate(const std::vector<Request>& requests, const SampleSettings& settings,
                             const EngineListener& listener) {
    require(comm_.root() || requests.empty(), "ServedEngines: requests of rank %d", comm_.rank());
    if (!comm_.root()) return;
    requests_.clear();
    waiting_.clear();
    add(requests);
    if (!requests.empty() && !fresh_) send_weights();
    const std::string begin = pack({{"do", "sample"}, {"settings", settings_json(settings)}});
    start_idle(begin);
    for (size_t finished = 0; finished < requests_.size();) {
        int from;
        const Json message = Json::from_msgpack(comm_.receive_from_any(&from));
        Server& server = servers_[size_t(from)];
        if (!message.contains("finished")) {
            server.samples--;
            listener.finished(completion_of(message));
            continue;
        }
        finished++;
        if (listener.request_finished)
            add(listener.request_finished(message["finished"].get<size_t>()));
        // It is not idle before it has its reply: others that are come first.
        start_idle(begin);
        server.requests--;
        comm_.send_to_server(from, requests_text(take(server)));
    }
}

// ------------------------------------------------------------------------------------------------
// the serving side

namespace {

class Server {
  public:
    Server(Comm& comm, const ServeSettings& settings) : comm_(comm), settings_(settings) {}

    void run() {
        for (;;) {
            const std::string bytes = comm_.receive_from_root();
            if (bytes.empty()) break;
            const Json message = Json::from_msgpack(bytes);
            const std::string what = message["do"].get<std::string>();
            if (what == "model") build(message);
            else if (what == "weights") take_weights(message);
            else sample(message);
        }
        if (!engine_) return;
        const EngineCounts n = engine_->counts();
        std::fprintf(stderr, "rollout rank %d: %ld prompt tokens once, %ld sampled in %ld steps\n",
                     comm_.rank(), long(n.prefilled), long(n.decoded), long(n.steps));
    }

  private:
    // The same one again leaves all as it is: a run asks at the begin of every stage.
    void build(const Json& message) {
        if (message != built_) {
            engine_.reset();
            model_.reset();
            ctx_ = std::make_unique<Ctx>(
                CtxSettings{settings_.backend, settings_.threads, message["bf16"].get<bool>()},
                comm_.local_rank());
            if (message["weights"] != dtype_name(ctx_->dtype()))
                fatal(format("serve: the run computes in %s, this rank in %s",
                             message["weights"].get<std::string>().c_str(),
                             dtype_name(ctx_->dtype())),
                      "start both with the same -device");
            model_ = std::make_unique<Model>(*ctx_, config_from_json(message["config"], "./train"));
            engine_ = std::make_unique<Engine>(*ctx_, *model_,
                                               EngineSettings{settings_.rows, settings_.page_size,
                                                              message["longest"].get<int>(),
                                                              settings_.pages});
            built_ = message;
        }
        comm_.send_to_root(pack({{"rows", settings_.rows}}));
    }

    void take_weights(const Json& message) {
        const double rope_base = message["rope_base"].get<double>();
        if (rope_base != model_->config.rope_base) model_->set_rope_base(rope_base);
        {
            const HostWrite weights(*ctx_, model_->weights.flat());
            comm_.broadcast_to_servers(weights.view());
        }
        model_->weights_changed();
    }

    void sample(const Json& message) {
        std::vector<size_t> numbers; // the root's, of the engine's requests
        auto receive_requests = [&] {
            std::vector<Request> requests;
            for (const Json& r : Json::from_msgpack(comm_.receive_from_root())) {
                numbers.push_back(r[0].get<size_t>());
                requests.push_back({r[1].get<uint64_t>(), r[2].get<std::vector<int32_t>>(),
                                    r[3].get<std::vector<int>>()});
            }
            return requests;
        };
        EngineListener listener;
        listener.finished = [&](const Completion& c) {
            comm_.send_to_root(pack(completion_json(numbers[c.request], c)));
        };
        listener.request_finished = [&](size_t request) {
            comm_.send_to_root(pack({{"finished", numbers[request]}}));
            return receive_requests();
        };
        engine_->listen(std::move(listener));
        const std::vector<Request> first = receive_requests();
        engine_->generate(first, settings_of(message["settings"]));
        engine_->listen({});
    }

    Comm& comm_;
    const ServeSettings settings_;
    Json built_;
    std::unique_ptr<Ctx> ctx_;
    std::unique_ptr<Model> model_;
    std::unique_ptr<Engine> engine_;
};

} // namespace

void serve(Comm& comm, const ServeSettings& settings) {
    // ./train saves and says that the job is over; until then a server goes on.
    for (int signal : {SIGINT, SIGTERM, SIGUSR1}) std::signal(signal, SIG_IGN);
    Server(comm, settings).run();
}
