// Expressions of an answer: read from tokens, then valued exactly where that is possible and
// numerically at fixed points where it is not.
#pragma once
#include "llmc/rollout/rational.h"
#include "llmc/rollout/tokens.h"

enum class Op {
    number,
    letter, // a variable, with its subscript and primes
    pi,
    euler,
    imaginary,
    infinity,
    negate,
    add,
    multiply,
    divide,
    power,
    root, // value, degree
    factorial,
    binomial,
    absolute,
    floor,
    ceiling,
    log,      // value, base
    function, // one of function_name()
    extremum, // max, min
    call      // f(x): an unknown function of its arguments
};

struct Node {
    Op op;
    std::vector<int> children;
    std::string name;
    MaybeRational number;
};

// Children stand before their parents; the last node is the value.
using Expression = std::vector<Node>;

// A number after a number, a word, a relation, a comma or anything else that is no part of an
// expression: nothing.
std::optional<Expression> parse_expression(Tokens tokens);
// left - right, for equations and inequalities.
std::optional<Expression> parse_difference(Tokens left, Tokens right);
