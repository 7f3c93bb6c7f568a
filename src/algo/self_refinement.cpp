// Quality-aware self-refinement (arXiv 2405.21040): a pair whose answers the policy itself judges
// to be far apart must be further apart. With m_i the log-ratio of answer i behind a prompt that
// asks for quality (LossBatch::refined), without a gradient,
//   Delta = beta (m_chosen - m_rejected),
//   Sr-DPO: -log sigmoid(beta h - sr_lambda Delta),
//   Sr-IPO: (h - sr_lambda Delta - 1 / (2 beta))^2.
// With sr_lambda = 0 they are dpo and ipo, bit for bit. Where Sr-IPO's log-ratios are divided by
// their lengths, Delta's are too, which is our choice: the paper sums.
#include <algorithm>

#include "algo/advantages.h"
#include "algo/preference.h"
#include "base/error.h"

namespace opo {
namespace {

// sr_lambda Delta
double Margin(const LossBatch& batch, const AnswerPair& pair, bool divide_by_length,
              const AlgorithmConfig& config) {
  if (config.sr_lambda == 0) return 0;
  const auto margin = [&](std::size_t i) {
    return divide_by_length ? batch.refined[i] / std::max(LearnedTokens(batch, i), 1.0)
                            : batch.refined[i];
  };
  return config.sr_lambda * config.beta * (margin(pair.chosen) - margin(pair.rejected));
}

}  // namespace

AdvantageResult SrDpoAdvantages(const RewardBatch& batch, const AlgorithmConfig& config) {
  return DpoAdvantages(batch, config);
}

AdvantageResult SrIpoAdvantages(const RewardBatch& batch, const AlgorithmConfig& config) {
  return IpoAdvantages(batch, config);
}

BatchLosses SrDpoLosses(const LossBatch& batch, const AlgorithmConfig& config) {
  OPO_CHECK(batch.refined.size() == batch.policy.size());
  BatchLosses losses = NoLosses(batch);
  const auto loss = [&](const AnswerPair& pair, double h) {
    return DpoLoss(h, config, Margin(batch, pair, false, config));
  };
  AddPairLosses(batch, GivenPairs(batch.rewards, batch.groups), false, loss, losses);
  return losses;
}

BatchLosses SrIpoLosses(const LossBatch& batch, const AlgorithmConfig& config) {
  OPO_CHECK(batch.refined.size() == batch.policy.size());
  BatchLosses losses = NoLosses(batch);
  const auto loss = [&](const AnswerPair& pair, double h) {
    return SquareLoss(h - Margin(batch, pair, config.divide_by_length, config), config);
  };
  AddPairLosses(batch, GivenPairs(batch.rewards, batch.groups), config.divide_by_length, loss,
                losses);
  return losses;
}

}  // namespace opo
