// The kind "exact": 1 if the completion is the gold answer, white space at the ends aside.
#include "base/error.h"
#include "reward/kinds.h"

namespace opo {
namespace {

class ExactReward final : public Reward {
 public:
  RewardResult Score(const Problem& problem, std::string_view completion,
                     FinishReason) const override {
    if (problem.answer.empty()) return NoGoldAnswer();
    const std::string_view found = Trim(completion);
    return Scored(found == Trim(problem.answer), "found " + Excerpt(found));
  }
};

}  // namespace

std::unique_ptr<Reward> MakeExactReward(const RewardConfig& config, const std::string& where) {
  if (!config.pattern.empty()) {
    Fail(ErrorCode::kUsage, "{}.pattern: the kind \"exact\" takes none; remove it", where);
  }
  return std::make_unique<ExactReward>();
}

}  // namespace opo
