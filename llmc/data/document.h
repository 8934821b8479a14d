// What a source gives: the tokens of one document, or of a piece of one.
#pragma once
#include <cstdint>
#include <vector>

enum class Split { train, validation };

struct Document {
    std::vector<int32_t> tokens;
    std::vector<uint8_t> trained; // per token: 0 = it is context only (a prompt); empty = none is
    bool continues = false; // a piece: its last token is only a target, and no end of text follows
};
