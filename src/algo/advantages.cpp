#include "algo/advantages.h"

#include <cmath>

#include "base/error.h"

namespace opo {
namespace {

void CheckParallel(const RewardBatch& batch) {
  OPO_CHECK(batch.lengths.size() == batch.rewards.size());
  OPO_CHECK(batch.groups.size() == batch.rewards.size());
  OPO_CHECK(batch.token_penalties.empty() || batch.token_penalties.size() == batch.rewards.size());
}

double Mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

}  // namespace

std::vector<Peers> GroupsOf(std::span<const idx> of) {
  std::vector<Peers> groups;
  for (std::size_t i = 0; i < of.size(); ++i) {
    if (of[i] == static_cast<idx>(groups.size())) groups.push_back({i, i});
    OPO_CHECK(of[i] + 1 == static_cast<idx>(groups.size()));
    groups.back().end = i + 1;
  }
  return groups;
}

std::vector<Peers> Groups(const RewardBatch& batch) {
  CheckParallel(batch);
  return GroupsOf(batch.groups);
}

std::vector<Peers> WholeBatch(const RewardBatch& batch) {
  CheckParallel(batch);
  if (batch.rewards.empty()) return {};
  return {{0, batch.rewards.size()}};
}

RewardBatch NetOfPenalties(const RewardBatch& batch) {
  CheckParallel(batch);
  RewardBatch net = batch;
  net.token_penalties.clear();
  for (std::size_t i = 0; i < batch.token_penalties.size(); ++i) {
    double sum = 0;
    for (const double penalty : batch.token_penalties[i]) sum += penalty;
    net.rewards[i] -= sum;
  }
  return net;
}

std::vector<std::vector<double>> Returns(const RewardBatch& batch, double gamma) {
  CheckParallel(batch);
  std::vector<std::vector<double>> returns(batch.rewards.size());
  for (std::size_t i = 0; i < returns.size(); ++i) {
    const auto length = static_cast<std::size_t>(batch.lengths[i]);
    returns[i].resize(length);
    const bool penalised = !batch.token_penalties.empty();
    OPO_CHECK(!penalised || batch.token_penalties[i].size() == length);
    double later = 0;
    for (std::size_t t = length; t-- > 0;) {
      double reward = t + 1 == length ? batch.rewards[i] : 0.0;
      if (penalised) reward -= batch.token_penalties[i][t];
      later = reward + gamma * later;
      returns[i][t] = later;
    }
  }
  return returns;
}

bool AllEqual(const RewardBatch& batch, Peers peers) {
  for (std::size_t i = peers.begin; i < peers.end; ++i) {
    if (batch.rewards[i] != batch.rewards[peers.begin]) return false;
  }
  return true;
}

double SumOfRewards(const RewardBatch& batch, Peers peers) {
  double sum = 0;
  for (std::size_t i = peers.begin; i < peers.end; ++i) sum += batch.rewards[i];
  return sum;
}

double MeanReward(const RewardBatch& batch, Peers peers) {
  return SumOfRewards(batch, peers) / peers.size();
}

double LengthWeight(idx length, double exponent) {
  if (length == 0) return 0;
  return std::pow(static_cast<double>(length), exponent);
}

double LengthWeightedMeanReward(const RewardBatch& batch, Peers peers, double exponent) {
  double weighted = 0;
  double weights = 0;
  for (std::size_t i = peers.begin; i < peers.end; ++i) {
    const double weight = LengthWeight(batch.lengths[i], exponent);
    weighted += weight * batch.rewards[i];
    weights += weight;
  }
  return weights > 0 ? weighted / weights : 0.0;
}

AdvantageResult NoAdvantages(const RewardBatch& batch, const AlgorithmConfig&) {
  CheckParallel(batch);
  return {.advantages = std::vector<double>(batch.rewards.size()),
          .baselines = std::vector<double>(batch.rewards.size()),
          .token_advantages = {}};
}

AdvantageResult TokenResult(std::vector<std::vector<double>> advantages,
                            const std::vector<std::vector<double>>& baselines) {
  AdvantageResult result;
  for (const auto& tokens : advantages) result.advantages.push_back(Mean(tokens));
  for (const auto& tokens : baselines) result.baselines.push_back(Mean(tokens));
  result.token_advantages = std::move(advantages);
  return result;
}

}  // namespace opo
