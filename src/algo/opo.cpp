// OPO: A_i = r_i - b, b = sum w r / sum w over the answers to one prompt, w = l^e (arXiv
// 2505.23585, where e = 1).
//
// b minimises the variance of the policy gradient if a response's squared gradient norm is
// proportional to w. With e = 1 that is so where the gradients of its tokens are orthogonal and of
// one size, and are summed and divided by a number common to all, as in token-mean. Measured norms
// may ask for another exponent (algorithm.length_exponent); dividing by the response's own length
// asks for -1. A response without tokens has weight 0 and no tokens to learn from. If none has
// tokens, b = 0.
#include "algo/advantages.h"

namespace opo {

AdvantageResult OpoAdvantages(const RewardBatch& batch, const AlgorithmConfig& config) {
  return CenterRewards(batch, Groups(batch), [&](const RewardBatch& net, Peers group) {
    const double baseline = LengthWeightedMeanReward(net, group, config.length_exponent);
    return [=](std::size_t) { return Centering{.baseline = baseline}; };
  });
}

}  // namespace opo
