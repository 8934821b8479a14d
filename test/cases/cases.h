// The op families' case lists, joined by all_op_cases() in cases.cpp.
#pragma once
#include "test/op_case.h"

std::vector<OpCase> norm_cases();
std::vector<OpCase> moe_cases();
