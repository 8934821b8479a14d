// Contract: estimators.h.
#include "llmc/rollout/estimators.h"

#include "llmc/core/error.h"

#include <algorithm>
#include <map>

double pass_at_k(int n, int c, int k) {
    require(n >= 1 && k >= 1 && k <= n && c >= 0 && c <= n, "pass_at_k: n=%d c=%d k=%d", n, c, k);
    if (n - c < k) return 1;
    double all_wrong = 1; // (K1): C(n-c, k) / C(n, k) as a product of k ratios below 1
    for (int i = 0; i < k; i++) all_wrong *= double(n - c - i) / double(n - i);
    return 1 - all_wrong;
}

double cons_at_n(const std::vector<std::optional<std::string>>& answers, const std::string& right) {
    std::map<std::string, int> votes;
    int most = 0;
    for (const auto& answer : answers)
        if (answer) most = std::max(most, ++votes[*answer]);
    if (most == 0) return 0;
    int tied = 0, tied_right = 0;
    for (const auto& [answer, count] : votes)
        if (count == most) {
            tied++;
            tied_right += answer == right;
        }
    return double(tied_right) / tied; // (K2)
}

double avg_at_n(const std::vector<std::optional<std::string>>& answers, const std::string& right) {
    require(!answers.empty(), "avg_at_n: no answers");
    int count = 0;
    for (const auto& answer : answers) count += answer == right;
    return double(count) / double(answers.size()); // (K3)
}
