#include "math/evaluate.h"

#include <acb_hypgeom.h>

#include <algorithm>
#include <string>

namespace opo {
namespace {

std::uint64_t Mix(std::uint64_t x) {
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdULL;
  x ^= x >> 33;
  x *= 0xc4ceb9fe1a85ec53ULL;
  return x ^ (x >> 33);
}

std::uint64_t HashText(std::string_view text, std::uint64_t seed = 0xcbf29ce484222325ULL) {
  for (const char c : text) seed = (seed ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return seed;
}

// A dyadic in (low, low + width), exact.
void SetDyadic(arb_t out, std::uint64_t hash, slong low, slong width, slong precision) {
  arb_set_ui(out, Mix(hash) >> 34 | 1);
  arb_mul_2exp_si(out, out, -30);
  arb_mul_si(out, out, width, precision);
  arb_add_si(out, out, low, precision);
}

constexpr slong kMaxMagnitude = 4000;  // bits of the largest value that is still computed with

class Evaluator {
 public:
  Evaluator(MathPoint& point, MathWork& work) : point_(point), work_(work) {}

  bool Value(const MathNode& node, Ball& out) {
    if (!work_.Take(2)) return false;
    if (!Compute(node, out)) return false;
    return out.IsFinite();
  }

 private:
  slong precision() const { return point_.precision; }

  bool Compute(const MathNode& node, Ball& out) {
    switch (node.op) {
      case MathOp::kNumber:
      case MathOp::kRepeating:
      case MathOp::kBased: {
        const std::optional<Rational> exact = ExactValue(node, point_.sense, work_);
        if (!exact) return false;
        acb_set_fmpq(out.get(), exact->get(), precision());
        return true;
      }
      case MathOp::kSymbol:
        return Symbol(node.text, out);
      case MathOp::kAdd: {
        Ball sum;
        Ball term;
        for (const MathNode* kid : node.kids) {
          if (!Value(*kid, term)) return false;
          acb_add(sum.get(), sum.get(), term.get(), precision());
        }
        out = std::move(sum);
        return true;
      }
      case MathOp::kMul: {
        Ball product;
        acb_one(product.get());
        Ball factor;
        for (const MathNode* kid : node.kids) {
          if (!Value(*kid, factor)) return false;
          acb_mul(product.get(), product.get(), factor.get(), precision());
        }
        out = std::move(product);
        return true;
      }
      case MathOp::kNeg:
        if (!Value(*node.kids[0], out)) return false;
        acb_neg(out.get(), out.get());
        return true;
      case MathOp::kPlusMinus:
        if (!Value(*node.kids[0], out)) return false;
        if ((node.text == "+") != point_.sense.upper_sign) acb_neg(out.get(), out.get());
        return true;
      case MathOp::kInverse:
        if (!Value(*node.kids[0], out)) return false;
        if (acb_contains_zero(out.get())) return false;
        acb_inv(out.get(), out.get(), precision());
        return true;
      case MathOp::kPercent:
        if (!Value(*node.kids[0], out)) return false;
        if (point_.sense.percent_divides) acb_div_ui(out.get(), out.get(), 100, precision());
        return true;
      case MathOp::kDegree: {
        if (!Value(*node.kids[0], out)) return false;
        if (point_.in_angle || point_.sense.degree_is_radian) {
          Ball pi;
          acb_const_pi(pi.get(), precision());
          acb_mul(out.get(), out.get(), pi.get(), precision());
          acb_div_ui(out.get(), out.get(), 180, precision());
        }
        return true;
      }
      case MathOp::kInfinity:
        return Opaque("infinity", {}, out);
      case MathOp::kPower:
        return Power(node, out);
      case MathOp::kCall:
        return Function(node, out);
      case MathOp::kMatrix:
        return node.text == "vmatrix" && Determinant(node, out);
      default:
        return false;
    }
  }

  bool Symbol(const std::string& name, Ball& out) {
    if (point_.symbol_value != nullptr && name == point_.symbol) {
      out = *point_.symbol_value;
      return true;
    }
    for (const Bound& bound : bound_) {
      if (bound.name == name) {
        out = bound.value;
        return true;
      }
    }
    if (name == "pi") {
      work_.Take(4);
      acb_const_pi(out.get(), precision());
      return true;
    }
    if (name == "e") {
      work_.Take(4);
      arb_const_e(out.re(), precision());
      arb_zero(acb_imagref(out.get()));
      return true;
    }
    if (name == "i") {
      acb_onei(out.get());
      return true;
    }
    const std::uint64_t hash = HashText(name);
    arb_zero(acb_imagref(out.get()));
    switch (point_.index) {
      case 0:
        SetDyadic(out.re(), hash, 0, 1, precision());
        return true;
      case 1:
        SetDyadic(out.re(), hash + 1, 1, 3, precision());
        return true;
      case 2:
        SetDyadic(out.re(), hash + 2, -4, 3, precision());
        return true;
      default:
        SetDyadic(out.re(), hash + 3, 1, 7, precision());
        if (Mix(hash) & 1) arb_neg(out.re(), out.re());
        return true;
    }
  }

  // Below 2^bits in absolute value.
  static bool Below(const Ball& value, slong bits) {
    return acb_is_finite(value.get()) != 0 &&
           arf_cmpabs_2exp_si(arb_midref(acb_realref(value.get())), bits) < 0 &&
           arf_cmpabs_2exp_si(arb_midref(acb_imagref(value.get())), bits) < 0;
  }

  bool Power(const MathNode& node, Ball& out) {
    Ball base;
    Ball exponent;
    if (!Value(*node.kids[0], base)) return false;
    const bool in_angle = point_.in_angle;
    point_.in_angle = false;
    const bool ok = Value(*node.kids[1], exponent);
    point_.in_angle = in_angle;
    if (!ok || !work_.Take(20)) return false;
    if (acb_contains_zero(base.get())) {
      if (!acb_is_zero(base.get()) || !arb_is_positive(exponent.re())) return false;
      acb_zero(out.get());
      return true;
    }
    // |exponent| * log2 |base| bounds the size of the result.
    if (!Below(base, kMaxMagnitude) || !Below(exponent, 40))
      return Opaque("power", {base, exponent}, out);
    arf_t size;
    arf_init(size);
    acb_get_abs_ubound_arf(size, exponent.get(), 30);
    Ball log_base;
    acb_log(log_base.get(), base.get(), 64);
    arf_t log_size;
    arf_init(log_size);
    acb_get_abs_ubound_arf(log_size, log_base.get(), 30);
    arf_mul(size, size, log_size, 30, ARF_RND_UP);
    const bool small = arf_cmp_si(size, kMaxMagnitude) < 0;
    arf_clear(size);
    arf_clear(log_size);
    if (!small) return Opaque("power", {base, exponent}, out);
    if (exponent.IsReal() && arb_is_int(exponent.re()) && Below(exponent, 14)) {
      fmpz_t n;
      fmpz_init(n);
      arb_get_unique_fmpz(n, exponent.re());
      acb_pow_fmpz(out.get(), base.get(), n, precision());
      fmpz_clear(n);
      return true;
    }
    if (base.IsReal() && exponent.IsReal() && !arb_is_positive(base.re())) {
      point_.left_reals = true;
    }
    acb_pow(out.get(), base.get(), exponent.get(), precision());
    return true;
  }

  // A function that is only a name: a value that its name and arguments determine.
  bool Opaque(std::string_view name, const std::vector<Ball>& args, Ball& out) {
    if (!args.empty()) point_.has_opaque = true;
    std::uint64_t hash = HashText(name) + 7;
    for (const Ball& arg : args) {
      if (!Digest(acb_realref(arg.get()), hash) || !Digest(acb_imagref(arg.get()), hash)) {
        return false;
      }
    }
    SetDyadic(out.re(), hash, 0, 2, precision());
    arb_zero(acb_imagref(out.get()));
    return true;
  }

  // The first 100 bits of a precise value, into the hash.
  bool Digest(const arb_t value, std::uint64_t& hash) {
    if (point_.precision < 200) return true;  // a first, rough pass: not used for claims
    if (!work_.Take(10) || !arb_is_finite(value)) return false;
    arf_t mid;
    arf_init(mid);
    const slong top = std::max<slong>(0, arf_abs_bound_lt_2exp_si(arb_midref(value)));
    bool ok = mag_cmp_2exp_si(arb_radref(value), top - 110) < 0 && top < 100'000;
    if (ok) {
      // Rounded to a multiple of 2^(top-100).
      arf_mul_2exp_si(mid, arb_midref(value), 100 - top);
      fmpz_t digits;
      fmpz_init(digits);
      arf_get_fmpz(digits, mid, ARF_RND_NEAR);
      ok = fmpz_bits(digits) <= 128;
      if (ok) {
        char buffer[64];
        fmpz_get_str(buffer, 36, digits);
        hash = HashText(buffer, hash * 31 + static_cast<std::uint64_t>(top));
      }
      fmpz_clear(digits);
    }
    arf_clear(mid);
    return ok;
  }

  bool Function(const MathNode& node, Ball& out);
  bool Elementary(const std::string& name, const Ball& x, Ball& out);
  bool RoundedDown(const std::string& name, const Ball& x, Ball& out);
  bool BigOperator(const MathNode& node, Ball& out);
  bool Determinant(const MathNode& node, Ball& out);

  struct Bound {
    std::string name;
    Ball value;
  };
  MathPoint& point_;
  MathWork& work_;
  std::vector<Bound> bound_;
};

bool Evaluator::Function(const MathNode& node, Ball& out) {
  const std::string& name = node.text;
  if (name == "sum" || name == "prod" || name == "int" || name == "lim") {
    return BigOperator(node, out);
  }
  if (name == "det" && node.kids[0]->op == MathOp::kMatrix) return Determinant(*node.kids[0], out);
  if (name == "abs" && point_.abs_value != nullptr && node.kids[0]->op == MathOp::kSymbol &&
      node.kids[0]->text == point_.symbol) {
    out = *point_.abs_value;
    return true;
  }
  static constexpr std::string_view kAngles[] = {"sin", "cos", "tan", "cot", "sec", "csc"};
  const bool in_angle = point_.in_angle;
  if (std::find(std::begin(kAngles), std::end(kAngles), name) != std::end(kAngles)) {
    point_.in_angle = true;
  }
  std::vector<Ball> args(node.kids.size());
  bool ok = args.size() <= 50;
  for (std::size_t i = 0; ok && i < args.size(); ++i) ok = Value(*node.kids[i], args[i]);
  point_.in_angle = in_angle;
  if (!ok) return false;
  if (args.size() == 1 && name[0] != '_' && name.substr(0, 2) != "f:") {
    if (Elementary(name, args[0], out)) return true;
    if (work_.spent()) return false;
    if (name != "prime" && name != "overline" && name != "det" && name != "re" && name != "im" &&
        name != "arg" && name != "deg" && name != "factorial" && name != "factorial2" &&
        name != "exp" && name != "gamma") {
      return false;
    }
  }
  if (args.size() == 2 && name == "binomial") {
    // n! / (k! (n-k)!)
    Ball a;
    Ball b;
    Ball c;
    Ball difference;
    acb_sub(difference.get(), args[0].get(), args[1].get(), precision());
    if (Elementary("factorial", args[0], a) && Elementary("factorial", args[1], b) &&
        Elementary("factorial", difference, c)) {
      acb_mul(b.get(), b.get(), c.get(), precision());
      acb_div(out.get(), a.get(), b.get(), precision());
      return true;
    }
  }
  if ((name == "max" || name == "min") && args.size() >= 2) {
    out = args[0];
    for (const Ball& arg : args) {
      if (!arg.IsReal() || !out.IsReal()) return false;
      if (name == "max") {
        arb_max(out.re(), out.re(), arg.re(), precision());
      } else {
        arb_min(out.re(), out.re(), arg.re(), precision());
      }
    }
    return true;
  }
  return Opaque(name, args, out);
}

bool Evaluator::RoundedDown(const std::string& name, const Ball& x, Ball& out) {
  if (!x.IsReal() || !Below(x, 200)) return false;
  Ball whole;
  if (name == "floor") {
    arb_floor(whole.re(), x.re(), precision());
  } else {
    arb_ceil(whole.re(), x.re(), precision());
  }
  if (!arb_is_exact(whole.re())) return false;
  out = std::move(whole);
  return true;
}

bool Evaluator::Elementary(const std::string& name, const Ball& x, Ball& out) {
  if (!work_.Take(20)) return false;
  const slong p = precision();
  const bool real = x.IsReal();
  acb_ptr y = out.get();
  acb_srcptr a = x.get();
  const auto bounded = [&](slong bits) { return Below(x, bits); };
  const auto one_minus_square_negative = [&] {
    return real && (arf_cmpabs_2exp_si(arb_midref(x.re()), 0) > 0);
  };
  const auto inverse_of = [&] {
    if (!acb_is_finite(y) || acb_contains_zero(y)) return false;
    acb_inv(y, y, p);
    return true;
  };
  if (name == "sqrt") {
    if (real && !arb_is_nonnegative(x.re())) point_.left_reals = true;
    acb_sqrt(y, a, p);
    return true;
  }
  if (name == "cbrt") {
    if (real && arb_is_negative(x.re())) {
      arb_neg(acb_realref(y), x.re());
      arb_root_ui(acb_realref(y), acb_realref(y), 3, p);
      arb_neg(acb_realref(y), acb_realref(y));
      arb_zero(acb_imagref(y));
      return true;
    }
    acb_root_ui(y, a, 3, p);
    return true;
  }
  if (name == "abs") {
    arb_t size;
    arb_init(size);
    acb_abs(size, a, p);
    acb_set_arb(y, size);
    arb_clear(size);
    return true;
  }
  if (name == "sgn") {
    if (!real || arb_contains_zero(x.re())) return false;
    acb_set_si(y, arb_is_positive(x.re()) ? 1 : -1);
    return true;
  }
  if (name == "floor" || name == "ceil") return RoundedDown(name, x, out);
  if (name == "ln" || name == "log") {
    if (acb_contains_zero(a)) return false;
    if (real && !arb_is_positive(x.re())) point_.left_reals = true;
    acb_log(y, a, p);
    if (name == "log" && !point_.sense.log_is_natural) {
      Ball ten;
      acb_set_ui(ten.get(), 10);
      acb_log(ten.get(), ten.get(), p);
      acb_div(y, y, ten.get(), p);
    }
    return true;
  }
  if (name == "exp") {
    if (!bounded(11)) return false;
    acb_exp(y, a, p);
    return true;
  }
  if (name == "re" || name == "im") {
    arb_t part;
    arb_init(part);
    if (name == "re") {
      acb_get_real(part, a);
    } else {
      acb_get_imag(part, a);
    }
    acb_set_arb(y, part);
    arb_clear(part);
    return true;
  }
  if (name == "factorial" || name == "gamma") {
    if (!bounded(20) || !work_.Take(400)) return false;
    Ball shifted = x;
    if (name == "factorial") acb_add_ui(shifted.get(), a, 1, p);
    acb_gamma(y, shifted.get(), p);
    return acb_is_finite(y) != 0;
  }
  struct Entry {
    std::string_view name;
    void (*function)(acb_t, const acb_t, slong);
    bool periodic;
    bool inverse;
  };
  static const Entry kEntries[] = {
      {"sin", acb_sin, true, false},    {"cos", acb_cos, true, false},
      {"tan", acb_tan, true, false},    {"cot", acb_cot, true, false},
      {"sec", acb_cos, true, true},     {"csc", acb_sin, true, true},
      {"sinh", acb_sinh, false, false}, {"cosh", acb_cosh, false, false},
      {"tanh", acb_tanh, false, false}, {"coth", acb_coth, false, false},
      {"sech", acb_cosh, false, true},  {"csch", acb_sinh, false, true}};
  for (const Entry& entry : kEntries) {
    if (entry.name != name) continue;
    if (!bounded(entry.periodic && real ? 200 : 11)) return false;
    entry.function(y, a, p);
    return !entry.inverse || inverse_of();
  }
  static const Entry kInverses[] = {
      {"asin", acb_asin, true, false},    {"acos", acb_acos, true, false},
      {"atan", acb_atan, false, false},   {"asinh", acb_asinh, false, false},
      {"acosh", acb_acosh, false, false}, {"atanh", acb_atanh, true, false},
      {"asec", acb_acos, true, true},     {"acsc", acb_asin, true, true},
      {"acot", acb_atan, false, true},    {"acoth", acb_atanh, false, true}};
  for (const Entry& entry : kInverses) {
    if (entry.name != name) continue;
    Ball argument = x;
    if (entry.inverse) {
      if (acb_contains_zero(a)) return false;
      acb_inv(argument.get(), a, p);
    } else if (entry.periodic && one_minus_square_negative()) {
      point_.left_reals = true;
    }
    entry.function(y, argument.get(), p);
    return acb_is_finite(y) != 0;
  }
  return false;
}

// Sums and products between small integers are computed; all others are opaque.
bool Evaluator::BigOperator(const MathNode& node, Ball& out) {
  const MathNode& body = *node.kids[0];
  const MathNode& variable = *node.kids[1];
  if (bound_.size() > 8) return false;
  const auto optional = [&](const MathNode& kid, Ball& value) {
    if (kid.op == MathOp::kSymbol && kid.text == "none") return Opaque("none", {}, value);
    if (kid.op == MathOp::kNeg && kid.kids[0]->op == MathOp::kInfinity) {
      return Opaque("-infinity", {}, value);
    }
    return Value(kid, value);
  };
  Ball low;
  Ball high;
  if (!optional(*node.kids[2], low) || !optional(*node.kids[3], high)) return false;
  fmpz_t from;
  fmpz_t to;
  fmpz_init(from);
  fmpz_init(to);
  const bool finite = (node.text == "sum" || node.text == "prod") && Below(low, 30) &&
                      Below(high, 30) && node.kids[3]->op != MathOp::kInfinity &&
                      node.kids[2]->text != "none" && arb_get_unique_fmpz(from, low.re()) &&
                      arb_get_unique_fmpz(to, high.re()) && arb_is_int(low.re()) &&
                      arb_is_int(high.re()) && variable.text != "none";
  const slong first = finite ? fmpz_get_si(from) : 0;
  const slong last = finite ? fmpz_get_si(to) : 0;
  fmpz_clear(from);
  fmpz_clear(to);
  bound_.push_back({variable.text, Ball()});
  bool ok = true;
  Ball term;
  if (finite && last - first < 2000) {
    Ball total;
    if (node.text == "prod") acb_one(total.get());
    for (slong k = first; ok && k <= last; ++k) {
      acb_set_si(bound_.back().value.get(), k);
      ok = Value(body, term);
      if (!ok) break;
      if (node.text == "sum") {
        acb_add(total.get(), total.get(), term.get(), precision());
      } else {
        acb_mul(total.get(), total.get(), term.get(), precision());
      }
    }
    out = std::move(total);
  } else {
    // The bound variable's value depends on its depth alone, so its name does not matter.
    const std::uint64_t hash = 977 + bound_.size() * 31 + static_cast<std::uint64_t>(point_.index);
    SetDyadic(acb_realref(bound_.back().value.get()), hash, 1, 3, precision());
    ok = Value(body, term) && Opaque(node.text, {term, low, high}, out);
  }
  bound_.pop_back();
  return ok;
}

// |A| of up to 4 x 4.
bool Evaluator::Determinant(const MathNode& node, Ball& out) {
  if (node.kids.empty() || node.kids.size() > 4) return false;
  const std::size_t n = node.kids.size();
  std::vector<std::vector<Ball>> rows(n, std::vector<Ball>(n));
  for (std::size_t r = 0; r < n; ++r) {
    if (node.kids[r]->kids.size() != n) return false;
    for (std::size_t c = 0; c < n; ++c) {
      if (!Value(*node.kids[r]->kids[c], rows[r][c])) return false;
    }
  }
  // Leibniz: the sum over permutations.
  std::vector<std::size_t> order(n);
  for (std::size_t i = 0; i < n; ++i) order[i] = i;
  Ball sum;
  do {
    Ball product;
    acb_one(product.get());
    bool odd = false;
    for (std::size_t i = 0; i < n; ++i) {
      acb_mul(product.get(), product.get(), rows[i][order[i]].get(), precision());
      for (std::size_t j = 0; j < i; ++j) odd ^= order[j] > order[i];
    }
    if (odd) acb_neg(product.get(), product.get());
    acb_add(sum.get(), sum.get(), product.get(), precision());
  } while (std::next_permutation(order.begin(), order.end()));
  out = std::move(sum);
  return work_.Take(50);
}

}  // namespace

bool Evaluate(const MathNode& node, MathPoint& point, MathWork& work, Ball& out) {
  return Evaluator(point, work).Value(node, out);
}

}  // namespace opo
