// OPO with one baseline for the whole batch: b = sum w r / sum w over all responses, w = l^e
// (`optimal_batch` in the authors' code, where e = 1). With e = 1 it equals the mean that
// REINFORCE++ subtracts, without its division by std.
#include "algo/advantages.h"

namespace opo {

AdvantageResult OpoBatchAdvantages(const RewardBatch& batch, const AlgorithmConfig& config) {
  return CenterRewards(batch, WholeBatch(batch), [&](const RewardBatch& net, Peers all) {
    const double baseline = LengthWeightedMeanReward(net, all, config.length_exponent);
    return [=](std::size_t) { return Centering{.baseline = baseline}; };
  });
}

}  // namespace opo
