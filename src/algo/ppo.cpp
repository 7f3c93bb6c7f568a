// Advantages by a critic (PPO, arXiv 1707.06347): generalised advantage estimation (arXiv
// 1506.02438),
//   delta_t = r_t + gamma V_{t+1} - V_t,   A_t = delta_t + gamma lambda A_{t+1},
// with the reward at the last token and the penalties at each. Behind the last token of a finished
// answer V is 0. An answer that goes on in a later step has no reward yet, and V_l := V_{l-1} (EGAE
// of T-PPO, arXiv 2506.15050); taken for finished, all its advantages would be off by what V
// expects.
//
// The critic learns G_t = A_t + V_t, taken before the advantages are whitened over all tokens of
// the batch: T-PPO's the plain return instead (lambda = 1), and of finished answers alone.
//
// APA (arXiv 2306.02231) and AWR (arXiv 1910.00177, as APA's code compares with it) take the same
// advantages into other losses: for AWR the weight exp(awr_scale A_t) is the advantage.
#include <cmath>

#include "algo/advantages.h"
#include "algo/whiten.h"
#include "base/error.h"

namespace opo {
namespace {

bool Unfinished(const RewardBatch& batch, std::size_t i) {
  return !batch.unfinished.empty() && batch.unfinished[i];
}

// Of each token: A_t, and in `returns` A_t + V_t.
std::vector<std::vector<double>> Gae(const RewardBatch& batch, const AlgorithmConfig& config,
                                     std::vector<std::vector<double>>& returns) {
  WholeBatch(batch);  // its checks
  OPO_CHECK(batch.values.size() == batch.rewards.size());
  OPO_CHECK(batch.unfinished.empty() || batch.unfinished.size() == batch.rewards.size());
  const bool penalised = !batch.token_penalties.empty();
  std::vector<std::vector<double>> advantages(batch.rewards.size());
  returns.resize(batch.rewards.size());
  for (std::size_t i = 0; i < advantages.size(); ++i) {
    const auto length = static_cast<std::size_t>(batch.lengths[i]);
    OPO_CHECK(batch.values[i].size() == length);
    OPO_CHECK(!penalised || batch.token_penalties[i].size() == length);
    advantages[i].resize(length);
    returns[i].resize(length);
    const bool unfinished = Unfinished(batch, i);
    double next_value =
        unfinished && length > 0 ? static_cast<double>(batch.values[i].back()) : 0.0;
    double next_advantage = 0;
    for (std::size_t t = length; t-- > 0;) {
      double reward = t + 1 == length && !unfinished ? batch.rewards[i] : 0.0;
      if (penalised) reward -= batch.token_penalties[i][t];
      const auto value = static_cast<double>(batch.values[i][t]);
      const double delta = reward + config.gamma * next_value - value;
      next_advantage = delta + config.gamma * config.gae_lambda * next_advantage;
      next_value = value;
      advantages[i][t] = next_advantage;
      returns[i][t] = next_advantage + value;
    }
  }
  return advantages;
}

AdvantageResult Finish(const RewardBatch& batch, const AlgorithmConfig& config,
                       std::vector<std::vector<double>> advantages,
                       std::vector<std::vector<double>> returns) {
  if (config.whiten_advantages == "yes") {
    const Whitening whiten = WhitenTokens([&](const auto& add) {
      for (const auto& tokens : advantages) {
        for (const double value : tokens) add(value, 1);
      }
    });
    for (auto& tokens : advantages) {
      for (double& value : tokens) value = whiten(value);
    }
  }
  std::vector<std::vector<double>> values;
  for (const auto& of : batch.values) values.emplace_back(of.begin(), of.end());
  AdvantageResult result = TokenResult(std::move(advantages), values);
  result.returns = std::move(returns);
  return result;
}

}  // namespace

AdvantageResult PpoAdvantages(const RewardBatch& batch, const AlgorithmConfig& config) {
  std::vector<std::vector<double>> returns;
  std::vector<std::vector<double>> advantages = Gae(batch, config, returns);
  return Finish(batch, config, std::move(advantages), std::move(returns));
}

AdvantageResult TPpoAdvantages(const RewardBatch& batch, const AlgorithmConfig& config) {
  std::vector<std::vector<double>> ignored;
  std::vector<std::vector<double>> advantages = Gae(batch, config, ignored);
  std::vector<std::vector<double>> returns = Returns(batch, config.gamma);
  for (std::size_t i = 0; i < returns.size(); ++i) {
    if (Unfinished(batch, i)) returns[i].clear();
  }
  return Finish(batch, config, std::move(advantages), std::move(returns));
}

AdvantageResult AwrAdvantages(const RewardBatch& batch, const AlgorithmConfig& config) {
  AdvantageResult result = PpoAdvantages(batch, config);
  std::vector<std::vector<double>> weights = std::move(result.token_advantages);
  for (auto& tokens : weights) {
    for (double& value : tokens) value = std::exp(config.awr_scale * value);
  }
  AdvantageResult weighted = TokenResult(std::move(weights), {});
  weighted.baselines = std::move(result.baselines);
  weighted.returns = std::move(result.returns);
  return weighted;
}

TokenLoss ApaLoss(const LossToken& token, const AlgorithmConfig& config) {
  const double residual = token.policy - token.reference - token.advantage / config.apa_lambda;
  return {.loss = residual * residual, .dlogprob = 2 * residual};
}

}  // namespace opo
