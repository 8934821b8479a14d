// Problems with a checkable answer, for RL and evaluation.
//
//   embedded:arithmetic, embedded:chains   generated; training problems and the held-out ones
//                                          never overlap
//   FILE.jsonl                             one problem a line, in the field names of the usual
//                                          sets (the table in problems.cpp); held out by hash, or
//                                          all of it where the file is only evaluated
#pragma once
#include "llmc/data/source.h"

struct Problem {
    std::string id, prompt, answer;    // the prompt ends where the answer begins
    std::vector<std::string> choices;  // multiple choice: `answer` is the index of the right one
    std::vector<std::string> accepted; // other spellings of the answer
    // Of problems that data/benchmarks wrote; their prompts are used as they stand.
    std::string metric = {}; // how an answer is judged, see kMetrics; "" = as the run says
    std::vector<std::string> prompts = {}; // multiple choice: one prompt per choice
    std::vector<std::string> stop = {};    // texts that end an answer
    std::string where = {};                // file:line; empty = generated
};

// boxed, lenient   the value of the last \boxed{}, or failing that of "Answer:", "####", ...
// letter, phrase   what stands behind "answer is": its letter, or all of it, as words
// words            the first line, as words
// choices          the likeliest choice
// code             programs, which data/benchmarks/run_code.py judges
extern const std::vector<std::string> kMetrics;

// The problem of one JSONL line; fatal() names `where` if it has none with an answer.
Problem parse_problem(const std::string& line, const std::string& where);

// What a file or source is called in tables: "aime24" for aime24.jsonl and aime24/test.jsonl.
std::string data_set_name(const std::string& spec);

class ProblemSet {
  public:
    // val_fraction: share of a file's problems that is held out; 0 = the file is one split only.
    ProblemSet(const std::string& spec, Split split, double val_fraction, uint64_t seed);
    int64_t size() const { return size_; }           // 0 = endless
    std::vector<Problem> first(int64_t count) const; // at most all of a finite set
    Problem problem(int64_t index) const; // index is taken modulo the size of a finite set

  private:
    Problem embedded(int64_t index) const;
    std::string spec_, family_;
    Split split_;
    uint64_t seed_;
    int64_t size_ = 0;
    std::vector<Problem> problems_;
};
