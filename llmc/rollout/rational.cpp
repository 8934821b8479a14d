// Contract: rational.h.
#include "llmc/rollout/rational.h"

#include <algorithm>
#include <cmath>

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
    for (size_t at = 0; at < digits.size();) { // nine at a time
        uint32_t factor = 1, addend = 0;
        for (; at < digits.size() && factor < 1000000000u; at++) {
            factor *= 10;
            addend = addend * 10 + uint32_t(digits[at] - '0');
        }
        out.multiply_add(factor, addend);
    }
    out.trim();
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

Natural Natural::shifted_left(int bits) const {
    Natural out;
    out.limbs_.assign(limbs_.size() + 1, 0);
    for (size_t i = 0; i < limbs_.size(); i++) {
        const uint64_t limb = uint64_t(limbs_[i]) << bits;
        out.limbs_[i] |= uint32_t(limb);
        out.limbs_[i + 1] = uint32_t(limb >> 32);
    }
    out.trim();
    return out;
}

void Natural::shift_right(int bits) {
    for (size_t i = 0; i < limbs_.size(); i++) {
        const uint64_t above = i + 1 < limbs_.size() ? limbs_[i + 1] : 0;
        limbs_[i] = uint32_t((above << 32 | limbs_[i]) >> bits);
    }
    trim();
}

// Long division by limbs: Knuth, The Art of Computer Programming 2, 4.3.1, algorithm D.
Natural Natural::divided_by(const Natural& divisor, Natural* rest) const {
    const size_t n = divisor.limbs_.size();
    Natural quotient;
    if (n == 1) {
        quotient = *this;
        *rest = Natural(quotient.divide_small(divisor.limbs_[0]));
        return quotient;
    }
    if (compare(*this, divisor) < 0) {
        *rest = *this;
        return quotient;
    }
    const int shift = __builtin_clz(divisor.limbs_.back()); // so that the top bit is set
    const std::vector<uint32_t> d = divisor.shifted_left(shift).limbs_;
    std::vector<uint32_t> u = shifted_left(shift).limbs_;
    u.resize(limbs_.size() + 1, 0);
    quotient.limbs_.assign(u.size() - n, 0);
    for (size_t j = u.size() - n; j-- > 0;) {
        const uint64_t top = uint64_t(u[j + n]) << 32 | u[j + n - 1];
        uint64_t guess = top / d[n - 1], left = top % d[n - 1];
        while (guess >> 32 || guess * d[n - 2] > (left << 32 | u[j + n - 2])) {
            guess--;
            left += d[n - 1];
            if (left >> 32) break;
        }
        uint64_t carry = 0;
        int64_t borrow = 0;
        for (size_t i = 0; i < n; i++) {
            carry += guess * d[i];
            const int64_t limb = int64_t(u[i + j]) - borrow - int64_t(carry & 0xffffffffu);
            u[i + j] = uint32_t(limb);
            borrow = limb < 0;
            carry >>= 32;
        }
        const int64_t limb = int64_t(u[j + n]) - borrow - int64_t(carry);
        u[j + n] = uint32_t(limb);
        if (limb < 0) { // the guess was one too large
            guess--;
            uint64_t sum = 0;
            for (size_t i = 0; i < n; i++) {
                sum += uint64_t(u[i + j]) + d[i];
                u[i + j] = uint32_t(sum);
                sum >>= 32;
            }
            u[j + n] += uint32_t(sum);
        }
        quotient.limbs_[j] = uint32_t(guess);
    }
    quotient.trim();
    rest->limbs_ = std::move(u);
    rest->trim();
    rest->shift_right(shift);
    return quotient;
}

Natural Natural::greatest_divisor(Natural a, Natural b) {
    while (!b.zero()) {
        Natural rest;
        a.divided_by(b, &rest);
        a = std::move(b);
        b = std::move(rest);
    }
    return a;
}

long double Natural::mantissa(int* exponent) const {
    long double out = 0;
    const size_t count = std::min<size_t>(limbs_.size(), 3);
    for (size_t i = 0; i < count; i++) out = out * 4294967296.0L + limbs_[limbs_.size() - 1 - i];
    *exponent = int(32 * (limbs_.size() - count));
    return out;
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
    Natural rest;
    return {r.negative, r.numerator.divided_by(d, &rest), r.denominator.divided_by(d, &rest)};
}

// The value if it is an integer in [0, largest].
std::optional<uint64_t> small_integer(const MaybeRational& value, uint64_t largest) {
    if (!value || value->negative) return std::nullopt;
    Natural rest;
    const std::optional<uint64_t> n =
        value->numerator.divided_by(value->denominator, &rest).small();
    return n && *n <= largest && rest.zero() ? n : std::nullopt;
}

constexpr uint64_t kLargestFactorial = 1500, kLargestExponent = 1u << 14;

} // namespace

bool Rational::integer() const {
    Natural rest;
    numerator.divided_by(denominator, &rest);
    return rest.zero();
}

std::string Rational::text() const {
    const Rational r = reduced(*this);
    const std::string d = r.denominator.digits();
    return (r.negative ? "-" : "") + r.numerator.digits() + (d == "1" ? "" : "/" + d);
}

long double Rational::value() const {
    int up, down;
    const long double top = numerator.mantissa(&up), bottom = denominator.mantissa(&down);
    return std::ldexp(negative ? -top / bottom : top / bottom, up - down);
}

Rational whole(uint64_t n) { return {false, Natural(n), Natural(1)}; }

bool same_value(const Rational& a, const Rational& b) {
    return a.negative == b.negative &&
           Natural::compare(a.numerator * b.denominator, b.numerator * a.denominator) == 0;
}

std::optional<std::pair<int64_t, int64_t>> small_fraction(const Rational& r) {
    if (r.numerator.limbs() > 8 || r.denominator.limbs() > 8) return std::nullopt;
    const Rational low = reduced(r);
    const std::optional<uint64_t> p = low.numerator.small(), q = low.denominator.small();
    if (!p || !q || *p >> 31 || *q >> 31) return std::nullopt;
    return std::pair(low.negative ? -int64_t(*p) : int64_t(*p), int64_t(*q));
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
    const std::optional<uint64_t> n = small_integer(magnitude, kLargestExponent);
    if (!n || (base->numerator.zero() && (*n == 0 || exponent->negative))) return std::nullopt;
    MaybeRational out = whole(1);
    for (uint64_t bit = kLargestExponent; bit > 0 && out; bit >>= 1) {
        out = multiply(out, out);
        if (*n & bit) out = multiply(out, base);
    }
    return exponent->negative ? divide(whole(1), out) : out;
}

MaybeRational factorial(const MaybeRational& value) {
    const std::optional<uint64_t> n = small_integer(value, kLargestFactorial);
    if (!n) return std::nullopt;
    Natural out(1);
    for (uint64_t i = 2; i <= *n; i++) out = out * Natural(i);
    return bounded(false, out, Natural(1));
}

MaybeRational binomial(const MaybeRational& n, const MaybeRational& k) {
    const std::optional<uint64_t> top = small_integer(n, 0xffffffffu),
                                  bottom = small_integer(k, 0xffffffffu);
    if (!top || !bottom) return std::nullopt;
    if (*bottom > *top) return Rational{};
    const uint64_t factors = std::min(*bottom, *top - *bottom);
    Natural out(1);
    for (uint64_t i = 0; i < factors; i++) {
        if (out.limbs() > kLargestLimbs) return std::nullopt;
        out = out * Natural(*top - i);
        out.divide_small(uint32_t(i + 1)); // C(top, i + 1): no remainder
    }
    return bounded(false, out, Natural(1));
}

MaybeRational root(const MaybeRational& value, const MaybeRational& degree) {
    const std::optional<uint64_t> n = small_integer(degree, 16);
    if (!value || !n || *n < 2 || value->negative) return std::nullopt;
    const Rational r = reduced(*value);
    if (r.numerator.limbs() > 16 || r.denominator.limbs() > 16) return std::nullopt;
    const Natural top = r.numerator.root(int(*n)), bottom = r.denominator.root(int(*n));
    const MaybeRational out = bounded(false, top, bottom);
    const MaybeRational raised = power(out, whole(*n));
    if (!raised || Natural::compare(raised->numerator, r.numerator) != 0 ||
        Natural::compare(raised->denominator, r.denominator) != 0)
        return std::nullopt;
    return out;
}
