// RLOO: A_i = r_i - the mean of the *other* answers to the prompt (arXiv 2402.14740). The baseline
// does not contain r_i, so the gradient is unbiased.
#include "algo/advantages.h"

namespace opo {

AdvantageResult RlooAdvantages(const RewardBatch& batch, const AlgorithmConfig&) {
  return CenterRewards(batch, Groups(batch), [&](const RewardBatch& net, Peers group) {
    const double sum = SumOfRewards(net, group);
    const double others = group.size() - 1;
    return [&net, sum, others](std::size_t i) {
      return Centering{.baseline = (sum - net.rewards[i]) / others};
    };
  });
}

}  // namespace opo
