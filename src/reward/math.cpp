// The kind "math": 1 if the completion's final answer equals the gold answer as mathematics
// (docs/verifier.md).
#include "math/judge.h"
#include "reward/kinds.h"

namespace opo {
namespace {

class MathReward final : public RuleReward {
 public:
  RewardResult Judge(const RewardQuery& query) const override {
    if (query.problem.answer.empty()) return NoGoldAnswer();
    const MathJudgement judgement = JudgeMath(query.problem.answer, query.completion);
    switch (judgement.verdict) {
      case MathJudgement::Verdict::kBadGold:
        return RewardError("gold", "the gold answer " + Excerpt(query.problem.answer) +
                                       " cannot be read: " + judgement.why);
      case MathJudgement::Verdict::kNoAnswer:
        return Scored(0, "no answer: " + judgement.why);
      case MathJudgement::Verdict::kCorrect:
        return Scored(1, "found " + Excerpt(judgement.extracted) + ": " + judgement.why);
      case MathJudgement::Verdict::kWrong:
        break;
    }
    return Scored(0, "found " + Excerpt(judgement.extracted) + ": " + judgement.why);
  }
};

}  // namespace

std::unique_ptr<Reward> MakeMathReward(const RewardConfig&, const std::string&) {
  return std::make_unique<MathReward>();
}

}  // namespace opo
