// DPO (arXiv 2305.18290): with the log-ratios h_i of preference.h,
//   L = -(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h), h = h_chosen - h_rejected,
// e = label_smoothing (0: DPO; else the conservative DPO of its authors), the mean over pairs.
#include "algo/advantages.h"
#include "algo/preference.h"

namespace opo {

AdvantageResult DpoAdvantages(const RewardBatch& batch, const AlgorithmConfig& config) {
  return PairAdvantages(batch, GivenPairs(batch.rewards, batch.groups), false, DpoLoss(0, config));
}

PairLoss DpoLoss(double h, const AlgorithmConfig& config, double margin) {
  PairLoss loss = SigmoidLoss(config.beta * h - margin, config);
  loss.dh *= config.beta;
  return loss;
}

BatchLosses DpoLosses(const LossBatch& batch, const AlgorithmConfig& config) {
  BatchLosses losses = NoLosses(batch);
  AddPairLosses(
      batch, GivenPairs(batch.rewards, batch.groups), false,
      [&](const AnswerPair&, double h) { return DpoLoss(h, config); }, losses);
  return losses;
}

}  // namespace opo
