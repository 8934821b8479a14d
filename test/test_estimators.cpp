// pass@k, cons@n, avg@n (llmc/rollout/estimators.h); the golden values are run by ./golden.
#include "test/catch.h"

#include "llmc/rollout/estimators.h"

#include <cmath>

TEST_CASE("estimators: pass@k equals the share of k-subsets with a right answer", "[estimators]") {
    for (int n = 1; n <= 10; n++)
        for (int c = 0; c <= n; c++)
            for (int k = 1; k <= n; k++) {
                int subsets = 0, with_right = 0; // answers 0..c-1 are the right ones
                for (int set = 0; set < 1 << n; set++)
                    if (__builtin_popcount(unsigned(set)) == k) {
                        subsets++;
                        with_right += (set & ((1 << c) - 1)) != 0;
                    }
                CAPTURE(n, c, k);
                CHECK(std::fabs(pass_at_k(n, c, k) - double(with_right) / subsets) < 1e-14);
            }
}

TEST_CASE("estimators: pass@k does not lose digits or overflow at n = 10000", "[estimators]") {
    // 1 - C(n-1, k) / C(n, k) = k / n
    for (int k : {1, 64, 5000, 10000})
        CHECK(std::fabs(pass_at_k(10000, 1, k) - k / 10000.0) < 1e-12);
    CHECK(pass_at_k(10000, 10000, 1) == 1);
    CHECK(pass_at_k(10000, 0, 10000) == 0);
}

TEST_CASE("estimators: the largest cluster wins, ties by expectation", "[estimators]") {
    CHECK(cons_at_n({"1", "1", "2"}, "1") == 1);
    CHECK(cons_at_n({"2", "1", "2"}, "1") == 0);
    CHECK(cons_at_n({"1", "2"}, "1") == 0.5);
    CHECK(cons_at_n({"2", "1"}, "1") == 0.5); // whichever came first
    CHECK(cons_at_n({"1", "2", "3", std::nullopt, std::nullopt}, "1") == 1.0 / 3);
    CHECK(cons_at_n({"2", "3"}, "1") == 0);
    CHECK(cons_at_n({std::nullopt}, "1") == 0);
    CHECK(cons_at_n({}, "1") == 0);
}

TEST_CASE("estimators: a missing answer is wrong", "[estimators]") {
    CHECK(avg_at_n({"1", std::nullopt, "2", "1"}, "1") == 0.5);
    CHECK(avg_at_n({std::nullopt}, "1") == 0);
}
