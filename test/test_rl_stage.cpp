// The RL stage (llmc/train/rl_stage.h) over answers that are written, not sampled: which groups it
// asks for and keeps, what becomes rows, what is drawn again after an interruption.
#include "test/fixture.h"

#include "llmc/core/file.h"
#include "llmc/train/keys.h"
#include "llmc/train/rl_stage.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>

namespace {

constexpr int kEnd = 256; // the byte tokenizer's end of text

// Answers by (prompt id, sample); notes what it was asked for.
class WrittenSource : public SampleSource {
  public:
    using Script = std::function<std::string(uint64_t prompt, int sample)>; // '.' = end of text
    explicit WrittenSource(Script script, std::vector<std::pair<uint64_t, int>>* asked)
        : script_(std::move(script)), asked_(asked) {}
    int sharers() const override { return 1; }
    void weights_changed() override {}
    void generate(const std::vector<Request>& first, const SampleSettings&,
                  const EngineListener& listener) override {
        std::vector<Request> requests = first;
        for (size_t r = 0; r < requests.size(); r++) {
            const Request request = requests[r];
            for (int sample : request.samples) {
                asked_->push_back({request.prompt_id, sample});
                Completion c{r, sample, {}, {}, {}, {}, Finish::length};
                for (char byte : script_(request.prompt_id, sample)) {
                    c.tokens.push_back(byte == '.' ? kEnd : byte);
                    c.logp.push_back(-0.1f * float(c.tokens.size()));
                    c.plain_logp.push_back(-1);
                    c.entropy.push_back(0.25f);
                    if (byte == '.') c.finish = Finish::stop;
                }
                listener.finished(c);
            }
            if (!listener.request_finished) continue;
            for (Request& more : listener.request_finished(r)) requests.push_back(more);
        }
    }

  private:
    const Script script_;
    std::vector<std::pair<uint64_t, int>>* asked_;
};

const std::string kRight = "\\boxed{7}.", kWrong = "it is \\boxed{8}.", kCut = "\\boxed{7} and on";

struct RlFixture {
    Folder place;
    const std::string folder = place.path;
    Comm comm;
    Ctx ctx{Backend::cpu, 1};
    Tokenizer tokenizer;
    Model model{ctx, config()};
    Recipe recipe;
    RunProblems problems;
    std::unique_ptr<RlStage> stage;
    std::vector<std::pair<uint64_t, int>> asked;

    static ModelConfig config() {
        ModelConfig c = model_preset("tiny");
        c.layers = 1;
        c.channels = 32;
        c.ffn = 32;
        c.vocab = 257;
        c.max_positions = 256;
        return c;
    }
    static std::vector<std::string> arguments(const std::string& folder,
                                              const std::vector<std::string>& flags) {
        std::vector<std::string> all = {"-rl.data",      folder + "/problems.jsonl",
                                        "-val_fraction", "0",
                                        "-groups",       "2",
                                        "-group_size",   "4",
                                        "-rl.steps",     "10",
                                        "-refill",       "group",
                                        "-rl.overlong",  "wrong"};
        all.insert(all.end(), flags.begin(), flags.end());
        return all;
    }
    RlFixture(const std::vector<std::string>& flags, WrittenSource::Script script)
        : recipe(read_train_recipe(arguments(folder, flags))) {
        std::string lines;
        for (int i = 0; i < 40; i++)
            lines += format("{\"question\": \"Q%02d?\", \"answer\": \"7\"}\n", i);
        place.file("problems.jsonl", lines);
        init_params(model.ctx(), model.weights, model.table, model.config, 5, 0.1);
        start(std::move(script));
    }
    void start(WrittenSource::Script script) { // anew, on the same folder
        asked.clear();
        problems = read_problems(recipe, tokenizer, {"rl"});
        stage = std::make_unique<RlStage>(recipe, ctx, comm, model, tokenizer, *problems.rl, folder,
                                          std::make_unique<WrittenSource>(script, &asked));
    }
    StageBatch batch(int64_t step) {
        StageBatch b;
        stage->next_batch(step, b);
        return b;
    }
};

// The first `right` samples of a prompt are right.
WrittenSource::Script by_prompt(std::map<uint64_t, int> right) {
    return [right](uint64_t prompt, int sample) {
        const auto entry = right.find(prompt);
        return sample < (entry == right.end() ? 2 : entry->second) ? kRight : kWrong;
    };
}

struct Row {
    int target;
    double scale, old_logp;
};
std::vector<Row> rows_of(const StageBatch& batch) { // with a target, in order
    std::vector<Row> rows;
    for (const MicroBatch& m : batch.micro)
        for (size_t n = 0; n < m.targets.size(); n++)
            if (m.targets[n] != kIgnoredTarget)
                rows.push_back({m.targets[n], m.scale[n], m.old_logp[n]});
    return rows;
}

double sum_of_scales(const StageBatch& batch) {
    double sum = 0;
    for (const Row& row : rows_of(batch)) sum += std::fabs(row.scale);
    return sum;
}

} // namespace

TEST_CASE("rl: a uniform group is replaced by one problem, until enough groups are kept", "[rl]") {
    // 0 none, 1 all, 2 some, 3 all, 4 some: five problems for two groups.
    RlFixture f({}, by_prompt({{0, 0}, {1, 4}, {2, 1}, {3, 4}, {4, 3}}));
    const StageBatch b = f.batch(0);
    CHECK(f.asked.size() == 5 * 4);
    CHECK(f.stage->state().at("next_problem") == 5);
    const std::pair<const char*, double> expected[] = {
        {"kept_groups", 2},
        {"zero_groups", 1},
        {"one_groups", 2},
        {"prompts", 5},
        {"accuracy", 12. / 20},
        {"reward", 12. / 20},
        {"truncated", 0},
        {"answered", 1},
        {"length_max", 16},
        {"advantage_max", 1.5},
        {"advantage_min", -1.5},
        {"rollout_entropy", 0.25},
        {"kept_share", 0.4},
        {"sampled_tokens", 12 * 10 + 8 * 16},
        {"length", (12 * 10 + 8 * 16) / 20.},
        {"length_finished", (12 * 10 + 8 * 16) / 20.}};
    for (const auto& [key, value] : expected) {
        CAPTURE(key);
        CHECK(b.metrics.at(key).get<double>() == Approx(value).epsilon(1e-5));
    }
    CHECK(b.warning.empty());
    // The same groups by rounds: there the second asks for half as many more than are missing.
    RlFixture rounds({"-refill", "round"}, by_prompt({{0, 0}, {1, 4}, {2, 1}, {3, 4}, {4, 3}}));
    CHECK(rounds.batch(0).tokens == b.tokens);
    CHECK(rounds.asked.size() == 5 * 4);
}

TEST_CASE("rl: where all groups are uniform it gives up after max_rounds and says so", "[rl]") {
    for (const char* refill : {"group", "round"}) {
        RlFixture f({"-refill", refill, "-max_rounds", "3"}, [](uint64_t, int) { return kWrong; });
        const StageBatch b = f.batch(0);
        // 6 problems, or rounds of 2, 3 and 3
        CHECK(f.asked.size() == (refill == std::string("group") ? 24 : 32));
        CHECK(b.micro.empty());
        CHECK(b.metrics.at("kept_groups") == 0);
        CHECK_THAT(b.warning, Contains("no group"));
        CHECK(f.stage->can_checkpoint());
    }
}

TEST_CASE("rl: rows are answer tokens with the end of text, weighed by the group's advantage",
          "[rl]") {
    RlFixture f({}, by_prompt({{0, 1}, {1, 3}}));
    const StageBatch b = f.batch(0);
    const std::vector<Row> rows = rows_of(b);
    REQUIRE(rows.size() == 4 * 10 + 4 * 16);
    CHECK(b.tokens == 104);
    size_t ends = 0, begin = 0;
    const double high = 1.5, low = -0.5; // std with n - 1 of 1, 0, 0, 0 is 1/2
    const double advantages[] = {high, low, low, low, -low, -low, -low, -high};
    for (size_t i = 0; i < 8; i++) {
        const size_t length = i < 1 || (i >= 4 && i < 7) ? 10 : 16;
        for (size_t t = 0; t < length; t++) {
            CHECK(rows[begin + t].scale == Approx(advantages[i] / 104).epsilon(1e-5));
            CHECK(float(rows[begin + t].old_logp) == -0.1f * float(t + 1));
        }
        CHECK(rows[begin + length - 1].target == kEnd);
        CHECK(std::fabs(rows[begin + length - 1].scale) > 0);
        begin += length;
    }
    for (const Row& row : rows) ends += row.target == kEnd;
    CHECK(ends == 8);
    CHECK(f.stage->loss.temperature == 1);
    RlFixture tempered({"-temperature", "0.7"}, by_prompt({}));
    CHECK(tempered.stage->loss.temperature == 0.7);
}

TEST_CASE("rl: what a token counts by each aggregation, before and after the switch to longer ones",
          "[rl]") {
    const auto script = by_prompt({});
    auto total = [&](const char* how, int64_t step) { // sum of |advantage| * weight over tokens
        RlFixture f({"-aggregation", how, "-advantage", "nostd", "-max_new_tokens", "20",
                     "-max_new_tokens_late", "50", "-late_step", "7"},
                    script);
        return sum_of_scales(f.batch(step));
    };
    // Two groups of two right (10 tokens) and two wrong answers (16): |advantage| is 1/2.
    CHECK(total("token_mean", 0) == Approx(0.5));
    CHECK(total("seq_mean", 0) == Approx(0.5));
    CHECK(total("constant", 6) == Approx(0.5 * 104 / (8 * 20)));
    CHECK(total("constant", 7) == Approx(0.5 * 104 / (8 * 50)));
    RlFixture f({"-aggregation", "seq_mean", "-advantage", "nostd"}, script);
    const std::vector<Row> rows = rows_of(f.batch(0));
    CHECK(rows[0].scale == Approx(0.5 / (8 * 10)));
    CHECK(rows[103].scale == Approx(-0.5 / (8 * 16)));
}

TEST_CASE("rl: the overlong rules on a right answer that was cut", "[rl]") {
    auto script = [](uint64_t, int sample) {
        return sample == 0 ? kRight : sample == 1 ? kCut : kWrong;
    };
    auto batch = [&](const char* rule) {
        RlFixture f({"-rl.overlong", rule, "-rl.max_new_tokens", "16", "-overlong_buffer", "8"},
                    script);
        return f.batch(0);
    };
    CHECK(batch("wrong").metrics.at("accuracy") == 0.25);
    CHECK(batch("wrong").metrics.at("truncated") == 0.25);
    CHECK(batch("graded").metrics.at("accuracy") == 0.5);
    CHECK(batch("masked").metrics.at("accuracy") == 0.25);
    const size_t all = rows_of(batch("wrong")).size();
    CHECK(rows_of(batch("masked")).size() == all - 2 * kCut.size());
    // 10 of 16 tokens: 2/8 into the buffer; 16: all of it.
    const StageBatch soft = batch("soft");
    CHECK(soft.metrics.at("accuracy") == 0.5);
    CHECK(soft.metrics.at("reward").get<double>() ==
          Approx((2 - 0.25 - (double(kCut.size()) - 8) / 8 - 2) / 4));
}

TEST_CASE("rl: several updates share the groups of one rollout", "[rl]") {
    RlFixture f({"-groups", "3", "-updates", "2"}, by_prompt({}));
    const StageBatch first = f.batch(0);
    CHECK_FALSE(f.stage->can_checkpoint());
    CHECK(first.metrics.at("kept_groups") == 3);
    const size_t asked = f.asked.size();
    const StageBatch second = f.batch(1);
    CHECK(f.stage->can_checkpoint());
    CHECK(f.asked.size() == asked);
    CHECK(first.tokens == 1 * 52);
    CHECK(second.tokens == 2 * 52);
    // Each update is normalised by its own tokens.
    CHECK(sum_of_scales(first) == Approx(std::sqrt(3.0) / 2));
    CHECK(sum_of_scales(second) == Approx(std::sqrt(3.0) / 2));
    f.batch(2);
    CHECK(f.asked.size() == 2 * asked);
}

TEST_CASE("rl: what an interrupted step has drawn is not drawn again", "[rl]") {
    const auto script = by_prompt({{0, 0}, {1, 4}, {2, 1}, {3, 4}, {4, 3}});
    RlFixture f({}, script);
    const StageBatch whole = f.batch(0);
    const std::string path = f.folder + "/samples/step_000000.jsonl", text = read_file(path);
    const std::vector<std::string> lines = split_text(text, '\n');
    REQUIRE(lines.size() == 1 + 20 + 1);
    auto same = [&](const StageBatch& b) {
        CHECK(b.metrics == whole.metrics);
        REQUIRE(b.micro.size() == whole.micro.size());
        for (size_t i = 0; i < b.micro.size(); i++) {
            CHECK(b.micro[i].tokens == whole.micro[i].tokens);
            CHECK(b.micro[i].scale == whole.micro[i].scale);
            CHECK(b.micro[i].old_logp == whole.micro[i].old_logp);
        }
        CHECK(read_file(path) == text);
        CHECK_FALSE(path_exists(path + ".part0"));
    };
    SECTION("all of it") {
        f.start(script);
        same(f.batch(0));
        CHECK(f.asked.empty());
    }
    SECTION("a part, in an order of its own, the last line torn") {
        std::string part = lines[0] + "\n";
        for (size_t i : {5, 9, 10, 11, 12, 1, 17}) part += lines[i] + "\n";
        std::filesystem::remove(path);
        write_file_atomic(path + ".part0", part + lines[2].substr(0, 30));
        f.start(script);
        same(f.batch(0));
        CHECK(f.asked.size() == 20 - 7);
        for (const auto& [prompt, sample] : f.asked) CHECK(prompt != 2); // lines 9 to 12
    }
    SECTION("of other weights: nothing of it") {
        f.model.weights.flat().as<float>()[3] += 1;
        f.start(script);
        f.batch(0);
        CHECK(f.asked.size() == 20);
    }
    SECTION("of other problems: refused") {
        std::string lines_now;
        for (int i = 0; i < 40; i++)
            lines_now += format("{\"question\": \"P%02d?\", \"answer\": \"7\"}\n", i);
        write_file_atomic(f.folder + "/problems.jsonl", lines_now);
        f.start(script);
        CHECK_THROWS_WITH(f.batch(0), Contains("other problems"));
    }
}

TEST_CASE("rl: problems are read once, so that a pipe of them will do", "[rl]") {
    Folder place;
    const std::string pipe = place.path + "/problems.jsonl";
    REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
    std::thread writer([&] { // blank lines count, with Windows' line ends too
        std::ofstream(pipe) << "{\"question\": \"Q1?\", \"answer\": \"7\"}\r\n\r\n\n"
                            << "{\"question\": \"Q2?\", \"answer\": 8}";
    });
    const RunProblems problems = read_problems(
        read_train_recipe({"-rl.data", pipe, "-val_fraction", "0"}), Tokenizer(), {"rl"});
    writer.join();
    CHECK(problems.held_out.size() == 144);
    REQUIRE(problems.rl->size() == 2);
    CHECK(problems.rl->problem(0).answer == "7");
    CHECK(problems.rl->problem(3).prompt == "Q2?\n");
    CHECK(problems.rl->problem(1).where == pipe + ":4");
}

TEST_CASE("rl: a line of a samples file holds an answer bit for bit", "[rl]") {
    const Tokenizer tokenizer;
    const Problem problem{"p", "Q?", "7", {}, {}};
    Completion c{0, 3, tokenizer.encode("\xFF \\boxed{7}"), {}, {-1}, {0.1f, 1e-8f}, Finish::stop};
    for (size_t t = 0; t < c.tokens.size(); t++)
        c.logp.push_back(-std::exp(float(t * 7 % 23) - 18.f) / 3);
    const Answer a = grade_completion(problem, tokenizer, {false, false}, c);
    const Json line = Json::parse(json_line(answer_json(problem, a, LineForm::tokens)));
    const Answer b = answer_of_line(line, tokenizer);
    CHECK(b.completion.tokens == c.tokens);
    CHECK(b.completion.logp == c.logp);
    CHECK(b.entropy == a.entropy);
    CHECK(b.text == a.text);
    CHECK(b.right == a.right);
    CHECK(b.extracted == a.extracted);
    CHECK(b.completion.sample == 3);
    CHECK(json_line(answer_json(problem, b, LineForm::tokens)) == json_line(line));
}
