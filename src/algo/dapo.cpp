// DAPO (arXiv 2503.14476): GRPO's advantage, a clip that is wider above (0.2 below, 0.28 above, no
// dual clip), the mean over tokens, no KL term. Its other two parts are settings of their own:
// rollout.dynamic_sampling, and the soft punishment of long answers as the reward `overlong`.
#include "algo/advantages.h"

namespace opo {

AdvantageResult DapoAdvantages(const RewardBatch& batch, const AlgorithmConfig& config) {
  return GrpoAdvantages(batch, config);
}

}  // namespace opo
