// tokenizer.json as Hugging Face's tokenizers writes it, checked: byte-level BPE and nothing else.
//
// A byte is written there as a printable character (the GPT-2 byte map); what is read here is in
// bytes again.
#pragma once
#include "llmc/core/regex.h"

#include <cstdint>
#include <string>
#include <vector>

std::string printable_byte(int byte); // the map's character, in UTF-8

struct AddedToken {
    std::string content;
    int32_t id;
    bool single_word, lstrip, rstrip, normalized, special;
};

// One step of the pre-tokenizer: cuts a text at the matches of a pattern.
struct SplitStep {
    std::vector<Regex> pattern; // none: the step only adds a space
    bool keep_matches, keep_gaps;
    bool prefix_space; // a piece that does not begin with a space gets one first
};

struct MergeRule { // of rank = its index
    int32_t left, right, result;
};

struct TokenizerFile {
    std::vector<std::string> bytes; // (vocabulary) what each id decodes to; "" where there is none
    std::vector<bool> known, special;
    int32_t byte_ids[256];                              // -1: the byte has no token of its own
    std::vector<std::pair<std::string, int32_t>> words; // byte-level tokens, for ignore_merges
    std::vector<MergeRule> merges;
    std::vector<AddedToken> added; // in the file's order of ids
    std::vector<SplitStep> steps;
    std::vector<int32_t> prefix, suffix; // that the post-processor puts around a text
    int32_t unknown = -1;                // in place of a byte without token; -1: dropped
    bool fuse_unknown = false, ignore_merges = false, nfc = false;
};

// fatal() names the key that is missing, wrong or not supported.
TokenizerFile read_tokenizer_file(const std::string& text, const std::string& path);
