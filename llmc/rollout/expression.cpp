// Contract: expression.h. Grammar, loosest first:
//   sum      = product {(+ | -) product}
//   product  = signed {(* | / | nothing) signed}
//   signed   = {+ | -} factor
//   factor   = primary {^ exponent | !}
//   primary  = number | name | function | (sum) | [sum] | {sum} | |sum| | \frac ... | \sqrt ...
// A product without a sign binds as "*" does, except behind "/": 1/ab is 1/(ab), but 1/2a is a/2.
#include "llmc/rollout/expression.h"

#include "llmc/rollout/latex.h"
#include "llmc/rollout/lexer.h"

#include <algorithm>
#include <set>
#include <utility>

namespace {

constexpr int kMostNodes = 3000;
constexpr size_t kMostLimbs = 1 << 14; // of all numbers together
constexpr int kNone = -1;              // no node: the text is not an expression

// Commands that belong to containers, relations or sentences.
const std::set<std::string> kNoNames = {
    "\\le",      "\\ge",   "\\ne",       "\\in",       "\\notin",  "\\cup",     "\\cap",
    "\\pm",      "\\mp",   "\\setminus", "\\to",       "\\approx", "\\equiv",   "\\sim",
    "\\choose",  "\\over", "\\subset",   "\\subseteq", "\\cong",   "\\mapsto",  "\\Rightarrow",
    "\\implies", "\\iff",  "\\rfloor",   "\\rceil",    "\\rangle", "\\langle",  "\\pmod",
    "\\bmod",    "\\mod",  "\\forall",   "\\exists",   "\\perp",   "\\parallel"};

bool all_digits(const std::string& text) {
    return !text.empty() && std::all_of(text.begin(), text.end(), is_digit);
}

// 12  0.5  4.5e-33  0.1(6)
MaybeRational number_value(const std::string& text) {
    size_t at = 0;
    auto digits = [&] {
        const size_t begin = at;
        while (at < text.size() && is_digit(text[at])) at++;
        return text.substr(begin, at - begin);
    };
    auto natural = [](const std::string& d) -> MaybeRational {
        if (d.size() > kLongestAnswer) return std::nullopt;
        return Rational{false, Natural::from_digits(d), Natural(1)};
    };
    std::string mantissa = digits(), decimals;
    if (at < text.size() && text[at] == '.') {
        at++;
        decimals = digits();
    }
    const MaybeRational ten = whole(10);
    MaybeRational value = divide(natural(mantissa + decimals), power(ten, whole(decimals.size())));
    if (at < text.size() && text[at] == '(') {
        at++;
        const std::string repeated = digits();
        at++;
        const MaybeRational nines = add(power(ten, whole(repeated.size())), negate(whole(1)));
        const MaybeRational shift = power(ten, whole(decimals.size()));
        value = add(value, divide(divide(natural(repeated), nines), shift));
    }
    if (at < text.size() && text[at] == 'e') {
        const bool minus = text[++at] == '-';
        at += minus;
        const std::string exponent = digits();
        if (exponent.size() > 9) return std::nullopt;
        const MaybeRational n = whole(uint64_t(std::stoll(exponent)));
        value = multiply(value, power(ten, minus ? negate(n) : n));
    }
    return value;
}

class Parser {
  public:
    explicit Parser(Expression* nodes, Tokens tokens) : nodes_(*nodes), tokens_(tokens) {}
    int parse() {
        const int node = content();
        return at_ == tokens_.size() ? node : kNone;
    }

  private:
    bool more() const { return at_ < tokens_.size(); }
    bool peek(const char* symbol) const { return more() && tokens_[at_].is(symbol); }
    bool peek_command(const char* name) const { return more() && tokens_[at_].is_command(name); }
    bool peek_number() const { return more() && tokens_[at_].kind == TokenKind::number; }
    bool take(const char* symbol) {
        const bool found = peek(symbol);
        at_ += found;
        return found;
    }
    int make(Op op, std::vector<int> children, const std::string& name);
    int make_number(const MaybeRational& value);
    int make_number(const std::string& text);

    int content();
    int sum();
    int product();
    int signed_factor();
    int divisor();
    int factor();
    int exponent();
    int argument();
    int primary();
    int number();
    int name(bool may_call);
    int call(const std::string& name, size_t close);
    int group(const char* close);
    int absolute();
    int command();
    int function(const std::string& name);
    int function_argument();
    int extremum(const std::string& name);
    bool starts_factor() const;
    bool starts_function() const;
    bool simple_arguments(size_t open, size_t close) const;
    std::string subscript();

    Expression& nodes_;
    Tokens tokens_;
    size_t at_ = 0, limbs_ = 0;
    int depth_ = 0, bars_ = 0;
};

int Parser::make(Op op, std::vector<int> children, const std::string& name) {
    if (int(nodes_.size()) >= kMostNodes) return kNone;
    for (int child : children)
        if (child == kNone) return kNone;
    nodes_.push_back({op, std::move(children), name, std::nullopt});
    return int(nodes_.size()) - 1;
}

int Parser::make_number(const MaybeRational& value) {
    const int node = make(Op::number, {}, "");
    if (node != kNone) nodes_[node].number = value;
    return node;
}

int Parser::make_number(const std::string& text) {
    if (limbs_ > kMostLimbs) return make_number(MaybeRational());
    const MaybeRational value = number_value(text);
    if (value) limbs_ += value->numerator.limbs() + value->denominator.limbs();
    return make_number(value);
}

// A sum, n \choose k or a \over b.
int Parser::content() {
    const int value = sum();
    const bool choose = peek_command("\\choose"), over = peek_command("\\over");
    if (!choose && !over) return value;
    at_++;
    return make(choose ? Op::binomial : Op::divide, {value, sum()}, "");
}

int Parser::sum() {
    int total = product();
    while (total != kNone && (peek("+") || peek("-"))) {
        const bool minus = peek("-");
        at_++;
        const int next = product();
        total = make(Op::add, {total, minus ? make(Op::negate, {next}, "") : next}, "");
    }
    return total;
}

int Parser::product() {
    int value = signed_factor();
    while (value != kNone) {
        if (take("*")) value = make(Op::multiply, {value, signed_factor()}, "");
        else if (take("/")) value = make(Op::divide, {value, divisor()}, "");
        else if (starts_factor()) value = make(Op::multiply, {value, factor()}, "");
        else break;
    }
    return value;
}

int Parser::signed_factor() {
    bool minus = false;
    for (; peek("+") || peek("-"); at_++) minus ^= peek("-");
    const int value = factor();
    return minus ? make(Op::negate, {value}, "") : value;
}

int Parser::divisor() {
    const bool lone = peek_number() || peek_command("\\sqrt") || peek_command("\\frac");
    int value = signed_factor();
    while (!lone && value != kNone && starts_factor())
        value = make(Op::multiply, {value, factor()}, "");
    return value;
}

// True where a factor may follow without a sign between.
bool Parser::starts_factor() const {
    if (!more()) return false;
    const Token& token = tokens_[at_];
    switch (token.kind) {
    case TokenKind::number: return at_ == 0 || tokens_[at_ - 1].kind != TokenKind::number;
    case TokenKind::letter: return true;
    case TokenKind::command: return !kNoNames.count(token.text);
    case TokenKind::symbol:
        return token.is("(") || token.is("[") || token.is("{") || token.is("|<") ||
               (token.is("|") && bars_ == 0);
    default: return false;
    }
}

bool Parser::starts_function() const {
    return more() && tokens_[at_].kind == TokenKind::command &&
           function_name(tokens_[at_].text.substr(1)) && !tokens_[at_].is_command("\\sqrt");
}

int Parser::factor() {
    int value = primary();
    bool raised = false;
    while (value != kNone) {
        if (peek("^")) {
            if (raised) return kNone; // x^2^3 is an error in LaTeX
            at_++;
            value = make(Op::power, {value, exponent()}, "");
            raised = true;
        } else if (take("!")) {
            if (peek("!")) return kNone;
            value = make(Op::factorial, {value}, "");
        } else if (!take("deg")) {
            break;
        }
    }
    return value;
}

int Parser::exponent() {
    if (peek("+") || peek("-")) {
        const bool minus = peek("-");
        at_++;
        const int value = argument();
        return minus ? make(Op::negate, {value}, "") : value;
    }
    return argument();
}

// What a command or "^" takes: a group or one token.
int Parser::argument() {
    if (!more()) return kNone;
    const Token& token = tokens_[at_];
    if (token.kind == TokenKind::number) {
        at_++;
        return make_number(token.text);
    }
    if (token.kind == TokenKind::letter) return name(false);
    if (token.is("{") || token.is("(")) return primary();
    return token.kind == TokenKind::command && !starts_function() ? primary() : kNone;
}

int Parser::primary() {
    if (!more() || ++depth_ > 2 * kDeepest) return kNone;
    const Token& token = tokens_[at_];
    int value = kNone;
    if (token.kind == TokenKind::number) value = number();
    else if (token.kind == TokenKind::letter) value = name(true);
    else if (token.kind == TokenKind::command) value = command();
    else if (token.is("|") || token.is("|<")) value = absolute();
    else if (take("(")) value = group(")");
    else if (take("[")) value = group("]");
    else if (take("{")) value = group("}");
    depth_--;
    return value;
}

int Parser::group(const char* close) {
    const int bars = std::exchange(bars_, 0);
    const int value = content();
    bars_ = bars;
    return take(close) ? value : kNone;
}

int Parser::absolute() {
    at_++;
    bars_++;
    const int value = sum();
    bars_--;
    if (!take("|") && !take("|>")) return kNone;
    return make(Op::absolute, {value}, "");
}

// An integer followed by a fraction of integers is their sum: 1\frac{4}{5}, 2 3/4.
int Parser::number() {
    const std::string& text = tokens_[at_++].text;
    const int value = make_number(text);
    if (!all_digits(text)) return value;
    auto integer = [&](size_t* at) { // a token or a group of one
        const bool braced = *at + 2 < tokens_.size() && tokens_[*at].is("{");
        if (braced && !tokens_[*at + 2].is("}")) return false;
        const size_t digits = *at + braced;
        *at += braced ? 3 : 1;
        return digits < tokens_.size() && tokens_[digits].kind == TokenKind::number &&
               all_digits(tokens_[digits].text);
    };
    size_t end = at_ + 1;
    if (peek_command("\\frac") && integer(&end) && integer(&end))
        return make(Op::add, {value, command()}, "");
    if (!peek_number() || !tokens_[at_].blank_before || !all_digits(tokens_[at_].text))
        return value;
    if (at_ + 2 >= tokens_.size() || !tokens_[at_ + 1].is("/") ||
        tokens_[at_ + 2].kind != TokenKind::number || !all_digits(tokens_[at_ + 2].text))
        return value;
    const int top = make_number(tokens_[at_].text);
    const int bottom = make_number(tokens_[at_ + 2].text);
    at_ += 3;
    return make(Op::add, {value, make(Op::divide, {top, bottom}, "")}, "");
}

std::string Parser::subscript() {
    if (!more()) return "";
    const size_t close = peek("{") ? closing_token(tokens_, at_) : at_;
    const size_t end = std::min(close + 1, tokens_.size());
    const std::string text = text_of(tokens_.subspan(at_, end - at_));
    at_ = end;
    const bool braced = text.size() > 1 && text.front() == '{' && text.back() == '}';
    return "_" + (braced ? text.substr(1, text.size() - 2) : text);
}

// Arguments that make "x(" the application of a function: lone names and numbers.
bool Parser::simple_arguments(size_t open, size_t close) const {
    bool expects = true;
    for (size_t i = open + 1; i < close; i++) {
        const Token& token = tokens_[i];
        const bool lone = token.kind == TokenKind::number || token.kind == TokenKind::letter ||
                          (token.kind == TokenKind::command && i + 1 < tokens_.size() &&
                           !kNoNames.count(token.text) && !function_name(token.text.substr(1)));
        if (expects ? !lone : !token.is(",")) return false;
        expects = !expects;
    }
    return !expects;
}

int Parser::name(bool may_call) {
    const Token& token = tokens_[at_++];
    if (token.word) return kNone;
    std::string text = token.text;
    for (;;) {
        if (take("_")) text += subscript();
        else if (take("'")) text += "'";
        else break;
    }
    if (text == "e") return make(Op::euler, {}, "");
    if (text == "i") return make(Op::imaginary, {}, "");
    if (text == "\\pi") return make(Op::pi, {}, "");
    if (text == "\\infty") return make(Op::infinity, {}, "");
    const bool function = text.size() == 1 && std::string("fghFGH").find(text) != std::string::npos;
    size_t open = at_;
    if (function && at_ + 5 < tokens_.size() && peek("^") && tokens_[at_ + 1].is("{") &&
        tokens_[at_ + 2].is("-") && tokens_[at_ + 3].text == "1" && tokens_[at_ + 4].is("}") &&
        tokens_[at_ + 5].is("(")) {
        open = at_ + 5; // f^{-1}(x)
        text += "^-1";
    }
    if (may_call && open < tokens_.size() && tokens_[open].is("(")) {
        const size_t close = closing_token(tokens_, open);
        if (function || text.back() == '\'' || simple_arguments(open, close)) {
            at_ = open + 1;
            return call(text, close);
        }
    }
    return make(Op::letter, {}, text);
}

int Parser::call(const std::string& name, size_t close) {
    const int bars = std::exchange(bars_, 0);
    std::vector<int> arguments = {sum()};
    while (take(",")) arguments.push_back(sum());
    bars_ = bars;
    if (at_ != close || !take(")")) return kNone;
    return make(Op::call, std::move(arguments), name);
}

int Parser::command() {
    const std::string text = tokens_[at_].text, plain = text.substr(1);
    if (kNoNames.count(text)) return kNone;
    if (text == "\\frac" || text == "\\binom") {
        at_++;
        const int top = argument(), bottom = top == kNone ? kNone : argument();
        return make(text == "\\frac" ? Op::divide : Op::binomial, {top, bottom}, "");
    }
    if (text == "\\sqrt") {
        at_++;
        int degree = kNone;
        if (take("[")) degree = group("]");
        else degree = make_number(whole(2));
        return degree == kNone ? kNone : make(Op::root, {argument(), degree}, "");
    }
    if (text == "\\lfloor" || text == "\\lceil") {
        const bool floor = text == "\\lfloor";
        at_++;
        const int bars = std::exchange(bars_, 0);
        const int value = sum();
        bars_ = bars;
        if (!peek_command(floor ? "\\rfloor" : "\\rceil")) return kNone;
        at_++;
        return make(floor ? Op::floor : Op::ceiling, {value}, "");
    }
    if (text == "\\max" || text == "\\min") return extremum(plain);
    return function_name(plain) ? function(plain) : name(true);
}

int Parser::extremum(const std::string& name) {
    at_++;
    const bool set = peek("\\{");
    if (!set && !peek("(")) {
        at_--;
        return this->name(false);
    }
    at_++;
    std::vector<int> arguments = {sum()};
    while (take(",")) arguments.push_back(sum());
    if (!take(set ? "\\}" : ")")) return kNone;
    return make(Op::extremum, std::move(arguments), name);
}

int Parser::function(const std::string& name) {
    at_++;
    int base = kNone, raised = kNone;
    const bool log = name == "log";
    for (int pass = 0; pass < 2; pass++) {
        if (log && base == kNone && take("_")) {
            if ((base = argument()) == kNone) return kNone;
        } else if (raised == kNone && take("^")) {
            if ((raised = exponent()) == kNone) return kNone;
        }
    }
    int value = function_argument();
    const bool trigonometric =
        std::string("sin cos tan cot sec csc").find(name) != std::string::npos;
    const bool inverse = raised != kNone && trigonometric && nodes_[raised].op == Op::negate &&
                         nodes_[nodes_[raised].children[0]].number &&
                         same_value(*nodes_[nodes_[raised].children[0]].number, whole(1));
    if (base != kNone) value = make(Op::log, {value, base}, "");
    else value = make(Op::function, {value}, inverse ? "arc" + name : name);
    return raised == kNone || inverse ? value : make(Op::power, {value, raised}, "");
}

// A group, or the factors up to a sign, another function or a bracket: \sin 2\omega t.
int Parser::function_argument() {
    if (!more() || ++depth_ > 2 * kDeepest) return kNone;
    int value = kNone;
    if (peek("(") || peek("{") || peek("|") || peek("|<")) {
        value = primary();
    } else {
        bool number = peek_number();
        value = signed_factor();
        while (value != kNone && starts_factor() && !starts_function() && !peek("[") &&
               (number || !peek("("))) {
            number = false;
            value = make(Op::multiply, {value, factor()}, "");
        }
    }
    depth_--;
    return value;
}

} // namespace

std::optional<Expression> parse_expression(Tokens tokens) {
    Expression nodes;
    if (Parser(&nodes, tokens).parse() == kNone) return std::nullopt;
    return nodes;
}

std::optional<Expression> parse_difference(Tokens left, Tokens right) {
    Expression nodes;
    const int a = Parser(&nodes, left).parse();
    if (a == kNone) return std::nullopt;
    const int b = Parser(&nodes, right).parse();
    if (b == kNone || nodes.size() > size_t(kMostNodes)) return std::nullopt;
    nodes.push_back({Op::negate, {b}, "", std::nullopt});
    nodes.push_back({Op::add, {a, int(nodes.size()) - 1}, "", std::nullopt});
    return nodes;
}
