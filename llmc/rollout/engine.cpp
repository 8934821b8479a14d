// Contract: engine.h.
#include "llmc/rollout/engine.h"

#include "llmc/core/error.h"
#include "llmc/core/rng.h"
#include "llmc/ops/loss.h"
#include "llmc/ops/sample.h"
#include "llmc/rollout/pages.h"

#include <algorithm>

namespace {

// Row counts are rounded up to few values, so that few GEMM shapes are prepared; the extra rows
// write to a page of their own.
int64_t padded_rows(int64_t rows) {
    if (rows <= 8) return (rows + 3) / 4 * 4;
    return (rows + 15) / 16 * 16;
}

int pages_for(int64_t tokens, int page_size) { return int((tokens + page_size - 1) / page_size); }

// Room for the longest sequence of every row, one waiting prompt, and the padding. Without one
// sequence of full length beside its own prompt's partial page nothing could begin.
int cache_pages(const EngineSettings& settings) {
    const int longest = pages_for(settings.longest, settings.page_size), least = longest + 2;
    if (settings.pages == 0) return (settings.rows + 1) * longest + 1;
    if (settings.pages < least)
        fatal(format("rollout: %d pages of %d tokens cannot hold one sequence of %d tokens",
                     settings.pages, settings.page_size, settings.longest),
              format("%d pages are the least", least));
    return settings.pages;
}

constexpr int kPrefillRows = 512; // prompt tokens of one call

} // namespace

double sample_uniform(uint64_t seed, uint64_t step, uint64_t prompt_id, int sample, int position) {
    const Philox p = philox(mix(mix(seed, step), prompt_id), uint64_t(sample), uint64_t(position));
    return double((uint64_t(p.v[0]) << 21) ^ (p.v[1] >> 11)) * 0x1p-53;
}

Engine::Engine(Ctx& ctx, const Model& model, const EngineSettings& settings)
    : ctx_(ctx), model_(model), settings_(settings),
      cache_(model.config, ctx.dtype(), cache_pages(settings), settings.page_size),
      pass_(ctx, model, cache_, padded_rows(std::max(settings.rows, kPrefillRows)),
            padded_rows(settings.rows)),
      pages_(std::make_unique<PageTable>(cache_.pages())) {
    pages_->take(); // page 0 belongs to the padding
    if (settings.longest > model.config.max_positions)
        fatal(format("rollout: prompt and answer may take %d tokens, the model has %d positions",
                     settings.longest, model.config.max_positions),
              "lower max_new_tokens or use shorter prompts");
}

Engine::~Engine() = default;

int Engine::free_pages() const { return pages_->free_pages(); }

// ------------------------------------------------------------------------------------------------
// one generate() call

namespace {

struct Prompt {
    std::vector<int> pages;
    int waiting; // samples not yet begun
};

struct Sequence {
    size_t request;
    int sample, row; // row of the page table
    std::vector<int> pages;
    int64_t length; // tokens in the cache
    int32_t next;   // token to feed
    int promised;   // free pages it may still take
    Completion completion;
};

// Index vectors of one forward.
struct Rows {
    std::vector<int32_t> tokens, positions, row, length, slot;
    void add(int32_t token, int64_t position, int table_row, int page, int page_size) {
        tokens.push_back(token);
        positions.push_back(int32_t(position));
        row.push_back(table_row);
        length.push_back(int32_t(position) + 1);
        slot.push_back(int32_t(page * page_size + position % page_size));
    }
};

View index_view(std::vector<int32_t>& values, const char* name) {
    return make_view(values.data(), Dtype::i32, name, int64_t(values.size()));
}

} // namespace

class Generation {
  public:
    Generation(Engine& engine, const std::vector<Request>& requests, const SampleSettings& settings)
        : e_(engine), requests_(requests), s_(settings), page_size_(engine.settings_.page_size),
          table_width_(pages_for(engine.settings_.longest, page_size_)) {
        table_.assign(size_t(e_.settings_.rows + 1) * table_width_, 0);
        for (int row = e_.settings_.rows - 1; row >= 0; row--) free_rows_.push_back(row);
        for (const Request& request : requests) {
            require(!request.prompt.empty(), "rollout: empty prompt");
            if (int64_t(request.prompt.size()) + s_.max_new_tokens > e_.settings_.longest)
                fatal(format("rollout: a prompt of %zu tokens with %d new ones exceeds %d",
                             request.prompt.size(), s_.max_new_tokens, e_.settings_.longest),
                      "lower max_new_tokens or use shorter prompts");
        }
    }

    std::vector<Completion> run() {
        while (next_request_ < requests_.size() || !active_.empty()) {
            admit();
            decode();
        }
        std::sort(done_.begin(), done_.end(), [](const Completion& a, const Completion& b) {
            return a.request != b.request ? a.request < b.request : a.sample < b.sample;
        });
        return std::move(done_);
    }

  private:
    View table_view() {
        return make_view(table_.data(), Dtype::i32, "page_table", e_.settings_.rows + 1,
                         table_width_);
    }
    int* table_row(int row) { return table_.data() + size_t(row) * table_width_; }

    void forward(Rows& rows) {
        const size_t padded = size_t(padded_rows(int64_t(rows.tokens.size())));
        while (rows.tokens.size() < padded) rows.add(0, 0, e_.settings_.rows, 0, page_size_);
        // Neighbouring padding rows would write one line twice; they all write the same value
        // there.
        e_.pass_.forward({index_view(rows.tokens, "tokens"),
                          index_view(rows.positions, "positions"), index_view(rows.row, "row"),
                          index_view(rows.length, "length"), index_view(rows.slot, "slot"),
                          table_view()});
    }

    // Fills free rows with samples of the present prompt, prefilling the next one when it is used
    // up. A sample begins when all pages it may ever need are free: none has to be undone later.
    void admit() {
        while (!free_rows_.empty() && next_request_ < requests_.size()) {
            const Request& request = requests_[next_request_];
            const int64_t length = int64_t(request.prompt.size());
            const int need = pages_for(length + s_.max_new_tokens, page_size_) -
                             int(length / page_size_); // beyond the prompt's full pages
            if (prompt_.pages.empty()) {
                if (unpromised_pages() < pages_for(length, page_size_) + need) return;
                prefill(request);
            }
            const int count =
                std::min({prompt_.waiting, int(free_rows_.size()), unpromised_pages() / need});
            const int first = request.samples - prompt_.waiting;
            begin_samples(request, first, count, need);
            prompt_.waiting -= count;
            if (prompt_.waiting > 0) return;
            for (int page : prompt_.pages) e_.pages_->release(page);
            prompt_.pages.clear();
            next_request_++;
        }
    }
    int unpromised_pages() const { return e_.pages_->free_pages() - promised_; }
    int take_promised(Sequence& sequence) {
        require(sequence.promised > 0, "rollout: a sequence outgrew its pages");
        sequence.promised--;
        promised_--;
        return e_.pages_->take();
    }

    // Runs the prompt through the model once; keeps the logits that follow it.
    void prefill(const Request& request) {
        const int64_t length = int64_t(request.prompt.size());
        prompt_.waiting = request.samples;
        for (int i = 0; i < pages_for(length, page_size_); i++)
            prompt_.pages.push_back(e_.pages_->take());
        std::vector<int32_t> last(1);      // the prompt's last token, as a row of the last forward
        const int row = free_rows_.back(); // borrowed: no sample runs in it yet
        std::copy(prompt_.pages.begin(), prompt_.pages.end(), table_row(row));
        for (int64_t begin = 0; begin < length; begin += kPrefillRows) {
            const int64_t end = std::min<int64_t>(length, begin + kPrefillRows);
            Rows rows;
            for (int64_t p = begin; p < end; p++)
                rows.add(request.prompt[p], p, row, prompt_.pages[p / page_size_], page_size_);
            forward(rows);
            last[0] = int32_t(end - begin - 1);
        }
        e_.counts_.prefilled += length;
        // Every sample begins from the same logits; keep them, the pass's buffers are reused.
        const View logits = e_.pass_.logits_forward(index_view(last, "rows"));
        first_logits_.assign(static_cast<const char*>(logits.data),
                             static_cast<const char*>(logits.data) + logits.bytes());
    }

    void begin_samples(const Request& request, int first, int count, int need) {
        if (count == 0) return;
        const int64_t length = int64_t(request.prompt.size());
        const int full = int(length / page_size_), partial = length % page_size_ ? 1 : 0;
        std::vector<Sequence> begun;
        for (int i = 0; i < count; i++) {
            Sequence sequence{next_request_, first + i, free_rows_.back(), {}, length, 0, need, {}};
            promised_ += need;
            free_rows_.pop_back();
            for (int p = 0; p < full; p++) {
                e_.pages_->share(prompt_.pages[p]);
                sequence.pages.push_back(prompt_.pages[p]);
            }
            if (partial) {
                sequence.pages.push_back(take_promised(sequence));
                e_.cache_.copy_page(sequence.pages.back(), prompt_.pages[full]);
            }
            std::copy(sequence.pages.begin(), sequence.pages.end(), table_row(sequence.row));
            sequence.completion.request = next_request_;
            sequence.completion.sample = first + i;
            begun.push_back(std::move(sequence));
        }
        const Dtype x = e_.ctx_.dtype();
        const int64_t Vp = e_.model_.config.padded_vocab();
        std::vector<char> repeated;
        for (int i = 0; i < count; i++)
            repeated.insert(repeated.end(), first_logits_.begin(), first_logits_.end());
        draw(make_view(repeated.data(), x, "logits", count, Vp), begun);
        for (Sequence& sequence : begun) keep_or_finish(std::move(sequence));
    }

    // Draws the next token of every sequence from its row of logits.
    void draw(const View& logits, std::vector<Sequence>& sequences) {
        const int64_t M = int64_t(sequences.size());
        const int V = e_.model_.config.vocab;
        std::vector<double> uniform(M);
        for (int64_t i = 0; i < M; i++) {
            const Sequence& q = sequences[i];
            uniform[i] = sample_uniform(s_.seed, s_.step, requests_[q.request].prompt_id, q.sample,
                                        int(q.completion.tokens.size()));
        }
        std::vector<int32_t> tokens(M);
        std::vector<double> stats(M * kLossStats); // holds f32 or f64
        const View token_view = index_view(tokens, "tokens");
        sample_forward(e_.ctx_, token_view, logits,
                       make_view(uniform.data(), Dtype::f64, "uniform", M),
                       {V, s_.temperature, s_.top_p, s_.top_k});
        LossShape shape{};
        shape.V = V;
        shape.k = 1;
        shape.temperature = s_.temperature > 0 ? s_.temperature : 1;
        const View stats_view = make_view(stats.data(), e_.ctx_.dtype(), "stats", M, kLossStats);
        loss_forward(e_.ctx_, stats_view, logits, token_view, shape);
        for (int64_t i = 0; i < M; i++) {
            auto stat = [&](LossStat which) {
                return float(read_value(stats_view, i * kLossStats + which));
            };
            Completion& c = sequences[i].completion;
            c.tokens.push_back(tokens[i]);
            c.logp.push_back(-stat(kStatCe));
            c.entropy.push_back(stat(kStatEntropy));
            sequences[i].next = tokens[i];
        }
        e_.counts_.decoded += M;
    }

    void keep_or_finish(Sequence&& q) {
        const bool stop = q.next == s_.stop_token;
        if (!stop && int(q.completion.tokens.size()) < s_.max_new_tokens) {
            active_.push_back(std::move(q));
            return;
        }
        q.completion.finish = stop ? Finish::stop : Finish::length;
        for (int page : q.pages) e_.pages_->release(page);
        promised_ -= q.promised;
        free_rows_.push_back(q.row);
        done_.push_back(std::move(q.completion));
    }

    void decode() {
        if (active_.empty()) return;
        std::vector<Sequence> batch = std::move(active_);
        active_.clear();
        Rows rows;
        for (Sequence& q : batch) {
            if (q.length % page_size_ == 0) {
                const int page = take_promised(q);
                table_row(q.row)[q.pages.size()] = page;
                q.pages.push_back(page);
            }
            rows.add(q.next, q.length, q.row, q.pages.back(), page_size_);
            q.length++;
        }
        forward(rows);
        e_.counts_.steps++;
        std::vector<int32_t> all(padded_rows(int64_t(batch.size())));
        for (size_t i = 0; i < all.size(); i++) all[i] = int32_t(i);
        const View logits = e_.pass_.logits_forward(index_view(all, "rows"));
        draw(logits.slice_rows(0, int64_t(batch.size())), batch);
        for (Sequence& q : batch) keep_or_finish(std::move(q));
    }

    Engine& e_;
    const std::vector<Request>& requests_;
    const SampleSettings& s_;
    const int page_size_, table_width_;
    std::vector<int32_t> table_;
    std::vector<int> free_rows_;
    size_t next_request_ = 0;
    Prompt prompt_{{}, 0};
    std::vector<char> first_logits_;
    std::vector<Sequence> active_;
    int promised_ = 0; // free pages that active sequences may still take
    std::vector<Completion> done_;
};

std::vector<Completion> Engine::generate(const std::vector<Request>& requests,
                                         const SampleSettings& settings) {
    return Generation(*this, requests, settings).run();
}
