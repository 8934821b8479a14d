// Problems with a checkable answer, for RL and evaluation.
//
//   embedded:arithmetic, embedded:chains   generated; training problems and the held-out ones
//                                          never overlap
//   FILE.jsonl                             "question"/"prompt" and "answer" ("#### 42" is
//                                          understood); held out by hash, or all of it where the
//                                          file is only evaluated
#pragma once
#include "llmc/data/source.h"

struct Problem {
    std::string id, prompt, answer; // the prompt ends where the answer begins
};

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
