// Dr. GRPO: A_i = r_i - mean over the answers to one prompt (arXiv 2503.20783); no division by std,
// and a constant normaliser of the loss in place of each response's own length.
#include "algo/advantages.h"

namespace opo {

AdvantageResult DrGrpoAdvantages(const RewardBatch& batch, const AlgorithmConfig&) {
  return CenterRewards(batch, Groups(batch), [&](const RewardBatch& net, Peers group) {
    const double mean = MeanReward(net, group);
    return [=](std::size_t) { return Centering{.baseline = mean}; };
  });
}

}  // namespace opo
