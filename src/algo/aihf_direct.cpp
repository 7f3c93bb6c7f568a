// AIHF (arXiv 2406.06874) without a separate reward: with R = beta log(policy / reference) its two
// terms are dpo's loss of the pairs and the negative log-likelihood of the demonstrations,
//   L = mean over pairs of DPO + demo_weight * mean over demonstrations of -log policy(y).
// Groups of two answers are pairs, groups of one demonstrations. Of pairs alone it is dpo bit for
// bit, and with demo_weight = 0 its pairs have dpo's gradient. Of demonstrations alone it is their
// likelihood. The paper's text was not readable here: the form is unconfirmed.
#include <algorithm>

#include "algo/advantages.h"
#include "algo/preference.h"

namespace opo {
namespace {

std::vector<std::size_t> Demonstrations(std::span<const idx> groups) {
  std::vector<std::size_t> answers;
  for (const Peers& group : GroupsOf(groups)) {
    if (group.size() == 1) answers.push_back(group.begin);
  }
  return answers;
}

}  // namespace

AdvantageResult AihfDirectAdvantages(const RewardBatch& batch, const AlgorithmConfig& config) {
  AdvantageResult result = DpoAdvantages(batch, config);
  const std::vector<std::size_t> demonstrations = Demonstrations(batch.groups);
  const auto answers = static_cast<std::size_t>(std::count_if(
      batch.lengths.begin(), batch.lengths.end(), [](idx length) { return length > 0; }));
  const double weight = config.demo_weight * PartScale(answers, demonstrations.size());
  for (const std::size_t i : demonstrations) result.advantages[i] = weight;
  return result;
}

BatchLosses AihfDirectLosses(const LossBatch& batch, const AlgorithmConfig& config) {
  BatchLosses losses = DpoLosses(batch, config);
  const std::vector<std::size_t> demonstrations = Demonstrations(batch.groups);
  const double weight =
      config.demo_weight * PartScale(AnswersWithTokens(batch), demonstrations.size());
  for (const std::size_t i : demonstrations) {
    for (std::size_t t = 0; t < losses[i].size(); ++t) {
      if (!IsLearned(batch, i, t)) continue;
      losses[i][t] = {.loss = -weight * batch.policy[i][t], .dlogprob = -weight};
    }
  }
  return losses;
}

}  // namespace opo
