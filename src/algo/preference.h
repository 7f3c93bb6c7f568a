// What the losses of preferences share: which answers of a batch are compared, and a loss of the
// difference of two log-ratios spread over their tokens.
//
// Of a pair, with h_i = sum over the learned tokens of answer i of policy - reference, the loss is
// a function of h = h_chosen - h_rejected; a batch's is the mean over its pairs. It is written for
// seq-mean-token-sum, whose weights are 1 / n, n answers with learned tokens: a token's derivative
// is n / pairs * dL/dh, and the pair's loss is spread over its tokens in the same way.
#pragma once

#include <functional>

#include "algo/algorithm.h"

namespace opo {

// By h, for which a method may take log-ratios that are divided by their answers' lengths.
struct PairLoss {
  double loss = 0;
  double dh = 0;
};

// -(1 - e) log sigmoid(z) - e log sigmoid(-z), e = label_smoothing; `dh` is the derivative by z.
PairLoss SigmoidLoss(double z, const AlgorithmConfig& config);
// (h - 1 / (2 beta))^2
PairLoss SquareLoss(double h, const AlgorithmConfig& config);

// SigmoidLoss of beta h - margin.
PairLoss DpoLoss(double h, const AlgorithmConfig& config, double margin = 0);

// Groups of two, the chosen answer first. Others are passed over.
std::vector<AnswerPair> GivenPairs(std::span<const double> rewards, std::span<const idx> groups);
// Of each group the first of its best and the first of its worst answers by reward; none where all
// are equal.
std::vector<AnswerPair> BestAndWorst(std::span<const double> rewards, std::span<const idx> groups);

// policy - reference, summed over the answer's learned tokens.
double LogRatio(const LossBatch& batch, std::size_t response);
// Those of its tokens that are learned.
double LearnedTokens(const LossBatch& batch, std::size_t response);
// Whether token t of it is.
bool IsLearned(const LossBatch& batch, std::size_t response, std::size_t t);

// n / parts, n being AnswersWithTokens(), whose tokens are learned; 0 without parts.
double PartScale(std::size_t answers, std::size_t parts);
std::size_t AnswersWithTokens(const LossBatch& batch);

// Adds to `losses` those of `pairs`: loss(pair, chosen - rejected) of their log-ratios, divided by
// lengths or not. The same answer twice has no gradient.
using LossOfPair = std::function<PairLoss(const AnswerPair& pair, double h)>;
void AddPairLosses(const LossBatch& batch, const std::vector<AnswerPair>& pairs,
                   bool divide_by_length, const LossOfPair& loss, BatchLosses& losses);
// No loss for any token.
BatchLosses NoLosses(const LossBatch& batch);

// The advantages whose policy gradient is that of `loss` at h = 0, where policy = reference, as in
// a run's first step.
AdvantageResult PairAdvantages(const RewardBatch& batch, const std::vector<AnswerPair>& pairs,
                               bool divide_by_length, const PairLoss& at_reference);

}  // namespace opo
