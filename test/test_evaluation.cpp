// Evaluations (llmc/rollout/evaluation.h, sample_log.h), problem files, scoring, the live view.
#include "test/fixture.h"

#include "llmc/core/error.h"
#include "llmc/core/file.h"
#include "llmc/core/recipe.h"
#include "llmc/rollout/evaluation.h"
#include "llmc/rollout/grader.h"
#include "llmc/rollout/live_view.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <unistd.h>
#include <utility>

namespace {

std::vector<Problem> problems_of(const std::string& file) {
    return ProblemSet("test/data/" + file, Split::validation, 0, 0).first(100);
}

struct ByteModel {
    Ctx ctx{Backend::cpu, 1};
    Tokenizer tokenizer;
    Model model;
    ByteModel() : model(ctx, config()) {
        init_params(model.ctx(), model.weights, model.table, model.config, 5, 0.1);
    }
    static ModelConfig config() {
        ModelConfig c = model_preset("tiny");
        c.layers = 1;
        c.channels = 32;
        c.ffn = 64;
        c.vocab = 257;
        c.max_positions = 1024;
        return c;
    }
    Evaluation evaluation(Comm& comm, int samples) {
        std::vector<DataSet> sets;
        for (const char* file : {"amc23.jsonl", "gsm8k.jsonl", "choices.jsonl"})
            sets.push_back({data_set_name(file), problems_of(file)});
        return Evaluation(comm, ctx, model, tokenizer, sets,
                          {samples,
                           2,
                           {false, false},
                           {1, 1, 0, 12, {tokenizer.end_of_text()}, 3, 0},
                           {8, 16, 0, 0}});
    }
};

} // namespace

TEST_CASE("problems: the usual files load as they are", "[data]") {
    const auto aime24 = problems_of("aime24.jsonl"), aime25 = problems_of("aime25.jsonl"),
               amc23 = problems_of("amc23.jsonl"), gsm8k = problems_of("gsm8k.jsonl"),
               math500 = problems_of("math500.jsonl"), minerva = problems_of("minerva_math.jsonl"),
               olympiad = problems_of("olympiadbench.jsonl"), trivia = problems_of("trivia.jsonl");
    CHECK(aime24[0].answer == "025");
    CHECK(aime25[0].answer == "55");
    CHECK(amc23[0].answer == "8.0");
    CHECK(gsm8k[0].answer == "4");
    CHECK(math500[0].answer == "\\frac{3}{4}");
    CHECK(math500[0].id == "test/prealgebra/1.json");
    CHECK_FALSE(minerva[0].answer.empty());
    CHECK(minerva[0].answer.find("boxed") == std::string::npos);
    CHECK(olympiad[0].answer == "5");
    CHECK(olympiad[1].answer == "-1,0,1");
    CHECK(trivia[0].answer == "William Shakespeare");
    CHECK(trivia[0].accepted == std::vector<std::string>{"Shakespeare"});
    for (const auto& set : {aime24, aime25, amc23, gsm8k, math500, minerva, olympiad})
        for (const Problem& problem : set) {
            CHECK(problem.prompt.size() > 10);
            CHECK(answers_equal(problem.answer, problem.answer));
        }
    const auto choices = problems_of("choices.jsonl");
    CHECK(choices[0].answer == "0");
    CHECK(choices[1].answer == "1");
    CHECK(choices[1].choices.size() == 4);
    CHECK(choices[2].id == "7");
    CHECK_THROWS_WITH(
        parse_problem("{\"question\": \"?\", \"choices\": [\"a\"], \"answer\": 3}", "f:1"),
        Contains("f:1"));
    CHECK_THROWS_WITH(parse_problem("{\"question\": \"?\", \"answer\": {}}", "f:2"),
                      Contains("f:2"));
    CHECK(data_set_name("data/aime24/test.jsonl") == "aime24");
    CHECK(data_set_name("x/amc23.jsonl") == "amc23");
    CHECK(data_set_name("embedded:chains") == "embedded:chains");
}

TEST_CASE("evaluate: exact match compares the first line's words", "[rollout]") {
    const Tokenizer tokenizer;
    const Problem problem = problems_of("trivia.jsonl")[0];
    auto grade = [&](const std::string& text) {
        Completion c{};
        c.tokens = tokenizer.encode(text);
        return grade_completion(problem, tokenizer, {false, true}, c).right;
    };
    CHECK(grade("the Shakespeare.\nand more"));
    CHECK(grade(" william  SHAKESPEARE"));
    CHECK_FALSE(grade("Bacon"));
    CHECK_FALSE(grade("Bacon\nShakespeare"));
    CHECK(plain_words("A  cat, an owl & the \"dog\"!") == "cat owl dog");
}

TEST_CASE("problems: what data/benchmarks wrote is used as it stands", "[data]") {
    const Problem words =
        parse_problem(R"({"id": "t", "prompt": "Question: Who?\nAnswer:", "metric": "words", )"
                      R"("answer": ["Shakespeare", "The Bard"], "stop": ["\n"]})",
                      "x:1");
    CHECK(words.prompt == "Question: Who?\nAnswer:");
    CHECK(words.accepted == std::vector<std::string>{"The Bard"});
    const Problem choices = parse_problem(
        R"({"prompt": "a", "prompts": ["a", "b"], "metric": "choices", "answer": "1", )"
        R"("choices": [" x", " x"]})",
        "x:1");
    CHECK(choices.answer == "1");
    CHECK(choices.prompts.size() == 2);
    for (const char* bad :
         {R"({"prompt": "a", "metric": "guess", "answer": "1"})",
          R"({"prompt": "a", "metric": "choices", "answer": "2", "choices": ["x", "y"]})",
          R"({"prompt": "a", "metric": "choices", "answer": "x", "choices": ["x", "y"]})",
          R"({"prompt": "a", "metric": "choices", "answer": "0", "choices": ["x"], )"
          R"("prompts": ["a", "b"]})",
          R"({"prompt": "a", "metric": "boxed"})"})
        CHECK_THROWS_AS(parse_problem(bad, "x:1"), UserError);
}

TEST_CASE("evaluate: a problem's own metric reads and judges its answers", "[rollout]") {
    const Tokenizer tokenizer;
    auto right = [&](const char* metric, const char* gold, const std::string& text,
                     std::vector<std::string> stop = {}) {
        Problem problem{"p", "q", gold, {}, {"also"}, metric, {}, std::move(stop)};
        Completion completion{};
        completion.tokens = tokenizer.encode(text);
        return grade_completion(problem, tokenizer, {false, false}, completion).right;
    };
    CHECK(right("boxed", "1/2", "so \\boxed{0.5}"));
    CHECK_FALSE(right("boxed", "1/2", "Answer: 0.5"));
    CHECK(right("lenient", "5", " 2+3.\n#### 5\n\nQuestion: 7?\n#### 7", {"Question:"}));
    CHECK_FALSE(right("lenient", "5", " 2+3.\n#### 5\n\nQuestion: 7?\n#### 7"));
    CHECK(right("letter", "C", "Let us see, A is wrong. The answer is (C). The answer is"));
    CHECK_FALSE(right("letter", "C", "The answer is (D), not C."));
    CHECK_FALSE(right("letter", "C", "The answer is Carbon."));
    CHECK(right("phrase", "False", "not ( True ) is False. So the answer is False."));
    CHECK(right("phrase", "> ) ]", "So the answer is > ) ]"));
    CHECK_FALSE(right("phrase", "> ) ]", "So the answer is > ) ] )"));
    CHECK(right("phrase", "(A)", "So the answer is (A)."));
    CHECK_FALSE(right("phrase", "valid", "So the answer is invalid."));
    CHECK(right("words", "Paris", " also\nQuestion: more", {"\n"}));
    CHECK_FALSE(right("words", "Paris", "London"));
    CHECK_FALSE(right("code", "x", "x"));
}

TEST_CASE("evaluate: with a prompt per choice the same text is compared behind each", "[rollout]") {
    ByteModel m;
    Comm comm;
    const Problem problem{
        "w", "cup", "1", {" broke.", " broke."}, {}, "choices", {"The cup", "The floor"}, {}};
    Evaluation e(comm, m.ctx, m.model, m.tokenizer, {{"one", {problem}}},
                 {1, 1, {false, false}, {1, 1, 0, 4, {256}, 1, 0}, {4, 16, 0, 0}});
    SampleLog log(comm, "", {}, SampleLog::Others::refused);
    e.run(log);
    const Json line = log.line({0, 0});
    for (size_t c = 0; c < 2; c++) {
        const std::string text = problem.prompts[c] + " broke.";
        Scorer scorer(m.ctx, m.model, int64_t(text.size()));
        const std::vector<double> logp = scorer.score({m.tokenizer.encode(text)}, 1)[0].logp;
        double sum = 0;
        for (size_t t = problem.prompts[c].size() - 1; t < logp.size(); t++) sum += logp[t];
        CHECK(line["logp"][c].get<double>() == sum);
    }
}

TEST_CASE("score: a text's log-probs are those of the training forward, whoever is packed with it",
          "[rollout]") {
    ByteModel m;
    Scorer scorer(m.ctx, m.model, 600);
    const std::vector<std::vector<int32_t>> texts = {
        m.tokenizer.encode("one text"), m.tokenizer.encode(std::string(600, 'x')),
        m.tokenizer.encode("another"), m.tokenizer.encode(std::string(500, 'y'))};
    const std::vector<TokenScores> all = scorer.score(texts, 1);
    for (size_t t = 0; t < texts.size(); t++) {
        CHECK(all[t].logp.size() == texts[t].size() - 1);
        CHECK(scorer.score({texts[t]}, 1)[0].logp == all[t].logp);
    }
    for (double logp : all[0].logp) CHECK(logp < 0);
}

TEST_CASE("evaluate: what is interrupted ends in the same bytes, and nothing is drawn twice",
          "[rollout]") {
    Folder folder;
    ByteModel m;
    Comm comm;
    const std::string whole = folder.path + "/whole.jsonl", cut = folder.path + "/cut.jsonl";
    auto run = [&](const std::string& path, int samples) {
        Evaluation e = m.evaluation(comm, samples);
        SampleLog log(comm, path, e.fingerprint("model"), SampleLog::Others::refused);
        e.run(log);
        log.finish();
        const std::vector<SetResult> results = e.results(log);
        return std::pair(e.counts(), results_json(results).dump());
    };
    const auto [counts, result] = run(whole, 4);
    CHECK(counts.decoded > 0);
    const std::string text = read_file(whole);
    const std::vector<std::string> lines = split_text(text, '\n');
    REQUIRE(lines.size() == 1 + 4 * 4 + 3 + 1); // settings, samples, choices, the end

    SECTION("a part of the lines, the last one torn") {
        for (size_t keep : {size_t(0), lines[0].size() / 2, lines[0].size() + 1, text.size() / 2,
                            text.size() - 9}) {
            CAPTURE(keep);
            write_file_atomic(cut + ".part0", text.substr(0, keep));
            const auto [rest, again] = run(cut, 4);
            CHECK(read_file(cut) == text);
            CHECK(again == result);
            CHECK(rest.decoded <= counts.decoded);
            if (keep > text.size() / 3) CHECK(rest.decoded < counts.decoded);
            CHECK_FALSE(path_exists(cut + ".part0"));
            std::filesystem::remove(cut);
        }
    }
    SECTION("parts of four ranks, continued by one") {
        for (size_t i = 1; i + 1 < lines.size(); i += 2) {
            const std::string part = format("%s.part%zu", cut.c_str(), i / 2 % 4);
            const std::string before = path_exists(part) ? read_file(part) : lines[0] + "\n";
            write_file_atomic(part, before + lines[i] + "\n");
        }
        run(cut, 4);
        CHECK(read_file(cut) == text);
    }
    SECTION("fewer samples first, a complete one again, other settings") {
        const auto first = run(cut, 2).first, second = run(cut, 4).first;
        CHECK(read_file(cut) == text);
        CHECK(first.decoded + second.decoded == counts.decoded);
        CHECK(run(cut, 4).first.decoded == 0);
        CHECK(read_file(cut) == text);
        Evaluation e = m.evaluation(comm, 4);
        CHECK_THROWS_WITH(
            SampleLog(comm, cut, e.fingerprint("another"), SampleLog::Others::refused),
            Contains("other settings"));
    }
    SECTION("the lines say everything of a sample") {
        const Json line = Json::parse(lines[1]);
        for (const char* field : {"set", "problem", "id", "sample", "prompt", "response", "answer",
                                  "extracted", "right", "reason", "finish", "tokens", "logp"})
            CHECK(line.contains(field));
        const Json all = Json::parse(result);
        for (const char* set : {"amc23", "gsm8k", "all"}) {
            CHECK(all[set]["samples"] == 4);
            for (const char* k : {"pass_1", "pass_2", "pass_4", "avg", "cons"})
                CHECK(all[set][k].contains("error"));
        }
        CHECK(all["choices"]["acc"].contains("mean"));
        CHECK(all["choices"]["acc_norm"].contains("mean"));
    }
}

TEST_CASE("evaluate: a choice counts by its log-likelihood, as a whole and per byte", "[rollout]") {
    ByteModel m;
    Comm comm;
    const Problem problem = problems_of("choices.jsonl")[0]; // ice, steam, sand
    Evaluation e(comm, m.ctx, m.model, m.tokenizer, {{"one", {problem}}},
                 {1, 1, {false, false}, {1, 1, 0, 4, {256}, 1, 0}, {4, 16, 0, 0}});
    SampleLog log(comm, "", {}, SampleLog::Others::refused);
    e.run(log);
    const Json line = log.line({0, 0});
    std::vector<double> normed;
    for (size_t c = 0; c < 3; c++) {
        const std::string text = problem.prompt + " " + problem.choices[c];
        Scorer scorer(m.ctx, m.model, int64_t(text.size()));
        const std::vector<double> logp = scorer.score({m.tokenizer.encode(text)}, 1)[0].logp;
        double sum = 0;
        for (size_t t = problem.prompt.size() - 1; t < logp.size(); t++) sum += logp[t];
        CHECK(line["logp"][c].get<double>() == sum);
        normed.push_back(sum / double(problem.choices[c].size()));
    }
    const std::vector<double> sums = line["logp"].get<std::vector<double>>();
    CHECK(line["chosen"] ==
          std::to_string(std::max_element(sums.begin(), sums.end()) - sums.begin()));
    CHECK(line["chosen_norm"] ==
          std::to_string(std::max_element(normed.begin(), normed.end()) - normed.begin()));
}

TEST_CASE("evaluate: a problem longer than the model is wrong, the others are answered",
          "[rollout]") {
    ByteModel m;
    Comm comm;
    Problem asked = problems_of("amc23.jsonl")[0], choice = problems_of("choices.jsonl")[0];
    Problem long_asked = asked, long_choice = choice;
    long_asked.prompt = std::string(1024 - 3, 'x'); // four tokens answer
    long_choice.prompt = std::string(1023, 'x');
    const EvaluationSettings settings = {
        2, 1, {false, false}, {1, 1, 0, 4, {256}, 1, 0}, {4, 16, 0, 0}};
    auto evaluation = [&](const std::vector<Problem>& problems) {
        return Evaluation(comm, m.ctx, m.model, m.tokenizer, {{"set", problems}}, settings);
    };
    Evaluation e = evaluation({long_asked, asked, long_choice, choice});
    SampleLog log(comm, "", {}, SampleLog::Others::refused);
    e.run(log);
    CHECK(log.size() == 2 + 2 + 1 + 1);
    for (const SampleLog::Place& place : {SampleLog::Place{0, 0}, {0, 1}, {2, 0}}) {
        CHECK(log.line(place)["reason"] == "prompt too long");
        CHECK(log.line(place)["right"] == false);
    }
    CHECK(log.line({1, 1})["tokens"].get<int>() > 0);
    CHECK(log.line({3, 0})["logp"].size() == choice.choices.size());
    const std::vector<SetResult> results = e.results(log);
    CHECK(results[0].too_long == 2);
    CHECK(results[0].sampled->problems == 2);
    CHECK(results_json(results)["set"]["too_long"] == 2);
    CHECK(results_table(results, 1).find("set: 2 problems too long") == 0);

    long_asked.prompt.resize(1024 - 4 - m.tokenizer.encode_start("").size());
    Evaluation fits = evaluation({long_asked});
    SampleLog one(comm, "", {}, SampleLog::Others::refused);
    fits.run(one);
    CHECK(fits.results(one)[0].too_long == 0);

    long_asked.prompt += "x";
    Evaluation none = evaluation({long_asked});
    SampleLog empty(comm, "", {}, SampleLog::Others::refused);
    CHECK_THROWS_WITH(none.run(empty), Contains("no problem fits"));
}

TEST_CASE("live view: a line per sample in progress, none wider than the screen", "[rollout]") {
    const Tokenizer tokenizer;
    auto none = [](const Completion&) { return std::string(); };
    LiveView view(tokenizer, none, none, false);
    Completion c{};
    for (int sample = 0; sample < 12; sample++) {
        c = {3,
             sample,
             tokenizer.encode("line one\nthen a long second line, the \xC3\xA9nd " +
                              std::to_string(sample)),
             {},
             {},
             {},
             Finish::stop};
        const std::vector<int32_t> all = std::exchange(c.tokens, {});
        for (int32_t token : all) {
            c.tokens.push_back(token);
            view.token(c);
        }
    }
    const std::vector<std::string> lines = view.lines(10, 40);
    REQUIRE(lines.size() == 10); // the newest ones, the last one below
    CHECK(lines.back().rfind("  3.11", 0) == 0);
    for (const std::string& line : lines) {
        CHECK(line.size() <= 40);
        CHECK(line.find('\n') == std::string::npos);
    }
    CHECK(lines.back().substr(lines.back().size() - 4) == "d 11");
}
