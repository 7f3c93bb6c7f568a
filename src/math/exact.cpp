#include <algorithm>
#include <charconv>

#include "math/evaluate.h"

namespace opo {
namespace {

constexpr std::int64_t kMaxBits = 50'000;

bool Fits(const Rational& value) { return value.bits() <= kMaxBits; }

class Exact {
 public:
  Exact(const MathSense& sense, MathWork& work) : sense_(sense), work_(work) {}

  bool Value(const MathNode& node, Rational& out) {
    if (!work_.Take(1)) return false;
    switch (node.op) {
      case MathOp::kNumber:
        return ParseDecimal(node.text, out) && Fits(out);
      case MathOp::kRepeating:
        return Repeating(node, out);
      case MathOp::kBased:
        return Based(node, out);
      case MathOp::kAdd: {
        Rational sum;
        Rational term;
        for (const MathNode* kid : node.kids) {
          if (!Value(*kid, term) || !Price(sum, term)) return false;
          fmpq_add(sum.get(), sum.get(), term.get());
        }
        out = std::move(sum);
        return Fits(out);
      }
      case MathOp::kMul: {
        Rational product(1);
        Rational factor;
        for (const MathNode* kid : node.kids) {
          if (!Value(*kid, factor) || !Price(product, factor)) return false;
          fmpq_mul(product.get(), product.get(), factor.get());
        }
        out = std::move(product);
        return Fits(out);
      }
      case MathOp::kNeg:
        if (!Value(*node.kids[0], out)) return false;
        fmpq_neg(out.get(), out.get());
        return true;
      case MathOp::kPlusMinus:
        if (!Value(*node.kids[0], out)) return false;
        if ((node.text == "+") != sense_.upper_sign) fmpq_neg(out.get(), out.get());
        return true;
      case MathOp::kInverse:
        if (!Value(*node.kids[0], out) || out.IsZero()) return false;
        fmpq_inv(out.get(), out.get());
        return true;
      case MathOp::kPercent:
        if (!Value(*node.kids[0], out)) return false;
        if (sense_.percent_divides) fmpq_div_fmpz(out.get(), out.get(), Rational(100).num());
        return true;
      case MathOp::kDegree:
        return !sense_.degree_is_radian && Value(*node.kids[0], out);
      case MathOp::kPower:
        return Power(node, out);
      case MathOp::kCall:
        return Function(node, out);
      default:
        return false;
    }
  }

 private:
  // The price of an operation on both, and the bound on its result.
  bool Price(const Rational& a, const Rational& b) {
    const std::int64_t bits = a.bits() + b.bits();
    return bits <= 2 * kMaxBits && work_.Take(1 + bits / 128 + bits * bits / 50'000'000);
  }

  static bool Repeating(const MathNode& node, Rational& out) {
    // d.ab\overline{cd} = d.ab + cd / (99 * 100)
    if (node.text2.size() > 500 || node.text.size() > 500) return false;
    std::string before = node.text;
    const std::size_t point = before.find('.');
    const std::size_t places = point == std::string::npos ? 0 : before.size() - point - 1;
    if (!before.empty() && before.back() == '.') before.pop_back();
    Rational head;
    Rational tail;
    if (!ParseDecimal(before, head) || !ParseDecimal(node.text2, tail)) return false;
    Rational scale(10);
    fmpz_pow_ui(scale.num(), scale.num(), node.text2.size());
    fmpz_sub_ui(scale.num(), scale.num(), 1);
    Rational shift(10);
    fmpz_pow_ui(shift.num(), shift.num(), places);
    fmpq_div(tail.get(), tail.get(), scale.get());
    fmpq_div(tail.get(), tail.get(), shift.get());
    fmpq_add(out.get(), head.get(), tail.get());
    return true;
  }

  static bool Based(const MathNode& node, Rational& out) {
    if (node.text2.size() > 2 || node.text.size() > 1000) return false;
    int base = 0;  // stays so where it is not written in digits
    const char* end = node.text2.data() + node.text2.size();
    if (std::from_chars(node.text2.data(), end, base).ptr != end) return false;
    if (base < 2 || base > 36) return false;
    if (base <= 10) {
      for (const char c : node.text) {
        if (c < '0' || c - '0' >= base) return false;
      }
    }
    fmpz_one(out.den());
    return fmpz_set_str(out.num(), node.text.c_str(), base) == 0;
  }

  bool Power(const MathNode& node, Rational& out) {
    Rational base;
    Rational exponent;
    if (!Value(*node.kids[0], base) || !Value(*node.kids[1], exponent)) return false;
    if (fmpz_bits(exponent.num()) > 31 || fmpz_bits(exponent.den()) > 6) return false;
    const slong root = fmpz_get_si(exponent.den());
    const slong n = fmpz_get_si(exponent.num());
    if (root > 1) {
      // Only perfect powers of positive numbers are rational.
      if (base.sign() <= 0 || !work_.Take(1 + base.bits() / 8)) return false;
      Rational taken;
      if (fmpz_root(taken.num(), base.num(), root) == 0) return false;
      if (fmpz_root(taken.den(), base.den(), root) == 0) return false;
      base = std::move(taken);
    }
    if (base.IsZero()) {
      if (n <= 0) return false;
      out = Rational(0);
      return true;
    }
    const std::int64_t bits = base.bits() <= 2 && fmpz_is_one(base.den()) && fmpz_is_pm1(base.num())
                                  ? 1
                                  : base.bits() * std::max<std::int64_t>(n < 0 ? -n : n, 1);
    if (bits > kMaxBits || !work_.Take(1 + bits / 64)) return false;
    if (bits == 1) {
      out = Rational(base.sign() > 0 || n % 2 == 0 ? 1 : -1);
      return true;
    }
    return fmpq_pow_fmpz(out.get(), base.get(), exponent.num()) != 0;
  }

  bool Function(const MathNode& node, Rational& out) {
    const std::string& name = node.text;
    if (node.kids.empty() || node.kids.size() > 8) return false;
    static constexpr std::string_view kKnown[] = {
        "abs", "floor", "ceil", "factorial", "binomial",   "gcd", "lcm",
        "max", "min",   "mod",  "sqrt",      "factorial2", "sgn", "cbrt"};
    if (std::find(std::begin(kKnown), std::end(kKnown), name) == std::end(kKnown)) return false;
    std::vector<Rational> args(node.kids.size());
    for (std::size_t i = 0; i < args.size(); ++i) {
      if (!Value(*node.kids[i], args[i])) return false;
      if (!work_.Take(1 + args[i].bits() / 16)) return false;
    }
    const Rational& x = args[0];
    if (args.size() == 1) {
      if (name == "abs") {
        fmpq_abs(out.get(), x.get());
        return true;
      }
      if (name == "sgn") {
        out = Rational(x.sign());
        return true;
      }
      if (name == "floor" || name == "ceil") {
        Rational whole;
        if (name == "floor") {
          fmpz_fdiv_q(whole.num(), x.num(), x.den());
        } else {
          fmpz_cdiv_q(whole.num(), x.num(), x.den());
        }
        out = std::move(whole);
        return true;
      }
      if (name == "sqrt" || name == "cbrt") {
        const slong index = name == "sqrt" ? 2 : 3;
        if (x.sign() < 0 && index == 2) return false;
        Rational root;
        if (fmpz_root(root.num(), x.num(), index) == 0) return false;
        if (fmpz_root(root.den(), x.den(), index) == 0) return false;
        out = std::move(root);
        return true;
      }
      if (name == "factorial" || name == "factorial2") {
        if (!x.IsInteger() || x.sign() < 0 || fmpz_cmp_si(x.num(), 4000) > 0) return false;
        const auto n = static_cast<ulong>(fmpz_get_si(x.num()));
        if (!work_.Take(1 + static_cast<std::int64_t>(n))) return false;
        Rational value(1);
        if (name == "factorial") {
          fmpz_fac_ui(value.num(), n);
        } else {
          for (ulong k = n; k > 1; k -= 2) fmpz_mul_ui(value.num(), value.num(), k);
        }
        out = std::move(value);
        return true;
      }
    }
    if (name == "max" || name == "min") {
      out = name == "max" ? *std::max_element(args.begin(), args.end())
                          : *std::min_element(args.begin(), args.end());
      return true;
    }
    if (args.size() != 2 || !x.IsInteger() || !args[1].IsInteger()) return false;
    const Rational& y = args[1];
    Rational value;
    if (name == "gcd") {
      fmpz_gcd(value.num(), x.num(), y.num());
    } else if (name == "lcm") {
      fmpz_lcm(value.num(), x.num(), y.num());
    } else if (name == "mod") {
      if (y.IsZero()) return false;
      fmpz_fdiv_r(value.num(), x.num(), y.num());
    } else if (name == "binomial") {
      if (x.sign() < 0 || fmpz_cmp_si(x.num(), 4000) > 0 || y.sign() < 0) return false;
      if (x < y) {
        out = Rational(0);
        return true;
      }
      const slong n = fmpz_get_si(x.num());
      if (!work_.Take(1 + n)) return false;
      fmpz_bin_uiui(value.num(), static_cast<ulong>(n), static_cast<ulong>(fmpz_get_si(y.num())));
    } else {
      return false;
    }
    out = std::move(value);
    return true;
  }

  const MathSense& sense_;
  MathWork& work_;
};

}  // namespace

bool ParseDecimal(std::string_view text, Rational& out) {
  if (text.empty() || text.size() > 5000) return false;
  std::string digits;
  std::int64_t exponent = 0;
  bool point = false;
  std::size_t i = 0;
  for (; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '.') {
      if (point) return false;
      point = true;
    } else if (c >= '0' && c <= '9') {
      digits += c;
      if (point) --exponent;
    } else {
      break;
    }
  }
  if (digits.empty()) return false;
  if (i < text.size()) {
    if (text[i] != 'e' && text[i] != 'E') return false;
    ++i;
    bool negative = false;
    if (i < text.size() && (text[i] == '+' || text[i] == '-')) negative = text[i++] == '-';
    std::int64_t value = 0;
    for (; i < text.size(); ++i) {
      if (text[i] < '0' || text[i] > '9') return false;
      value = std::min<std::int64_t>(value * 10 + (text[i] - '0'), 1'000'000);
    }
    exponent += negative ? -value : value;
  }
  if (exponent > 6000 || exponent < -12'000) return false;
  fmpz_one(out.den());
  if (fmpz_set_str(out.num(), digits.c_str(), 10) != 0) return false;
  if (exponent != 0) {
    Rational scale(10);
    fmpz_pow_ui(scale.num(), scale.num(), static_cast<ulong>(exponent < 0 ? -exponent : exponent));
    if (exponent > 0) {
      fmpq_mul(out.get(), out.get(), scale.get());
    } else {
      fmpq_div(out.get(), out.get(), scale.get());
    }
  }
  return true;
}

std::optional<Rational> ExactValue(const MathNode& node, const MathSense& sense, MathWork& work) {
  Rational value;
  if (!Exact(sense, work).Value(node, value)) return std::nullopt;
  return value;
}

}  // namespace opo
