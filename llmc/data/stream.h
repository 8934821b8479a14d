// Packed training rows from a mixture of sources.
//
// Documents are laid end to end over the N = B*T tokens of a batch, a longer one than T in
// segments of T:
//
//   tokens    | d o c A | d o c   B | d o c C (cut at the end, goes on in the next batch)
//   positions   0 1 2 .   0 1 2 ...   0 1 2
//   doc_start   0 0 0 .   5 5 5 ...   12 12 ..
//   targets     the next token of the document; end of text after its last
//
// With doc_mask off, rows of T tokens are one document each and positions run 0..T-1.
#pragma once
#include "llmc/core/json.h"
#include "llmc/data/source.h"

#include <set>

struct PackedRows {
    std::vector<int32_t> tokens, targets, positions, doc_start; // (B*T)
};

// Writes a batch, to see what a model is fed, or to feed another one the same: PATH is a
// safetensors file of tokens, targets (-100 = none), positions and doc_start, (rows) i32 each.
void write_rows(const std::string& path, const std::vector<PackedRows>& units);

// The files of a mixture as canonical paths, its embedded sources by name.
std::set<std::string> mixture_files(const std::string& spec);

struct StreamOptions {
    int64_t context; // T
    bool doc_mask;
    uint64_t seed;
    Split split;
    double val_fraction;
    bool prompt_loss; // prompts are targets too
};

class DataStream {
  public:
    // spec: SOURCE*WEIGHT*PASSES,... ; a weight is a share of tokens, 1 where left out; PASSES is
    // how often the source may be read as a whole, without a limit where left out. The share of one
    // that was goes to the others; fatal() when none is left.
    DataStream(const std::string& spec, const StreamOptions& options, const Tokenizer& tokenizer);

    void next_rows(int64_t B, PackedRows& rows);
    std::string left_out() const; // a note on empty texts, where there were any

    // What was read so far: small, and enough to go on exactly.
    Json state() const;
    void restore(const Json& state); // fatal() if it is another mixture's

  private:
    struct Part {
        std::string spec;
        double weight;
        int64_t passes; // 0 = no limit
        std::unique_ptr<Source> source;
        int64_t visited = 0; // documents begun, over all epochs
        int64_t tokens = 0;  // taken so far: what the mixture balances
        int64_t barren = 0;  // documents in a row without anything to predict
        bool used_up() const { return passes > 0 && visited >= passes * source->size(); }
    };
    void begin_document();
    void load_current();
    int64_t document_index(size_t part, int64_t visit) const;

    StreamOptions options_;
    const Tokenizer& tokenizer_;
    std::vector<Part> parts_;
    int current_ = -1;  // part of the open document
    int64_t taken_ = 0; // inputs of it already given out
    Document document_;
};
