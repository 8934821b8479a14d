// Contract: engine.h.
#include "llmc/rollout/engine.h"

#include "llmc/core/error.h"
#include "llmc/core/fault.h"
#include "llmc/core/rng.h"
#include "llmc/ops/loss.h"
#include "llmc/ops/sample.h"
#include "llmc/rollout/pages.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <numeric>

namespace {

// Row counts are rounded up to few values, so that few GEMM shapes are prepared; the extra rows
// write to a page of their own.
int64_t padded_rows(int64_t rows) {
    if (rows == 1) return 1;
    const int64_t step = rows <= 8 ? 4 : rows <= 256 ? 16 : 64;
    return round_up(rows, step);
}

int pages_for(int64_t tokens, int page_size) { return int((tokens + page_size - 1) / page_size); }

// Room for the longest sequence of every row, one waiting prompt, and the padding. With one
// sequence of full length beside its own prompt's partial page the oldest one can always go on.
int cache_pages(const EngineSettings& settings) {
    const int longest = pages_for(settings.longest, settings.page_size), least = longest + 2;
    if (settings.pages == 0) return (settings.rows + 1) * longest + 1;
    if (settings.pages < least)
        fatal(format("rollout: %d pages of %d tokens cannot hold one sequence of %d tokens",
                     settings.pages, settings.page_size, settings.longest),
              format("%d pages are the least", least));
    return settings.pages;
}

constexpr int kPrefillRows = 512; // most rows of a forward beyond one for each sequence

int64_t forward_rows(const EngineSettings& s) { return padded_rows(s.rows + kPrefillRows); }

} // namespace

double sample_uniform(uint64_t seed, uint64_t step, uint64_t prompt_id, int sample, int position) {
    const Philox p = philox(mix(mix(seed, step), prompt_id), uint64_t(sample), uint64_t(position));
    return double((uint64_t(p.v[0]) << 21) ^ (p.v[1] >> 11)) * 0x1p-53;
}

std::vector<int> first_samples(int count) {
    std::vector<int> samples(count);
    std::iota(samples.begin(), samples.end(), 0);
    return samples;
}

const char* finish_name(Finish finish) { return finish == Finish::stop ? "stop" : "length"; }

Engine::Engine(Ctx& ctx, const Model& model, const EngineSettings& settings)
    : ctx_(ctx), model_(model), settings_(settings),
      cache_(ctx.arena, model.config, ctx.storage(), cache_pages(settings), settings.page_size),
      pass_(ctx, model, cache_, forward_rows(settings), padded_rows(settings.rows)),
      pages_(std::make_unique<PageTable>(cache_.pages())), host_(ctx, model.config, settings) {
    pages_->take(); // page 0 belongs to the padding
    if (settings.longest > model.config.max_positions)
        fatal(format("rollout: prompt and answer may take %d tokens, the model has %d positions",
                     settings.longest, model.config.max_positions),
              "lower max_new_tokens or use shorter prompts");
}

constexpr Segment kRollouts = Segment::rollouts;

Engine::Host::Host(Ctx& ctx, const ModelConfig& config, const EngineSettings& s)
    : tokens(ctx, kRollouts, Dtype::i32, "tokens", forward_rows(s)),
      positions(ctx, kRollouts, Dtype::i32, "positions", forward_rows(s)),
      row(ctx, kRollouts, Dtype::i32, "row", forward_rows(s)),
      length(ctx, kRollouts, Dtype::i32, "length", forward_rows(s)),
      slot(ctx, kRollouts, Dtype::i32, "slot", forward_rows(s)),
      table(ctx, kRollouts, Dtype::i32, "page_table", s.rows + 1,
            pages_for(s.longest, s.page_size)),
      chosen(ctx, kRollouts, Dtype::i32, "rows", padded_rows(s.rows)),
      logits(ctx, kRollouts, ctx.storage(), "logits", s.rows, config.padded_vocab()),
      uniform(ctx, kRollouts, Dtype::f64, "uniform", s.rows),
      drawn(ctx, kRollouts, Dtype::i32, "tokens", s.rows),
      kept(ctx, kRollouts, Dtype::f64, "kept", s.rows),
      plain_stats(ctx, kRollouts, ctx.dtype(), "stats", s.rows, kLossStats),
      drawn_stats(ctx, kRollouts, ctx.dtype(), "stats", s.rows, kLossStats) {}

Engine::~Engine() = default;

int Engine::free_pages() const { return pages_->free_pages(); }

// ------------------------------------------------------------------------------------------------
// one generate() call

namespace {

// A sample that has begun. Its known tokens are the prompt and those drawn; the cache holds the
// first `length` of them, and the last one's logits give the next.
struct Sequence {
    size_t request;
    int sample, row; // row of the page table; -1 = preempted
    std::vector<int> pages;
    int64_t length, computed; // tokens in the cache; most there ever were
    Completion completion;
};

bool older(const Sequence& a, const Sequence& b) {
    return a.request != b.request ? a.request < b.request : a.sample < b.sample;
}

// What the samples of a request have in common. The first to begin computes the prompt; then its
// pages are kept here as long as others wait for them.
struct Prompt {
    std::vector<int> pages;   // empty: not in the cache
    std::vector<char> logits; // that follow it
    bool computing = false;
    size_t begun = 0, finished = 0; // samples
    int preempted = 0;
    int64_t computed = 0; // most tokens there ever were
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

} // namespace

class Generation {
  public:
    Generation(Engine& engine, const std::vector<Request>& requests, const SampleSettings& settings)
        : e_(engine), s_(settings), page_size_(engine.settings_.page_size),
          table_width_(pages_for(engine.settings_.longest, page_size_)) {
        table_.assign(size_t(e_.settings_.rows + 1) * table_width_, 0);
        for (int row = e_.settings_.rows - 1; row >= 0; row--) free_rows_.push_back(row);
        add_requests(requests);
    }

    std::vector<Completion> run() {
        for (;;) {
            admit();
            if (!fresh_.empty()) draw_fresh();
            else if (!active_.empty()) step();
            else break;
            tell_finished();
        }
        std::sort(done_.begin(), done_.end(), [](const Completion& a, const Completion& b) {
            return a.request != b.request ? a.request < b.request : a.sample < b.sample;
        });
        return std::move(done_);
    }

  private:
    void add_requests(const std::vector<Request>& requests) {
        for (const Request& request : requests) {
            require(!request.prompt.empty(), "rollout: empty prompt");
            if (int64_t(request.prompt.size()) + s_.max_new_tokens > e_.settings_.longest)
                fatal(format("rollout: a prompt of %zu tokens with %d new ones exceeds %d",
                             request.prompt.size(), s_.max_new_tokens, e_.settings_.longest),
                      "lower max_new_tokens or use shorter prompts");
            requests_.push_back(request);
            prompts_.emplace_back();
        }
    }
    void tell_finished() {
        for (size_t request : std::exchange(finished_requests_, {}))
            if (e_.listener_.request_finished) add_requests(e_.listener_.request_finished(request));
    }

    int64_t prompt_length(size_t request) const {
        return int64_t(requests_[request].prompt.size());
    }
    int64_t known(const Sequence& q) const {
        return prompt_length(q.request) + int64_t(q.completion.tokens.size());
    }
    int32_t known_token(const Sequence& q, int64_t position) const {
        const int64_t drawn = position - prompt_length(q.request);
        return drawn < 0 ? requests_[q.request].prompt[position] : q.completion.tokens[drawn];
    }
    int waiting(size_t request) const { // samples that wait for a row
        const Prompt& p = prompts_[request];
        return int(requests_[request].samples.size() - p.begun) + p.preempted;
    }
    int* table_row(int row) { return table_.data() + size_t(row) * table_width_; }

    // ---- who runs

    // Gives free rows to waiting samples, oldest request first. While one of them computes the
    // prompt, rows are left for the others.
    void admit() {
        int rows = int(free_rows_.size());
        while (oldest_ < requests_.size() && waiting(oldest_) == 0) oldest_++;
        for (size_t r = oldest_; r < requests_.size() && rows > 0; r++)
            while (rows > 0 && waiting(r) > 0) {
                if (prompts_[r].computing) {
                    rows -= std::min(rows, waiting(r));
                    break;
                }
                if (!begin(r)) return; // no younger one overtakes it
                rows--;
            }
    }

    // Sequences that may ask for a page soon.
    int growing() const {
        int count = 0;
        for (const Sequence& q : active_)
            count += int(q.pages.size()) <
                     pages_for(prompt_length(q.request) + s_.max_new_tokens, page_size_);
        return count;
    }

    // The oldest waiting sample of a request begins or goes on; false if pages are short.
    bool begin(size_t r) {
        Prompt& p = prompts_[r];
        const auto again = std::find_if(preempted_.begin(), preempted_.end(),
                                        [r](const Sequence& q) { return q.request == r; });
        const bool fresh = again == preempted_.end();
        const int64_t tokens = fresh ? prompt_length(r) : known(*again);
        const int need = pages_for(tokens + 1, page_size_) -
                         (p.pages.empty() ? 0 : int(prompt_length(r) / page_size_));
        if (e_.pages_->free_pages() < need + growing() + int(fresh_.size())) {
            if (!active_.empty() || !fresh_.empty()) return false;
            for (size_t other = requests_.size(); other-- > r + 1;) release_prompt(other);
        }
        Sequence q{r, 0, 0, {}, 0, 0, {}};
        if (fresh) {
            q.sample = requests_[r].samples[p.begun++];
            q.completion.request = r;
            q.completion.sample = q.sample;
        } else {
            q = std::move(*again);
            preempted_.erase(again);
            p.preempted--;
        }
        q.row = free_rows_.back();
        free_rows_.pop_back();
        p.computing = p.pages.empty();
        if (!p.computing) {
            q.pages = p.pages;
            q.length = prompt_length(r);
            for (int page : q.pages) e_.pages_->share(page);
            std::copy(q.pages.begin(), q.pages.end(), table_row(q.row));
        }
        if (fresh && !p.computing) {
            fresh_.push_back(std::move(q));
            return true;
        }
        if (waiting(r) == 0) release_prompt(r);
        active_.insert(std::upper_bound(active_.begin(), active_.end(), q, older), q);
        return true;
    }

    // The page of the next tokens is there, and is q's own; false if q had to give way.
    bool make_room(size_t index, int64_t count) {
        for (int64_t page = active_[index].length / page_size_;
             page <= (active_[index].length + count - 1) / page_size_; page++) {
            Sequence& q = active_[index];
            const bool has = page < int64_t(q.pages.size());
            if (has && !e_.pages_->shared(q.pages[page])) continue;
            if (!free_a_page(index)) return false;
            const int own = e_.pages_->take();
            if (has) { // copy on write
                e_.cache_.copy_page(e_.ctx_, own, q.pages[page]);
                e_.pages_->release(q.pages[page]);
                q.pages[page] = own;
                e_.counts_.copied++;
            } else q.pages.push_back(own);
            table_row(q.row)[page] = own;
        }
        return true;
    }

    // Takes pages from whoever is newest, prompts after the samples that share them.
    bool free_a_page(size_t index) {
        while (e_.pages_->free_pages() == 0) {
            const size_t newest = active_.back().request;
            size_t idle = requests_.size();
            while (idle-- > newest + 1)
                if (!prompts_[idle].pages.empty()) break;
            if (idle > newest) {
                release_prompt(idle);
                continue;
            }
            preempt_newest();
            if (active_.size() == index) return false;
        }
        return true;
    }

    void preempt_newest() {
        Sequence q = std::move(active_.back());
        active_.pop_back();
        Prompt& p = prompts_[q.request];
        if (q.length < prompt_length(q.request)) p.computing = false;
        release_sequence(q);
        q.row = -1;
        q.length = 0;
        p.preempted++;
        oldest_ = std::min(oldest_, q.request);
        e_.counts_.preempted++;
        preempted_.insert(std::upper_bound(preempted_.begin(), preempted_.end(), q, older), q);
    }

    void release_sequence(Sequence& q) {
        for (int page : q.pages) e_.pages_->release(page);
        q.pages.clear();
        free_rows_.push_back(q.row);
    }
    void release_prompt(size_t request) {
        for (int page : prompts_[request].pages) e_.pages_->release(page);
        prompts_[request].pages.clear();
        prompts_[request].logits.clear();
    }

    // ---- what is computed

    // One forward: the next token of every sequence, and of those that have more known tokens to
    // compute (prompts, preempted ones) as many as fit, the oldest first.
    void step() {
        const std::vector<int64_t> counts = plan_chunks();
        if (counts.empty()) return; // the last one gave way to a request that is older
        Rows rows;
        std::vector<int32_t> last; // row of each sequence's last token
        bool decodes = false;
        for (size_t i = 0; i < active_.size(); i++) {
            Sequence& q = active_[i];
            Prompt& p = prompts_[q.request];
            for (int64_t n = 0; n < counts[i]; n++, q.length++) {
                rows.add(known_token(q, q.length), q.length, q.row, q.pages[q.length / page_size_],
                         page_size_);
                const bool of_prompt = q.length < prompt_length(q.request);
                int64_t& computed = of_prompt ? p.computed : q.computed;
                if (q.length < computed) e_.counts_.recomputed++;
                else e_.counts_.prefilled += of_prompt;
                computed = std::max(computed, q.length + 1);
                decodes |= !of_prompt;
            }
            last.push_back(int32_t(rows.tokens.size()) - 1);
        }
        forward(rows);
        e_.counts_.steps += decodes;
        draw_active(last);
    }

    std::vector<int64_t> plan_chunks() {
        std::vector<int64_t> counts;
        int64_t extra = kPrefillRows;
        for (size_t i = 0; i < active_.size(); i++) {
            const int64_t length = active_[i].length, prompt = prompt_length(active_[i].request);
            const int64_t end = length < prompt ? prompt : known(active_[i]);
            const int64_t count = std::min(end - length, extra + 1);
            if (!make_room(i, count)) break;
            extra -= count - 1;
            counts.push_back(count);
        }
        return counts;
    }

    void forward(Rows& rows) {
        const size_t padded = size_t(padded_rows(int64_t(rows.tokens.size())));
        while (rows.tokens.size() < padded) rows.add(0, 0, e_.settings_.rows, 0, page_size_);
        // Neighbouring padding rows would write one line twice; they all write the same value
        // there.
        auto& to = e_.host_;
        e_.pass_.forward({to.tokens.give(rows.tokens), to.positions.give(rows.positions),
                          to.row.give(rows.row), to.length.give(rows.length),
                          to.slot.give(rows.slot), to.table.give(table_)});
    }

    // Logits for those whose known tokens are all computed; prompts that others wait for are kept.
    void draw_active(const std::vector<int32_t>& last) {
        std::vector<int32_t> chosen;
        std::vector<Sequence*> drawing;
        for (size_t i = 0; i < active_.size(); i++) {
            Sequence& q = active_[i];
            if (q.length != known(q) && q.length != prompt_length(q.request)) continue;
            chosen.push_back(last[i]);
            drawing.push_back(&q);
        }
        if (drawing.empty()) return;
        const int64_t M = int64_t(drawing.size());
        chosen.resize(size_t(padded_rows(M)), 0);
        const View logits = e_.pass_.logits_forward(e_.host_.chosen.give(chosen));
        for (int64_t i = 0; i < M; i++)
            if (drawing[i]->length == prompt_length(drawing[i]->request))
                keep_prompt(*drawing[i], logits.slice_rows(i, 1));
        // A preempted one that has only its prompt again goes on computing what it drew.
        std::vector<Sequence*> complete;
        std::vector<int32_t> rows;
        for (int64_t i = 0; i < M; i++)
            if (drawing[i]->length == known(*drawing[i])) {
                complete.push_back(drawing[i]);
                rows.push_back(int32_t(i));
            }
        for (size_t begin = 0, end; begin < rows.size(); begin = end) { // runs of rows
            end = begin + 1;
            while (end < rows.size() && rows[end] == rows[end - 1] + 1) end++;
            draw(logits.slice_rows(rows[begin], int64_t(end - begin)),
                 {complete.begin() + int64_t(begin), complete.begin() + int64_t(end)});
        }
        for (Sequence* q : complete)
            if (is_finished(*q)) finish(*q);
        std::erase_if(active_, [](const Sequence& q) { return q.row < 0; });
    }

    void keep_prompt(const Sequence& q, const View& logits) {
        Prompt& p = prompts_[q.request];
        p.computing = false;
        if (waiting(q.request) == 0) return;
        p.pages = q.pages;
        for (int page : p.pages) e_.pages_->share(page);
        const HostRead values(e_.ctx_, logits);
        p.logits.assign(values.bytes(), values.bytes() + logits.bytes());
    }

    // Every sample of a prompt begins from the same logits.
    void draw_fresh() {
        std::vector<Sequence> fresh = std::move(fresh_);
        fresh_.clear();
        Mirror& repeated = e_.host_.logits;
        repeated.use(int64_t(fresh.size()));
        std::vector<Sequence*> sequences;
        for (size_t i = 0; i < fresh.size(); i++) {
            const std::vector<char>& logits = prompts_[fresh[i].request].logits;
            const View row = repeated.host().slice_rows(int64_t(i), 1);
            std::memcpy(row.data, logits.data(), logits.size());
            sequences.push_back(&fresh[i]);
        }
        repeated.to_tensor();
        draw(repeated.tensor(), sequences);
        for (Sequence& q : fresh) {
            if (waiting(q.request) == 0) release_prompt(q.request);
            if (is_finished(q)) finish(q);
            else active_.push_back(std::move(q));
        }
        std::sort(active_.begin(), active_.end(), older);
    }

    // Statistics of `logits` at `temperature` with the tokens drawn as targets.
    void ask_stats(Mirror& stats, const View& logits, double temperature) {
        LossShape shape{};
        shape.V = e_.model_.config.vocab;
        shape.k = 1;
        shape.temperature = temperature;
        loss_forward(e_.ctx_, stats.use(logits.rows()), logits, e_.host_.drawn.tensor(), shape);
    }

    // Draws the next token of every sequence from its row of logits.
    void draw(const View& logits, const std::vector<Sequence*>& sequences) {
        const int64_t M = int64_t(sequences.size());
        const bool greedy = s_.temperature == 0;
        std::vector<double> uniform(M);
        for (int64_t i = 0; i < M; i++) {
            const Sequence& q = *sequences[i];
            uniform[i] = sample_uniform(s_.seed, s_.step, requests_[q.request].prompt_id, q.sample,
                                        int(q.completion.tokens.size()));
        }
        Ctx& ctx = e_.ctx_;
        auto& host = e_.host_;
        sample_forward(ctx, host.drawn.use(M), host.kept.use(M), logits, host.uniform.give(uniform),
                       {e_.model_.config.vocab, s_.temperature, s_.top_p, s_.top_k});
        if (ctx.checks_values()) ctx.wait(); // the loss checks its targets
        const bool plain_only = greedy || s_.temperature == 1;
        ask_stats(host.plain_stats, logits, 1);
        if (!plain_only) ask_stats(host.drawn_stats, logits, s_.temperature);
        for (Mirror* mirror : {&host.drawn, &host.kept, &host.plain_stats}) mirror->to_host();
        if (!plain_only) host.drawn_stats.to_host();
        const View tokens = host.drawn.host(), kept = host.kept.host();
        const View plain = host.plain_stats.host();
        const View drawn = plain_only ? plain : host.drawn_stats.host();
        auto stat = [](const View& view, int64_t i, LossStat which) {
            return read_value(view, i * kLossStats + which);
        };
        for (int64_t i = 0; i < M; i++) {
            Completion& c = sequences[i]->completion;
            c.tokens.push_back(tokens.as<int32_t>()[i]);
            c.plain_logp.push_back(-float(stat(plain, i, kStatCe)));
            c.logp.push_back(
                greedy ? 0 : float(-stat(drawn, i, kStatCe) - std::log(kept.as<double>()[i])));
            c.entropy.push_back(float(stat(drawn, i, kStatEntropy)));
            if (e_.listener_.token) e_.listener_.token(c);
        }
        e_.counts_.decoded += M;
        fault_point("sampled");
    }

    bool stops(const Sequence& q) const {
        return std::find(s_.stop_tokens.begin(), s_.stop_tokens.end(),
                         q.completion.tokens.back()) != s_.stop_tokens.end();
    }
    bool is_finished(const Sequence& q) const {
        return stops(q) || int(q.completion.tokens.size()) == s_.max_new_tokens;
    }
    void finish(Sequence& q) {
        q.completion.finish = stops(q) ? Finish::stop : Finish::length;
        release_sequence(q);
        q.row = -1;
        if (++prompts_[q.request].finished == requests_[q.request].samples.size())
            finished_requests_.push_back(q.request);
        if (e_.listener_.finished) e_.listener_.finished(std::move(q.completion));
        else done_.push_back(std::move(q.completion));
    }

    Engine& e_;
    const SampleSettings& s_;
    const int page_size_, table_width_;
    std::deque<Request> requests_;
    std::deque<Prompt> prompts_; // of the requests
    std::vector<int32_t> table_; // (rows + 1, table_width); the last line is the padding's
    std::vector<int> free_rows_;
    size_t oldest_ = 0;                        // no request before it waits
    std::vector<Sequence> active_, preempted_; // oldest first
    std::vector<Sequence> fresh_;              // begin from their prompt's logits
    std::vector<size_t> finished_requests_;
    std::vector<Completion> done_;
};

std::vector<Completion> Engine::generate(const std::vector<Request>& requests,
                                         const SampleSettings& settings) {
    return Generation(*this, requests, settings).run();
}
