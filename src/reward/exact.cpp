// The kind "exact": 1 if the completion is the gold answer, white space at the ends aside.
#include "reward/kinds.h"

namespace opo {
namespace {

class ExactReward final : public RuleReward {
 public:
  RewardResult Judge(const RewardQuery& query) const override {
    if (query.problem.answer.empty()) return NoGoldAnswer();
    const std::string_view found = Trim(query.completion);
    return Scored(found == Trim(query.problem.answer), "found " + Excerpt(found));
  }
};

}  // namespace

std::unique_ptr<Reward> MakeExactReward(const RewardConfig&, const std::string&) {
  return std::make_unique<ExactReward>();
}

}  // namespace opo
