// Contract: golden_runner.h. One function per format; models and optimizer steps are in
// golden_models.cpp.
#include "test/golden_runner.h"

#include "llmc/core/json.h"
#include "llmc/ops/loss.h"
#include "llmc/rollout/estimators.h"
#include "llmc/train/grpo.h"
#include "llmc/train/schedule.h"
#include "test/golden_report.h"

#include <cmath>
#include <functional>
#include <map>

void GoldenReport::add(const std::string& name, double error, double tolerance) {
    results.push_back({prefix + name, error, tolerance, error <= tolerance});
}

void GoldenReport::compare(const std::string& name, const std::vector<double>& got,
                           const std::vector<double>& want, double tolerance) {
    double square = 0, norm = 0;
    bool same_holes = got.size() == want.size();
    for (size_t i = 0; i < std::min(got.size(), want.size()); i++) {
        if (!std::isfinite(want[i])) {
            same_holes =
                same_holes && (std::isnan(want[i]) ? std::isnan(got[i]) : got[i] == want[i]);
            continue;
        }
        square += (got[i] - want[i]) * (got[i] - want[i]);
        norm += want[i] * want[i];
    }
    const double error = norm > 0 ? std::sqrt(square / norm) : std::sqrt(square);
    add(name, same_holes ? error : INFINITY, tolerance);
}

View GoldenReport::view(const std::vector<double>& values, std::vector<char>& memory, Dtype dtype,
                        std::vector<int64_t> shape) {
    memory.assign(values.size() * dtype_bytes(dtype) + 1, 0);
    for (size_t i = 0; i < values.size(); i++) {
        if (dtype == Dtype::f64) reinterpret_cast<double*>(memory.data())[i] = values[i];
        if (dtype == Dtype::f32) reinterpret_cast<float*>(memory.data())[i] = float(values[i]);
        if (dtype == Dtype::i32) reinterpret_cast<int32_t*>(memory.data())[i] = int32_t(values[i]);
    }
    if (shape.size() == 1) return make_view(memory.data(), dtype, "golden", shape[0]);
    return make_view(memory.data(), dtype, "golden", shape[0], shape[1]);
}

std::vector<double> GoldenReport::values(const View& view) {
    std::vector<double> out;
    for (int64_t n = 0; n < view.rows(); n++)
        for (int64_t i = 0; i < view.row_size(); i++) {
            const int64_t at = n * view.ld + i;
            out.push_back(view.dtype == Dtype::f64   ? view.as<double>()[at]
                          : view.dtype == Dtype::f32 ? double(view.as<float>()[at])
                                                     : double(view.as<int32_t>()[at]));
        }
    return out;
}

LossShape golden_loss_shape(const Json& json, int V) {
    LossShape shape{};
    shape.V = V;
    shape.k = json.at("k").get<int>();
    shape.beta = json.at("beta").get<double>();
    shape.lambda_head = json.at("lambda_head").get<double>();
    shape.lambda_tail = json.at("lambda_tail").get<double>();
    shape.form =
        json.value("form", "factor") == "factor" ? RewardForm::factor : RewardForm::exponent;
    shape.temperature = 1;
    return shape;
}

// ------------------------------------------------------------------------------------------------
// shaped_loss

static void run_loss_case(GoldenReport& report, const std::string& directory, const Json& test,
                          Backend backend, int path) {
    SafetensorsFile file(directory + "/" + test.at("file").get<std::string>());
    const int64_t N = test.at("rows").get<int64_t>(), P = test.at("P").get<int64_t>();
    Ctx ctx(backend, 0);
    ctx.simt.path = path;
    const double tolerance = backend == Backend::ref ? 1e-12 : 2e-6;
    std::vector<char> memory[4];
    auto view = [&](int i, const std::vector<double>& v, Dtype d, std::vector<int64_t> shape) {
        return GoldenReport::view(v, memory[i], d, std::move(shape));
    };
    const View logits = view(0, file.read_f64("logits"), ctx.dtype(), {N, P});
    const View targets = view(1, file.read_f64("targets"), Dtype::i32, {N});
    const View scale = view(2, file.read_f64("scale"), ctx.dtype(), {N});
    const View stats =
        view(3, std::vector<double>(N * kLossStats, NAN), ctx.dtype(), {N, kLossStats});
    const LossShape shape = golden_loss_shape(test, test.at("V").get<int>());
    loss_forward_backward(ctx, logits, stats, targets, scale, View{}, shape);
    report.prefix += test.at("name").get<std::string>() + "/";
    const std::vector<double> all = GoldenReport::values(stats);
    const std::pair<const char*, int> columns[] = {
        {"ce", kStatCe},   {"entropy", kStatEntropy},    {"lse", kStatLse},
        {"q", kStatQ},     {"head_mass", kStatHeadMass}, {"tail_mass", kStatTailMass},
        {"W", kStatReward}};
    for (const auto& [name, column] : columns) {
        const std::vector<double> want = file.read_f64(name);
        double worst = 0; // the largest relative error of a row
        for (int64_t n = 0; n < N; n++) {
            const double got = all[n * kLossStats + column], w = want[n];
            double error = std::fabs(got - w) / std::max(std::fabs(w), 1e-300);
            if (got == w) error = 0;
            if (std::isnan(got)) error = INFINITY;
            if (column == kStatEntropy && std::fabs(w) < 1e-6 && backend != Backend::ref)
                error = std::fabs(got - w) < 1e-7 ? 0 : INFINITY; // the format's rule
            if (backend != Backend::ref && std::fabs(w) < 1e-37 && std::fabs(got) < 1e-37)
                error = 0; // below the smallest normal fp32 number
            worst = std::max(worst, error);
        }
        report.add(name, worst, tolerance);
    }
    report.compare("dlogits", GoldenReport::values(logits), file.read_f64("dlogits"), tolerance);
}

static void run_shaped_loss(GoldenReport& report, const std::string& directory, const Json& json) {
    const std::string prefix = report.prefix;
    for (const Json& test : json.at("cases"))
        for (const auto& [name, backend, path] :
             {std::tuple("ref", Backend::ref, -1), std::tuple("cpu", Backend::cpu, -1),
              std::tuple("simt sweep", Backend::simt, 0), std::tuple("simt", Backend::simt, 1),
              std::tuple("simt cluster", Backend::simt, 8)}) {
            report.prefix = prefix + name + "/";
            run_loss_case(report, directory, test, backend, path);
        }
}

// ------------------------------------------------------------------------------------------------
// schedule, estimators, grpo

static void run_schedule(GoldenReport& report, const std::string&, const Json& json) {
    int i = 0;
    for (const Json& set : json.at("sets")) {
        const Schedule schedule{
            set.at("warmup").get<int64_t>(),      set.at("decay_start").get<int64_t>(),
            set.at("decay_steps").get<int64_t>(), set.at("peak").get<double>(),
            set.at("final").get<double>(),        decay_shape(set.at("shape").get<std::string>())};
        std::vector<double> got, want = set.at("lr").get<std::vector<double>>();
        for (size_t s = 0; s < want.size(); s++) got.push_back(learning_rate(schedule, int64_t(s)));
        report.compare(format("set%d.lr", i++), got, want, 1e-12);
    }
}

static void run_estimators(GoldenReport& report, const std::string&, const Json& json) {
    std::vector<double> got[3], want[3];
    for (const Json& c : json.at("pass_at_k")) {
        got[0].push_back(pass_at_k(c.at("n"), c.at("c"), c.at("k")));
        want[0].push_back(c.at("value"));
    }
    for (const Json& c : json.at("cons_avg")) {
        std::vector<std::optional<std::string>> answers;
        for (const Json& a : c.at("answers"))
            answers.push_back(a.is_null() ? std::nullopt
                                          : std::optional<std::string>(a.get<std::string>()));
        got[1].push_back(cons_at_n(answers, c.at("right")));
        want[1].push_back(c.at("cons"));
        got[2].push_back(avg_at_n(answers, c.at("right")));
        want[2].push_back(c.at("avg"));
    }
    report.compare("pass_at_k", got[0], want[0], 1e-12);
    report.compare("cons_at_n", got[1], want[1], 1e-12);
    report.compare("avg_at_n", got[2], want[2], 1e-12);
}

static void run_grpo(GoldenReport& report, const std::string& directory, const Json& json) {
    SafetensorsFile file(directory + "/golden.safetensors");
    const int64_t P = json.at("prompts"), G = json.at("samples"), T = json.at("max_len");
    const std::vector<int64_t> correct = file.read_i64("correct"),
                               lengths = file.read_i64("lengths");
    const std::vector<double> new_logp = file.read_f64("new_logp"),
                              old_logp = file.read_f64("old_logp");
    LossShape clip{};
    clip.clip_low = json.at("clip_low");
    clip.clip_high = json.at("clip_high");
    std::vector<double> advantages[2], kept;
    std::vector<int64_t> kept_rows, kept_lengths;
    for (int64_t p = 0; p < P; p++) {
        const std::vector<int> group(correct.begin() + p * G, correct.begin() + (p + 1) * G);
        for (int i = 0; i < 2; i++)
            for (double a : group_advantages({group.begin(), group.end()},
                                             i ? AdvantageForm::nostd : AdvantageForm::std,
                                             json.at("std_eps")))
                advantages[i].push_back(a);
        kept.push_back(group_is_kept(group));
        for (int64_t g = 0; g < G && group_is_kept(group); g++) {
            kept_rows.push_back(p * G + g);
            kept_lengths.push_back(lengths[p * G + g]);
        }
    }
    report.compare("kept_groups", kept, file.read_f64("kept_groups"), 0);
    report.compare("advantage_std", advantages[0], file.read_f64("advantage_std"), 1e-12);
    report.compare("advantage_nostd", advantages[1], file.read_f64("advantage_nostd"), 1e-12);
    for (const char* how : {"token_mean", "seq_mean", "constant"}) {
        const std::vector<double> weights = token_weights(kept_lengths, T, aggregation(how));
        std::vector<double> gradient(P * G * T, 0.0);
        GrpoMetrics m;
        for (size_t i = 0; i < kept_rows.size(); i++)
            for (int64_t t = 0; t < kept_lengths[i]; t++) {
                const int64_t at = kept_rows[i] * T + t;
                const double weight = advantages[0][kept_rows[i]] * weights[i];
                gradient[at] = -grpo_weight(weight, grpo_ratio(new_logp[at], old_logp[at]), clip);
                m.add(weight, new_logp[at], old_logp[at], clip.clip_low, clip.clip_high);
            }
        report.compare(std::string("loss.") + how, {-m.surrogate},
                       file.read_f64(std::string("loss.") + how), 1e-12);
        report.compare(std::string("grad.") + how, gradient,
                       file.read_f64(std::string("grad.") + how), 1e-12);
        if (std::string(how) != "token_mean" || !json.contains("metrics")) continue;
        const double tokens = double(m.tokens);
        const std::map<std::string, double> got = {{"clip_low", double(m.clip_low) / tokens},
                                                   {"clip_high", double(m.clip_high) / tokens},
                                                   {"ratio_mean", m.ratio / tokens},
                                                   {"ratio_max", m.ratio_max},
                                                   {"k1", m.k1 / tokens},
                                                   {"k3", m.k3 / tokens},
                                                   {"max_abs_dlogp", m.max_abs_dlogp},
                                                   {"tokens", tokens}};
        for (const auto& [name, value] : json.at("metrics").items()) {
            // The stored clip rates are means of booleans, which PyTorch takes in fp32.
            const bool rate = name.rfind("clip_", 0) == 0;
            report.compare("metrics." + name, {rate ? double(float(got.at(name))) : got.at(name)},
                           {value.get<double>()}, 1e-12);
        }
    }
}

// ------------------------------------------------------------------------------------------------

static bool is_grading(const std::string& directory) {
    return path_exists(directory + "/pairs.jsonl") && path_exists(directory + "/extraction.jsonl");
}
static bool is_bpe(const std::string& directory) {
    return path_exists(directory + "/tokenizer.json") && path_exists(directory + "/pairs.json");
}

std::vector<GoldenResult> run_golden(const std::string& directory) {
    using Runner = std::function<void(GoldenReport&, const std::string&, const Json&)>;
    const std::map<std::string, Runner> runners = {
        {"shaped_loss", run_shaped_loss}, {"schedule", run_schedule},
        {"estimators", run_estimators},   {"grpo", run_grpo},
        {"causal_lm", run_causal_lm},     {"causal_lm_tail", run_causal_lm_tail},
        {"adamw_steps", run_adamw_steps}};
    std::string name = directory;
    while (name.size() > 1 && name.back() == '/') name.pop_back();
    name = name.substr(name.find_last_of('/') + 1);
    for (const char* file : {"golden.json", "cases.json"}) {
        const std::string path = directory + "/" + file;
        if (!path_exists(path)) continue;
        const Json json = json_parse(read_file(path), path);
        const std::string kind = json.value("format", "");
        if (!runners.count(kind))
            fatal(path + ": unknown format \"" + kind + "\"", "test/golden/README.md lists them");
        GoldenReport report;
        report.prefix = name + "/";
        runners.at(kind)(report, directory, json);
        return report.results;
    }
    if (is_grading(directory) || is_bpe(directory)) {
        GoldenReport report;
        report.prefix = name + "/";
        if (is_bpe(directory)) run_bpe(report, directory);
        else run_grading(report, directory);
        return report.results;
    }
    std::vector<GoldenResult> all;
    for (const std::string& entry : list_directory(directory)) {
        const std::string sub = directory + "/" + entry;
        if (!path_exists(sub + "/golden.json") && !path_exists(sub + "/cases.json") &&
            !is_grading(sub) && !is_bpe(sub))
            continue;
        for (const GoldenResult& result : run_golden(sub)) all.push_back(result);
    }
    if (all.empty())
        fatal(directory + ": neither golden.json nor cases.json here or one level below",
              "give a directory of golden vectors");
    return all;
}
