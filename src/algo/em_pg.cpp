// EM policy gradient (arXiv 2504.18587): answers are sampled (E-step), then the likelihood of the
// good ones is raised, (1/K) sum_i A_i log pi(y_i) (M-step), over several updates without a ratio
// or a clip. The paper's own weights could not be confirmed; algorithm.em_pg_weight has three:
//   reward     A_i = r_i: at the first update the gradient of E[r]
//   posterior  A_i = r_i / mean r of the group, q(y) ~ pi(y) r(y) normalised: the gradient of
//              log E[r], so hard prompts weigh more; 0 where no answer is right
//   centred    A_i = r_i - mean r: no bound of EM holds, and answers with A < 0 can be pushed down
//              without end, so few updates
// reward and posterior are EM where no reward is negative; posterior refuses negative ones.
#include "algo/advantages.h"
#include "base/error.h"

namespace opo {

AdvantageResult EmPgAdvantages(const RewardBatch& batch, const AlgorithmConfig& config) {
  if (config.em_pg_weight == "centred") {
    return CenterRewards(batch, Groups(batch), [&](const RewardBatch& net, Peers group) {
      const double mean = MeanReward(net, group);
      return [=](std::size_t) { return Centering{.baseline = mean}; };
    });
  }
  const RewardBatch net = NetOfPenalties(batch);
  AdvantageResult result;
  result.advantages = net.rewards;
  result.baselines.resize(net.rewards.size());
  if (config.em_pg_weight == "reward") return result;
  OPO_CHECK(config.em_pg_weight == "posterior");
  for (const Peers& group : Groups(net)) {
    const double mean = MeanReward(net, group);
    for (std::size_t i = group.begin; i < group.end; ++i) {
      if (net.rewards[i] < 0) {
        Fail(ErrorCode::kUsage,
             "algorithm.em_pg_weight = \"posterior\": a reward of {} cannot be a part of a "
             "probability; give rewards of at least 0, or take \"reward\" or \"centred\"",
             net.rewards[i]);
      }
      result.advantages[i] = mean > 0 ? net.rewards[i] / mean : 0.0;
    }
  }
  return result;
}

}  // namespace opo
