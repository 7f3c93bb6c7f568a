// REINFORCE++-baseline (arXiv 2501.03262): the reward less the mean of its group, whitened over all
// tokens of the batch as in REINFORCE++. The whitening subtracts the mean over tokens again, so a
// group whose rewards are all equal has an advantage where the lengths of others differ. Penalties
// come off the reward as their sum (verl); OpenRLHF puts the KL term into the loss instead, as k2.
#include "algo/advantages.h"
#include "algo/whiten.h"

namespace opo {

AdvantageResult ReinforcePpBaselineAdvantages(const RewardBatch& batch, const AlgorithmConfig&) {
  AdvantageResult result =
      CenterRewards(batch, Groups(batch), [&](const RewardBatch& net, Peers group) {
        const double mean = MeanReward(net, group);
        return [=](std::size_t) { return Centering{.baseline = mean}; };
      });
  const Whitening whiten = WhitenTokens([&](const auto& add) {
    for (std::size_t i = 0; i < batch.rewards.size(); ++i) {
      add(result.advantages[i], static_cast<double>(batch.lengths[i]));
    }
  });
  for (double& advantage : result.advantages) advantage = whiten(advantage);
  for (double& baseline : result.baselines) baseline += whiten.mean;
  return result;
}

}  // namespace opo
