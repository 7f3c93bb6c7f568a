// REINFORCE with the mean reward of the batch as the one baseline (Williams 1992). How hard a
// prompt is leaks into the advantage: a control arm.
#include "algo/advantages.h"

namespace opo {

AdvantageResult ReinforceAdvantages(const RewardBatch& batch, const AlgorithmConfig&) {
  return CenterRewards(batch, WholeBatch(batch), [&](const RewardBatch& net, Peers all) {
    const double mean = MeanReward(net, all);
    return [=](std::size_t) { return Centering{.baseline = mean}; };
  });
}

}  // namespace opo
