// ReMax (arXiv 2310.10505): A_t = the reward from token t on - the reward of the greedy answer to
// the same prompt. Needs no group. Penalties of the tokens enter the sampled answer's return but
// not the baseline, as in verl.
#include "algo/advantages.h"
#include "base/error.h"

namespace opo {

AdvantageResult RemaxAdvantages(const RewardBatch& batch, const AlgorithmConfig&) {
  OPO_CHECK(batch.greedy_rewards.size() == batch.rewards.size());
  if (batch.token_penalties.empty()) {
    AdvantageResult result;
    result.baselines = batch.greedy_rewards;
    for (std::size_t i = 0; i < batch.rewards.size(); ++i) {
      result.advantages.push_back(batch.rewards[i] - batch.greedy_rewards[i]);
    }
    return result;
  }
  std::vector<std::vector<double>> advantages = Returns(batch, 1);
  for (std::size_t i = 0; i < advantages.size(); ++i) {
    for (double& advantage : advantages[i]) advantage -= batch.greedy_rewards[i];
  }
  AdvantageResult result = TokenResult(std::move(advantages), {});
  result.baselines = batch.greedy_rewards;
  return result;
}

}  // namespace opo
