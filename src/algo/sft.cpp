// Supervised fine-tuning: the negative log-likelihood of given answers, L = -log pi of each token
// that is learned (the assistant's), and with token-mean their mean over the whole batch, as TRL's
// SFTTrainer has it with average_tokens_across_devices. As a policy gradient that is A = 1 for
// every answer of the data.
#include "algo/advantages.h"

namespace opo {

AdvantageResult SftAdvantages(const RewardBatch& batch, const AlgorithmConfig&) {
  AdvantageResult result;
  WholeBatch(batch);  // its checks
  result.advantages.assign(batch.rewards.size(), 1.0);
  result.baselines.assign(batch.rewards.size(), 0.0);
  return result;
}

}  // namespace opo
