// OPO with a baseline that leaves the response itself out: b_i = sum w_j r_j / sum w_j over the
// *other* answers to the prompt, w = l^e. OPO's own baseline contains r_i, which biases the
// gradient at order 1/K and turns its direction; this one is unbiased under a constant normaliser.
// It is neither in the paper nor in the authors' code. Where no other answer has tokens, b_i = 0.
#include "algo/advantages.h"

namespace opo {

AdvantageResult OpoLooAdvantages(const RewardBatch& batch, const AlgorithmConfig& config) {
  return CenterRewards(batch, Groups(batch), [&](const RewardBatch& net, Peers group) {
    return [&net, group, exponent = config.length_exponent](std::size_t i) {
      double weighted = 0;
      double weights = 0;
      for (std::size_t j = group.begin; j < group.end; ++j) {
        if (j == i) continue;
        const double weight = LengthWeight(net.lengths[j], exponent);
        weighted += weight * net.rewards[j];
        weights += weight;
      }
      return Centering{.baseline = weights > 0 ? weighted / weights : 0.0};
    };
  });
}

}  // namespace opo
