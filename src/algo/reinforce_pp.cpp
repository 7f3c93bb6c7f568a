// REINFORCE++ (arXiv 2501.03262): the return of each token, G_t = r_t + gamma G_{t+1} with the
// reward at the last token and penalties at each, whitened over all tokens of the batch:
// A_t = (G_t - mean) / sqrt(var + 1e-8). The mean over tokens weighs a response by its length.
#include "algo/advantages.h"
#include "algo/whiten.h"

namespace opo {

AdvantageResult ReinforcePpAdvantages(const RewardBatch& batch, const AlgorithmConfig& config) {
  if (!batch.token_penalties.empty() || config.gamma != 1) {
    std::vector<std::vector<double>> returns = Returns(batch, config.gamma);
    const Whitening whiten = WhitenTokens([&](const auto& add) {
      for (const auto& tokens : returns) {
        for (const double value : tokens) add(value, 1);
      }
    });
    for (auto& tokens : returns) {
      for (double& value : tokens) value = whiten(value);
    }
    AdvantageResult result = TokenResult(std::move(returns), {});
    result.baselines.assign(batch.rewards.size(), whiten.mean);
    return result;
  }
  WholeBatch(batch);  // its checks
  const Whitening whiten = WhitenTokens([&](const auto& add) {
    for (std::size_t i = 0; i < batch.rewards.size(); ++i) {
      add(batch.rewards[i], static_cast<double>(batch.lengths[i]));
    }
  });
  AdvantageResult result;
  result.baselines.assign(batch.rewards.size(), whiten.mean);
  for (const double reward : batch.rewards) result.advantages.push_back(whiten(reward));
  return result;
}

}  // namespace opo
