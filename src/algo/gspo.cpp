// GSPO (arXiv 2507.18071): GRPO's advantage, and one importance ratio a response,
// s_i = exp(mean over its tokens of policy - rollout), clipped as in PPO:
// L_i = -min(s_i A_i, clip(s_i, 1 - clip_low, 1 + clip_high) A_i), each token of which has the
// derivative -s_i A_i / l_i. As in verl and TRL it is written for tokens, s_it = sg(s_i) *
// exp(lp - sg(lp)), to be weighed by seq-mean-token-mean, and log s_i is at most 10.
#include <algorithm>
#include <cmath>

#include "algo/advantages.h"
#include "base/error.h"

namespace opo {

AdvantageResult GspoAdvantages(const RewardBatch& batch, const AlgorithmConfig& config) {
  return GrpoAdvantages(batch, config);
}

BatchLosses GspoLosses(const LossBatch& batch, const AlgorithmConfig& config) {
  OPO_CHECK(config.clip_low >= 0 && config.clip_high >= 0);  // Resolved()
  BatchLosses losses(batch.policy.size());
  for (std::size_t i = 0; i < losses.size(); ++i) {
    const std::size_t tokens = batch.policy[i].size();
    OPO_CHECK(batch.rollout[i].size() == tokens);
    if (tokens == 0) continue;
    double sum = 0;
    for (std::size_t t = 0; t < tokens; ++t) {
      sum += batch.policy[i][t] - static_cast<double>(batch.rollout[i][t]);
    }
    const double log_ratio = sum / static_cast<double>(tokens);
    const double ratio = std::exp(std::min(log_ratio, 10.0));
    const double advantage = batch.advantages[i];
    const double unclipped = -advantage * ratio;
    const double bounded =
        -advantage * std::clamp(ratio, 1 - config.clip_low, 1 + config.clip_high);
    TokenLoss token;
    token.clipped = bounded > unclipped;
    token.loss = token.clipped ? bounded : unclipped;
    token.dlogprob = token.clipped || log_ratio > 10 ? 0.0 : unclipped;
    losses[i].assign(tokens, token);
  }
  return losses;
}

}  // namespace opo
