// What an expression is worth: a rational number exactly, anything else numerically.
#pragma once
#include "llmc/rollout/expression.h"

#include <complex>

// A number of 64 bits of mantissa and a bound of its rounding error; not finite = no value.
struct Sample {
    std::complex<long double> value;
    long double error;
    bool finite() const;
};

// Where letters take their values from: positive and negative numbers; integers, for the letters
// that usually are integers (k, n, ...) at every point, for the others at every second; and numbers
// again, with roots and logarithms of negative numbers complex instead of undefined.
enum class Grid { real, integer, complex };
constexpr int kGrids = 3, kPoints = 10;

class Quantity {
  public:
    explicit Quantity(Expression expression);

    const MaybeRational& exact() const { return exact_.back(); }
    // A quotient of integers, even if it is too large for exact().
    bool rational() const { return rational_; }
    const std::vector<std::string>& letters() const { return letters_; } // sorted, each once
    // One sample if there are no letters (on Grid::complex), else kPoints.
    const std::vector<Sample>& samples(Grid grid) const;
    bool integral() const { return integral_; } // floor, factorial, (-1)^n: wants Grid::integer
    bool imaginary() const { return imaginary_; }

  private:
    Sample evaluate(int point, Grid grid) const;
    void value_exactly();

    Expression expression_;
    std::vector<MaybeRational> exact_; // per node
    std::vector<std::string> letters_;
    bool rational_ = false, integral_ = false, imaginary_ = false;
    mutable std::vector<Sample> samples_[kGrids];
};

// Rationals exactly, the rest to 1e-10 relative at every point where both sides are finite; the
// same letters on both sides. `sign` is 1, or -1 to compare a with -b.
bool same_quantity(const Quantity& a, const Quantity& b, int sign);
