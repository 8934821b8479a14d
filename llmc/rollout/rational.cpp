// Contract: rational.h.
#include "llmc/rollout/rational.h"

#include <algorithm>

// ------------------------------------------------------------------------------------------------
// natural numbers

Natural::Natural(uint64_t value) : limbs_{uint32_t(value), uint32_t(value >> 32)} { trim(); }

void Natural::trim() {
    while (!limbs_.empty() && limbs_.back() == 0) limbs_.pop_back();
}

void Natural::multiply_add(uint32_t factor, uint32_t addend) {
    uint64_t carry = addend;
    for (uint32_t& limb : limbs_) {
        carry += uint64_t(limb) * factor;
        limb = uint32_t(carry);
        carry >>= 32;
    }
    if (carry) limbs_.push_back(uint32_t(carry));
}

uint32_t Natural::divide_small(uint32_t divisor) {
    uint64_t rest = 0;
    for (size_t i = limbs_.size(); i-- > 0;) {
        rest = rest << 32 | limbs_[i];
        limbs_[i] = uint32_t(rest / divisor);
        rest %= divisor;
    }
    trim();
    return uint32_t(rest);
}

Natural Natural::from_digits(const std::string& digits) {
    Natural out;
    for (char digit : digits) out.multiply_add(10, uint32_t(digit - '0'));
    return out;
}

std::string Natural::digits() const {
    if (zero()) return "0";
    std::string out;
    for (Natural rest = *this; !rest.zero();) out += char('0' + rest.divide_small(10));
    std::reverse(out.begin(), out.end());
    return out;
}

std::optional<uint64_t> Natural::small() const {
    if (limbs_.size() > 2) return std::nullopt;
    uint64_t value = 0;
    for (size_t i = limbs_.size(); i-- > 0;) value = value << 32 | limbs_[i];
    return value;
}

int Natural::compare(const Natural& a, const Natural& b) {
    if (a.limbs_.size() != b.limbs_.size()) return a.limbs_.size() < b.limbs_.size() ? -1 : 1;
    for (size_t i = a.limbs_.size(); i-- > 0;)
        if (a.limbs_[i] != b.limbs_[i]) return a.limbs_[i] < b.limbs_[i] ? -1 : 1;
    return 0;
}

Natural operator+(const Natural& a, const Natural& b) {
    Natural out;
    uint64_t carry = 0;
    for (size_t i = 0; i < std::max(a.limbs_.size(), b.limbs_.size()) || carry; i++) {
        if (i < a.limbs_.size()) carry += a.limbs_[i];
        if (i < b.limbs_.size()) carry += b.limbs_[i];
        out.limbs_.push_back(uint32_t(carry));
        carry >>= 32;
    }
    return out;
}

Natural operator-(const Natural& a, const Natural& b) {
    Natural out = a;
    int64_t borrow = 0;
    for (size_t i = 0; i < out.limbs_.size(); i++) {
        int64_t limb = int64_t(out.limbs_[i]) - borrow;
        if (i < b.limbs_.size()) limb -= b.limbs_[i];
        borrow = limb < 0;
        out.limbs_[i] = uint32_t(limb);
    }
    out.trim();
    return out;
}

Natural operator*(const Natural& a, const Natural& b) {
    Natural out;
    out.limbs_.assign(a.limbs_.size() + b.limbs_.size(), 0);
    for (size_t i = 0; i < a.limbs_.size(); i++) {
        uint64_t carry = 0;
        for (size_t j = 0; j < b.limbs_.size(); j++) {
            carry += uint64_t(a.limbs_[i]) * b.limbs_[j] + out.limbs_[i + j];
            out.limbs_[i + j] = uint32_t(carry);
            carry >>= 32;
        }
        out.limbs_[i + b.limbs_.size()] = uint32_t(carry);
    }
    out.trim();
    return out;
}

void Natural::shift_left_one(bool bit) {
    uint32_t carry = bit;
    for (uint32_t& limb : limbs_) {
        const uint32_t out = limb >> 31;
        limb = limb << 1 | carry;
        carry = out;
    }
    if (carry) limbs_.push_back(carry);
}

void Natural::shift_right_one() {
    for (size_t i = 0; i < limbs_.size(); i++) {
        const uint32_t above = i + 1 < limbs_.size() ? limbs_[i + 1] << 31 : 0;
        limbs_[i] = limbs_[i] >> 1 | above;
    }
    trim();
}

// One bit at a time: sizes are bounded by kLargestLimbs.
Natural Natural::divided_by(const Natural& divisor) const {
    Natural rest, quotient;
    quotient.limbs_.assign(limbs_.size(), 0);
    for (size_t bit = limbs_.size() * 32; bit-- > 0;) {
        rest.shift_left_one(limbs_[bit / 32] >> (bit % 32) & 1);
        if (compare(rest, divisor) >= 0) {
            rest = rest - divisor;
            quotient.limbs_[bit / 32] |= 1u << (bit % 32);
        }
    }
    quotient.trim();
    return quotient;
}

// Binary: halve what is even, subtract the smaller odd number from the larger.
Natural Natural::greatest_divisor(Natural a, Natural b) {
    if (a.zero()) return b;
    if (b.zero()) return a;
    int twos = 0;
    auto even = [](const Natural& n) { return (n.limbs_[0] & 1) == 0; };
    for (; even(a) && even(b); twos++) {
        a.shift_right_one();
        b.shift_right_one();
    }
    while (!a.zero()) {
        while (even(a)) a.shift_right_one();
        while (even(b)) b.shift_right_one();
        if (compare(a, b) < 0) std::swap(a, b);
        a = a - b;
    }
    for (; twos > 0; twos--) b.shift_left_one(false);
    return b;
}

// The root's bits, from the top, kept where the power does not exceed the number.
Natural Natural::root(int degree) const {
    Natural out;
    const size_t bits = limbs_.size() * 32 / size_t(degree) + 1;
    for (size_t bit = bits; bit-- > 0;) {
        Natural trial = out;
        if (trial.limbs_.size() < bit / 32 + 1) trial.limbs_.resize(bit / 32 + 1, 0);
        trial.limbs_[bit / 32] |= 1u << (bit % 32);
        Natural raised(1);
        for (int i = 0; i < degree && raised.limbs_.size() <= limbs_.size(); i++)
            raised = raised * trial;
        if (compare(raised, *this) <= 0) out = trial;
    }
    return out;
}

// ------------------------------------------------------------------------------------------------
// rationals

namespace {

MaybeRational bounded(bool negative, Natural numerator, Natural denominator) {
    if (denominator.zero() || numerator.limbs() > kLargestLimbs ||
        denominator.limbs() > kLargestLimbs)
        return std::nullopt;
    return Rational{negative && !numerator.zero(), std::move(numerator), std::move(denominator)};
}

Rational reduced(const Rational& r) {
    if (Natural::compare(r.denominator, Natural(1)) == 0) return r;
    const Natural d = Natural::greatest_divisor(r.numerator, r.denominator);
    return {r.negative, r.numerator.divided_by(d), r.denominator.divided_by(d)};
}

// The value if it is an integer in [0, largest].
std::optional<uint64_t> small_integer(const MaybeRational& value, uint64_t largest) {
    if (!value || value->negative || !value->integer()) return std::nullopt;
    const std::optional<uint64_t> n = reduced(*value).numerator.small();
    return n && *n <= largest ? n : std::nullopt;
}

constexpr uint64_t kLargestFactorial = 800;

} // namespace

bool Rational::integer() const {
    return Natural::compare(reduced(*this).denominator, Natural(1)) == 0;
}

std::string Rational::text() const {
    const Rational r = reduced(*this);
    const std::string d = r.denominator.digits();
    return (r.negative ? "-" : "") + r.numerator.digits() + (d == "1" ? "" : "/" + d);
}

MaybeRational negate(MaybeRational a) {
    if (a && !a->numerator.zero()) a->negative = !a->negative;
    return a;
}

MaybeRational add(const MaybeRational& a, const MaybeRational& b) {
    if (!a || !b) return std::nullopt;
    const Natural left = a->numerator * b->denominator, right = b->numerator * a->denominator;
    const Natural denominator = a->denominator * b->denominator;
    if (a->negative == b->negative) return bounded(a->negative, left + right, denominator);
    if (Natural::compare(left, right) >= 0) return bounded(a->negative, left - right, denominator);
    return bounded(b->negative, right - left, denominator);
}

MaybeRational multiply(const MaybeRational& a, const MaybeRational& b) {
    if (!a || !b) return std::nullopt;
    return bounded(a->negative != b->negative, a->numerator * b->numerator,
                   a->denominator * b->denominator);
}

MaybeRational divide(const MaybeRational& a, const MaybeRational& b) {
    if (!a || !b) return std::nullopt;
    return bounded(a->negative != b->negative, a->numerator * b->denominator,
                   a->denominator * b->numerator);
}

MaybeRational power(const MaybeRational& base, const MaybeRational& exponent) {
    if (!base || !exponent) return std::nullopt;
    Rational magnitude = *exponent;
    magnitude.negative = false;
    const std::optional<uint64_t> n = small_integer(magnitude, 1u << 13);
    if (!n || (base->numerator.zero() && (*n == 0 || exponent->negative))) return std::nullopt;
    MaybeRational out = Rational{false, Natural(1), Natural(1)};
    for (uint64_t bit = 1u << 13; bit > 0 && out; bit >>= 1) {
        out = multiply(out, out);
        if (*n & bit) out = multiply(out, base);
    }
    return exponent->negative ? divide(Rational{false, Natural(1), Natural(1)}, out) : out;
}

MaybeRational factorial(const MaybeRational& value) {
    const std::optional<uint64_t> n = small_integer(value, kLargestFactorial);
    if (!n) return std::nullopt;
    Natural out(1);
    for (uint64_t i = 2; i <= *n; i++) out = out * Natural(i);
    return bounded(false, out, Natural(1));
}

MaybeRational binomial(const MaybeRational& n, const MaybeRational& k) {
    const std::optional<uint64_t> top = small_integer(n, kLargestFactorial),
                                  bottom = small_integer(k, kLargestFactorial);
    if (!top || !bottom) return std::nullopt;
    if (*bottom > *top) return Rational{};
    return divide(factorial(n), multiply(factorial(k), factorial(add(n, negate(k)))));
}

MaybeRational root(const MaybeRational& value, const MaybeRational& degree) {
    const std::optional<uint64_t> n = small_integer(degree, 16);
    if (!value || !n || *n < 2 || value->negative) return std::nullopt;
    const Rational r = reduced(*value);
    if (r.numerator.limbs() > 16 || r.denominator.limbs() > 16) return std::nullopt;
    const Natural top = r.numerator.root(int(*n)), bottom = r.denominator.root(int(*n));
    const MaybeRational out = bounded(false, top, bottom);
    const MaybeRational raised = power(out, Rational{false, Natural(*n), Natural(1)});
    if (!raised || Natural::compare(raised->numerator, r.numerator) != 0 ||
        Natural::compare(raised->denominator, r.denominator) != 0)
        return std::nullopt;
    return out;
}
