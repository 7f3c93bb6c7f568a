#include "algo/advantages.h"

#include "base/error.h"

namespace opo {
namespace {

void CheckParallel(const RewardBatch& batch) {
  OPO_CHECK(batch.lengths.size() == batch.rewards.size());
  OPO_CHECK(batch.groups.size() == batch.rewards.size());
}

}  // namespace

std::vector<Peers> Groups(const RewardBatch& batch) {
  CheckParallel(batch);
  std::vector<Peers> groups;
  for (std::size_t i = 0; i < batch.groups.size(); ++i) {
    const idx group = batch.groups[i];
    if (group == static_cast<idx>(groups.size())) groups.push_back({i, i});
    OPO_CHECK(group + 1 == static_cast<idx>(groups.size()));
    groups.back().end = i + 1;
  }
  return groups;
}

std::vector<Peers> WholeBatch(const RewardBatch& batch) {
  CheckParallel(batch);
  if (batch.rewards.empty()) return {};
  return {{0, batch.rewards.size()}};
}

double SumOfRewards(const RewardBatch& batch, Peers peers) {
  double sum = 0;
  for (std::size_t i = peers.begin; i < peers.end; ++i) sum += batch.rewards[i];
  return sum;
}

double MeanReward(const RewardBatch& batch, Peers peers) {
  return SumOfRewards(batch, peers) / peers.size();
}

double LengthWeightedMeanReward(const RewardBatch& batch, Peers peers) {
  double weighted = 0;
  double tokens = 0;
  for (std::size_t i = peers.begin; i < peers.end; ++i) {
    const auto length = static_cast<double>(batch.lengths[i]);
    weighted += length * batch.rewards[i];
    tokens += length;
  }
  return tokens > 0 ? weighted / tokens : 0.0;
}

}  // namespace opo
