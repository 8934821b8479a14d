// What kind of object an answer is: a value, a tuple, an interval, a list, a matrix, an equation.
#pragma once
#include "llmc/rollout/quantity.h"

#include <memory>

enum class FormKind {
    text,       // words, ratios, numbers in a base, and what nothing else reads
    quantity,   // a number or an expression
    ordered,    // tuple or interval; label = its brackets, "(]"
    list,       // list, set, roots: any order; set braces are optional
    combined,   // label \cup or \cap: any order
    difference, // \setminus
    matrix,     // label = rows x columns
    relation,   // its links: "a < b <= c" has two, in any order
    link,       // label = "<", "\le", "=", ...: (left, right) and quantity left - right; no ">"
    named       // label = name: value, then the whole equation if it was one
};

struct Form {
    FormKind kind;
    std::string label;
    std::vector<Form> parts;
    std::shared_ptr<Quantity> quantity; // quantity, link if both sides are expressions
    std::string text;                   // text, quantity, link: what it was read from
    bool words = false;                 // text, quantity: compared without case
};

// The whole answer. A single item is no list; "x = 4, x = 9" is one list named x.
Form read_form(Tokens tokens);
