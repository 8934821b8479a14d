#include "test/cases/cases.h"

std::vector<OpCase> all_op_cases() {
    std::vector<OpCase> all;
    for (auto family : {moe_cases, norm_cases}) {
        std::vector<OpCase> cases = family();
        all.insert(all.end(), cases.begin(), cases.end());
    }
    return all;
}
