// Online DPO (arXiv 2402.04792, with a verifier or a reward model as the judge; the pairs are those
// of RLHFlow's iterative DPO, arXiv 2405.07863): of each prompt's sampled answers the best and the
// worst by reward make a pair for dpo's loss. A prompt whose answers all have the same reward has
// none. The mean is over the pairs there are.
#include "algo/advantages.h"
#include "algo/preference.h"

namespace opo {

AdvantageResult OnlineDpoAdvantages(const RewardBatch& batch, const AlgorithmConfig& config) {
  return PairAdvantages(batch, BestAndWorst(NetOfPenalties(batch).rewards, batch.groups), false,
                        DpoLoss(0, config));
}

BatchLosses OnlineDpoLosses(const LossBatch& batch, const AlgorithmConfig& config) {
  BatchLosses losses = NoLosses(batch);
  AddPairLosses(
      batch, BestAndWorst(batch.rewards, batch.groups), false,
      [&](const AnswerPair&, double h) { return DpoLoss(h, config); }, losses);
  return losses;
}

}  // namespace opo
