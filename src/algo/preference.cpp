#include "algo/preference.h"

#include <algorithm>

#include "algo/advantages.h"
#include "base/error.h"
#include "base/logistic.h"

namespace opo {
namespace {

// Two answers with the same log-probs, token by token, by both models.
bool AreTheSame(const LossBatch& batch, const AnswerPair& pair) {
  const auto& a = batch.reference[pair.chosen];
  const auto& b = batch.reference[pair.rejected];
  return batch.policy[pair.chosen] == batch.policy[pair.rejected] &&
         std::equal(a.begin(), a.end(), b.begin(), b.end());
}

}  // namespace

PairLoss SigmoidLoss(double z, const AlgorithmConfig& config) {
  const double e = config.label_smoothing;
  return {.loss = (1 - e) * SoftPlus(-z) + e * SoftPlus(z),
          .dh = e * Sigmoid(z) - (1 - e) * Sigmoid(-z)};
}

PairLoss SquareLoss(double h, const AlgorithmConfig& config) {
  const double difference = h - 1 / (2 * config.beta);
  return {.loss = difference * difference, .dh = 2 * difference};
}

std::vector<AnswerPair> GivenPairs(std::span<const double>, std::span<const idx> groups) {
  std::vector<AnswerPair> pairs;
  for (const Peers& group : GroupsOf(groups)) {
    if (group.size() == 2) pairs.push_back({group.begin, group.begin + 1});
  }
  return pairs;
}

std::vector<AnswerPair> BestAndWorst(std::span<const double> rewards, std::span<const idx> groups) {
  std::vector<AnswerPair> pairs;
  for (const Peers& group : GroupsOf(groups)) {
    AnswerPair pair = {group.begin, group.begin};
    for (std::size_t i = group.begin; i < group.end; ++i) {
      if (rewards[i] > rewards[pair.chosen]) pair.chosen = i;
      if (rewards[i] < rewards[pair.rejected]) pair.rejected = i;
    }
    if (pair.chosen != pair.rejected) pairs.push_back(pair);
  }
  return pairs;
}

bool IsLearned(const LossBatch& batch, std::size_t response, std::size_t t) {
  if (batch.learned.empty() || batch.learned[response].empty()) return true;
  return batch.learned[response][t];
}

double LogRatio(const LossBatch& batch, std::size_t response) {
  const std::vector<double>& policy = batch.policy[response];
  const std::span<const float> reference = batch.reference[response];
  OPO_CHECK(reference.size() == policy.size());
  double sum = 0;
  for (std::size_t t = 0; t < policy.size(); ++t) {
    if (IsLearned(batch, response, t)) sum += policy[t] - static_cast<double>(reference[t]);
  }
  return sum;
}

double LearnedTokens(const LossBatch& batch, std::size_t response) {
  double tokens = 0;
  for (std::size_t t = 0; t < batch.policy[response].size(); ++t) {
    tokens += IsLearned(batch, response, t) ? 1 : 0;
  }
  return tokens;
}

std::size_t AnswersWithTokens(const LossBatch& batch) {
  std::size_t answers = 0;
  for (std::size_t i = 0; i < batch.policy.size(); ++i) {
    answers += LearnedTokens(batch, i) > 0 ? 1 : 0;
  }
  return answers;
}

double PartScale(std::size_t answers, std::size_t parts) {
  return parts == 0 ? 0 : static_cast<double>(answers) / static_cast<double>(parts);
}

BatchLosses NoLosses(const LossBatch& batch) {
  BatchLosses losses;
  for (const std::vector<double>& tokens : batch.policy) losses.emplace_back(tokens.size());
  return losses;
}

void AddPairLosses(const LossBatch& batch, const std::vector<AnswerPair>& pairs,
                   bool divide_by_length, const LossOfPair& loss, BatchLosses& losses) {
  const double scale = PartScale(AnswersWithTokens(batch), pairs.size());
  for (const AnswerPair& pair : pairs) {
    const double tokens[] = {LearnedTokens(batch, pair.chosen),
                             LearnedTokens(batch, pair.rejected)};
    const double lengths[] = {divide_by_length ? std::max(tokens[0], 1.0) : 1.0,
                              divide_by_length ? std::max(tokens[1], 1.0) : 1.0};
    const double h =
        LogRatio(batch, pair.chosen) / lengths[0] - LogRatio(batch, pair.rejected) / lengths[1];
    const PairLoss of_pair = loss(pair, h);
    const bool same = AreTheSame(batch, pair);
    for (const bool rejected : {false, true}) {
      const std::size_t i = rejected ? pair.rejected : pair.chosen;
      const double slope = (rejected ? -1 : 1) * scale * of_pair.dh / lengths[rejected];
      const double part = scale * of_pair.loss / (tokens[0] + tokens[1]);
      for (std::size_t t = 0; t < losses[i].size(); ++t) {
        if (!IsLearned(batch, i, t)) continue;
        losses[i][t].loss += part;
        if (!same) losses[i][t].dlogprob += slope;
      }
    }
  }
}

AdvantageResult PairAdvantages(const RewardBatch& batch, const std::vector<AnswerPair>& pairs,
                               bool divide_by_length, const PairLoss& at_reference) {
  AdvantageResult result;
  result.advantages.resize(batch.rewards.size());
  result.baselines.resize(batch.rewards.size());
  const auto answers = static_cast<std::size_t>(std::count_if(
      batch.lengths.begin(), batch.lengths.end(), [](idx length) { return length > 0; }));
  const double slope = -PartScale(answers, pairs.size()) * at_reference.dh;
  const auto of_token = [&](std::size_t i) {
    const idx length = std::max<idx>(batch.lengths[i], 1);
    return divide_by_length ? slope / static_cast<double>(length) : slope;
  };
  for (const AnswerPair& pair : pairs) {
    result.advantages[pair.chosen] = of_token(pair.chosen);
    result.advantages[pair.rejected] = -of_token(pair.rejected);
  }
  return result;
}

}  // namespace opo
