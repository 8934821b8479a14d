// Contract: grader.h (extraction: extract.cpp). Two answers become tokens (tokens.cpp), then forms
// (form.cpp); here forms are compared.
#include "llmc/rollout/grader.h"

#include "llmc/core/error.h"
#include "llmc/core/recipe.h"
#include "llmc/rollout/form.h"
#include "llmc/rollout/lexer.h"

#include <algorithm>

namespace {

bool symmetric(const std::string& relation) {
    return relation == "=" || relation == "\\ne" || relation == "\\approx" ||
           relation == "\\equiv" || relation == "\\sim";
}

bool is_leaf(const Form& form) {
    return form.kind == FormKind::text || form.kind == FormKind::quantity;
}

class Comparison {
  public:
    bool same_answer(const Form& gold, const Form& answer);

  private:
    bool same(const Form& a, const Form& b);
    bool same_leaf(const Form& a, const Form& b) const;
    bool same_link(const Form& a, const Form& b);
    bool same_in_any_order(const std::vector<Form>& a, const std::vector<Form>& b);

    int left_ = 100000; // comparisons before giving up
};

bool Comparison::same_leaf(const Form& a, const Form& b) const {
    if (a.text == b.text) return !a.text.empty();
    if ((a.words || b.words) && lower_case(a.text) == lower_case(b.text)) return true;
    return a.quantity && b.quantity && same_quantity(*a.quantity, *b.quantity, 1);
}

// Sides swapped, terms moved across: the differences are equal.
bool Comparison::same_link(const Form& a, const Form& b) {
    const bool swaps = symmetric(a.label);
    if (a.quantity && b.quantity)
        return same_quantity(*a.quantity, *b.quantity, 1) ||
               (swaps && same_quantity(*a.quantity, *b.quantity, -1));
    return (same(a.parts[0], b.parts[0]) && same(a.parts[1], b.parts[1])) ||
           (swaps && same(a.parts[0], b.parts[1]) && same(a.parts[1], b.parts[0]));
}

bool Comparison::same_in_any_order(const std::vector<Form>& a, const std::vector<Form>& b) {
    std::vector<bool> used(b.size(), false);
    for (const Form& part : a) {
        size_t i = 0;
        while (i < b.size() && (used[i] || !same(part, b[i]))) i++;
        if (i == b.size()) return false;
        used[i] = true;
    }
    return true;
}

bool Comparison::same(const Form& a, const Form& b) {
    if (left_-- <= 0) return false;
    if (is_leaf(a) && is_leaf(b)) return same_leaf(a, b);
    if (a.kind != b.kind || a.label != b.label) return false;
    if (a.kind == FormKind::link) return same_link(a, b);
    if (a.kind == FormKind::named) return same(a.parts[0], b.parts[0]);
    if (a.parts.size() != b.parts.size()) return false;
    if (a.kind == FormKind::list || a.kind == FormKind::combined || a.kind == FormKind::relation)
        return same_in_any_order(a.parts, b.parts);
    for (size_t i = 0; i < a.parts.size(); i++)
        if (!same(a.parts[i], b.parts[i])) return false;
    return true;
}

// {5} is 5.
const Form& lone_item(const Form& form) {
    return form.kind == FormKind::list && form.parts.size() == 1 ? form.parts[0] : form;
}

// y = 2x and f(x) = 2x say the same, x = 5 and y = 5 do not.
bool compatible_names(const std::string& a, const std::string& b) {
    const auto applied = [](const std::string& name) {
        return name.find('(', 1) != std::string::npos;
    };
    return a == b || applied(a) != applied(b);
}

// A name on one side only does not count.
bool Comparison::same_answer(const Form& gold, const Form& answer) {
    const Form &a = lone_item(gold), &b = lone_item(answer);
    const bool a_named = a.kind == FormKind::named, b_named = b.kind == FormKind::named;
    if (a_named && b_named) {
        if (compatible_names(a.label, b.label) && same_answer(a.parts[0], b.parts[0])) return true;
        return a.parts.size() > 1 && b.parts.size() > 1 && same(a.parts[1], b.parts[1]);
    }
    if (b_named) return same_answer(b, a);
    if (!a_named) return same(a, b);
    if (b.kind == FormKind::relation) return a.parts.size() > 1 && same(a.parts[1], b);
    return same_answer(a.parts[0], b);
}

// ------------------------------------------------------------------------------------------------
// names and reasons

std::string sample_text(const Sample& sample, int sign) {
    if (!sample.finite()) return "?";
    const auto digits = [&](long double part) {
        return format("%.8Lg", std::abs(part) <= sample.error ? 0.0L : sign * part);
    };
    const std::string real = digits(sample.value.real()), imaginary = digits(sample.value.imag());
    return imaginary == "0" ? real : real + "+" + imaginary + "i";
}

// either_sign: a difference that an equation sets to zero; its first value is made positive.
std::string quantity_name(const Form& form, bool either_sign) {
    const Quantity& quantity = *form.quantity;
    if (quantity.exact()) {
        Rational value = *quantity.exact();
        value.negative = value.negative && !either_sign;
        return value.text();
    }
    const Grid grid = quantity.imaginary() || quantity.letters().empty() ? Grid::complex
                      : quantity.integral()                              ? Grid::integer
                                                                         : Grid::real;
    const std::vector<Sample>& samples = quantity.samples(grid);
    const auto first = std::find_if(samples.begin(), samples.end(),
                                    [](const Sample& sample) { return sample.finite(); });
    if (first == samples.end() || (quantity.letters().empty() && quantity.rational()))
        return form.text;
    const int sign = either_sign && first->value.real() < 0 ? -1 : 1;
    std::string out;
    for (const std::string& letter : quantity.letters()) out += letter + " ";
    for (const Sample& sample : samples)
        out += (out.empty() ? "" : " ") + sample_text(sample, sign);
    return out;
}

std::string form_name(const Form& form) {
    if (is_leaf(form) && form.words) return lower_case(form.text);
    if (form.kind == FormKind::quantity) return quantity_name(form, false);
    if (form.kind == FormKind::text) return form.text;
    const bool swaps = form.kind == FormKind::link && symmetric(form.label);
    if (form.kind == FormKind::link && form.quantity)
        return form.label + ":" + quantity_name(form, swaps);
    std::vector<std::string> names;
    for (const Form& part : form.parts) names.push_back(form_name(part));
    if (form.kind == FormKind::named) names.resize(1);
    const bool list = form.kind == FormKind::list;
    if (list || swaps || form.kind == FormKind::combined || form.kind == FormKind::relation)
        std::sort(names.begin(), names.end());
    std::string out = list ? "" : form.label + ":";
    for (size_t i = 0; i < names.size(); i++) out += (i ? "; " : "") + names[i];
    return list ? out : "(" + out + ")";
}

const char* kind_name(const Form& form) {
    switch (form.kind) {
    case FormKind::text: return "text";
    case FormKind::quantity: return form.quantity->letters().empty() ? "a number" : "an expression";
    case FormKind::ordered: return "a tuple or interval";
    case FormKind::list: return "a list";
    case FormKind::combined: return "a union";
    case FormKind::difference: return "a set difference";
    case FormKind::matrix: return "a matrix";
    case FormKind::named: return kind_name(form.parts[0]);
    default: return "a relation";
    }
}

// Nothing but groups around nothing.
bool blank(Tokens tokens) {
    return std::all_of(tokens.begin(), tokens.end(), [](const Token& token) {
        return token.is("{") || token.is("}") || token.is("deg") || token.is(".");
    });
}

} // namespace

Verdict grade_answer(const std::string& gold, const std::string& answer) {
    if (trim_text(gold).empty()) return {false, "no gold answer"};
    if (trim_text(answer).empty()) return {false, "no answer"};
    const auto gold_tokens = tokenize(gold), answer_tokens = tokenize(answer);
    if (!gold_tokens || !answer_tokens) {
        if (trim_text(gold) == trim_text(answer)) return {true, "same text"};
        return {false, std::string(gold_tokens ? "answer" : "gold") +
                           " too long, too deep or with unbalanced braces"};
    }
    if (blank(*gold_tokens)) return {false, "no gold answer"};
    if (blank(*answer_tokens)) return {false, "no answer"};
    if (text_of(*gold_tokens) == text_of(*answer_tokens)) return {true, "same text"};
    const Form a = read_form(*gold_tokens), b = read_form(*answer_tokens);
    if (Comparison().same_answer(a, b)) return {true, "same value"};
    const std::string kinds[] = {kind_name(lone_item(a)), kind_name(lone_item(b))};
    if (kinds[0] == kinds[1]) return {false, "another value"};
    return {false, "gold is " + kinds[0] + ", the answer " + kinds[1]};
}

bool answers_equal(const std::string& gold, const std::string& answer) {
    return grade_answer(gold, answer).equal;
}

std::string canonical_answer(const std::string& answer) {
    const auto tokens = tokenize(answer);
    if (!tokens) return trim_text(answer);
    if (blank(*tokens)) return "";
    const Form form = read_form(*tokens);
    const Form& item = lone_item(form);
    return form_name(item.kind == FormKind::named ? lone_item(item.parts[0]) : item);
}
