// OPO with one baseline for the whole batch: b = sum l r / sum l over all responses
// (`optimal_batch` in the authors' code). It equals the mean that REINFORCE++ subtracts, without
// its division by std.
#include "algo/advantages.h"

namespace opo {

AdvantageResult OpoBatchAdvantages(const RewardBatch& batch) {
  return CenterRewards(batch, WholeBatch(batch), [&](Peers all) {
    const double baseline = LengthWeightedMeanReward(batch, all);
    return [=](std::size_t) { return Centering{.baseline = baseline}; };
  });
}

}  // namespace opo
