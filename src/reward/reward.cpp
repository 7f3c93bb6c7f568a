#include "reward/reward.h"

#include <fmt/ranges.h>

#include <cmath>
#include <utility>

#include "base/error.h"
#include "base/fields.h"
#include "reward/kinds.h"

namespace opo {
namespace {

struct Kind {
  const char* name;
  std::unique_ptr<Reward> (*make)(const RewardConfig& config, const std::string& where);
};

constexpr Kind kKinds[] = {
    {"number", MakeNumberReward},
    {"exact", MakeExactReward},
    {"regex", MakeRegexReward},
    {"format", MakeFormatReward},
};

class WeightedSum final : public Reward {
 public:
  struct Term {
    std::unique_ptr<Reward> reward;
    double weight = 1;
  };
  explicit WeightedSum(std::vector<Term> terms) : terms_(std::move(terms)) {}

  RewardResult Score(const Problem& problem, std::string_view completion,
                     FinishReason finish) const override {
    RewardResult sum;
    for (const Term& term : terms_) {
      RewardResult part = term.reward->Score(problem, completion, finish);
      if (part.verdict == Verdict::kError) return part;
      if (part.verdict == Verdict::kSkipped) sum.verdict = Verdict::kSkipped;
      sum.value += term.weight * part.value;
      sum.note += (sum.note.empty() ? "" : "; ") + part.note;
    }
    if (sum.verdict != Verdict::kScored) sum.value = 0;
    return sum;
  }

 private:
  std::vector<Term> terms_;
};

}  // namespace

const char* FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kEos:
      return "eos";
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
  }
  OPO_CHECK(false);
}

std::vector<std::string> RewardKinds() {
  std::vector<std::string> names;
  for (const Kind& kind : kKinds) names.emplace_back(kind.name);
  return names;
}

std::unique_ptr<Reward> MakeReward(const std::vector<RewardConfig>& terms) {
  if (terms.empty()) Fail(ErrorCode::kUsage, "reward: there is none; write a [[reward]] section");
  std::vector<WeightedSum::Term> made;
  for (std::size_t i = 0; i < terms.size(); ++i) {
    const RewardConfig& config = terms[i];
    const std::string where = fmt::format("reward.{}", i);
    if (!std::isfinite(config.weight)) {
      Fail(ErrorCode::kUsage, "{}.weight: must be finite, but is {}", where, config.weight);
    }
    for (const Kind& kind : kKinds) {
      if (config.kind == kind.name) made.push_back({kind.make(config, where), config.weight});
    }
    if (made.size() != i + 1) {
      const std::string near = NearestName(config.kind, RewardKinds());
      Fail(ErrorCode::kUsage, "{}.kind = \"{}\": unknown; {}known are: {}", where, config.kind,
           near.empty() ? "" : fmt::format("did you mean \"{}\"? ", near),
           fmt::join(RewardKinds(), ", "));
    }
  }
  return std::make_unique<WeightedSum>(std::move(made));
}

std::string_view Trim(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n\f\v";
  const std::size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

std::string Excerpt(std::string_view text) {
  constexpr std::size_t kLongest = 60;
  if (text.size() <= kLongest) return fmt::format("'{}'", text);
  std::size_t end = kLongest;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) --end;
  return fmt::format("'{}...'", text.substr(0, end));
}

}  // namespace opo
