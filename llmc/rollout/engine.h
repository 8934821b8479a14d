// The rollout engine: samples answers to prompts over the same weights and ops as training.
//
// A prompt is prefilled once, in chunks that share their forward with the decoding of others; its G
// samples share its pages and copy the last, partly filled one when they first write into it.
// Sequences are decoded together, as many as `rows`; where one ends the next begins (continuous
// batching). Where pages run out the newest sequence gives its own back and is computed again
// later. Random numbers are a function of (seed, step, prompt id, sample, position), and every
// row's arithmetic is independent of the others, so a sample does not depend on the batch it ran
// in, on its pages or on being preempted.
#pragma once
#include "llmc/device/memory.h"
#include "llmc/model/decode_pass.h"

#include <functional>
#include <memory>
#include <string>
#include <vector>

struct EngineSettings {
    int rows;      // sequences decoded at a time
    int page_size; // tokens of a KV cache page
    int longest;   // prompt + answer, tokens
    int pages = 0; // of the KV cache; 0 = enough for `rows` longest sequences. Fewer: preemption
};

struct SampleSettings {
    double temperature, top_p; // 0 = greedy; 1 = off
    int top_k;                 // 0 = off
    int max_new_tokens;
    std::vector<int32_t> stop_tokens; // any of them ends a sample, as its last token
    uint64_t seed, step;
};

struct Request {
    uint64_t prompt_id;
    std::vector<int32_t> prompt; // at least one token
    std::vector<int> samples;    // the numbers of the samples to draw, ascending
};
std::vector<int> first_samples(int count); // 0 ... count-1

enum class Finish { stop, length };
const char* finish_name(Finish finish);

struct Completion {
    size_t request; // index into the requests
    int sample;
    std::vector<int32_t> tokens;   // the stop token included
    std::vector<float> logp;       // under what it was drawn from: temperature, top_k, top_p
    std::vector<float> plain_logp; // under softmax(logits)
    std::vector<float> entropy;    // of softmax(logits / temperature), at 1 where greedy, nats
    Finish finish;
};

struct EngineCounts {
    int64_t prefilled = 0, decoded = 0; // prompt tokens computed first, tokens drawn
    int64_t recomputed = 0;             // tokens computed again after a preemption
    int64_t steps = 0;                  // forward calls with a decoded row
    int64_t preempted = 0, copied = 0;  // sequences, pages
};

// What generate() tells while it runs; empty functions are not called.
struct EngineListener {
    std::function<void(const Completion&)> token; // has one more; `finish` is not known yet
    std::function<void(Completion)> finished;     // takes it: generate() then returns nothing
    // All samples of a request have finished: requests to add behind the present ones.
    std::function<std::vector<Request>(size_t request)> request_finished;
};

class Engine {
  public:
    Engine(Ctx& ctx, const Model& model, const EngineSettings& settings);
    ~Engine();

    // Completions ordered by request, then sample. fatal() if a prompt with its answer is longer
    // than `longest`.
    std::vector<Completion> generate(const std::vector<Request>& requests,
                                     const SampleSettings& settings);
    void listen(EngineListener listener) { listener_ = std::move(listener); }
    EngineCounts counts() const { return counts_; } // since construction
    int free_pages() const;
    int pages() const { return cache_.pages(); }

  private:
    friend class Generation; // one generate() call, engine.cpp
    Ctx& ctx_;
    const Model& model_;
    EngineSettings settings_;
    KvCache cache_;
    DecodePass pass_;
    std::unique_ptr<class PageTable> pages_;
    EngineListener listener_;
    struct Host { // what goes to the ops and back
        Host(Ctx& ctx, const ModelConfig& config, const EngineSettings& settings);
        Mirror tokens, positions, row, length, slot, table; // of a forward
        Mirror chosen, logits, uniform, drawn, kept, plain_stats, drawn_stats;
    } host_;
    EngineCounts counts_;
};

// The uniform number of one drawn token.
double sample_uniform(uint64_t seed, uint64_t step, uint64_t prompt_id, int sample, int position);
