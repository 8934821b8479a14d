// The embedded corpus: a seeded generator of small documents, so that the program needs no data to
// show its three stages. doc/operating.md describes the families.
//
//   arithmetic  a question about a + b or a - b (a, b in 2..24) in one of several phrasings,
//               worked in one of several ways, the answer in \boxed{}; a share `flaw` of the
//               answers is wrong
//   chains      word problems of two to four steps, worked step by step
//   sentences   plain sentences
//
// 144 of the (a, b, op) triples are held out: no training document contains one, not even as a
// step.
#pragma once
#include "llmc/core/rng.h"

#include <string>
#include <vector>

struct Triple {
    int a, b;
    char op; // '+' or '-', a >= b with '-'
    int result() const { return op == '+' ? a + b : a - b; }
};

constexpr int kHeldOutTriples = 144;

const std::vector<Triple>& held_out_triples();
const std::vector<Triple>& training_triples();
bool is_held_out(int a, int b, char op); // false outside 2..24

// Question up to where the answer begins; `phrasing` < kPhrasings.
constexpr int kPhrasings = 5;
std::string question_text(const Triple& triple, int phrasing, Rng& rng);

std::string arithmetic_document(double flaw, Rng& rng);
std::string sentences_document(Rng& rng);

// A chain's question and worked answer.
struct Chain {
    std::string question, worked;
    int result;
};
Chain make_chain(Rng& rng);
bool is_held_out_chain(const std::string& question); // one in twenty, by hash
