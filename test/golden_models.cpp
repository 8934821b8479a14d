// Golden vectors of whole models: forward, gradients, optimizer steps.
#include "llmc/model/train_pass.h"
#include "llmc/train/optimizer.h"
#include "test/golden_report.h"

#include <cmath>
#include <functional>

namespace {

// A model of a golden directory with a batch of (B, T) rows, every row one document.
struct GoldenModel {
    Ctx ctx;
    Model model;
    TrainPass pass;
    int64_t N;
    std::vector<char> memory[6];
    Batch batch;
    View targets, scale, stats;

    GoldenModel(Backend backend, const std::string& directory, int64_t rows, bool backward)
        : ctx(backend, 0), model(ctx, read_config(directory)),
          pass(ctx, model, {rows, 16, backward, Recompute::no}), N(rows) {
        load_weights(model, directory);
    }

    void set_batch(const std::vector<double>& tokens, const std::vector<double>& target_ids,
                   int64_t T) {
        std::vector<double> position, start, weight;
        int64_t valid = 0;
        for (double t : target_ids) valid += t >= 0;
        for (int64_t n = 0; n < N; n++) {
            position.push_back(double(n % T));
            start.push_back(double(n - n % T));
            weight.push_back(target_ids[n] >= 0 ? 1.0 / double(valid) : 0);
        }
        auto index = [&](int i, const std::vector<double>& values) {
            return GoldenReport::view(values, memory[i], Dtype::i32, {N});
        };
        batch = {index(0, tokens), index(1, position), index(2, start)};
        targets = index(3, target_ids);
        scale = GoldenReport::view(weight, memory[4], ctx.dtype(), {N});
        stats = GoldenReport::view(std::vector<double>(N * kLossStats, 0.0), memory[5], ctx.dtype(),
                                   {N, kLossStats});
    }

    // Mean of a statistic over the rows with a target.
    double mean(LossStat stat) const {
        const std::vector<double> all = GoldenReport::values(stats),
                                  weight = GoldenReport::values(scale);
        double sum = 0;
        for (int64_t n = 0; n < N; n++) sum += all[n * kLossStats + stat] * weight[n];
        return sum;
    }
};

const Backend kBackends[] = {Backend::ref, Backend::cpu};

} // namespace

void run_causal_lm(GoldenReport& report, const std::string& directory, const Json& json) {
    SafetensorsFile golden(directory + "/golden.safetensors");
    const std::vector<int64_t>& shape = golden.at("input_ids").shape;
    const int64_t B = shape[0], T = shape[1], N = B * T;
    const std::string prefix = report.prefix;
    for (Backend backend : kBackends) {
        report.prefix = prefix + backend_name(backend) + "/";
        const bool exact = backend == Backend::ref;
        const double forward_tolerance = exact ? 1e-10 : 1e-5;
        const double gradient_tolerance = exact ? 1e-10 : 1e-4;
        GoldenModel g(backend, directory, N, true);
        g.set_batch(golden.read_f64("input_ids"), golden.read_f64("targets"), T);
        const ModelConfig& c = g.model.config;
        g.pass.forward(g.batch, true);

        std::vector<char> memory;
        const View logits = GoldenReport::view(std::vector<double>(N * c.padded_vocab(), 0.0),
                                               memory, g.ctx.dtype(), {N, c.padded_vocab()});
        g.pass.logits_forward(logits, 0);
        report.compare("logits", GoldenReport::values(logits.slice_columns(0, c.vocab)),
                       golden.read_f64("logits"), forward_tolerance);
        for (int l = 0; l <= c.layers; l++) {
            const std::string name = "hidden." + std::to_string(l);
            const View hidden = l < c.layers ? g.pass.stream(l) : g.pass.hidden();
            if (golden.find(name))
                report.compare(name, GoldenReport::values(hidden), golden.read_f64(name),
                               forward_tolerance);
        }
        for (int l = 0; l < c.layers && c.moe(); l++) {
            const std::string name = "router." + std::to_string(l);
            const BlockActs& acts = g.pass.acts(l);
            report.compare(name + ".experts", GoldenReport::values(acts.experts),
                           golden.read_f64(name + ".experts"), 0);
            report.compare(name + ".scores", GoldenReport::values(acts.scores),
                           golden.read_f64(name + ".scores"), forward_tolerance);
            report.compare(name + ".weights", GoldenReport::values(acts.expert_weights),
                           golden.read_f64(name + ".weights"), forward_tolerance);
        }
        const LossShape shaped = golden_loss_shape(json.at("shaped"), c.vocab);
        LossShape plain = shaped;
        plain.beta = plain.lambda_head = plain.lambda_tail = 0;
        for (const char* kind : {"grad_ce.", "grad_shaped."}) {
            g.pass.zero_grads();
            g.pass.forward(g.batch, true);
            g.pass.loss_backward(g.stats, g.targets, g.scale, View{},
                                 std::string(kind) == "grad_ce." ? plain : shaped);
            for (const Param& p : g.model.table.params)
                if (golden.find(kind + p.name))
                    report.compare(kind + p.name, GoldenReport::values(g.pass.grads().tensor(p)),
                                   golden.read_f64(kind + p.name), gradient_tolerance);
        }
        report.compare("ce", {g.mean(kStatCe)}, golden.read_f64("ce"), forward_tolerance);
        report.compare("expected_reward", {g.mean(kStatReward)}, golden.read_f64("expected_reward"),
                       forward_tolerance);
    }
}

void run_causal_lm_tail(GoldenReport& report, const std::string& directory, const Json&) {
    SafetensorsFile golden(directory + "/golden.safetensors");
    const int64_t T = golden.at("input_ids").shape[1];
    const std::string prefix = report.prefix;
    for (Backend backend : kBackends) {
        report.prefix = prefix + backend_name(backend) + "/";
        GoldenModel g(backend, directory, T, false);
        const std::vector<double> tokens = golden.read_f64("input_ids");
        g.set_batch(tokens, tokens, T);
        g.pass.forward(g.batch, false);
        const ModelConfig& c = g.model.config;
        std::vector<double> rows;
        for (int64_t position : golden.read_i64("positions")) {
            std::vector<char> memory;
            const View logits = GoldenReport::view(std::vector<double>(c.padded_vocab(), 0.0),
                                                   memory, g.ctx.dtype(), {1, c.padded_vocab()});
            g.pass.logits_forward(logits, position);
            for (double z : GoldenReport::values(logits.slice_columns(0, c.vocab)))
                rows.push_back(z);
        }
        report.compare("logits_at_positions", rows, golden.read_f64("logits_at_positions"),
                       backend == Backend::ref ? 1e-10 : 1e-5);
    }
}

void run_adamw_steps(GoldenReport& report, const std::string& directory, const Json& json) {
    SafetensorsFile golden(directory + "/golden.safetensors");
    const std::vector<int64_t>& shape = golden.at("input_ids").shape; // (steps, B, T)
    const int64_t steps = shape[0], T = shape[2], N = shape[1] * T;
    const std::vector<double> tokens = golden.read_f64("input_ids"),
                              targets = golden.read_f64("targets"),
                              lr = json.at("lr").get<std::vector<double>>();
    const std::string start = directory + "/" + json.at("start").get<std::string>();
    const std::string prefix = report.prefix;
    for (Backend backend : kBackends)
        for (const std::string run : {"ce.", "shaped."}) {
            report.prefix = prefix + backend_name(backend) + "/" + run;
            const double tolerance = backend == Backend::ref ? 1e-9 : 1e-5;
            GoldenModel g(backend, start, N, true);
            Comm comm;
            Optimizer optimizer(g.ctx, comm, g.model);
            LossShape loss = golden_loss_shape(json.at("shaped"), g.model.config.vocab);
            if (run == "ce.") loss.beta = loss.lambda_head = loss.lambda_tail = 0;
            std::vector<double> ce, norm;
            for (int64_t s = 0; s < steps; s++) {
                auto part = [&](const std::vector<double>& all) {
                    return std::vector<double>(all.begin() + s * N, all.begin() + (s + 1) * N);
                };
                g.set_batch(part(tokens), part(targets), T);
                g.pass.zero_grads();
                g.pass.forward(g.batch, true);
                g.pass.loss_backward(g.stats, g.targets, g.scale, View{}, loss);
                ce.push_back(g.mean(kStatCe));
                norm.push_back(
                    optimizer.update(g.ctx, g.model, g.pass.summed_grads(comm),
                                     {lr[s], json.at("beta1"), json.at("beta2"), json.at("eps"),
                                      json.at("weight_decay"), json.at("clip")}));
            }
            report.compare("ce_per_step", ce, golden.read_f64(run + "ce_per_step"), tolerance);
            report.compare("grad_norm", norm, golden.read_f64(run + "grad_norm"), tolerance);
            for (const Param& p : g.model.table.params)
                report.compare("final." + p.name, GoldenReport::values(g.model.weights.tensor(p)),
                               golden.read_f64(run + "final." + p.name), tolerance);
        }
}
