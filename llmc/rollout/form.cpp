// Contract: form.h. Commas split first, then relations, then containers; the rest is an expression
// or words.
#include "llmc/rollout/form.h"

#include "llmc/rollout/latex.h"

#include <algorithm>
#include <set>

namespace {

constexpr size_t kMostItems = 256;     // of a list; more are compared as text
constexpr size_t kMostSides = 16;      // of a chain of relations
constexpr size_t kMostProducts = 4000; // tokens in front of a matrix times those in it

const std::set<std::string> kRelations = {
    "\\le",  "\\ge",     "\\ne",         "\\in",     "\\notin",    "\\approx",  "\\equiv",
    "\\sim", "\\to",     "\\mapsto",     "\\subset", "\\subseteq", "\\cong",    "\\implies",
    "\\iff", "\\propto", "\\Rightarrow", "\\mod",    "\\perp",     "\\parallel"};

// "Yes" is a word whatever its case, so is a choice letter; "AB" is a product.
bool is_word(Tokens tokens, const std::string& text) {
    const auto letter = [](const Token& t) { return t.kind == TokenKind::letter; };
    if (std::any_of(tokens.begin(), tokens.end(), [](const Token& t) { return t.word; }))
        return true;
    if (!std::all_of(tokens.begin(), tokens.end(), letter)) return false;
    const std::string low = lower_case(text);
    if (text.size() == 1) return low[0] <= 'd';
    return text.size() > 2 || (text.size() == 2 && text[0] != low[0] && text[1] == low[1]);
}

Form leaf(FormKind kind, Tokens tokens) {
    const std::string text = text_of(tokens);
    return {kind, "", {}, nullptr, text, is_word(tokens, text)};
}

Form text_form(Tokens tokens) { return leaf(FormKind::text, tokens); }

Form container(FormKind kind, const std::string& label, std::vector<Form> parts) {
    return {kind, label, std::move(parts), nullptr, "", false};
}

template <class Predicate>
std::vector<Tokens> split_top(Tokens tokens, const Predicate& separates) {
    std::vector<Tokens> parts;
    size_t begin = 0;
    int depth = 0;
    for (size_t i = 0; i < tokens.size(); i++) {
        depth += depth_change(tokens[i]);
        if (depth != 0 || !separates(i)) continue;
        parts.push_back(tokens.subspan(begin, i - begin));
        begin = i + 1;
    }
    parts.push_back(tokens.subspan(begin));
    return parts;
}

// ", and" is one separator.
std::vector<Tokens> split_items(Tokens tokens) {
    std::vector<Tokens> parts = split_top(
        tokens, [&](size_t i) { return tokens[i].is(",") || tokens[i].kind == TokenKind::join; });
    for (size_t i = 1; i + 1 < parts.size(); i++) {
        if (!parts[i].empty()) continue;
        const Token* gap = parts[i].data(); // the separator behind the empty part
        if (gap->kind == TokenKind::join) parts.erase(parts.begin() + long(i--));
    }
    return parts;
}

// True if the first token opens a group that the last one closes.
bool enclosed(Tokens tokens, const char* open, const char* close) {
    return tokens.size() > 1 && tokens.front().text == open && tokens.back().text == close &&
           closing_token(tokens, 0) == tokens.size() - 1;
}

Tokens inside(Tokens tokens) { return tokens.subspan(1, tokens.size() - 2); }

bool plus_minus(const Token& token) { return token.is_command("\\pm") || token.is_command("\\mp"); }

bool is_relation(const Token& token) {
    return token.is("=") || token.is("<") || token.is(">") ||
           (token.kind == TokenKind::command && kRelations.count(token.text));
}

// ------------------------------------------------------------------------------------------------
// names

bool no_name(const Token& token) {
    const std::string& text = token.text;
    return token.kind != TokenKind::command || is_relation(token) || text == "\\pi" ||
           text == "\\frac" || text == "\\sqrt" || text == "\\binom" ||
           function_name(text.substr(1));
}

bool all_capitals(Tokens tokens) {
    return std::all_of(tokens.begin(), tokens.end(),
                       [](const Token& t) { return t.text[0] >= 'A' && t.text[0] <= 'Z'; });
}

// Index behind the name the tokens begin with: x, x_1, \vec{v}, y', f^{-1}, area; 0 = none.
size_t skip_name(Tokens tokens) {
    if (tokens.empty()) return 0;
    size_t end = 1;
    if (tokens[0].is_command("\\angle") || tokens[0].word) {
        while (end < tokens.size() && tokens[end].kind == TokenKind::letter) end++;
        if (tokens[0].word && all_capitals(tokens.first(end))) return 0; // SRAC = LRAC
    } else if (tokens[0].kind != TokenKind::letter && no_name(tokens[0])) {
        return 0;
    }
    while (end < tokens.size()) {
        if (tokens[end].is("'")) end++;
        else if (tokens[end].is("_") && end + 1 < tokens.size())
            end = tokens[end + 1].is("{") ? closing_token(tokens, end + 1) + 1 : end + 2;
        else if (end + 5 < tokens.size() && tokens[end].is("^") && tokens[end + 2].is("-") &&
                 tokens[end + 3].text == "1" && tokens[end + 5].is("("))
            end += 5;
        else break;
    }
    return std::min(end, tokens.size());
}

// x, f(x), P(A), f(2), (x,y)
bool is_name(Tokens tokens) {
    auto names = [](Tokens list) {
        for (const Tokens& part : split_items(list))
            if (part.empty() || skip_name(part) != part.size()) return false;
        return true;
    };
    if (enclosed(tokens, "(", ")")) return names(inside(tokens));
    const size_t end = skip_name(tokens);
    if (end == 0 || end == tokens.size()) return end > 0;
    if (!enclosed(tokens.subspan(end), "(", ")")) return false;
    return std::string("fghpqFGHPE").find(tokens[0].text) != std::string::npos ||
           names(inside(tokens.subspan(end)));
}

// ------------------------------------------------------------------------------------------------
// containers

Form read_list(Tokens tokens);
Form read_item(Tokens tokens);
Form read_value(Tokens tokens);

// (factor)(cell)
Form read_product(Tokens factor, Tokens cell) {
    if (factor.empty()) return read_value(cell);
    const Token open = {TokenKind::symbol, "(", false, false, 1};
    const Token close = {TokenKind::symbol, ")", false, false, 1};
    std::vector<Token> product;
    const bool sign = factor.size() == 1 && (factor[0].is("-") || factor[0].is("+"));
    if (!sign) product.push_back(open);
    product.insert(product.end(), factor.begin(), factor.end());
    if (!sign) product.push_back(close);
    product.push_back(open);
    product.insert(product.end(), cell.begin(), cell.end());
    product.push_back(close);
    return read_value(product);
}

// Rows and cells of an environment; a factor in front goes into every cell.
Form read_matrix(Tokens factor, Tokens body, const std::string& environment) {
    if (!body.empty() && body.back().is("\\\\")) body = body.first(body.size() - 1);
    const auto rows = split_top(body, [&](size_t i) { return body[i].is("\\\\"); });
    std::vector<Form> cells;
    std::string label = std::to_string(rows.size());
    for (const Tokens& row : rows) {
        const auto parts = split_top(row, [&](size_t i) { return row[i].is("&"); });
        label += "," + std::to_string(parts.size());
        for (const Tokens& part : parts)
            cells.push_back(environment == "cases" ? read_item(part) : read_product(factor, part));
    }
    const bool plain = environment == "array" || environment == "matrix" ||
                       environment == "pmatrix" || environment == "bmatrix" ||
                       environment == "smallmatrix";
    if (environment == "cases" && cells.size() == rows.size())
        return container(FormKind::list, "", std::move(cells));
    return container(FormKind::matrix, label + (plain ? "" : environment), std::move(cells));
}

// Digits, of a base above ten capitals too, and the base: 204_5, 1BA_{16}.
bool in_base(Tokens tokens) {
    size_t at = 0;
    bool digits = false;
    for (; at < tokens.size() && !tokens[at].is("_"); at++) {
        const bool digit = tokens[at].kind == TokenKind::number;
        if (!digit && (tokens[at].kind != TokenKind::letter || tokens[at].text > "F")) return false;
        if (at > 0 && tokens[at].blank_before) return false;
        digits = digits || digit;
    }
    if (!digits || at + 1 >= tokens.size()) return false;
    const Tokens base = tokens.subspan(at + 1);
    return base.size() == 1 ? base[0].kind == TokenKind::number
                            : base.size() == 3 && base[0].is("{") && base[2].is("}");
}

// Groups that stand for themselves; nothing if the tokens are no such group.
std::optional<Form> read_group(Tokens tokens) {
    if (enclosed(tokens, "\\{", "\\}")) {
        if (tokens.size() == 2) return text_form(tokens);
        const Tokens content = inside(tokens); // {x | x > 2}
        const auto builder =
            split_top(content, [&](size_t i) { return content[i].is("|") || content[i].is(":"); });
        if (builder.size() == 2)
            return container(FormKind::ordered, "{|}",
                             {read_list(builder[0]), read_list(builder[1])});
        Form list = read_list(inside(tokens));
        if (list.kind != FormKind::list) list = container(FormKind::list, "", {list});
        return list;
    }
    if (enclosed(tokens, "{", "}")) return read_list(inside(tokens));
    if (tokens.size() < 3 || closing_token(tokens, 0) != tokens.size() - 1) return std::nullopt;
    const std::string &open = tokens.front().text, &close = tokens.back().text;
    const bool round = open == "(", square = open == "[", angle = open == "\\langle";
    if (!(angle ? close == "\\rangle" : (round || square) && (close == ")" || close == "]")))
        return std::nullopt;
    const Tokens content = inside(tokens);
    const auto parts = split_top(content, [&](size_t i) { return content[i].is(","); });
    const bool alone = parts.size() == 1 && content.front().kind == TokenKind::begin;
    if (parts.size() == 1 && round && close == ")") return read_list(content);
    if (alone) return read_value(content);
    std::vector<Form> forms;
    for (const Tokens& part : parts) {
        if (part.empty()) return std::nullopt;
        forms.push_back(read_value(part));
    }
    return container(FormKind::ordered, open + close, std::move(forms));
}

// \cup binds loosest, then \cap, then \setminus. A capital U between intervals is a union.
std::optional<Form> read_set_operation(Tokens tokens) {
    const auto cup = [&](size_t i) {
        return tokens[i].is_command("\\cup") ||
               (tokens[i].text == "U" && i > 0 && i + 1 < tokens.size() &&
                depth_change(tokens[i - 1]) < 0 && depth_change(tokens[i + 1]) > 0);
    };
    const auto cap = [&](size_t i) { return tokens[i].is_command("\\cap"); };
    const auto minus = [&](size_t i) { return tokens[i].is_command("\\setminus"); };
    auto read = [](FormKind kind, const char* label, const std::vector<Tokens>& parts) {
        std::vector<Form> forms;
        for (const Tokens& part : parts) forms.push_back(read_value(part));
        return container(kind, label, std::move(forms));
    };
    for (const auto& [kind, label, parts] :
         {std::tuple(FormKind::combined, "\\cup", split_top(tokens, cup)),
          {FormKind::combined, "\\cap", split_top(tokens, cap)},
          {FormKind::difference, "\\setminus", split_top(tokens, minus)}})
        if (parts.size() > 1) return read(kind, label, parts);
    return std::nullopt;
}

Form read_value(Tokens tokens) {
    if (tokens.empty()) return text_form(tokens);
    if (std::optional<Form> group = read_group(tokens)) return *group;
    if (std::optional<Form> operation = read_set_operation(tokens)) return *operation;
    if (tokens.back().kind == TokenKind::end)
        for (size_t i = 0; i < tokens.size(); i++) {
            if (tokens[i].kind != TokenKind::begin) continue;
            const Tokens environment = tokens.subspan(i);
            if (closing_token(environment, 0) + 1 != environment.size()) break;
            Tokens factor = tokens.first(i);
            if (!factor.empty() && factor.back().is("*")) factor = factor.first(i - 1);
            if (factor.size() * environment.size() > kMostProducts) break;
            return read_matrix(factor, inside(environment), environment[0].text);
        }
    std::vector<Token> digits(tokens.begin(), tokens.end());
    if (tokens.size() > 3 && tokens[0].is("(") && tokens[2].is(")")) { // (204)_5
        digits.erase(digits.begin() + 2);
        digits.erase(digits.begin());
    }
    if (in_base(digits)) {
        Form number = text_form(digits);
        number.words = true;
        return number;
    }
    std::optional<Expression> expression = parse_expression(tokens);
    if (!expression) return text_form(tokens);
    Form value = leaf(FormKind::quantity, tokens);
    value.quantity = std::make_shared<Quantity>(std::move(*expression));
    return value;
}

// ------------------------------------------------------------------------------------------------
// relations and lists

// Sides of a relation hold no relations: reading them twice for two links stays cheap.
Form read_side(Tokens tokens) {
    return std::any_of(tokens.begin(), tokens.end(), is_relation) ? text_form(tokens)
                                                                  : read_value(tokens);
}

// left op right, written with "<" or "\le" for ">" and "\ge".
Form read_link(Tokens left, const std::string& op, Tokens right) {
    if (op == ">" || op == "\\ge") return read_link(right, op == ">" ? "<" : "\\le", left);
    Form link = container(FormKind::link, op, {read_side(left), read_side(right)});
    link.text = text_of(left) + op + text_of(right);
    if (link.parts[0].quantity && link.parts[1].quantity)
        if (std::optional<Expression> difference = parse_difference(left, right))
            link.quantity = std::make_shared<Quantity>(std::move(*difference));
    return link;
}

Form read_item(Tokens tokens) {
    std::vector<std::string> operators;
    const auto sides = split_top(tokens, [&](size_t i) {
        if (is_relation(tokens[i])) operators.push_back(tokens[i].text);
        return is_relation(tokens[i]);
    });
    if (operators.empty()) return read_value(tokens);
    if (sides.size() > kMostSides) return text_form(tokens);
    for (const Tokens& side : sides)
        if (side.empty()) return text_form(tokens);
    std::vector<Form> links;
    for (size_t i = 0; i < operators.size(); i++)
        links.push_back(read_link(sides[i], operators[i], sides[i + 1]));
    const bool equation = operators[0] == "=", member = operators[0] == "\\in";
    Form relation = container(FormKind::relation, "", std::move(links));
    if (operators.size() > 1 || !(equation || member) || !is_name(sides[0])) return relation;
    const Form& value = relation.parts[0].parts[1];
    const std::string name = text_of(sides[0]);
    if (value.quantity) // x = x^2 names nothing
        for (const std::string& letter : value.quantity->letters())
            if (letter == name) return relation;
    std::vector<Form> parts = {value};
    if (equation) parts.push_back(std::move(relation));
    return container(FormKind::named, name, std::move(parts));
}

std::vector<Token> with_sign(Tokens tokens, bool upper) {
    std::vector<Token> out(tokens.begin(), tokens.end());
    for (Token& token : out)
        if (plus_minus(token)) {
            const bool plus = (token.text == "\\pm") == upper;
            token = {TokenKind::symbol, plus ? "+" : "-", false, false, 1};
        }
    return out;
}

// Groups of three digits in a lone number: 1,234,567.8 is one number, 12,34 a list.
std::optional<Token> lone_number(Tokens tokens) {
    Token number = {TokenKind::number, "", false, false, 1};
    for (size_t i = 0; i < tokens.size(); i++) {
        const std::string& text = tokens[i].text;
        if (i > 0 && tokens[i].blank_before) return std::nullopt;
        if (i % 2 == 1) {
            if (!tokens[i].is(",")) return std::nullopt;
            continue;
        }
        const size_t digits =
            size_t(std::find_if_not(text.begin(), text.end(), is_digit) - text.begin());
        const bool last = i + 1 == tokens.size();
        if (tokens[i].kind != TokenKind::number || (i == 0 ? digits > 3 : digits != 3) ||
            (!last && digits != text.size()))
            return std::nullopt;
        number.text += text;
    }
    return tokens.size() > 2 && tokens.size() % 2 == 1 ? std::optional(number) : std::nullopt;
}

// The same tokens with their lone number, if they are one, in a single token.
std::vector<Token> merge_thousands(Tokens tokens) {
    size_t begin = 0, end = tokens.size();
    for (size_t i = 0; i < tokens.size(); i++)
        if (tokens[i].is("=") && is_name(tokens.first(i))) begin = i + 1;
    while (begin < end && (tokens[begin].is("-") || tokens[begin].is("+"))) begin++;
    while (end > begin && tokens[end - 1].is("deg")) end--;
    std::vector<Token> out(tokens.begin(), tokens.begin() + long(begin));
    if (const std::optional<Token> number = lone_number(tokens.subspan(begin, end - begin)))
        out.push_back(*number);
    else out.insert(out.end(), tokens.begin() + long(begin), tokens.begin() + long(end));
    out.insert(out.end(), tokens.begin() + long(end), tokens.end());
    return out;
}

// A name that all items share, or that only the first has, names the list.
Form name_list(std::vector<Form> items) {
    const bool named = items[0].kind == FormKind::named;
    bool all = named, first = named;
    for (size_t i = 1; i < items.size(); i++) {
        all = all && items[i].kind == FormKind::named && items[i].label == items[0].label;
        first = first && items[i].kind != FormKind::named && items[i].kind != FormKind::relation;
    }
    if (!all && !first) return container(FormKind::list, "", std::move(items));
    const std::string name = items[0].label;
    std::vector<Form> values;
    for (Form& item : items) {
        Form value = item.kind == FormKind::named ? item.parts[0] : std::move(item);
        values.push_back(std::move(value));
    }
    return container(FormKind::named, name, {container(FormKind::list, "", std::move(values))});
}

Form read_list(Tokens tokens) {
    std::vector<Form> items;
    const std::vector<Tokens> parts = split_items(tokens);
    if (parts.size() > kMostItems) return text_form(tokens);
    for (const Tokens& part : parts) {
        if (part.empty()) return text_form(tokens);
        const bool set = enclosed(part, "\\{", "\\}");
        if (set || std::none_of(part.begin(), part.end(), plus_minus)) {
            items.push_back(read_item(part));
            continue;
        }
        for (const bool upper : {true, false}) items.push_back(read_item(with_sign(part, upper)));
    }
    return items.size() == 1 ? items[0] : name_list(std::move(items));
}

} // namespace

Form read_form(Tokens tokens) { return read_list(merge_thousands(tokens)); }
