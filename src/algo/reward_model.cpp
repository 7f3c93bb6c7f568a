// Reward models: a pair's chosen answer is to have the higher score (Bradley and Terry 1952), with
// margin and centring as TRL's RewardTrainer has them; and beside pairs, for AIHF's reward (arXiv
// 2406.06874), demonstrations are to have higher scores than the policy's own answers. That term is
// the gradient of the demonstrations' likelihood by the reward, with 1 / beta in demo_weight. It is
// linear, so that nothing but centring and weight decay bounds the scores.
//
// The objective is the mean over pairs plus that over demonstrations. Answers weigh 1 / n each
// (seq-mean-token-sum), so their losses have the factor n / pairs or n / demonstrations here.
#include "algo/advantages.h"
#include "base/error.h"
#include "base/logistic.h"

namespace opo {

AdvantageResult AihfAdvantages(const RewardBatch& batch, const AlgorithmConfig& config) {
  OPO_CHECK(config.aihf_baseline == "opo" || config.aihf_baseline == "rloo");
  return config.aihf_baseline == "opo" ? OpoAdvantages(batch, {}) : RlooAdvantages(batch, {});
}

BatchLosses RewardModelLosses(const LossBatch& batch, const AlgorithmConfig& config) {
  const std::vector<Peers> groups = GroupsOf(batch.groups);
  OPO_CHECK(batch.rewards.size() == batch.policy.size());
  OPO_CHECK(batch.demonstrations.empty() || batch.demonstrations.size() == groups.size());
  const auto is_demonstration = [&](std::size_t g) {
    return !batch.demonstrations.empty() && batch.demonstrations[g];
  };
  double demonstrations = 0;
  for (std::size_t g = 0; g < groups.size(); ++g) demonstrations += is_demonstration(g) ? 1 : 0;
  const double pairs = static_cast<double>(groups.size()) - demonstrations;
  const auto answers = static_cast<double>(batch.policy.size());

  BatchLosses losses(batch.policy.size());
  for (std::size_t i = 0; i < losses.size(); ++i) {
    OPO_CHECK(!batch.policy[i].empty());
    losses[i].resize(batch.policy[i].size());
  }
  const auto score = [&](std::size_t i) { return batch.policy[i].back(); };
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const Peers group = groups[g];
    OPO_CHECK(group.end - group.begin >= 2);
    const std::size_t first = group.begin;
    if (is_demonstration(g)) {
      const double others = group.size() - 1;
      double mean = 0;
      for (std::size_t i = first + 1; i < group.end; ++i) mean += score(i) / others;
      const double center = config.center_coef * (score(first) + mean);
      const double loss =
          -config.demo_weight * (score(first) - mean) + center * (score(first) + mean);
      const double weight = answers / demonstrations;
      const double part = loss * weight / group.size();
      losses[first].back() = {.loss = part,
                              .dlogprob = weight * (-config.demo_weight + 2 * center)};
      for (std::size_t i = first + 1; i < group.end; ++i) {
        losses[i].back() = {.loss = part,
                            .dlogprob = weight * (config.demo_weight + 2 * center) / others};
      }
      continue;
    }
    OPO_CHECK(group.end - group.begin == 2);
    const double margin = config.margin_coef * (batch.rewards[first] - batch.rewards[first + 1]);
    const double sum = score(first) + score(first + 1);
    const double ahead = score(first) - score(first + 1) - margin;
    const double loss = SoftPlus(-ahead) + config.center_coef * sum * sum;
    const double weight = answers / pairs;
    const double ranking = Sigmoid(-ahead);
    const double centering = 2 * config.center_coef * sum;
    const double part = weight * loss / 2;
    losses[first].back() = {.loss = part, .dlogprob = weight * (centering - ranking)};
    losses[first + 1].back() = {.loss = part, .dlogprob = weight * (centering + ranking)};
  }
  return losses;
}

}  // namespace opo
