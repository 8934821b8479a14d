// The rollout engine: samples answers to prompts over the same weights and ops as training.
//
// A prompt is prefilled once; its G samples share its full pages and copy the last, partial one.
// Sequences are decoded together, as many as `rows`; where one ends the next begins (continuous
// batching). Random numbers are a function of (seed, step, prompt id, sample, position), and every
// row's arithmetic is independent of the others, so a sample does not depend on the batch it ran
// in.
#pragma once
#include "llmc/model/decode_pass.h"

#include <memory>
#include <string>
#include <vector>

struct EngineSettings {
    int rows;      // sequences decoded at a time
    int page_size; // tokens of a KV cache page
    int longest;   // prompt + answer, tokens
    int pages = 0; // of the KV cache; 0 = enough for `rows` longest sequences. Fewer: samples wait
};

struct SampleSettings {
    double temperature, top_p; // 0 = greedy; 1 = off
    int top_k;                 // 0 = off
    int max_new_tokens;
    int stop_token; // -1 = none
    uint64_t seed, step;
};

struct Request {
    uint64_t prompt_id;
    std::vector<int32_t> prompt; // at least one token
    int samples;
};

enum class Finish { stop, length };

struct Completion {
    size_t request; // index into the requests
    int sample;
    std::vector<int32_t> tokens; // the stop token included
    std::vector<float> logp,
        entropy; // of the full distribution at `temperature` (1 if greedy), per token
    Finish finish;
};

struct EngineCounts {
    int64_t prefilled = 0, decoded = 0, steps = 0; // tokens, tokens, forward calls while decoding
};

class Engine {
  public:
    Engine(Ctx& ctx, const Model& model, const EngineSettings& settings);
    ~Engine();

    // Completions ordered by request, then sample. fatal() if a prompt with its answer is longer
    // than `longest`.
    std::vector<Completion> generate(const std::vector<Request>& requests,
                                     const SampleSettings& settings);
    EngineCounts counts() const { return counts_; } // since construction
    int free_pages() const;
    int pages() const { return cache_.pages(); }
    size_t bytes() const { return cache_.bytes() + pass_.bytes(); }

  private:
    friend class Generation; // one generate() call, engine.cpp
    Ctx& ctx_;
    const Model& model_;
    EngineSettings settings_;
    KvCache cache_;
    DecodePass pass_;
    std::unique_ptr<class PageTable> pages_;
    EngineCounts counts_;
};

// The uniform number of one drawn token.
double sample_uniform(uint64_t seed, uint64_t step, uint64_t prompt_id, int sample, int position);
