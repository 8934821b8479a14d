// What n sampled answers to a problem say. equations (K1)-(K3) in doc/equations.md; pass@k, Chen
// et al., arXiv 2107.03374.
#pragma once
#include <optional>
#include <string>
#include <vector>

// Unbiased probability that one of k answers is right when c of n were: 1 - C(n-c, k) / C(n, k),
// eq. (K1). 1 <= k <= n, 0 <= c <= n.
double pass_at_k(int n, int c, int k);

// Majority vote: missing answers do not vote, the largest cluster of equal answers wins, ties
// count as (right clusters among the tied) / (tied clusters); 0 if nobody answered, eq. (K2).
// `answers` are cluster names: equal strings, equal answers.
double cons_at_n(const std::vector<std::optional<std::string>>& answers, const std::string& right);

// Share of right answers; missing ones are wrong, eq. (K3).
double avg_at_n(const std::vector<std::optional<std::string>>& answers, const std::string& right);
