#include "math/scalar.h"

#include <algorithm>

#include "math/polynomial.h"

namespace opo {
namespace {

constexpr slong kRough = 64;
constexpr slong kFine = 280;
constexpr slong kFinest = 1200;

enum class Answer { kSame, kDifferent, kUnknown };

// Of two values at one point.
Answer CompareBalls(const Ball& a, const Ball& b, slong precision) {
  Ball difference;
  acb_sub(difference.get(), a.get(), b.get(), precision);
  if (!acb_contains_zero(difference.get())) return Answer::kDifferent;
  if (precision < kFine) return Answer::kUnknown;
  // Overlap is a claim only where the balls are small beside the value.
  arf_t radius;
  arf_t size;
  arf_init(radius);
  arf_init(size);
  mag_t mag;
  mag_init(mag);
  acb_get_mag(mag, difference.get());
  arf_set_mag(radius, mag);
  acb_get_mag_lower(mag, a.get());
  arf_set_mag(size, mag);
  if (mag_is_zero(mag)) arf_one(size);
  arf_mul_2exp_si(size, size, -200);
  const bool small = arf_cmp(radius, size) <= 0;
  mag_clear(mag);
  arf_clear(radius);
  arf_clear(size);
  return small ? Answer::kSame : Answer::kUnknown;
}

struct AtPoint {
  Answer answer = Answer::kUnknown;
  bool real = true;  // both stayed within the real domain
};

AtPoint CompareAt(const MathNode& a, const MathNode& b, int index, const MathSense& sense,
                  MathWork& work) {
  AtPoint result;
  for (const slong precision : {kRough, kFine, kFinest}) {
    MathPoint at_a;
    at_a.index = index;
    at_a.precision = precision;
    at_a.sense = sense;
    MathPoint at_b = at_a;
    Ball x;
    Ball y;
    if (!Evaluate(a, at_a, work, x) || !Evaluate(b, at_b, work, y)) {
      if (precision == kRough && !work.spent()) continue;  // rough balls may just contain zero
      return result;
    }
    result.real = !at_a.left_reals && !at_b.left_reals;
    if (precision == kRough && (at_a.has_opaque || at_b.has_opaque)) continue;
    result.answer = CompareBalls(x, y, precision);
    if (result.answer != Answer::kUnknown) return result;
  }
  return result;
}

// A decimal literal with a sign or a percent sign around it.
struct Decimal {
  const std::string* digits = nullptr;
  bool goes_on = false;  // 0.333...
  bool percent = false;
};

Decimal DecimalOf(const MathNode& node) {
  const MathNode* at = &node;
  Decimal decimal;
  while (at->op == MathOp::kNeg || at->op == MathOp::kPercent) {
    decimal.percent |= at->op == MathOp::kPercent;
    at = at->kids[0];
  }
  if (at->op != MathOp::kNumber || at->text.find('.') == std::string::npos ||
      at->text.find_first_of("eE") != std::string::npos) {
    return {};
  }
  decimal.digits = &at->text;
  decimal.goes_on = !at->text2.empty();
  return decimal;
}

int FractionDigits(const std::string& digits) {
  return static_cast<int>(digits.size() - digits.find('.') - 1);
}

int SignificantDigits(const std::string& digits) {
  int count = 0;
  for (const char c : digits) {
    if (c == '.' || (c == '0' && count == 0)) continue;
    ++count;
  }
  return count;
}

// |a - b| <= 10^-places * tenths / 10, certified.
bool Within(const MathNode& a, const MathNode& b, int places, int tenths, const MathSense& sense,
            MathWork& work) {
  MathPoint point;
  point.precision = kFine;
  point.sense = sense;
  Ball x;
  Ball y;
  if (!Evaluate(a, point, work, x) || !Evaluate(b, point, work, y)) return false;
  if (!x.IsReal() || !y.IsReal() || point.has_opaque) return false;
  Ball bound;
  acb_set_ui(bound.get(), 10);
  acb_pow_si(bound.get(), bound.get(), places + 1, kFine);
  acb_sub(x.get(), x.get(), y.get(), kFine);
  acb_mul(x.get(), x.get(), bound.get(), kFine);
  arb_abs(x.re(), x.re());
  arb_sub_si(x.re(), x.re(), tenths, kFine);
  return !arb_is_positive(x.re());
}

// One side is a decimal, the other exact: is the decimal its rounding?
bool IsRounding(const MathNode& decimal, const MathNode& exact, int least_digits,
                const MathSense& sense, MathWork& work) {
  const Decimal d = DecimalOf(decimal);
  if (d.digits == nullptr || d.digits->size() > 60 || !IsConstant(exact)) return false;
  const int significant = SignificantDigits(*d.digits);
  if (significant < (d.goes_on ? 2 : least_digits)) return false;
  int places = FractionDigits(*d.digits);
  // Beyond 15 digits stands a binary computer's error.
  if (significant > 15) places -= significant - 15;
  if (d.percent && sense.percent_divides) places += 2;
  // Long decimals may be cut off, or carry a binary computer's last digit.
  return Within(decimal, exact, places, significant >= 7 || d.goes_on ? 12 : 5, sense, work);
}

bool SameOrRounded(const MathNode& gold, const MathNode& answer, const MathSense& sense,
                   MathWork& work) {
  if (SameValue(gold, answer, sense, work)) return true;
  if (work.spent()) return false;
  const Decimal g = DecimalOf(gold);
  const Decimal a = DecimalOf(answer);
  if (g.digits != nullptr && a.digits != nullptr) {
    // Two decimals are equal or differ; two long ones may be roundings of one number.
    int digits = std::min(FractionDigits(*g.digits), FractionDigits(*a.digits));
    const int significant = std::max(SignificantDigits(*g.digits), SignificantDigits(*a.digits));
    if (digits < 6 && significant >= 15) {  // 0.1 + 0.2 = 0.30000000000000004
      const std::string& longer =
          SignificantDigits(*g.digits) >= significant ? *g.digits : *a.digits;
      digits = FractionDigits(longer) - std::max(significant - 15, 0);
    }
    if (digits < 6 || g.percent != a.percent) return false;
    const int places = digits + (g.percent && sense.percent_divides ? 2 : 0);
    return Within(gold, answer, places, 10, sense, work);
  }
  if (g.digits != nullptr && answer.op != MathOp::kNumber) {
    return IsRounding(gold, answer, 3, sense, work);
  }
  if (a.digits != nullptr && gold.op != MathOp::kNumber) {
    return IsRounding(answer, gold, 4, sense, work);
  }
  return false;
}

}  // namespace

bool Contains(const MathNode& node, MathOp op, std::string_view function) {
  std::vector<const MathNode*> open = {&node};
  while (!open.empty()) {
    const MathNode* at = open.back();
    open.pop_back();
    if (at->op == op && (function.empty() || at->text == function)) return true;
    open.insert(open.end(), at->kids.begin(), at->kids.end());
  }
  return false;
}

bool SameValue(const MathNode& a, const MathNode& b, const MathSense& sense, MathWork& work) {
  const auto exact_a = ExactValue(a, sense, work);
  const auto exact_b = exact_a ? ExactValue(b, sense, work) : std::nullopt;
  if (exact_a && exact_b) return *exact_a == *exact_b;
  if (SameTree(a, b)) return true;
  const bool constant = IsConstant(a) && IsConstant(b);
  if (constant) return CompareAt(a, b, 0, sense, work).answer == Answer::kSame;
  if (const auto same = SameRationalFunction(a, b, sense, work)) return *same;
  int agreeing = 0;
  int complex = 0;
  for (int index = 0; index < kNumPoints; ++index) {
    const AtPoint at = CompareAt(a, b, index, sense, work);
    if (at.real && at.answer == Answer::kDifferent) return false;
    if (at.answer == Answer::kSame) ++(at.real ? agreeing : complex);
    if (work.spent()) return false;
  }
  return agreeing >= 2 || agreeing + complex >= 3;
}

bool SameScalar(const MathNode& gold, const MathNode& answer, MathWork& work) {
  MathSense sense;
  if (SameOrRounded(gold, answer, sense, work)) return true;
  const bool gold_percent = Contains(gold, MathOp::kPercent);
  if (gold_percent != Contains(answer, MathOp::kPercent)) {
    MathSense other = sense;
    other.percent_divides = false;
    if (SameOrRounded(gold, answer, other, work)) return true;
  }
  const bool gold_degree = gold.op == MathOp::kDegree;
  if (gold_degree != (answer.op == MathOp::kDegree)) {
    MathSense other = sense;
    other.degree_is_radian = true;
    if (SameOrRounded(gold, answer, other, work)) return true;
  }
  if (Contains(gold, MathOp::kCall, "log") || Contains(answer, MathOp::kCall, "log")) {
    MathSense other = sense;
    other.log_is_natural = false;
    if (SameOrRounded(gold, answer, other, work)) return true;
  }
  return false;
}

}  // namespace opo
