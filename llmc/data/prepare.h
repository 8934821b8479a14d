// Corpora to shards: the work behind data/prepare.
//
// Input files are cut into parts of about `part_bytes`; a part becomes part-NNNNNN.train.shard and
// part-NNNNNN.val.shard, whatever the number of threads. A part whose training shard is there is
// done: a shard is written under another name and renamed, the training shard last. So a run that
// was interrupted goes on with the same command and ends in the same bytes.
#pragma once
#include "llmc/data/tokenizer.h"

#include <functional>

struct PrepareSettings {
    std::string out, tokenizer; // folder to write; tokenizer.json, empty = bytes
    // JSONL and Parquet: the field with the text, "" = "text", or "question"/"prompt" and "answer".
    // With prompt_field the text is that, a line end, and `field`, and the first is context only.
    std::string field, prompt_field;
    std::string separator; // of documents in a .txt; "" = a file is one
    double val_fraction;   // share of documents, by their text's hash
    int64_t part_bytes;
    int threads;
    bool skip_bad_lines; // or stop at the first
    std::vector<std::string>
        parquet_command; // FILE appended: prints rows as JSONL, see prepare.cpp
};

struct PrepareProgress {
    int64_t parts = 0, parts_done = 0, parts_before = 0; // before = done by an earlier run
    int64_t bytes = 0, bytes_done = 0;                   // of input; `before` not counted
};

struct PrepareTotals {
    int64_t documents[2] = {}, tokens[2] = {}; // training, validation
    int64_t bad_lines = 0;                     // in this run
};

// Files, or folders of them: .txt .jsonl .jsonl.gz .json.gz .jsonl.zst .parquet. `progress` is
// called some times a second. fatal() names file and line.
PrepareTotals prepare_corpus(const std::vector<std::string>& inputs,
                             const PrepareSettings& settings,
                             const std::function<void(const PrepareProgress&)>& progress);
