// Exact rationals and certified balls: owners of FLINT's and Arb's numbers.
#pragma once

#include <acb.h>
#include <flint/fmpq.h>
#include <flint/fmpz.h>

#include <cstdint>
#include <string_view>

namespace opo {

// What one judgement may still do, in units of about 50 ns; each operation takes its price before
// it runs, so that the verdict never depends on the machine.
class MathWork {
 public:
  static constexpr std::int64_t kBudget = 200'000;
  bool Take(std::int64_t units) {
    left_ -= units;
    return left_ >= 0;
  }
  bool spent() const { return left_ < 0; }

 private:
  std::int64_t left_ = kBudget;
};

class Rational {
 public:
  Rational() { fmpq_init(value_); }
  explicit Rational(long n) : Rational() { fmpq_set_si(value_, n, 1); }
  Rational(const Rational& other) : Rational() { fmpq_set(value_, other.value_); }
  Rational(Rational&& other) noexcept : Rational() { fmpq_swap(value_, other.value_); }
  Rational& operator=(Rational other) noexcept {
    fmpq_swap(value_, other.value_);
    return *this;
  }
  ~Rational() { fmpq_clear(value_); }

  fmpq* get() { return value_; }
  const fmpq* get() const { return value_; }
  fmpz* num() { return fmpq_numref(value_); }
  fmpz* den() { return fmpq_denref(value_); }
  const fmpz* num() const { return fmpq_numref(value_); }
  const fmpz* den() const { return fmpq_denref(value_); }
  std::int64_t bits() const {
    return static_cast<std::int64_t>(fmpz_bits(num()) + fmpz_bits(den()));
  }
  bool IsInteger() const { return fmpz_is_one(den()) != 0; }
  bool IsZero() const { return fmpq_is_zero(value_) != 0; }
  int sign() const { return fmpq_sgn(value_); }
  friend bool operator==(const Rational& a, const Rational& b) {
    return fmpq_equal(a.value_, b.value_) != 0;
  }
  friend bool operator<(const Rational& a, const Rational& b) {
    return fmpq_cmp(a.value_, b.value_) < 0;
  }

 private:
  fmpq_t value_;
};

// Digits with an optional point and exponent, as the lexer lets them pass. False beyond the bounds.
bool ParseDecimal(std::string_view text, Rational& out);

class Ball {
 public:
  Ball() { acb_init(value_); }
  Ball(const Ball& other) : Ball() { acb_set(value_, other.value_); }
  Ball(Ball&& other) noexcept : Ball() { acb_swap(value_, other.value_); }
  Ball& operator=(Ball other) noexcept {
    acb_swap(value_, other.value_);
    return *this;
  }
  ~Ball() { acb_clear(value_); }
  acb_ptr get() { return value_; }
  acb_srcptr get() const { return value_; }
  arb_ptr re() { return acb_realref(value_); }
  arb_srcptr re() const { return acb_realref(value_); }
  bool IsReal() const { return arb_is_zero(acb_imagref(value_)) != 0; }
  bool IsFinite() const { return acb_is_finite(value_) != 0; }

 private:
  acb_t value_;
};

}  // namespace opo
