// RAFT++ (arXiv 2504.11343): RAFT with the importance ratio and PPO's clip. Read to the letter, the
// paper's indicator "the reward is the group's largest" would keep all-wrong groups; its code keeps
// positive rewards only, as here.
#include "algo/advantages.h"

namespace opo {

AdvantageResult RaftPpAdvantages(const RewardBatch& batch, const AlgorithmConfig& config) {
  return RaftAdvantages(batch, config);
}

}  // namespace opo
