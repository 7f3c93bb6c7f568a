// The kind "number": 1 if the last number of the completion equals that of the gold answer.
#include "math/scan.h"
#include "reward/kinds.h"

namespace opo {
namespace {

bool IsAlnum(char c) { return IsDigit(c) || IsLetter(c); }

std::size_t SkipDigits(std::string_view text, std::size_t at) {
  while (at < text.size() && IsDigit(text[at])) ++at;
  return at;
}

// A minus (ASCII or U+2212) right before `at` that is a sign: "-5", "(-5", but not "9-5" or "x-5".
bool IsNegative(std::string_view text, std::size_t at) {
  constexpr std::string_view kMinus = "\xe2\x88\x92";
  std::size_t sign = 0;
  if (at >= 1 && text[at - 1] == '-') {
    sign = at - 1;
  } else if (at >= 3 && text.substr(at - 3, 3) == kMinus) {
    sign = at - 3;
  } else {
    return false;
  }
  return sign == 0 || !(IsAlnum(text[sign - 1]) || text[sign - 1] == ')');
}

// The number that starts at `at` (a digit, or a point before one); moves `at` behind it.
std::string ReadNumber(std::string_view text, std::size_t& at) {
  const bool negative = IsNegative(text, at);
  const std::size_t begin = at;
  at = SkipDigits(text, at);
  std::string whole(text.substr(begin, at - begin));
  // 1,234,567: one to three digits, then threes.
  const bool may_group = !whole.empty() && whole.size() <= 3;
  while (may_group && at < text.size() && text[at] == ',') {
    const std::size_t end = SkipDigits(text, at + 1);
    if (end - at != 4) break;
    whole += text.substr(at + 1, 3);
    at = end;
  }
  std::string fraction;
  if (at + 1 < text.size() && text[at] == '.' && IsDigit(text[at + 1])) {
    const std::size_t end = SkipDigits(text, at + 1);
    fraction = text.substr(at + 1, end - at - 1);
    at = end;
  }
  whole.erase(0, whole.find_first_not_of('0'));
  fraction.erase(fraction.find_last_not_of('0') + 1);
  if (whole.empty()) whole = "0";
  const bool zero = whole == "0" && fraction.empty();
  return (negative && !zero ? "-" : "") + whole + (fraction.empty() ? "" : "." + fraction);
}

class NumberReward final : public RuleReward {
 public:
  RewardResult Judge(const RewardQuery& query) const override {
    if (query.problem.answer.empty()) return NoGoldAnswer();
    const auto gold = LastNumber(query.problem.answer);
    if (!gold) {
      return RewardError("gold", "no number in the gold answer " + Excerpt(query.problem.answer));
    }
    const auto found = LastNumber(query.completion);
    if (!found) return Scored(false, "no number in the completion");
    return Scored(*found == *gold, "found " + Excerpt(*found));
  }
};

}  // namespace

std::optional<std::string> LastNumber(std::string_view text) {
  std::optional<std::string> last;
  std::size_t at = 0;
  while (at < text.size()) {
    const bool point = text[at] == '.' && at + 1 < text.size() && IsDigit(text[at + 1]) &&
                       (at == 0 || !IsDigit(text[at - 1]));
    if (IsDigit(text[at]) || point) {
      last = ReadNumber(text, at);
    } else {
      ++at;
    }
  }
  return last;
}

std::unique_ptr<Reward> MakeNumberReward(const RewardConfig&, const std::string&) {
  return std::make_unique<NumberReward>();
}

}  // namespace opo
