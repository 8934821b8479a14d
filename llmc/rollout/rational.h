// Exact rational numbers of any length, for grading.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

// A non-negative integer: 32-bit limbs, the least significant first, no leading zeros (zero = no
// limb).
class Natural {
  public:
    Natural() = default;
    explicit Natural(uint64_t value);
    static Natural from_digits(const std::string& digits); // '0'..'9' only
    std::string digits() const;
    bool zero() const { return limbs_.empty(); }
    size_t limbs() const { return limbs_.size(); }
    long double mantissa(int* exponent) const; // value = mantissa * 2^exponent, top 96 bits
    std::optional<uint64_t> small() const;     // if below 2^64

    static int compare(const Natural& a, const Natural& b); // -1, 0, 1
    friend Natural operator+(const Natural& a, const Natural& b);
    friend Natural operator-(const Natural& a, const Natural& b); // a >= b
    friend Natural operator*(const Natural& a, const Natural& b);
    Natural divided_by(const Natural& divisor, Natural* rest) const; // rounded down, divisor > 0
    uint32_t divide_small(uint32_t divisor);                         // returns the remainder
    static Natural greatest_divisor(Natural a, Natural b);
    Natural root(int degree) const; // floor of the degree-th root

  private:
    void trim();
    void multiply_add(uint32_t factor, uint32_t addend);
    Natural shifted_left(int bits) const; // 0..31
    void shift_right(int bits);           // 0..31
    std::vector<uint32_t> limbs_;
};

// Larger values are refused: nothing below may be slow on hostile text.
constexpr size_t kLargestLimbs = 512; // about 4,900 digits

struct Rational {
    bool negative = false;
    Natural numerator, denominator = Natural(1);

    bool integer() const;      // after reduction the denominator is 1
    std::string text() const;  // reduced: "3/4", "-12", "0"
    long double value() const; // nearest but for the last bit
};
using MaybeRational = std::optional<Rational>;

Rational whole(uint64_t n);
bool same_value(const Rational& a, const Rational& b);
// The value as p / q with both below 2^31, if it is one.
std::optional<std::pair<int64_t, int64_t>> small_fraction(const Rational& r);

// Nothing where a side is nothing, a divisor is zero or the result is too large.
MaybeRational add(const MaybeRational& a, const MaybeRational& b);
MaybeRational multiply(const MaybeRational& a, const MaybeRational& b);
MaybeRational divide(const MaybeRational& a, const MaybeRational& b);
MaybeRational negate(MaybeRational a);
MaybeRational power(const MaybeRational& base, const MaybeRational& exponent); // integer exponents
MaybeRational factorial(const MaybeRational& n);
MaybeRational binomial(const MaybeRational& n, const MaybeRational& k);
MaybeRational root(const MaybeRational& value, const MaybeRational& degree); // exact ones only
