// Models: counts, names, files, recomputation, chunks.
#include "llmc/core/file.h"
#include "llmc/core/rng.h"
#include "llmc/model/train_pass.h"
#include "test/fixture.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace {

ModelConfig small(bool moe) {
    ModelConfig c = model_preset(moe ? "tiny-moe" : "tiny");
    c.layers = 2;
    c.channels = 48;
    c.heads = 3;
    c.kv_heads = 1;
    c.head_dim = 16;
    c.max_positions = 64;
    return c;
}

// A batch of random tokens in documents of 13.
struct RandomBatch {
    std::vector<int32_t> tokens, positions, start, targets;
    std::vector<float> scale, stats;
    int64_t N;
    explicit RandomBatch(int64_t n) : N(n) {
        Rng rng(1, 2);
        for (int64_t i = 0; i < N; i++) {
            tokens.push_back(int32_t(rng.below(257)));
            targets.push_back(int32_t(rng.below(257)));
            positions.push_back(int32_t(i % 13));
            start.push_back(int32_t(i - i % 13));
            scale.push_back(1.0f / float(N));
        }
        stats.resize(N * kLossStats);
    }
    View index(std::vector<int32_t>& v) { return make_view(v.data(), Dtype::i32, "batch", N); }
    Batch batch() { return {index(tokens), index(positions), index(start)}; }
    View stats_view() { return make_view(stats.data(), Dtype::f32, "stats", N, kLossStats); }
    View scale_view() { return make_view(scale.data(), Dtype::f32, "scale", N); }
};

PassSettings settings_of(Recompute recompute) { return {70, 16, true, recompute}; }

PassSettings sharded(Recompute recompute, Comm& shards) {
    PassSettings settings = settings_of(recompute);
    settings.shards = &shards;
    return settings;
}

// Gradients of a second step, as bytes (compared in a CHECK they take minutes to print: see the
// second pair of parentheses there): what the first one left must not show.
std::vector<char> summed_gradients(bool moe, bool bf16, int threads, bool tied,
                                   const PassSettings& settings) {
    Ctx ctx(Backend::cpu, threads, bf16);
    ModelConfig config = small(moe);
    config.tied = tied;
    Model model(ctx, config);
    init_params(model.ctx(), model.weights, model.table, model.config, 5, 0.05);
    model.weights_changed();
    TrainPass pass(ctx, model, settings);
    LossShape shape{257, 20, -0.25, 0, -0.1, RewardForm::factor, 1, 0.2, 0.28};
    Comm one(1);
    for (int64_t rows : {40, 70}) {
        pass.zero_grads();
        RandomBatch random(rows);
        pass.forward(random.batch(), true);
        pass.loss_backward(random.stats_view(), random.index(random.targets), random.scale_view(),
                           View{}, shape);
        if (settings.shards) pass.backward_of_nothing(); // another rank's micro-batch
    }
    const View sums = pass.summed_grads(one);
    return std::vector<char>(static_cast<char*>(sums.data),
                             static_cast<char*>(sums.data) + sums.bytes());
}

std::vector<char> gradients(bool moe, bool bf16, int threads, const PassSettings& settings) {
    return summed_gradients(moe, bf16, threads, true, settings);
}

} // namespace

TEST_CASE("model: parameter counts of the paper's shapes", "[model]") {
    struct Row {
        const char* name;
        double body, total, active; // billions
    };
    // Counted by the formulas 2 d h hd + 2 d kv hd + 3 d ffn (or E 3 d de + E d) per layer.
    for (const Row& row :
         {Row{"1B", 0.815, 1.048, 0.815}, Row{"4B", 3.634, 4.022, 3.634},
          Row{"5B-A0.3B", 4.648, 4.959, 0.260}, Row{"10B-A0.5B", 9.296, 9.762, 0.519}}) {
        const ParameterCounts n = count_parameters(model_preset(row.name));
        INFO(row.name);
        CHECK(std::round(double(n.non_embedding) / 1e6) == Approx(row.body * 1e3).margin(0.6));
        CHECK(std::round(double(n.total) / 1e6) == Approx(row.total * 1e3).margin(0.6));
        CHECK(std::round(double(n.active_non_embedding) / 1e6) ==
              Approx(row.active * 1e3).margin(0.6));
    }
}

TEST_CASE("model: the table's sizes add up to the count", "[model]") {
    for (const char* name : {"tiny", "tiny-moe", "demo", "demo-moe"}) {
        const ModelConfig c = model_preset(name);
        const ParamTable table(c);
        int64_t sum = 0;
        for (const Param& p : table.params)
            if (p.kind != ParamKind::router_bias) sum += p.size;
        CHECK(sum == count_parameters(c).total);
    }
}

TEST_CASE("model: what is kept or computed again, and where it lies, changes no bit", "[model]") {
    for (bool moe : {false, true})
        for (bool bf16 : {false, true}) {
            const std::vector<char> kept = gradients(moe, bf16, 2, settings_of(Recompute::no));
            for (Recompute less : {Recompute::no, Recompute::selective, Recompute::yes})
                for (bool one : {false, true}) {
                    CAPTURE(moe, bf16, int(less), one);
                    PassSettings settings = settings_of(less);
                    settings.one_micro_batch = one;
                    CHECK((gradients(moe, bf16, 2, settings) == kept));
                }
        }
}

TEST_CASE("model: gradients are zero after a step without a micro-batch", "[model]") {
    Ctx ctx(Backend::cpu, 2);
    Model model(ctx, small(false));
    init_params(model.ctx(), model.weights, model.table, model.config, 5, 0.05);
    PassSettings settings = settings_of(Recompute::no);
    settings.one_micro_batch = true;
    TrainPass pass(ctx, model, settings);
    pass.zero_grads();
    RandomBatch random(70);
    pass.forward(random.batch(), true); // of an evaluation: it writes where gradients will be
    Comm one(1);
    const View sums = pass.summed_grads(one);
    CHECK(std::count(sums.as<float>(), sums.as<float>() + sums.size(), 0.0f) == sums.size());
}

TEST_CASE("model: the number of threads does not change a bit", "[model]") {
    const PassSettings settings = settings_of(Recompute::no);
    for (bool moe : {false, true})
        for (bool bf16 : {false, true})
            CHECK((gradients(moe, bf16, 1, settings) == gradients(moe, bf16, 2, settings)));
}

// Rounding to bf16 changes a gradient by some 2^-8 of its size, times what the layers make of it; a
// router near a tie also selects another expert.
TEST_CASE("model: gradients in bf16 are near those in fp32", "[model]") {
    for (bool moe : {false, true}) {
        const std::vector<char> wide = gradients(moe, false, 2, settings_of(Recompute::no));
        const std::vector<char> narrow = gradients(moe, true, 2, settings_of(Recompute::no));
        REQUIRE(wide.size() == narrow.size()); // fp32 both
        double square = 0, error = 0;
        for (size_t i = 0; i < wide.size(); i += sizeof(float)) {
            float a, b;
            std::memcpy(&a, wide.data() + i, sizeof a);
            std::memcpy(&b, narrow.data() + i, sizeof b);
            square += double(a) * double(a);
            error += (double(a) - double(b)) * (double(a) - double(b));
        }
        CAPTURE(moe, std::sqrt(error / square));
        const double tolerance = moe ? 0.05 : 0.02;
        CHECK(error < square * tolerance * tolerance);
        CHECK(error > 0);
    }
}

TEST_CASE("model: sharded gradients are the whole ones, bit for bit", "[model]") {
    for (bool moe : {false, true})
        for (bool tied : {false, true}) {
            Comm one(1);
            const PassSettings all = settings_of(Recompute::no);
            const std::vector<char> whole = summed_gradients(moe, false, 2, tied, all);
            for (Recompute less : {Recompute::selective, Recompute::yes})
                CHECK((whole == summed_gradients(moe, false, 2, tied, sharded(less, one))));
            CHECK((summed_gradients(moe, true, 2, tied, all) ==
                   summed_gradients(moe, true, 2, tied, sharded(Recompute::no, one))));
        }
}

TEST_CASE("model: gradients are those of finite differences, end to end", "[model]") {
    for (bool moe : {false, true}) {
        Ctx ctx(Backend::ref, 0);
        Model model(ctx, small(moe));
        init_params(model.ctx(), model.weights, model.table, model.config, 5, 0.08);
        TrainPass pass(ctx, model, {26, 8, true, Recompute::no});
        RandomBatch random(26);
        std::vector<double> scale(26, 1.0 / 26), stats(26 * kLossStats);
        const View scale_view = make_view(scale.data(), Dtype::f64, "scale", 26);
        const View stats_view = make_view(stats.data(), Dtype::f64, "stats", 26, kLossStats);
        const LossShape shape{257, 20, 0, 0, 0, RewardForm::factor, 1, 0.2, 0.28};
        auto loss = [&] {
            pass.forward(random.batch(), true);
            pass.loss_forward(stats_view, random.index(random.targets), shape);
            double sum = 0;
            for (int n = 0; n < 26; n++) sum += stats[n * kLossStats + kStatCe] / 26;
            return sum;
        };
        pass.zero_grads();
        pass.forward(random.batch(), true);
        pass.loss_backward(stats_view, random.index(random.targets), scale_view, View{}, shape);
        Rng rng(8, 1);
        for (const Param& p : model.table.params) {
            if (p.kind == ParamKind::router_bias) continue;
            const int64_t i = rng.below(p.size);
            double* w = model.weights.tensor(p).as<double>() + i;
            const double keep = *w, step = 1e-5;
            *w = keep + step;
            const double up = loss();
            *w = keep - step;
            const double down = loss();
            *w = keep;
            INFO(p.name << "[" << i << "]");
            CHECK(pass.grads().tensor(p).as<double>()[i] ==
                  Approx((up - down) / (2 * step)).epsilon(1e-5).margin(1e-9));
        }
    }
}

TEST_CASE("model: weights written and read again have the same bits", "[model]") {
    for (bool moe : {false, true}) {
        const Folder folder;
        Ctx ctx(Backend::cpu, 0);
        Model out(ctx, small(moe));
        init_params(out.ctx(), out.weights, out.table, out.config, 5, 0.05);
        save_weights(out, folder.path, 256, {Dtype::f32, 0});
        CHECK(read_config(folder.path) == out.config);
        Model in(ctx, read_config(folder.path));
        load_weights(in, folder.path);
        CHECK(std::memcmp(in.weights.flat().data, out.weights.flat().data,
                          in.weights.flat().bytes()) == 0);
    }
}

TEST_CASE("model: a config this program cannot honour is refused by name", "[model]") {
    const Json good = config_to_json(model_preset("demo-moe"), 1, Dtype::f32);
    auto refusal = [&](const char* key, const Json& value) -> std::string {
        Json json = good;
        json[key] = value;
        try {
            config_from_json(json, "config.json");
        } catch (const UserError& error) {
            return error.what();
        }
        return "";
    };
    CHECK(config_from_json(good, "config.json") == model_preset("demo-moe"));
    CHECK(refusal("model_type", "llama").find("model_type") != std::string::npos);
    CHECK(refusal("attention_bias", true).find("attention_bias") != std::string::npos);
    CHECK(refusal("n_shared_experts", 1).find("n_shared_experts") != std::string::npos);
    CHECK(refusal("hidden_size", "wide").find("hidden_size") != std::string::npos);
    CHECK(refusal("num_hidden_layers", -1).find("num_hidden_layers") != std::string::npos);
    CHECK(refusal("num_key_value_heads", 3).find("kv_heads") != std::string::npos);
}
