// The loop over the three stages: what every step must have done, read from the run folder.
#include "llmc/core/file.h"
#include "llmc/core/json.h"
#include "llmc/core/recipe.h"
#include "llmc/model/model.h"
#include "llmc/ops/moe.h"
#include "llmc/train/keys.h"
#include "llmc/train/run.h"
#include "llmc/train/schedule.h"
#include "test/fixture.h"

#include <cmath>
#include <unistd.h>

namespace {

// A short MoE run on texts whose answers are right half of the time, so that RL has groups to keep.
struct ShortRun {
    Folder place;
    const std::string runs = place.path;
    std::vector<Json> steps, evals;
    std::vector<size_t> planned, taken; // bytes of the arena's segments

    explicit ShortRun(const std::vector<std::string>& flags) {
        std::string text, problems;
        for (int q = 1; q <= 4; q++) {
            problems += format("{\"question\": \"%d?\", \"answer\": \"%d\"}\n", q, q);
            for (int answer : {q, q % 4 + 1})
                text += format("{\"text\": \"%d?\\n\\\\boxed{%d}\"}\n", q, answer);
        }
        write_file_atomic(runs + "/text.jsonl", text);
        write_file_atomic(runs + "/problems.jsonl", problems);
        std::vector<std::string> all = {"-runs",
                                        runs,
                                        "-name",
                                        "run",
                                        "-model",
                                        "tiny-moe",
                                        "-layers",
                                        "2",
                                        "-channels",
                                        "48",
                                        "-data",
                                        runs + "/text.jsonl",
                                        "-rl.data",
                                        runs + "/problems.jsonl",
                                        "-val_fraction",
                                        "0.02",
                                        "-eval_problems",
                                        "",
                                        "-val_data",
                                        "embedded:sentences",
                                        "-val_rows",
                                        "2",
                                        "-pretrain.steps",
                                        "60",
                                        "-midtrain.steps",
                                        "10",
                                        "-rl.steps",
                                        "4",
                                        "-batch",
                                        "8",
                                        "-context",
                                        "32",
                                        "-lr",
                                        "3e-3",
                                        "-rl.lr",
                                        "1e-4",
                                        "-groups",
                                        "2",
                                        "-group_size",
                                        "8",
                                        "-rl.max_new_tokens",
                                        "12",
                                        "-bias_rate",
                                        "0"};
        all.insert(all.end(), flags.begin(), flags.end());
        Comm comm;
        Run run(read_train_recipe(all), comm);
        REQUIRE(run.train() == 0);
        for (int i = 0; i < int(Segment::count); i++) {
            planned.push_back(size_t(run.plan().segments[i]));
            taken.push_back(run.arena().peak(Segment(i)));
        }
        for (const std::string& line : split_text(read_file(runs + "/run/metrics.jsonl"), '\n'))
            if (!line.empty()) {
                const Json json = Json::parse(line);
                (json["kind"] == "step" ? steps : evals).push_back(json);
            }
    }

    std::vector<double> router_bias() const {
        Ctx ctx(Backend::cpu, 0);
        const std::string folder = runs + "/run/ckpt/step_00000074";
        Model model(ctx, read_config(folder));
        load_weights(model, folder);
        std::vector<double> bias;
        for (int l = 0; l < model.config.layers; l++)
            for (int e = 0; e < model.config.experts; e++)
                bias.push_back(read_value(model.weights.block(l).router_bias, e));
        return bias;
    }
};

} // namespace

TEST_CASE("train: every step does what its stage says", "[train]") {
    ShortRun run({"-midtrain.lr_end", "3e-4", "-midtrain.decay", "10", "-pretrain.warmup", "5",
                  "-pretrain.bias_rate", "1e-2", "-save_batches", "2"});
    REQUIRE(run.steps.size() == 74);
    REQUIRE(run.evals.size() == 3);
    const Schedule pretrain{5, 60, 0, 3e-3, 0, DecayShape::linear};
    const Schedule midtrain{0, 0, 10, 3e-3, 3e-4, DecayShape::linear};
    for (size_t i = 0; i < 70; i++) {
        const Schedule& schedule = i < 60 ? pretrain : midtrain;
        CHECK(run.steps[i]["lr"].get<double>() ==
              Approx(learning_rate(schedule, int64_t(i < 60 ? i : i - 60))).epsilon(1e-12));
    }
    CHECK(run.steps[59]["loss"].get<double>() < 0.5 * run.steps[0]["loss"].get<double>());
    for (size_t i = 70; i < 74; i++) { // on-policy: the rollout's log-probs are the trainer's bits
        REQUIRE(run.steps[i]["kept_groups"].get<int>() > 0);
        CHECK(run.steps[i]["max_abs_dlogp"].get<double>() == 0);
        CHECK(run.steps[i]["ratio_max"].get<double>() == 1);
        CHECK(run.steps[i]["grad_norm"].get<double>() > 0);
    }
    const std::string state = run.runs + "/run/ckpt/step_00000074/state.json";
    CHECK(json_parse(read_file(state), state)["optimizer_step"].get<int>() == 4); // anew in RL
    double sum = 0, size = 0;
    for (double b : run.router_bias()) {
        sum += b;
        size += std::fabs(b);
    }
    CHECK(size > 0.05);                  // 60 updates of 1e-2 moved it,
    CHECK(std::fabs(sum) < 1e-4 * size); // around zero
    for (int step : {1, 2}) {            // the routing left is the one that was counted
        const SafetensorsFile file(
            format("%s/run/batches/pretrain_%08d.routing.safetensors", run.runs.c_str(), step));
        const ModelConfig c = read_config(run.runs + "/run/ckpt/step_00000074");
        const TensorEntry& entry = file.at("experts");
        REQUIRE(entry.shape == std::vector<int64_t>{c.layers, 8 * 32, c.experts_per_token});
        const std::vector<int64_t> experts = file.read_i64("experts");
        double worst = 0;
        for (int l = 0; l < c.layers; l++) {
            std::vector<int32_t> counts(size_t(c.experts), 0);
            const size_t of_layer = experts.size() / size_t(c.layers);
            for (size_t i = 0; i < of_layer; i++) counts.at(experts[l * of_layer + i])++;
            worst = std::max(worst, max_violation(counts.data(), c.experts));
        }
        CHECK(run.steps[size_t(step - 1)]["max_vio"].get<double>() == worst);
    }
}

TEST_CASE("train: rollout and trainer have the same log-probs in every RL step", "[train][slow]") {
    const char* dtype = GENERATE("fp32", "bf16");
    const char* model = GENERATE("tiny", "tiny-moe");
    CAPTURE(dtype, model);
    ShortRun run(
        {"-model", model, "-dtype", dtype, "-channels", "64", "-ffn", "640", "-rl.steps", "12"});
    int kept = 0;
    for (size_t i = 70; i < run.steps.size(); i++) {
        CHECK(run.steps[i]["max_abs_dlogp"].get<double>() == 0);
        kept += run.steps[i]["kept_groups"].get<int>();
    }
    CHECK(kept > 5);
}

TEST_CASE("train: at bias_rate 0 the router bias stays where it was", "[train]") {
    ShortRun run({});
    for (double b : run.router_bias()) CHECK(b == 0);
}

TEST_CASE("train: two updates per rollout leave the policy the second time", "[train]") {
    ShortRun run({"-rl.updates", "2", "-rl.lr", "1e-3"});
    CHECK(run.steps[70]["max_abs_dlogp"].get<double>() == 0);
    CHECK(run.steps[71]["max_abs_dlogp"].get<double>() > 0);
}

TEST_CASE("train: the longest answer changes at late_step, and truncated answers are wrong",
          "[train]") {
    ShortRun run({"-rl.max_new_tokens", "3", "-rl.max_new_tokens_late", "12", "-rl.late_step", "2",
                  "-rl.max_rounds", "1"});
    for (size_t i = 70; i < 74; i++) {
        const Json& step = run.steps[i];
        const bool late = i >= 72;
        CHECK((step["length_max"].get<int>() > 3) == late);
        if (!late) CHECK(step["accuracy"].get<double>() == 0); // a box has eight bytes
        CHECK((step["kept_groups"].get<int>() > 0) == late);
    }
    // refill = group: problems are replaced one by one, never more than asked for
    CHECK(run.steps[70]["prompts"].get<int>() == 2);
    CHECK(run.steps[70]["zero_groups"].get<int>() == 2);
}

TEST_CASE("train: rejected groups are replaced one by one or round by round", "[train]") {
    // Steps of at most one round may differ in nothing.
    const std::vector<std::string> flags = {"-rl.steps", "2", "-rl.refill"};
    auto with = [&](const char* refill) {
        std::vector<std::string> all = flags;
        all.push_back(refill);
        return all;
    };
    ShortRun by_group(with("group")), by_round(with("round"));
    for (const ShortRun* run : {&by_group, &by_round})
        for (size_t i = 70; i < 72; i++) {
            const Json& s = run->steps[i];
            CHECK(s["kept_groups"].get<int>() == 2);
            if (run == &by_group) // none too many
                CHECK(s["prompts"].get<int>() ==
                      2 + s["zero_groups"].get<int>() + s["one_groups"].get<int>());
        }
}

TEST_CASE("train: overlong rules change what is learnt from", "[train]") {
    // Ten tokens: most answers fit, some do not.
    auto flags = [](const char* rule) {
        return std::vector<std::string>{"-rl.overlong",        rule, "-rl.max_new_tokens", "10",
                                        "-rl.steps",           "1",  "-rl.temperature",    "1.1",
                                        "-rl.groups",          "4",  "-pretrain.steps",    "60",
                                        "-rl.overlong_buffer", "5"};
    };
    ShortRun wrong(flags("wrong")), masked(flags("masked")), soft(flags("soft"));
    const Json &w = wrong.steps.back(), &m = masked.steps.back(), &s = soft.steps.back();
    REQUIRE(w["truncated"].get<double>() > 0);
    CHECK(w["kept_groups"].get<int>() > 0);
    CHECK(m["accuracy"] == w["accuracy"]);
    CHECK(m["tokens"].get<int64_t>() < w["tokens"].get<int64_t>()); // fewer tokens are trained on
    CHECK(s["reward"].get<double>() < s["accuracy"].get<double>());
    CHECK(w["reward"] == w["accuracy"]);
    CHECK(s["grad_norm"] != w["grad_norm"]);
}

TEST_CASE("train: a KL term holds the policy near the weights the stage began with", "[train]") {
    auto flags = [](const char* kl, const char* dtype) {
        return std::vector<std::string>{"-rl.kl",      kl,  "-rl.lr", "1e-3",
                                        "-rl.updates", "2", "-dtype", dtype};
    };
    const ShortRun without(flags("0", "fp32")), with(flags("1", "fp32")),
        narrow(flags("1", "bf16"));
    CHECK_FALSE(without.steps.back().contains("kl"));
    CHECK_FALSE(path_exists(without.runs + "/run/reference"));
    CHECK(path_exists(with.runs + "/run/reference/model.safetensors"));
    CHECK(read_file(with.runs + "/run/reference/model.safetensors") ==
          read_file(with.runs + "/run/ckpt/step_00000070/model.safetensors"));
    CHECK(with.steps[70]["kl"].get<double>() == 0); // still the same weights, bit for bit
    CHECK(narrow.steps[70]["kl"].get<double>() == 0);
    CHECK(with.steps[70]["grad_norm"] == without.steps[70]["grad_norm"]);
    CHECK(with.steps[71]["kl"].get<double>() > 0);
    CHECK(with.steps[71]["grad_norm"] != without.steps[71]["grad_norm"]);
    CHECK(with.steps[73]["kl"].get<double>() > 0);
    for (const ShortRun* run : {&without, &with, &narrow}) CHECK(run->taken == run->planned);
}

TEST_CASE("train: the KL term's reference is there when nothing was learnt before the first stop",
          "[train]") {
    const std::vector<std::string> flags = {
        "-rl.kl", "0.1",       "-rl.data", "embedded:chains",    "-rl.max_rounds",
        "1",      "-rl.steps", "2",        "-max_prompt_tokens", "128"};
    ShortRun run(flags); // no group is kept: the model knows no chains
    CHECK(run.steps.back()["kept_groups"].get<int>() == 0);
    CHECK(path_exists(run.runs + "/run/reference/model.safetensors"));
}

TEST_CASE("train: every RL step has every metric", "[train]") {
    ShortRun run({"-rl.steps", "1"});
    for (const char* name : {"reward",
                             "accuracy",
                             "kept_groups",
                             "zero_groups",
                             "one_groups",
                             "prompts",
                             "epoch",
                             "length",
                             "length_max",
                             "length_finished",
                             "truncated",
                             "entropy",
                             "clip_low",
                             "clip_high",
                             "ratio_mean",
                             "ratio_max",
                             "k1",
                             "k3",
                             "max_abs_dlogp",
                             "grad_norm",
                             "lr",
                             "advantage_min",
                             "advantage_max",
                             "tokens",
                             "sampled_tokens",
                             "surrogate"})
        CHECK(run.steps.back().contains(name));
    const std::string timing = read_file(run.runs + "/run/timing.jsonl");
    for (const char* name : {"generate_ms", "grade_ms", "train_ms"})
        CHECK(timing.find(name) != std::string::npos);
}

TEST_CASE("train: an RL step without a kept group changes nothing and reports no loss", "[train]") {
    ShortRun run({"-rl.data", "embedded:chains", "-rl.max_rounds", "1", "-rl.steps", "1",
                  "-max_prompt_tokens", "128", "-rl.max_new_tokens",
                  "2"}); // too short for any \boxed{}
    const Json& step = run.steps.back();
    CHECK(step["kept_groups"].get<int>() == 0);
    CHECK(step["reward"].get<double>() == 0);
    CHECK_FALSE(step.contains("loss"));
    CHECK(step["grad_norm"].get<double>() == 0);
    const std::string ckpt = run.runs + "/run/ckpt/step_000000";
    CHECK(read_file(ckpt + "71/model.safetensors") == read_file(ckpt + "70/model.safetensors"));
}
