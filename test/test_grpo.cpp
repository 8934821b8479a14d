// GRPO's host side: overlong rules, advantages, the KL term (llmc/train/grpo.h, micro_batch.h); the
// golden values are run by ./golden.
#include "test/catch.h"

#include "llmc/train/grpo.h"
#include "llmc/train/micro_batch.h"

#include <cmath>

TEST_CASE("grpo: what the overlong rules make of a truncated answer", "[grpo]") {
    for (const char* name : {"wrong", "graded", "masked", "soft"}) {
        const Overlong rule = overlong_rule(name);
        CHECK(counts_as_right(true, false, rule));
        CHECK_FALSE(counts_as_right(false, false, rule));
        CHECK_FALSE(counts_as_right(false, true, rule));
    }
    CHECK_FALSE(counts_as_right(true, true, Overlong::wrong));
    CHECK_FALSE(counts_as_right(true, true, Overlong::masked));
    CHECK(counts_as_right(true, true, Overlong::graded));
    CHECK(counts_as_right(true, true, Overlong::soft));
}

TEST_CASE("grpo: the length penalty falls from 0 to -1 over the buffer", "[grpo]") {
    // DAPO's figures: 16384 + 4096 tokens
    CHECK(length_penalty(1, 20480, 4096) == 0);
    CHECK(length_penalty(16384, 20480, 4096) == 0);
    CHECK(length_penalty(16384 + 1024, 20480, 4096) == -0.25);
    CHECK(length_penalty(20480, 20480, 4096) == -1);
    CHECK(length_penalty(5, 5, 5) == -1);
}

TEST_CASE("grpo: advantages of 16 answers", "[grpo]") {
    auto advantages = [](int right, AdvantageForm form, double eps) {
        std::vector<double> rewards(16, 0.0);
        std::fill_n(rewards.begin(), right, 1.0);
        return group_advantages(rewards, form, eps);
    };
    for (auto [right, first, last] : {std::tuple(1, 3.75, -0.25),
                                      {4, 1.6770, -0.5590},
                                      {8, 0.9682, -0.9682},
                                      {15, 0.25, -3.75}}) {
        const auto a = advantages(right, AdvantageForm::std, 0);
        CHECK(a[0] == Approx(first).epsilon(1e-4));
        CHECK(a[15] == Approx(last).epsilon(1e-4));
    }
    CHECK(advantages(1, AdvantageForm::nostd, 1)[0] == 0.9375);
    CHECK(advantages(1, AdvantageForm::std, 0.25)[0] == Approx(0.9375 / 0.5)); // std is 1/4
    for (int right : {0, 16})
        for (double a : advantages(right, AdvantageForm::std, 1e-6)) CHECK(a == 0);
    const auto soft = group_advantages({1, 0.5, 0, -1}, AdvantageForm::nostd, 1);
    CHECK(soft == std::vector<double>{0.875, 0.375, -0.125, -1.125});
    CHECK(group_advantages({-0.3, -0.3, -0.3}, AdvantageForm::std, 0) ==
          std::vector<double>(3, 0.0));
}

TEST_CASE("grpo: the KL term's weight is the slope of its estimate", "[grpo]") {
    for (double ref : {-3.0, -1.0, -0.2})
        for (double logp : {-4.0, -1.0, -0.1}) {
            const double h = 1e-6,
                         slope =
                             (kl_estimate(logp + h, ref) - kl_estimate(logp - h, ref)) / (2 * h);
            CHECK(kl_gradient(0.3, logp, ref) == Approx(-0.3 * slope).margin(1e-9));
            CHECK(kl_estimate(logp, ref) >= 0);
        }
    CHECK(kl_estimate(-1, -1) == 0);
    CHECK(kl_gradient(1, -1, -1) == 0);
}

TEST_CASE("grpo: a row's whole weight is the clipped one plus the KL term's", "[grpo]") {
    Ctx ctx(Backend::ref, 1);
    MicroBatch m;
    m.tokens = {1, 2, 3};
    m.targets = {2, kIgnoredTarget, 1};
    m.positions = {0, 1, 2};
    m.doc_start = {0, 0, 0};
    m.scale = {0.5, 0, -0.25};
    m.old_logp = {-1, 0, -2};
    m.kl_weight = {0.1, 0, 0.1};
    m.ref_logp = {-1.5, 0, -2.5};
    MicroBatchViews views(ctx, 3);
    views.fill(m);
    double* stats = views.stats.as<double>();
    stats[kStatCe] = 0.5; // ratio e^0.5: above 1.28, and the scale is positive: clipped
    stats[2 * kLossStats + kStatCe] = 2.1; // ratio e^-0.1
    LossShape shape{};
    shape.clip_low = 0.2;
    shape.clip_high = 0.28;
    views.weigh_kl(m, shape);
    CHECK(views.old_logp.empty());
    CHECK(views.scale.as<double>()[0] == Approx(0.1 * std::expm1(-1.0)));
    CHECK(views.scale.as<double>()[1] == 0);
    CHECK(views.scale.as<double>()[2] == Approx(-0.25 * std::exp(-0.1) + 0.1 * std::expm1(-0.4)));
}
