// The op families' case lists, joined by all_op_cases() in cases.cpp.
#pragma once
#include "test/op_case.h"

std::vector<OpCase> adamw_cases();
std::vector<OpCase> attention_cases();
std::vector<OpCase> embed_cases();
std::vector<OpCase> linear_cases();
std::vector<OpCase> loss_cases();
std::vector<OpCase> norm_cases();
std::vector<OpCase> rope_cases();
std::vector<OpCase> sample_cases();
std::vector<OpCase> swiglu_cases();
std::vector<OpCase> moe_cases();
