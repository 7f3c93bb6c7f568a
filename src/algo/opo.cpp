// OPO: A_i = r_i - b, b = sum l r / sum l over the answers to one prompt (arXiv 2505.23585).
//
// b minimises the variance of the policy gradient if a response's squared gradient norm grows with
// its length. That is so where a response's token gradients are summed and divided by a number
// common to all, as in token-mean; dividing by the response's own length would ask for weights 1/l.
// A response without tokens has weight 0 and no tokens to learn from. If none has tokens, b = 0.
#include "algo/advantages.h"

namespace opo {

AdvantageResult OpoAdvantages(const RewardBatch& batch) {
  return CenterRewards(batch, Groups(batch), [&](Peers group) {
    const double baseline = LengthWeightedMeanReward(batch, group);
    return [=](std::size_t) { return Centering{.baseline = baseline}; };
  });
}

}  // namespace opo
