#include "test/cases/cases.h"

std::vector<OpCase> all_op_cases() {
    std::vector<OpCase> all;
    for (auto family : {adamw_cases, attention_cases, embed_cases, linear_cases, loss_cases,
                        moe_cases, norm_cases, rope_cases, sample_cases, swiglu_cases}) {
        std::vector<OpCase> cases = family();
        all.insert(all.end(), cases.begin(), cases.end());
    }
    return all;
}
