// The estimators behind the table in algorithm.cpp, one file each, and what they share.
//
// Where all rewards that would be compared are equal, the advantages are exactly 0 (no rounding
// residue), so that the learner can skip those answers. A group of one is such a case: it has no
// learning signal. verl differs there: its opo and rloo then give A = r, its grpo r / (1 + 1e-6).
#pragma once

#include <cstddef>

#include "algo/algorithm.h"

namespace opo {

AdvantageResult OpoAdvantages(const RewardBatch& batch);
AdvantageResult OpoBatchAdvantages(const RewardBatch& batch);
AdvantageResult GrpoAdvantages(const RewardBatch& batch);
AdvantageResult DrGrpoAdvantages(const RewardBatch& batch);
AdvantageResult RlooAdvantages(const RewardBatch& batch);
AdvantageResult ReinforceAdvantages(const RewardBatch& batch);

// Responses [begin, end) whose rewards are compared with each other: a group, or the batch.
struct Peers {
  std::size_t begin = 0;
  std::size_t end = 0;
  double size() const { return static_cast<double>(end - begin); }
};

// The groups of the batch in order. CHECKs that the arrays are parallel and groups stand together.
std::vector<Peers> Groups(const RewardBatch& batch);
// One entry that spans the batch, or none if it is empty.
std::vector<Peers> WholeBatch(const RewardBatch& batch);

double SumOfRewards(const RewardBatch& batch, Peers peers);
double MeanReward(const RewardBatch& batch, Peers peers);
// sum l r / sum l; 0 where no response has a token.
double LengthWeightedMeanReward(const RewardBatch& batch, Peers peers);

// A_i = (r_i - baseline_i) * scale where a method gives both for response i of `peers`.
struct Centering {
  double baseline = 0;
  double scale = 1;
};

// Calls method(peers) once a set of peers: that returns a function of i, asked for each response.
template <class Method>
AdvantageResult CenterRewards(const RewardBatch& batch, const std::vector<Peers>& sets,
                              Method method) {
  AdvantageResult result;
  result.advantages.resize(batch.rewards.size());
  result.baselines.resize(batch.rewards.size());
  for (const Peers& peers : sets) {
    bool all_equal = true;
    for (std::size_t i = peers.begin; i < peers.end; ++i) {
      all_equal = all_equal && batch.rewards[i] == batch.rewards[peers.begin];
    }
    const auto at = method(peers);
    for (std::size_t i = peers.begin; i < peers.end; ++i) {
      const Centering centering =
          all_equal ? Centering{.baseline = batch.rewards[i], .scale = 1} : at(i);
      result.baselines[i] = centering.baseline;
      result.advantages[i] = (batch.rewards[i] - centering.baseline) * centering.scale;
    }
  }
  return result;
}

}  // namespace opo
