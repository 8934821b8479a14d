// The rollout engine (llmc/rollout/engine.h): what a sample may depend on, and on what not.
#include "test/catch.h"

#include "llmc/model/train_pass.h"
#include "llmc/rollout/engine.h"
#include "llmc/rollout/evaluate.h"
#include "llmc/rollout/pages.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

namespace {

ModelConfig small_config(bool moe) {
    ModelConfig c;
    c.layers = 2;
    c.channels = 48;
    c.ffn = 80;
    c.heads = 4;
    c.kv_heads = 2;
    c.head_dim = 16;
    c.vocab = 61;
    c.max_positions = 256;
    if (moe) {
        c.experts = 8;
        c.experts_per_token = 3;
        c.expert_ffn = 24;
    }
    return c;
}

struct Fixture {
    Ctx ctx;
    Model model;
    Fixture(Backend backend, int threads, bool moe, bool bf16 = false)
        : ctx(backend, threads, bf16), model(ctx, small_config(moe)) {
        // Far from uniform answers.
        init_params(model.ctx(), model.weights, model.table, model.config, 7, 0.2);
        model.weights_changed();
    }
};

// Prompts of 1 to 70 tokens, some sharing a length, with 1 to 9 samples each.
std::vector<Request> some_requests() {
    std::vector<Request> requests;
    const int lengths[] = {5, 70, 1, 32, 33, 5, 16};
    const int samples[] = {9, 3, 1, 4, 2, 5, 4};
    for (int i = 0; i < 7; i++) {
        std::vector<int32_t> prompt;
        for (int t = 0; t < lengths[i]; t++) prompt.push_back((i * 13 + t * t * 7 + t) % 60);
        requests.push_back({uint64_t(100 + i), prompt, first_samples(samples[i])});
    }
    return requests;
}

SampleSettings settings(int max_new_tokens) {
    return {0.8, 1, 0, max_new_tokens, /*stop_tokens=*/{60}, /*seed=*/3, /*step=*/11};
}

constexpr int kLongest = 120;

void check_equal(const Completion& a, const Completion& b) {
    CHECK(a.sample == b.sample);
    CHECK(a.tokens == b.tokens);
    CHECK(a.logp == b.logp); // bit for bit
    CHECK(a.plain_logp == b.plain_logp);
    CHECK(a.entropy == b.entropy);
    CHECK(a.finish == b.finish);
}

void check_equal(const std::vector<Completion>& a, const std::vector<Completion>& b) {
    REQUIRE(a.size() == b.size());
    for (size_t i = 0; i < a.size(); i++) {
        CHECK(a[i].request == b[i].request);
        check_equal(a[i], b[i]);
    }
}

// Log-prob and entropy of the completion's tokens from one training forward over prompt + answer.
void check_against_training(Fixture& f, const std::vector<int32_t>& prompt, const Completion& c,
                            double temperature) {
    std::vector<int32_t> tokens = prompt;
    tokens.insert(tokens.end(), c.tokens.begin(), c.tokens.end());
    const int64_t N = int64_t(tokens.size());
    std::vector<int32_t> targets(N, kIgnoredTarget), positions(N), doc_start(N, 0);
    for (int64_t n = 0; n < N; n++) {
        positions[n] = int32_t(n);
        if (n + 1 < N) targets[n] = tokens[n + 1];
    }
    auto index = [&](std::vector<int32_t>& values) {
        return make_view(values.data(), Dtype::i32, "index", N);
    };
    TrainPass pass(f.ctx, f.model, {N, 7, false, Recompute::yes}); // chunks of 7 rows of logits
    pass.forward({index(tokens), index(positions), index(doc_start)}, false);
    Buffer stats(f.ctx.dtype(), "stats", N, kLossStats);
    LossShape shape{};
    shape.V = f.model.config.vocab;
    shape.k = 1;
    shape.temperature = temperature;
    pass.loss_forward(stats.view(), index(targets), shape);
    for (size_t i = 0; i < c.tokens.size(); i++) {
        const int64_t row = int64_t(prompt.size() + i) - 1;
        auto stat = [&](LossStat which) {
            const int64_t at = row * kLossStats + which;
            return f.ctx.dtype() == Dtype::f64 ? float(stats.as<double>()[at])
                                               : stats.as<float>()[at];
        };
        CHECK(c.logp[i] == -stat(kStatCe));
        if (!c.entropy.empty()) CHECK(c.entropy[i] == stat(kStatEntropy));
    }
}

} // namespace

TEST_CASE("rollout: log-probs are bit-equal to the training forward's", "[rollout]") {
    const bool moe = GENERATE(false, true);
    const Dtype x = GENERATE(Dtype::f32, Dtype::bf16, Dtype::f64);
    CAPTURE(moe, dtype_name(x));
    Fixture f(x == Dtype::f64 ? Backend::ref : Backend::cpu, 1, moe, x == Dtype::bf16);
    const std::vector<Request> requests = some_requests();
    Engine engine(f.ctx, f.model, {6, 16, kLongest});
    const std::vector<Completion> completions = engine.generate(requests, settings(24));
    REQUIRE(completions.size() == 28);
    for (size_t i = 0; i < completions.size(); i += 3)
        check_against_training(f, requests[completions[i].request].prompt, completions[i], 0.8);
}

TEST_CASE("rollout: a sample does not depend on rows, page size, threads or company", "[rollout]") {
    const bool moe = GENERATE(false, true), bf16 = GENERATE(false, true);
    CAPTURE(moe, bf16);
    const std::vector<Request> requests = some_requests();
    Fixture f(Backend::cpu, 1, moe, bf16);
    Engine engine(f.ctx, f.model, {28, 16, kLongest});
    const std::vector<Completion> want = engine.generate(requests, settings(40));

    SECTION("fewer rows, other pages") {
        for (auto [rows, page_size] :
             {std::pair(1, 16), {7, 8}, {64, 64}, {3, 5}, {17, 64}, {200, 1}}) {
            CAPTURE(rows, page_size);
            Engine other(f.ctx, f.model, {rows, page_size, kLongest});
            check_equal(other.generate(requests, settings(40)), want);
        }
    }
    SECTION("few pages: the newest samples give way and are computed again") {
        for (auto [page_size,
                   pages] : // 120 tokens are 8 pages of 16 and 15 of 8; 2 more are the least
             {std::pair(16, 10), {16, 13}, {16, 40}, {8, 17}, {8, 30}}) {
            CAPTURE(page_size, pages);
            Engine other(f.ctx, f.model, {28, page_size, kLongest, pages});
            const int free_before = other.free_pages();
            check_equal(other.generate(requests, settings(40)), want);
            CHECK(other.free_pages() == free_before);
            CHECK(other.counts().prefilled == engine.counts().prefilled);
            CHECK(other.counts().preempted > 0);
            CHECK(other.counts().recomputed > 0);
        }
        CHECK_THROWS_WITH(Engine(f.ctx, f.model, {28, 16, kLongest, 9}), Contains("9 pages"));
    }
    SECTION("two threads") {
        Fixture g(Backend::cpu, 2, moe, bf16);
        Engine other(g.ctx, g.model, {5, 32, kLongest});
        const std::vector<Completion> got =
            other.generate({requests[0], requests[1]}, settings(12));
        REQUIRE(got.size() == 12);
        for (size_t i = 0; i < got.size(); i++)
            CHECK(std::equal(got[i].logp.begin(), got[i].logp.end(), want[i].logp.begin()));
    }
    SECTION("requests one by one, last first, from an engine that was used before") {
        for (size_t r = requests.size(); r-- > 0;) {
            std::vector<Completion> expected;
            for (const Completion& c : want)
                if (c.request == r) expected.push_back(c);
            const std::vector<Completion> got = engine.generate({requests[r]}, settings(40));
            REQUIRE(got.size() == expected.size());
            for (size_t i = 0; i < got.size(); i++) check_equal(got[i], expected[i]);
        }
    }
    SECTION("some samples of a request") {
        Request some = requests[0];
        some.samples = {2, 5, 7};
        const std::vector<Completion> got = engine.generate({some}, settings(40));
        REQUIRE(got.size() == 3);
        for (size_t i = 0; i < 3; i++) check_equal(got[i], want[size_t(some.samples[i])]);
    }
    SECTION("requests that are added while others run") {
        std::vector<Request> rest(requests.begin() + 2, requests.end());
        engine.listen({{}, {}, [&](size_t) {
                           return std::exchange(rest, {}); // all of them when the first is done
                       }});
        const std::vector<Completion> got =
            engine.generate({requests[0], requests[1]}, settings(40));
        engine.listen({});
        check_equal(got, want);
    }
    SECTION("the first samples of a larger group") {
        Request larger = requests[0];
        larger.samples = first_samples(int(larger.samples.size()) + 6);
        const std::vector<Completion> got = engine.generate({larger}, settings(40));
        for (int i = 0; i < int(requests[0].samples.size()); i++) check_equal(got[i], want[i]);
    }
    SECTION("a longer limit only continues") {
        const std::vector<Completion> got = engine.generate(requests, settings(50));
        for (size_t i = 0; i < want.size(); i++)
            CHECK(std::equal(want[i].tokens.begin(), want[i].tokens.end(), got[i].tokens.begin()));
    }
}

TEST_CASE("rollout: a long prompt is computed in chunks beside decoding", "[rollout]") {
    // 700 prompt tokens do not fit into one forward: the short request decodes meanwhile.
    const bool moe = GENERATE(false, true);
    ModelConfig config = small_config(moe);
    config.max_positions = 800;
    Ctx ctx(Backend::cpu, 1);
    Model model(ctx, config);
    init_params(model.ctx(), model.weights, model.table, config, 7, 0.2);
    std::vector<Request> requests = {some_requests()[0], some_requests()[1]};
    requests[1].prompt.resize(700, 5);
    Engine both(ctx, model, {12, 16, 720}), alone(ctx, model, {12, 16, 720});
    const std::vector<Completion> got = both.generate(requests, settings(20));
    const std::vector<Completion> want = alone.generate({requests[1]}, settings(20));
    for (size_t i = 0; i < 3; i++) {
        CHECK(got[9 + i].tokens == want[i].tokens);
        CHECK(got[9 + i].logp == want[i].logp);
    }
    CHECK(both.counts().prefilled == 705);
    CHECK(both.counts().steps == 20); // the short one's first tokens came during the prefill
}

TEST_CASE("rollout: cached decoding has the full forward's logits bit for bit", "[rollout]") {
    const bool moe = GENERATE(false, true), wide = GENERATE(false, true);
    const Dtype x = GENERATE(Dtype::f32, Dtype::bf16);
    const int page_size = GENERATE(8, 64);
    CAPTURE(moe, wide, dtype_name(x), page_size);
    ModelConfig config = small_config(moe);
    if (wide) { // sums of 768 products are cut into chains
        config.layers = 1;
        config.channels = 256;
        config.ffn = config.expert_ffn = 768;
        config.head_dim = 64;
    }
    Ctx ctx(Backend::cpu, 2, x == Dtype::bf16);
    Model model(ctx, config);
    init_params(model.ctx(), model.weights, model.table, config, 7, 0.1);
    model.weights_changed();
    const int64_t N = 100, Vp = config.padded_vocab();
    std::vector<int32_t> tokens, positions, doc_start(N, 0);
    for (int64_t n = 0; n < N; n++) {
        tokens.push_back(int32_t((n * n + 3 * n) % 61));
        positions.push_back(int32_t(n));
    }
    auto index = [](std::vector<int32_t>& values) {
        return make_view(values.data(), Dtype::i32, "index", int64_t(values.size()));
    };
    TrainPass full(ctx, model, {N, N, false, Recompute::yes});
    full.forward({index(tokens), index(positions), index(doc_start)}, false);
    Buffer want(x, "logits", N, Vp);
    full.logits_forward(want.view(), 0);
    // 37 tokens as a prompt, the rest one by one
    const int pages = int((N + page_size - 1) / page_size);
    KvCache cache(ctx.arena, config, x, pages, page_size);
    DecodePass pass(ctx, model, cache, 40, 40);
    std::vector<int32_t> table(pages);
    for (int p = 0; p < pages; p++) table[p] = pages - 1 - p;
    double worst = 0;
    for (int64_t begin = 0, end = 37; begin < N; begin = end, end = begin + 1) {
        std::vector<int32_t> t, pos, row, length, slot, rows;
        for (int64_t n = begin; n < end; n++) {
            t.push_back(tokens[n]);
            pos.push_back(int32_t(n));
            row.push_back(0);
            length.push_back(int32_t(n + 1));
            slot.push_back(int32_t(table[n / page_size] * page_size + n % page_size));
            rows.push_back(int32_t(n - begin));
        }
        pass.forward({index(t), index(pos), index(row), index(length), index(slot),
                      make_view(table.data(), Dtype::i32, "page_table", 1, pages)});
        const View got = pass.logits_forward(index(rows));
        for (int64_t n = begin; n < end; n++)
            for (int v = 0; v < config.vocab; v++)
                worst = std::max(worst, std::fabs(read_value(got, (n - begin) * got.ld + v) -
                                                  read_value(want.view(), n * Vp + v)));
    }
    CHECK(worst == 0);
}

TEST_CASE("rollout: an engine follows the weights", "[rollout]") {
    const bool moe = GENERATE(false, true), bf16 = GENERATE(false, true);
    CAPTURE(moe, bf16);
    Fixture f(Backend::cpu, 1, moe, bf16);
    Engine engine(f.ctx, f.model, {9, 16, kLongest});
    const Request request = some_requests()[0];
    const std::vector<Completion> before = engine.generate({request}, settings(20));
    init_params(f.model.ctx(), f.model.weights, f.model.table, f.model.config, 8, 0.2);
    f.model.weights_changed();
    const std::vector<Completion> after = engine.generate({request}, settings(20));
    CHECK(after[0].tokens != before[0].tokens);
    for (const Completion& c : after) check_against_training(f, request.prompt, c, 0.8);
}

TEST_CASE("rollout: a shared prompt's partial page is copied on write, its others never",
          "[rollout]") {
    Fixture f(Backend::cpu, 1, false);
    Engine engine(f.ctx, f.model, {16, 16, kLongest});
    Request request = some_requests()[4]; // 33 tokens: two full pages and one line
    request.samples = first_samples(16);
    SampleSettings s = settings(5);
    s.stop_tokens.clear();
    engine.generate({request}, s);
    CHECK(engine.counts().prefilled == 33);
    CHECK(engine.counts().copied == 15); // the last one to write has the page for itself
    request.prompt.resize(32);
    engine.generate({request}, s);
    CHECK(engine.counts().copied == 15);
}

TEST_CASE("rollout: log-probs under the sampling distribution and under the softmax", "[rollout]") {
    Fixture f(Backend::cpu, 1, false);
    Engine engine(f.ctx, f.model, {8, 16, kLongest});
    const Request request = some_requests()[0];
    SampleSettings s = settings(12);
    for (const Completion& c : engine.generate({request}, s))
        check_against_training(f, request.prompt, {0, 0, c.tokens, c.plain_logp, {}, {}, c.finish},
                               1);
    s.top_p = 0.7;
    s.top_k = 9;
    // The same prefix has the same temperature-only log-prob: the truncated one is larger by -ln of
    // the mass kept, which is between top_p of the top_k and 1.
    s.max_new_tokens = 1;
    SampleSettings whole = s;
    whole.top_p = 1;
    whole.top_k = 0;
    const std::vector<Completion> cut = engine.generate({request}, s),
                                  all = engine.generate({request}, whole);
    int same = 0;
    for (const Completion& a : cut)
        for (const Completion& b : all)
            if (a.tokens == b.tokens) {
                CHECK(a.plain_logp == b.plain_logp);
                CHECK(a.logp[0] > b.logp[0]);
                CHECK(a.logp[0] < b.logp[0] - std::log(0.3));
                same++;
            }
    CHECK(same > 0);
    s.top_k = 1; // one token is left: certain
    for (const Completion& c : engine.generate({request}, s))
        for (float logp : c.logp) CHECK(std::fabs(logp) < 1e-6f);
}

TEST_CASE("rollout: seed, step, prompt id and sample number change the sample", "[rollout]") {
    Fixture f(Backend::cpu, 1, false);
    Engine engine(f.ctx, f.model, {8, 16, kLongest});
    const Request request = some_requests()[0];
    const std::vector<Completion> base = engine.generate({request}, settings(40));
    std::set<std::vector<int32_t>> distinct;
    for (const Completion& c : base) distinct.insert(c.tokens);
    CHECK(distinct.size() == base.size());
    SampleSettings other_seed = settings(40), other_step = settings(40);
    other_seed.seed++;
    other_step.step++;
    Request other_id = request;
    other_id.prompt_id++;
    CHECK(engine.generate({request}, other_seed)[0].tokens != base[0].tokens);
    CHECK(engine.generate({request}, other_step)[0].tokens != base[0].tokens);
    CHECK(engine.generate({other_id}, settings(40))[0].tokens != base[0].tokens);
}

TEST_CASE("rollout: a prompt is prefilled once and every page comes back", "[rollout]") {
    Fixture f(Backend::cpu, 1, false);
    const int rows = GENERATE(1, 4, 28);
    Engine engine(f.ctx, f.model, {rows, 16, kLongest});
    const std::vector<Request> requests = some_requests();
    const int free_before = engine.free_pages();
    const std::vector<Completion> completions = engine.generate(requests, settings(20));
    int64_t prompt_tokens = 0, sampled = 0;
    for (const Request& request : requests) prompt_tokens += int64_t(request.prompt.size());
    for (const Completion& c : completions) sampled += int64_t(c.tokens.size());
    CHECK(engine.counts().prefilled == prompt_tokens);
    CHECK(engine.counts().decoded == sampled);
    CHECK(engine.free_pages() == free_before);
    if (rows == 28) CHECK(engine.counts().steps == 19); // all at once: the first token is free
}

TEST_CASE("rollout: an engine takes all its memory when it is made", "[rollout]") {
    for (const Backend backend : {Backend::cpu, Backend::simt}) { // what a plan counts is that
        Ctx ctx({backend, 1, false}, 0);
        const Model model(ctx, small_config(false));
        Engine engine(ctx, model, {4, 32, kLongest});
        const size_t rollouts = ctx.arena.peak(Segment::rollouts);
        const std::vector<Request> requests = {{1, {5, 7, 9}, first_samples(6)}};
        CHECK(engine.generate(requests, settings(4)).size() == 6);
        CHECK(ctx.arena.peak(Segment::rollouts) == rollouts);
        CHECK(ctx.arena.peak(Segment::activations) == 0);
    }
}

TEST_CASE("rollout: a sample ends with the stop token or at the limit", "[rollout]") {
    Fixture f(Backend::cpu, 1, false);
    Engine engine(f.ctx, f.model, {8, 16, kLongest});
    Request request = some_requests()[0];
    request.samples = first_samples(64);
    const int limit = GENERATE(1, 2, 30);
    int stopped = 0;
    for (const Completion& c : engine.generate({request}, settings(limit))) {
        const auto stop = std::find(c.tokens.begin(), c.tokens.end(), 60);
        CHECK(c.logp.size() == c.tokens.size());
        CHECK(c.entropy.size() == c.tokens.size());
        if (c.finish == Finish::stop) {
            CHECK(stop + 1 == c.tokens.end());
            stopped++;
        } else {
            CHECK(stop == c.tokens.end());
            CHECK(int(c.tokens.size()) == limit);
        }
    }
    if (limit == 30) CHECK(stopped > 0);
}

TEST_CASE("rollout: any of the stop tokens ends a sample", "[rollout]") {
    Fixture f(Backend::cpu, 1, false);
    Engine engine(f.ctx, f.model, {8, 16, kLongest});
    const Request request = some_requests()[0];
    SampleSettings s = settings(30);
    s.stop_tokens = {60, 7, 21};
    std::set<int32_t> ends;
    Request many = request;
    many.samples = first_samples(64);
    for (const Completion& c : engine.generate({many}, s)) {
        const auto stop = std::find_first_of(c.tokens.begin(), c.tokens.end(),
                                             s.stop_tokens.begin(), s.stop_tokens.end());
        CHECK((stop == c.tokens.end()) == (c.finish == Finish::length));
        if (c.finish == Finish::stop) {
            CHECK(stop + 1 == c.tokens.end());
            ends.insert(*stop);
        }
    }
    CHECK(ends.size() > 1);
}

TEST_CASE("rollout: greedy takes the largest logit with probability 1", "[rollout]") {
    Fixture f(Backend::cpu, 1, false);
    Engine engine(f.ctx, f.model, {8, 16, kLongest});
    SampleSettings greedy = settings(20);
    greedy.temperature = 0;
    const Request request = some_requests()[3];
    const std::vector<Completion> c = engine.generate({request}, greedy);
    for (const Completion& other : c) CHECK(other.tokens == c[0].tokens);
    for (float logp : c[0].logp) CHECK(logp == 0); // it was certain
    Completion plain = c[0];
    plain.logp = plain.plain_logp;
    check_against_training(f, request.prompt, plain, 1);
}

TEST_CASE("rollout: what does not fit is refused before anything runs", "[rollout]") {
    Fixture f(Backend::cpu, 1, false);
    CHECK_THROWS_WITH(Engine(f.ctx, f.model, {4, 16, 257}), Contains("256 positions"));
    Engine engine(f.ctx, f.model, {4, 16, 40});
    CHECK_THROWS_WITH(engine.generate(some_requests(), settings(20)), Contains("70 tokens"));
    CHECK(engine.generate({}, settings(20)).empty());
}

TEST_CASE("rollout: uniform numbers are in [0, 1) and differ in every coordinate", "[rollout]") {
    std::set<double> seen;
    double sum = 0;
    for (int i = 0; i < 4; i++)
        for (int sample = 0; sample < 16; sample++)
            for (int position = 0; position < 64; position++) {
                const double u =
                    sample_uniform(uint64_t(i % 2), 5, uint64_t(i / 2), sample, position);
                CHECK((u >= 0 && u < 1));
                sum += u;
                seen.insert(u);
            }
    CHECK(seen.size() == 4096);
    CHECK(sum / 4096 == Approx(0.5).margin(0.02)); // standard error 0.0045
}

TEST_CASE("pages: a shared page is free again after its last release", "[rollout]") {
    PageTable pages(3);
    const int a = pages.take(), b = pages.take();
    CHECK(a != b);
    pages.share(a);
    pages.release(a);
    CHECK(pages.free_pages() == 1);
    pages.release(a);
    CHECK(pages.free_pages() == 2);
    const int c = pages.take(), d = pages.take();
    CHECK(std::set<int>{b, c, d} == std::set<int>{0, 1, 2});
    CHECK(pages.free_pages() == 0);
}

TEST_CASE("evaluate: estimates follow from the graded answers", "[rollout]") {
    // Two problems, four samples: 3 of 4 right; 0 of 4 with one missing answer.
    const std::vector<Problem> problems = {{"a", "?", "5", {}, {}}, {"b", "?", "1/2", {}, {}}};
    auto answer = [](const char* text, bool right, Finish finish) {
        Answer a{};
        if (*text) a.extracted = text;
        a.right = right;
        a.completion.tokens = {1, 2};
        a.entropy = 2; // of both tokens
        a.completion.finish = finish;
        return a;
    };
    const std::vector<Answer> answers = {
        answer("5", true, Finish::stop),    answer("5.0", true, Finish::stop),
        answer("6", false, Finish::stop),   answer("\\frac{10}{2}", true, Finish::stop),
        answer("0.4", false, Finish::stop), answer("", false, Finish::length),
        answer("2/5", false, Finish::stop), answer("3", false, Finish::stop)};
    std::vector<Outcome> outcomes;
    for (const Answer& a : answers) outcomes.push_back(outcome_of(a));
    const EvalResult r = summarize_outcomes(problems, outcomes, 4, 3);
    CHECK(r.avg.mean == 3.0 / 8);
    CHECK(r.avg.error == Approx(3.0 / 8));      // of 3/4 and 0: their standard deviation / sqrt(2)
    CHECK(r.cons.mean == 0.5);                  // 5, 5.0 and 10/2 are one cluster
    REQUIRE(r.pass.size() == 4);                // k = 1, 2, 3, 4
    CHECK(r.pass[1].value.mean == Approx(0.5)); // a pair of wrong answers is impossible in a
    CHECK(r.pass[2].k == 3);
    CHECK(r.answered == 7.0 / 8);
    CHECK(r.finished == 7.0 / 8);
    CHECK(r.mean_length == 2);
    CHECK(r.entropy == 1);
    CHECK(std::isnan(estimate({0.5}).error));
}
