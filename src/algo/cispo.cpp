// CISPO (MiniMax-M1, arXiv 2506.13585): GRPO's advantage, and the importance ratio as a clipped,
// constant weight of the log-likelihood: L = -sg(clamp(ratio, 1 - clip_low, is_weight_cap)) A lp.
// No token loses its gradient. The authors put no effective lower bound (clip_low = 1 is none) and
// tune the upper one without giving it; verl, slime and SkyRL write it as 1 + eps_high, TRL as the
// cap itself. is_weight_cap is the cap; 5 is what TRL's ScaleRL recipe, slime and SkyRL take.
#include <algorithm>
#include <cmath>

#include "algo/advantages.h"
#include "base/error.h"

namespace opo {

AdvantageResult CispoAdvantages(const RewardBatch& batch, const AlgorithmConfig& config) {
  return GrpoAdvantages(batch, config);
}

TokenLoss CispoLoss(const LossToken& token, const AlgorithmConfig& config) {
  OPO_CHECK(config.clip_low >= 0);  // Resolved()
  const double ratio = std::exp(std::clamp(token.policy - token.rollout, -20.0, 20.0));
  const double weight = std::min(std::max(ratio, 1 - config.clip_low), config.is_weight_cap);
  const double slope = -token.advantage * weight;
  return {.loss = slope * token.policy, .dlogprob = slope, .clipped = weight != ratio};
}

}  // namespace opo
