// Direct advantage policy optimization (arXiv 2412.18279; the formulas are a third party's, which
// agree with the paper's words). Answers are cut into steps. A critic with a sigmoid head learns
// the rate MC(s) of right completions of a state, prompt and steps so far, by cross-entropy, and is
// frozen. Then, offline, candidate steps a_i of a state have Q_i = V(s + a_i), or the 0/1 reward
// where they end the answer, A_i = Q_i - mean Q, and
//   L = 1/2 mean_i (A_i / beta - u_i)^2, u_i = log pi(a_i | s) - log pi_ref(a_i | s).
// Where the policy is the reference its gradient is -1/beta times that of the advantage.
#include "algo/advantages.h"
#include "algo/preference.h"
#include "base/error.h"
#include "base/logistic.h"

namespace opo {

AdvantageResult DirectAdvantageAdvantages(const RewardBatch& batch, const AlgorithmConfig&) {
  return CenterRewards(batch, Groups(batch), [](const RewardBatch& net, Peers group) {
    const double mean = MeanReward(net, group);
    return [=](std::size_t) { return Centering{.baseline = mean}; };
  });
}

BatchLosses StepCriticLosses(const LossBatch& batch, const AlgorithmConfig&) {
  OPO_CHECK(batch.rewards.size() == batch.policy.size());
  BatchLosses losses(batch.policy.size());
  for (std::size_t i = 0; i < losses.size(); ++i) {
    OPO_CHECK(!batch.policy[i].empty());
    losses[i].resize(batch.policy[i].size());
    const double score = batch.policy[i].back();
    losses[i].back() = {.loss = SoftPlus(score) - batch.rewards[i] * score,
                        .dlogprob = Sigmoid(score) - batch.rewards[i]};
  }
  return losses;
}

BatchLosses DirectAdvantageLosses(const LossBatch& batch, const AlgorithmConfig& config) {
  OPO_CHECK(batch.reference.size() == batch.policy.size());
  OPO_CHECK(batch.advantages.size() == batch.policy.size());
  BatchLosses losses(batch.policy.size());
  for (std::size_t i = 0; i < losses.size(); ++i) {
    const std::size_t tokens = batch.policy[i].size();
    OPO_CHECK(batch.reference[i].size() == tokens);
    if (tokens == 0) continue;
    const double residual = batch.advantages[i] / config.step_beta - LogRatio(batch, i);
    losses[i].assign(tokens, {.loss = residual * residual / 2 / static_cast<double>(tokens),
                              .dlogprob = -residual});
  }
  return losses;
}

}  // namespace opo
