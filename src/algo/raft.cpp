// RAFT (as in arXiv 2504.11343): the log-likelihood of the answers with a positive reward, A = 1,
// all others A = 0; no ratio. The 2023 method keeps the best of n by a reward model instead. As in
// the released code the mean over tokens counts those of all answers, so the step is smaller where
// few are kept.
#include "algo/advantages.h"

namespace opo {

AdvantageResult RaftAdvantages(const RewardBatch& batch, const AlgorithmConfig&) {
  AdvantageResult result;
  WholeBatch(batch);  // its checks
  for (const double reward : NetOfPenalties(batch).rewards) {
    result.advantages.push_back(reward > 0 ? 1.0 : 0.0);
  }
  result.baselines.resize(batch.rewards.size());
  return result;
}

}  // namespace opo
