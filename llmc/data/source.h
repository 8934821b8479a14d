// Where text comes from: a numbered list of documents, the same on every visit, so that a position
// in it is a number and a run can continue there.
//
//   embedded:arithmetic[:flaw=F]  embedded:chains[:flaw=F]  embedded:sentences    generated,
//                                                                                 endless
//   FILE.txt     one text, cut into pieces at line ends; its last part is the validation split
//   FOLDER       every .txt file one document, every .jsonl file its lines, every .shard file its
//                documents
//   FILE.jsonl   one object per line: "text", or "question"/"prompt" with "answer"
//   FILE.shard   tokens (shard.h); a shard made for one split is in that split only
// A mark of UTF-8 at the begin of a .txt is no part of its text.
#pragma once
#include "llmc/data/document.h"
#include "llmc/data/tokenizer.h"

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

class Source {
  public:
    virtual ~Source() = default;
    virtual int64_t size() const = 0; // documents; 0 = endless
    virtual Document document(int64_t index) const = 0;
    virtual int64_t left_out() const { return 0; } // texts without a character, which are none
};

// fatal() says what the spec, file or line should be. `seed` moves generated documents, not files.
std::unique_ptr<Source> open_source(const std::string& spec, const Tokenizer& tokenizer,
                                    Split split, double val_fraction, uint64_t seed);

// A document or problem of one JSONL line; `where` names it in messages.
struct JsonlRow {
    std::string text, prompt, answer, id; // text = prompt + worked answer where it is a problem;
                                          // empty where the line's "text" is
};
JsonlRow parse_jsonl_row(const std::string& line, const std::string& where);

// The tokens of a whole text, no end of text behind them. Its first `prompt_bytes` are context
// only; a token that reaches beyond them is a target.
Document text_document(const Tokenizer& tokenizer, const std::string& text, size_t prompt_bytes);

bool is_embedded(const std::string& source); // generated, named embedded:NAME

// The files a source is read from; of an embedded one its name.
std::vector<std::string> source_files(const std::string& spec);

// Where the text of a .txt begins: behind a mark of UTF-8. fatal() if it is UTF-16 by its mark.
size_t text_begin(std::string_view file, const std::string& path);

// True for the share `fraction` of all texts, by their hash: equal texts fall on the same side.
bool in_validation(const std::string& text, double fraction);
