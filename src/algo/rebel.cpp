// REBEL (arXiv 2404.16767): regression of log-ratios onto rewards. For two answers of a prompt,
// with h the sum over an answer's tokens of policy - rollout,
//   L = ((h - h') - eta (r - r'))^2,
// the form of the authors' code; the paper's is L / eta^2, with the same minimiser. Their data has
// two answers a prompt; here all pairs of a group count, so that nothing depends on the answers'
// order: answer i's loss is the mean over the K - 1 others. With u_i = h_i - eta r_i the mean over
// the answers then has the derivative 4 K / (K - 1) * (u_i - mean u) / n by h_i.
//
// No ratio, no clip: the square limits the step. Where policy = rollout that derivative is the one
// of a policy gradient with A_i = 4 eta (r_i - mean of the others): an exact run takes this.
#include "algo/advantages.h"
#include "base/error.h"

namespace opo {

AdvantageResult RebelAdvantages(const RewardBatch& batch, const AlgorithmConfig& config) {
  return CenterRewards(batch, Groups(batch), [&](const RewardBatch& net, Peers group) {
    const double sum = SumOfRewards(net, group);
    const double others = group.size() - 1;
    return [&net, sum, others, scale = 4 * config.rebel_eta](std::size_t i) {
      return Centering{.baseline = (sum - net.rewards[i]) / others, .scale = scale};
    };
  });
}

BatchLosses RebelLosses(const LossBatch& batch, const AlgorithmConfig& config) {
  const std::size_t responses = batch.policy.size();
  OPO_CHECK(batch.rollout.size() == responses && batch.rewards.size() == responses);
  std::vector<double> residuals(responses);  // u_i
  for (std::size_t i = 0; i < responses; ++i) {
    OPO_CHECK(batch.rollout[i].size() == batch.policy[i].size());
    double log_ratio = 0;
    for (std::size_t t = 0; t < batch.policy[i].size(); ++t) {
      log_ratio += batch.policy[i][t] - static_cast<double>(batch.rollout[i][t]);
    }
    residuals[i] = log_ratio - config.rebel_eta * batch.rewards[i];
  }
  BatchLosses losses(responses);
  for (const Peers& group : GroupsOf(batch.groups)) {
    const double others = group.size() - 1;
    for (std::size_t i = group.begin; i < group.end; ++i) {
      double differences = 0;
      double squares = 0;
      for (std::size_t j = group.begin; j < group.end; ++j) {
        const double difference = residuals[i] - residuals[j];
        differences += difference;
        squares += difference * difference;
      }
      if (batch.policy[i].empty() || others == 0) {
        losses[i].resize(batch.policy[i].size());
        continue;
      }
      const auto tokens = static_cast<double>(batch.policy[i].size());
      losses[i].assign(batch.policy[i].size(),
                       {.loss = squares / others / tokens, .dlogprob = 4 * differences / others});
    }
  }
  return losses;
}

}  // namespace opo
