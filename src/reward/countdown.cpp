// The kind "countdown": 1 if the completion's expression takes every number of the gold answer
// {"target": T, "numbers": [...]} exactly once and has the value T, as in TinyZero.
#include "math/countdown.h"

#include <algorithm>
#include <vector>

#include "reward/kinds.h"

namespace opo {
namespace {

// Beyond these an expression is refused: no value overflows, no recursion is deep.
constexpr std::size_t kMaxText = 512;
constexpr int kMaxDepth = 64;
constexpr __int128 kMaxPart = static_cast<__int128>(1) << 62;

struct Fraction {
  __int128 top = 0, bottom = 1;
};

// Sums, products and quotients of non-negative integers, with parentheses and signs; x and ÷ as
// people write them. Exact.
class Calculator {
 public:
  explicit Calculator(std::string_view text) : text_(text) {}

  std::optional<Fraction> Value() {
    const auto value = Sum(0);
    Skip();
    if (!value || at_ != text_.size()) return std::nullopt;
    return value;
  }
  const std::vector<long>& numbers() const { return numbers_; }

 private:
  void Skip() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t')) ++at_;
  }
  bool Eat(std::string_view word) {
    Skip();
    if (!text_.substr(at_).starts_with(word)) return false;
    at_ += word.size();
    return true;
  }
  bool EatMinus() { return Eat("-") || Eat("\xe2\x88\x92"); }
  bool EatTimes() {
    return Eat("*") || Eat("x") || Eat("\xc3\x97") || Eat("\\times") || Eat("\\cdot");
  }
  bool EatOver() { return Eat("/") || Eat("\xc3\xb7") || Eat("\\div"); }

  static std::optional<Fraction> Lowest(__int128 top, __int128 bottom) {
    if (bottom == 0) return std::nullopt;
    __int128 a = top < 0 ? -top : top;
    __int128 b = bottom < 0 ? -bottom : bottom;
    while (b != 0) std::swap(a, b), b %= a;
    if (a == 0) a = 1;
    Fraction f{top / a, bottom / a};
    if (f.bottom < 0) f = {-f.top, -f.bottom};
    if (f.top > kMaxPart || f.top < -kMaxPart || f.bottom > kMaxPart) return std::nullopt;
    return f;
  }

  std::optional<Fraction> Sum(int depth) {
    auto left = Product(depth);
    while (left) {
      const bool plus = Eat("+");
      if (!plus && !EatMinus()) break;
      const auto right = Product(depth);
      if (!right) return std::nullopt;
      // Each part is at most 2^62, so that the products are below 2^124.
      const __int128 r = right->top * left->bottom;
      left = Lowest(left->top * right->bottom + (plus ? r : -r), left->bottom * right->bottom);
    }
    return left;
  }

  std::optional<Fraction> Product(int depth) {
    auto left = Factor(depth);
    while (left) {
      const bool times = EatTimes();
      if (!times && !EatOver()) break;
      const auto right = Factor(depth);
      if (!right) return std::nullopt;
      left = times ? Lowest(left->top * right->top, left->bottom * right->bottom)
                   : Lowest(left->top * right->bottom, left->bottom * right->top);
    }
    return left;
  }

  std::optional<Fraction> Factor(int depth) {
    if (depth > kMaxDepth) return std::nullopt;
    if (EatMinus()) {
      const auto value = Factor(depth + 1);
      if (!value) return std::nullopt;
      return Fraction{-value->top, value->bottom};
    }
    if (Eat("(")) {
      const auto value = Sum(depth + 1);
      if (!value || !Eat(")")) return std::nullopt;
      return value;
    }
    Skip();
    long number = 0;
    const std::size_t begin = at_;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') {
      if (at_ - begin == 12) return std::nullopt;
      number = number * 10 + (text_[at_++] - '0');
    }
    if (at_ == begin) return std::nullopt;
    numbers_.push_back(number);
    return Fraction{number, 1};
  }

  std::string_view text_;
  std::size_t at_ = 0;
  std::vector<long> numbers_;
};

// What stands in the last <answer> or \boxed{}, else the last line, without "= 24" behind and
// "answer:" before.
std::string_view Expression(std::string_view completion) {
  std::string_view text;
  if (const auto tag = LastTag(completion, "answer")) {
    text = Trim(*tag);
  } else if (const std::size_t box = completion.rfind("\\boxed{"); box != std::string_view::npos) {
    const std::size_t begin = box + 7;
    int depth = 1;
    std::size_t end = begin;
    for (; end < completion.size() && depth > 0; ++end) {
      depth += completion[end] == '{' ? 1 : completion[end] == '}' ? -1 : 0;
    }
    text = Trim(completion.substr(begin, end - begin - (depth == 0 ? 1 : 0)));
  } else {
    text = Trim(completion);
    const std::size_t line = text.rfind('\n');
    if (line != std::string_view::npos) text = text.substr(line + 1);
    const std::size_t colon = text.rfind(':');
    if (colon != std::string_view::npos) text = text.substr(colon + 1);
  }
  const std::size_t equals = text.find('=');
  if (equals != std::string_view::npos) text = text.substr(0, equals);
  while (!text.empty() && (text.back() == '.' || text.back() == '$')) text.remove_suffix(1);
  while (!text.empty() && text.front() == '$') text.remove_prefix(1);
  return Trim(text);
}

class CountdownReward final : public RuleReward {
 public:
  RewardResult Judge(const RewardQuery& query) const override {
    if (query.problem.answer.empty()) return NoGoldAnswer();
    const auto goal = ReadCountdown(query.problem.answer);
    if (!goal) {
      return RewardError("gold", "the gold answer is not {\"target\": T, \"numbers\": [...]} but " +
                                     Excerpt(query.problem.answer));
    }
    const std::string_view text = Expression(query.completion);
    if (text.size() > kMaxText) return Scored(0, "the expression is too long");
    Calculator calculator(text);
    const auto value = calculator.Value();
    if (!value) return Scored(0, "no expression: " + Excerpt(text));
    std::vector<long> used = calculator.numbers();
    std::sort(used.begin(), used.end());
    if (used != goal->numbers) return Scored(0, "not every number once: " + Excerpt(text));
    const bool right = value->bottom == 1 && value->top == goal->target;
    return Scored(right ? 1 : 0, (right ? "right: " : "another value: ") + Excerpt(text));
  }
};

}  // namespace

std::unique_ptr<Reward> MakeCountdownReward(const RewardConfig&, const std::string&) {
  return std::make_unique<CountdownReward>();
}

}  // namespace opo
