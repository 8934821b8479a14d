// Contract: quantity.h.
#include "llmc/rollout/quantity.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace {

using Complex = std::complex<long double>;

constexpr long double kEpsilon = 4 * std::numeric_limits<long double>::epsilon();
constexpr long double kTolerance = 1e-10L, kZero = 1e-12L;
constexpr long double kPi = 3.14159265358979323846264338327950288L;
constexpr int kFewestPoints = 3;       // that must be finite on both sides
constexpr size_t kExactWork = 1 << 22; // limb products, about 5 ms

const Sample kUndefined = {std::numeric_limits<long double>::quiet_NaN(), 0};

// Adding 0 makes -0 positive: a negative number shall be on one side of a branch cut.
Sample make_sample(Complex value, long double error) {
    return {value + Complex(0, 0), error + kEpsilon * std::abs(value)};
}

bool real(const Sample& a) { return a.value.imag() == 0; }
bool zero(const Sample& a) { return std::abs(a.value) <= a.error; }

Sample add(const Sample& a, const Sample& b) {
    return make_sample(a.value + b.value, a.error + b.error);
}

Sample multiply(const Sample& a, const Sample& b) {
    return make_sample(a.value * b.value,
                       std::abs(a.value) * b.error + std::abs(b.value) * a.error);
}

Sample divide(const Sample& a, const Sample& b) {
    if (zero(b)) return kUndefined;
    const Complex value = a.value / b.value;
    return make_sample(value, (a.error + std::abs(value) * b.error) / std::abs(b.value));
}

Sample logarithm(const Sample& a, Grid grid) {
    if (zero(a) || (grid != Grid::complex && (!real(a) || a.value.real() < 0))) return kUndefined;
    const long double error = a.error / std::abs(a.value);
    if (real(a) && a.value.real() > 0) return make_sample(std::log(a.value.real()), error);
    return make_sample(std::log(a.value), error);
}

Sample exponential(const Sample& a) {
    const Complex value = real(a) ? Complex(std::exp(a.value.real())) : std::exp(a.value);
    if (value == Complex(0)) return kUndefined; // underflow is not zero
    return make_sample(value, std::abs(value) * (a.error + kEpsilon * std::abs(a.value)));
}

// base^(p/q); a negative base has a real root of odd degree.
Sample rational_power(const Sample& base, int64_t p, int64_t q, Grid grid) {
    const long double magnitude = std::abs(base.value);
    if (zero(base)) {
        if (p <= 0) return kUndefined;
        const long double error = std::pow(base.error, (long double)(p) / (long double)(q));
        return {0, base.value == Complex(0) ? 0 : error};
    }
    const long double exponent = (long double)(p) / (long double)(q);
    const long double relative = std::fabs(exponent) * (base.error / magnitude + kEpsilon);
    Complex value;
    if (real(base) && (base.value.real() > 0 || q % 2 == 1)) {
        value = std::pow(magnitude, exponent);
        if (base.value.real() < 0 && p % 2 != 0) value = -value;
    } else if (q == 1) {
        value = std::pow(base.value, exponent);
        if (std::abs(p) <= 64) { // exactly what multiplication gives
            Complex product = 1;
            for (int64_t i = 0; i < std::abs(p); i++) product *= base.value;
            value = p < 0 ? Complex(1) / product : product;
        }
    } else {
        if (grid != Grid::complex) return kUndefined;
        value = std::pow(base.value, exponent);
    }
    if (value == Complex(0)) return kUndefined;
    return make_sample(value, relative * std::abs(value) + kEpsilon * std::abs(value));
}

Sample power(const Sample& base, const Sample& exponent, Grid grid) {
    const long double n = exponent.value.real();
    if (real(exponent) && exponent.error == 0 && n == std::floor(n) && std::fabs(n) < 1e9L)
        return rational_power(base, int64_t(n), 1, grid); // (-1)^n at an integer
    if (zero(base)) return kUndefined;
    return exponential(multiply(exponent, logarithm(base, grid)));
}

// x!; the poles of the gamma function are no values.
Sample factorial(const Sample& a) {
    if (!real(a)) return kUndefined;
    const long double x = a.value.real() + 1;
    if (x <= 0 && x == std::floor(x)) return kUndefined;
    const long double value = std::tgamma(x);
    return make_sample(value, std::fabs(value) * (a.error + kEpsilon) * (1 + std::fabs(x)));
}

Sample binomial(const Sample& n, const Sample& k) {
    const Sample rest = add(n, {-k.value, k.error});
    if (!real(n) || !real(k)) return kUndefined;
    const long double below = rest.value.real() + 1, bottom = k.value.real() + 1;
    const Sample top = factorial(n);
    if (!top.finite()) return top;
    if ((below <= 0 && below == std::floor(below)) || (bottom <= 0 && bottom == std::floor(bottom)))
        return {0, 0};
    return divide(top, multiply(factorial(k), factorial(rest)));
}

Sample rounded(const Sample& a, bool up) {
    if (!real(a)) return kUndefined;
    const long double x = a.value.real(), nearest = std::round(x);
    if (std::fabs(x - nearest) <= std::max(a.error, kEpsilon * std::fabs(x))) return {nearest, 0};
    return {up ? std::ceil(x) : std::floor(x), 0};
}

// arcsin and arccos, which end at -1 and 1.
Sample arc(const Sample& a, bool sine, Grid grid) {
    const long double x = a.value.real(),
                      slope = std::sqrt(std::abs(Complex(1) - a.value * a.value));
    const long double error = slope > a.error ? a.error / slope : std::sqrt(a.error);
    if (real(a) && std::fabs(x) <= 1 + a.error) {
        const long double inside = std::clamp(x, -1.0L, 1.0L);
        return make_sample(sine ? std::asin(inside) : std::acos(inside), error);
    }
    if (grid != Grid::complex) return kUndefined;
    return make_sample(sine ? std::asin(a.value) : std::acos(a.value), error);
}

Sample function(const std::string& name, const Sample& a, Grid grid) {
    const Sample one = {1, 0};
    if (name == "sin" || name == "cos") {
        const bool sine = name == "sin";
        const Complex value =
            real(a) ? Complex(sine ? std::sin(a.value.real()) : std::cos(a.value.real()))
                    : (sine ? std::sin(a.value) : std::cos(a.value));
        return make_sample(value, a.error * (1 + std::abs(value)) + kEpsilon);
    }
    if (name == "tan") return divide(function("sin", a, grid), function("cos", a, grid));
    if (name == "cot") return divide(function("cos", a, grid), function("sin", a, grid));
    if (name == "sec") return divide(one, function("cos", a, grid));
    if (name == "csc") return divide(one, function("sin", a, grid));
    if (name == "arcsin" || name == "arccos") return arc(a, name == "arcsin", grid);
    if (name == "arcsec") return arc(divide(one, a), false, grid);
    if (name == "arccsc") return arc(divide(one, a), true, grid);
    if (name == "arctan")
        return make_sample(real(a) ? Complex(std::atan(a.value.real())) : std::atan(a.value),
                           a.error);
    if (name == "arccot")
        return add({kPi / 2, kEpsilon}, multiply({-1, 0}, function("arctan", a, grid)));
    if (name == "exp") return exponential(a);
    if (name == "ln" || name == "log") return logarithm(a, grid);
    if (name == "lg") return divide(logarithm(a, grid), logarithm({10, 0}, grid));
    const Sample up = exponential(a), down = exponential({-a.value, a.error});
    const Sample sinh = multiply({0.5L, 0}, add(up, {-down.value, down.error}));
    const Sample cosh = multiply({0.5L, 0}, add(up, down));
    if (name == "sinh") return sinh;
    if (name == "cosh") return cosh;
    return name == "tanh" ? divide(sinh, cosh) : kUndefined;
}

// A number in [0, 1) for a name, a point and a purpose.
long double hashed(const std::string& name, int point, int purpose) {
    uint64_t hash = 1469598103934665603u; // FNV-1a, then a finalizer
    for (unsigned char c : name) hash = (hash ^ c) * 1099511628211u;
    hash ^= uint64_t(point) * 0x9E3779B97F4A7C15u + uint64_t(purpose) * 0xC2B2AE3D27D4EB4Fu;
    hash = (hash ^ hash >> 30) * 0xBF58476D1CE4E5B9u;
    hash = (hash ^ hash >> 27) * 0x94D049BB133111EBu;
    return (long double)((hash ^ hash >> 31) >> 11) / 9007199254740992.0L;
}

// Point 0 is positive, point 1 negative in every letter, the rest is mixed; the last points lie
// farther out, for |x - 3|.
Sample letter(const std::string& name, int point, Grid grid) {
    const bool negative = point == 1 || (point > 1 && hashed(name, point, 0) < 0.5L);
    const bool counts =
        point % 2 || (name.size() == 1 && std::string("jklmnNKM").find(name) != std::string::npos);
    const long double u = hashed(name, point, 1);
    const long double scale = point < kPoints - 4 ? 1 : point < kPoints - 2 ? 12 : 300;
    const long double magnitude = grid == Grid::integer && counts
                                      ? 1 + std::floor(u * 9 * std::sqrt(scale))
                                      : 0.15L + 2.6L * u * scale;
    return {negative ? -magnitude : magnitude, 0};
}

// Some fixed smooth function for every name.
Sample call(const std::string& name, const std::vector<Sample>& arguments) {
    Sample sum = {hashed(name, 0, 2), 0};
    for (size_t i = 0; i < arguments.size(); i++)
        sum = add(sum, multiply({0.3L + hashed(name, int(i), 3), 0}, arguments[i]));
    return function("sin", sum, Grid::complex);
}

// Rounds towards minus infinity.
MaybeRational floor(const MaybeRational& a) {
    if (!a) return a;
    Natural rest;
    const Natural quotient = a->numerator.divided_by(a->denominator, &rest);
    const MaybeRational towards_zero =
        Rational{a->negative && !quotient.zero(), quotient, Natural(1)};
    return a->negative && !rest.zero() ? add(towards_zero, negate(whole(1))) : towards_zero;
}

} // namespace

bool Sample::finite() const {
    return std::isfinite(value.real()) && std::isfinite(value.imag()) && std::isfinite(error);
}

Quantity::Quantity(Expression expression) : expression_(std::move(expression)) {
    value_exactly();
    for (const Node& node : expression_) {
        const auto has_letter = [&](int child) {
            return expression_[child].op == Op::letter || !exact_[child];
        };
        if (node.op == Op::letter) letters_.push_back(node.name);
        if (node.op == Op::call) letters_.push_back(node.name + "()");
        if (node.op == Op::imaginary) imaginary_ = true;
        if (node.op == Op::floor || node.op == Op::ceiling || node.op == Op::factorial ||
            node.op == Op::binomial)
            integral_ = integral_ || has_letter(node.children[0]);
        if (node.op == Op::power && exact_[node.children[0]])
            integral_ =
                integral_ || (exact_[node.children[0]]->negative && has_letter(node.children[1]));
    }
    std::sort(letters_.begin(), letters_.end());
    letters_.erase(std::unique(letters_.begin(), letters_.end()), letters_.end());
}

void Quantity::value_exactly() {
    std::vector<bool> rational(expression_.size());
    size_t work = 0;
    for (size_t i = 0; i < expression_.size(); i++) {
        const Node& node = expression_[i];
        auto child = [&](size_t c) -> const MaybeRational& { return exact_[node.children[c]]; };
        bool known = true;
        for (int c : node.children) {
            known = known && exact_[c];
            if (exact_[c])
                work += 2 * exact_[c]->numerator.limbs() * exact_[c]->denominator.limbs() +
                        exact_[c]->numerator.limbs() * exact_[c]->numerator.limbs();
        }
        MaybeRational value;
        if (known && work < kExactWork) switch (node.op) {
            case Op::number: value = node.number; break;
            case Op::negate: value = negate(child(0)); break;
            case Op::add: value = add(child(0), child(1)); break;
            case Op::multiply: value = multiply(child(0), child(1)); break;
            case Op::divide: value = divide(child(0), child(1)); break;
            case Op::power: value = power(child(0), child(1)); break;
            case Op::root: value = root(child(0), child(1)); break;
            case Op::factorial: value = factorial(child(0)); break;
            case Op::binomial: value = binomial(child(0), child(1)); break;
            case Op::absolute:
                value = child(0);
                value->negative = false;
                break;
            case Op::floor: value = floor(child(0)); break;
            case Op::ceiling: value = negate(floor(negate(child(0)))); break;
            default: break;
            }
        if (value && (node.op == Op::factorial || node.op == Op::binomial || node.op == Op::power))
            work += 16 * value->numerator.limbs() * value->numerator.limbs();
        if (known && node.op == Op::root) work += 4096 * child(0)->numerator.limbs();
        rational[i] = node.op == Op::number || (node.op >= Op::negate && node.op <= Op::divide);
        if (node.op == Op::power) rational[i] = !child(1) || child(1)->integer();
        if (node.op >= Op::factorial && node.op <= Op::ceiling) rational[i] = true;
        for (int c : node.children) rational[i] = rational[i] && rational[c];
        rational[i] = rational[i] || value;
        exact_.push_back(std::move(value));
    }
    rational_ = rational.back();
}

Sample Quantity::evaluate(int point, Grid grid) const {
    std::vector<Sample> values;
    for (size_t i = 0; i < expression_.size(); i++) {
        const Node& node = expression_[i];
        auto child = [&](size_t c) -> const Sample& { return values[node.children[c]]; };
        Sample value = kUndefined;
        if (exact_[i]) {
            const long double v = exact_[i]->value();
            const auto small = small_fraction(*exact_[i]);
            value = {v, small && small->second == 1 ? 0 : kEpsilon * std::fabs(v)};
            values.push_back(value);
            continue;
        }
        switch (node.op) {
        case Op::number: break; // too long to be one
        case Op::letter: value = letter(node.name, point, grid); break;
        case Op::pi: value = {kPi, kEpsilon * kPi}; break;
        case Op::euler: value = exponential({1, 0}); break;
        case Op::imaginary: value = {Complex(0, 1), 0}; break;
        case Op::infinity: break;
        case Op::negate: value = {Complex(0) - child(0).value, child(0).error}; break;
        case Op::add: value = add(child(0), child(1)); break;
        case Op::multiply: value = multiply(child(0), child(1)); break;
        case Op::divide: value = divide(child(0), child(1)); break;
        case Op::power:
        case Op::root: {
            const MaybeRational& exponent = exact_[node.children[1]];
            const auto fraction = exponent ? small_fraction(*exponent) : std::nullopt;
            const bool root = node.op == Op::root;
            if (fraction && (!root || fraction->first > 0))
                value = root ? rational_power(child(0), fraction->second, fraction->first, grid)
                             : rational_power(child(0), fraction->first, fraction->second, grid);
            else value = power(child(0), root ? divide({1, 0}, child(1)) : child(1), grid);
            break;
        }
        case Op::factorial: value = factorial(child(0)); break;
        case Op::binomial: value = binomial(child(0), child(1)); break;
        case Op::absolute: value = {std::abs(child(0).value), child(0).error}; break;
        case Op::floor: value = rounded(child(0), false); break;
        case Op::ceiling: value = rounded(child(0), true); break;
        case Op::log: value = divide(logarithm(child(0), grid), logarithm(child(1), grid)); break;
        case Op::function: value = function(node.name, child(0), grid); break;
        case Op::extremum:
            value = child(0);
            for (size_t c = 1; c < node.children.size(); c++)
                if ((child(c).value.real() > value.value.real()) == (node.name == "max"))
                    value = child(c);
            break;
        case Op::call: {
            std::vector<Sample> arguments;
            for (int c : node.children) arguments.push_back(values[c]);
            value = call(node.name, arguments);
            break;
        }
        }
        values.push_back(value);
    }
    return values.back();
}

const std::vector<Sample>& Quantity::samples(Grid grid) const {
    std::vector<Sample>& out = samples_[int(grid)];
    if (out.empty())
        for (int point = 0; point < (letters_.empty() ? 1 : kPoints); point++)
            out.push_back(evaluate(point, grid));
    return out;
}

// Points finite on both sides, or -1 if they differ at one.
static int agreeing_points(const Quantity& a, const Quantity& b, int sign, Grid grid) {
    const std::vector<Sample>&x = a.samples(grid), &y = b.samples(grid);
    int agreeing = 0;
    for (size_t i = 0; i < x.size(); i++) {
        if (!x[i].finite() || !y[i].finite()) continue;
        const Complex other = (long double)(sign)*y[i].value;
        const long double apart = std::abs(x[i].value - other);
        const long double error = x[i].error + y[i].error;
        const long double relative = kTolerance * std::max(std::abs(x[i].value), std::abs(other));
        if (error > std::max(kZero, relative)) continue; // too imprecise to tell
        if (apart > std::max(error, relative)) return -1;
        agreeing++;
    }
    return agreeing;
}

bool same_quantity(const Quantity& a, const Quantity& b, int sign) {
    if (a.letters() != b.letters()) return false;
    if (a.exact() && b.exact())
        return same_value(*a.exact(), sign < 0 ? *negate(b.exact()) : *b.exact());
    if (a.rational() && b.rational() && a.letters().empty()) return false; // too large to tell
    if (a.letters().empty()) return agreeing_points(a, b, sign, Grid::complex) == 1;
    if (a.imaginary() || b.imaginary())
        return agreeing_points(a, b, sign, Grid::complex) >= kFewestPoints;
    const Grid grid = a.integral() || b.integral() ? Grid::integer : Grid::real;
    const int agreeing = agreeing_points(a, b, sign, grid);
    if (agreeing < 0 || agreeing >= kFewestPoints) return agreeing > 0;
    return agreeing_points(a, b, sign, Grid::complex) >= kFewestPoints;
}
