// Reinforce-Rej (arXiv 2504.11343): groups whose rewards are all equal are dropped (A = 0), in the
// others A_i = r_i: no baseline, no std; importance ratio and PPO's clip.
//
// The paper's rewards are -1 and 1. The released code is run with 0 and 1, and then loses the wrong
// answers, which have A = 0: RAFT++ without the groups that are all right. So where the lowest
// reward of a group is 0, that counts as -1 here.
#include <algorithm>

#include "algo/advantages.h"

namespace opo {

AdvantageResult ReinforceRejAdvantages(const RewardBatch& batch, const AlgorithmConfig&) {
  const std::vector<double> rewards = NetOfPenalties(batch).rewards;
  AdvantageResult result;
  result.advantages.resize(rewards.size());
  result.baselines.resize(rewards.size());
  for (const Peers& group : Groups(batch)) {
    const auto begin = rewards.begin() + static_cast<std::ptrdiff_t>(group.begin);
    const auto end = rewards.begin() + static_cast<std::ptrdiff_t>(group.end);
    const auto [low, high] = std::minmax_element(begin, end);
    if (*low == *high) continue;
    for (std::size_t i = group.begin; i < group.end; ++i) {
      result.advantages[i] = *low == 0 && rewards[i] == 0 ? -1 : rewards[i];
    }
  }
  return result;
}

}  // namespace opo
