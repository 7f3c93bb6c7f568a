// IPO (arXiv 2310.12036): L = (h - 1 / (2 beta))^2, h the difference of the pair's log-ratios
// (preference.h), the mean over pairs. What a log-ratio is has two conventions: the sum over an
// answer's tokens (the paper, OpenRLHF), or that divided by the answer's length (TRL, after asking
// the authors). `divide_by_length` says which; beta means another thing in each.
#include "algo/advantages.h"
#include "algo/preference.h"

namespace opo {

AdvantageResult IpoAdvantages(const RewardBatch& batch, const AlgorithmConfig& config) {
  return PairAdvantages(batch, GivenPairs(batch.rewards, batch.groups), config.divide_by_length,
                        SquareLoss(0, config));
}

BatchLosses IpoLosses(const LossBatch& batch, const AlgorithmConfig& config) {
  BatchLosses losses = NoLosses(batch);
  AddPairLosses(
      batch, GivenPairs(batch.rewards, batch.groups), config.divide_by_length,
      [&](const AnswerPair&, double h) { return SquareLoss(h, config); }, losses);
  return losses;
}

}  // namespace opo
