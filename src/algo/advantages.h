// The estimators behind the table in algorithm.cpp, one file each, and what they share.
//
// Where all rewards that would be compared are equal, the advantages are exactly 0 (no rounding
// residue), so that the learner can skip those answers. A group of one is such a case: it has no
// learning signal. verl differs there: its opo, rloo and optimal token baseline then give A = r,
// its grpo r / (1 + 1e-6).
#pragma once

#include <cstddef>

#include "algo/algorithm.h"

namespace opo {

AdvantageResult OpoAdvantages(const RewardBatch& batch, const AlgorithmConfig& config);
AdvantageResult OpoExactAdvantages(const RewardBatch& batch, const AlgorithmConfig& config);
AdvantageResult OpoBatchAdvantages(const RewardBatch& batch, const AlgorithmConfig& config);
AdvantageResult OpoLooAdvantages(const RewardBatch& batch, const AlgorithmConfig& config);
AdvantageResult OtbAdvantages(const RewardBatch& batch, const AlgorithmConfig& config);
AdvantageResult ReinforceAdvantages(const RewardBatch& batch, const AlgorithmConfig& config);
AdvantageResult GrpoAdvantages(const RewardBatch& batch, const AlgorithmConfig& config);
AdvantageResult DrGrpoAdvantages(const RewardBatch& batch, const AlgorithmConfig& config);
AdvantageResult DapoAdvantages(const RewardBatch& batch, const AlgorithmConfig& config);
AdvantageResult RlooAdvantages(const RewardBatch& batch, const AlgorithmConfig& config);
AdvantageResult RemaxAdvantages(const RewardBatch& batch, const AlgorithmConfig& config);
AdvantageResult ReinforcePpAdvantages(const RewardBatch& batch, const AlgorithmConfig& config);
AdvantageResult ReinforcePpBaselineAdvantages(const RewardBatch& batch,
                                              const AlgorithmConfig& config);
AdvantageResult GspoAdvantages(const RewardBatch& batch, const AlgorithmConfig& config);
AdvantageResult CispoAdvantages(const RewardBatch& batch, const AlgorithmConfig& config);
AdvantageResult RaftAdvantages(const RewardBatch& batch, const AlgorithmConfig& config);
AdvantageResult RaftPpAdvantages(const RewardBatch& batch, const AlgorithmConfig& config);
AdvantageResult ReinforceRejAdvantages(const RewardBatch& batch, const AlgorithmConfig& config);
AdvantageResult EmPgAdvantages(const RewardBatch& batch, const AlgorithmConfig& config);
AdvantageResult RebelAdvantages(const RewardBatch& batch, const AlgorithmConfig& config);
AdvantageResult AihfAdvantages(const RewardBatch& batch, const AlgorithmConfig& config);
AdvantageResult DirectAdvantageAdvantages(const RewardBatch& batch, const AlgorithmConfig& config);
// 0 for all: of a loss that looks at none.
AdvantageResult NoAdvantages(const RewardBatch& batch, const AlgorithmConfig& config);
AdvantageResult DpoAdvantages(const RewardBatch& batch, const AlgorithmConfig& config);
AdvantageResult IpoAdvantages(const RewardBatch& batch, const AlgorithmConfig& config);
AdvantageResult SrDpoAdvantages(const RewardBatch& batch, const AlgorithmConfig& config);
AdvantageResult SrIpoAdvantages(const RewardBatch& batch, const AlgorithmConfig& config);
AdvantageResult OnlineDpoAdvantages(const RewardBatch& batch, const AlgorithmConfig& config);
AdvantageResult AihfDirectAdvantages(const RewardBatch& batch, const AlgorithmConfig& config);
AdvantageResult SftAdvantages(const RewardBatch& batch, const AlgorithmConfig& config);
AdvantageResult PpoAdvantages(const RewardBatch& batch, const AlgorithmConfig& config);
AdvantageResult TPpoAdvantages(const RewardBatch& batch, const AlgorithmConfig& config);
AdvantageResult AwrAdvantages(const RewardBatch& batch, const AlgorithmConfig& config);

// Responses [begin, end) whose rewards are compared with each other: a group, or the batch.
struct Peers {
  std::size_t begin = 0;
  std::size_t end = 0;
  double size() const { return static_cast<double>(end - begin); }
};

// The groups in order. CHECKs that they stand together, and that the batch's arrays are parallel.
std::vector<Peers> GroupsOf(std::span<const idx> groups);
std::vector<Peers> Groups(const RewardBatch& batch);
// One entry that spans the batch, or none if it is empty.
std::vector<Peers> WholeBatch(const RewardBatch& batch);

// `batch` with the sum of its token penalties taken from each reward, and no penalties.
RewardBatch NetOfPenalties(const RewardBatch& batch);
// For each token the reward that comes from there on: the reward, less the penalties of this token
// and the later ones. `gamma` discounts each step.
std::vector<std::vector<double>> Returns(const RewardBatch& batch, double gamma);

bool AllEqual(const RewardBatch& batch, Peers peers);  // their rewards
double SumOfRewards(const RewardBatch& batch, Peers peers);
double MeanReward(const RewardBatch& batch, Peers peers);
// What OPO takes for the squared gradient norm of a response: length^exponent, 0 without tokens.
double LengthWeight(idx length, double exponent);
// sum w r / sum w with these weights; 0 where no response has a token.
double LengthWeightedMeanReward(const RewardBatch& batch, Peers peers, double exponent);

// A_i = (r_i - baseline_i) * scale where a method gives both for response i of `peers`.
struct Centering {
  double baseline = 0;
  double scale = 1;
};

// Calls method(net, peers) once a set of peers, with net = NetOfPenalties(batch): that returns a
// function of i, asked for each response.
template <class Method>
AdvantageResult CenterRewards(const RewardBatch& batch, const std::vector<Peers>& sets,
                              Method method) {
  if (!batch.token_penalties.empty()) return CenterRewards(NetOfPenalties(batch), sets, method);
  AdvantageResult result;
  result.advantages.resize(batch.rewards.size());
  result.baselines.resize(batch.rewards.size());
  for (const Peers& peers : sets) {
    const bool all_equal = AllEqual(batch, peers);
    const auto at = method(batch, peers);
    for (std::size_t i = peers.begin; i < peers.end; ++i) {
      const Centering centering =
          all_equal ? Centering{.baseline = batch.rewards[i], .scale = 1} : at(i);
      result.baselines[i] = centering.baseline;
      result.advantages[i] = (batch.rewards[i] - centering.baseline) * centering.scale;
    }
  }
  return result;
}

// One advantage a token, and what was subtracted there; their means make the response's.
AdvantageResult TokenResult(std::vector<std::vector<double>> advantages,
                            const std::vector<std::vector<double>>& baselines);

}  // namespace opo
