// The optimal token baseline (verl docs/algo/otb.md): at every position t of the answers to one
// prompt
//   B_t = sum_i W_it G_it / (sum_i W_it + 1e-8)  over the answers that have a token there,
//   A_it = G_it - B_t,
// with G the reward from there on and W_it = w_i1 + .. + w_it, w = 1 - 2 p + sum p^2: the squared
// norm of the log-prob's gradient by the logits, which OPO takes to be the same for all tokens.
// Where only the longest answer is left, B_t is its own G and A = 0; handle_zero_tail takes B_t = 0
// there. verl 0.9.1 has that on by default, its documentation off; off here.
#include <algorithm>
#include <cmath>

#include "algo/advantages.h"
#include "base/error.h"

namespace opo {
namespace {

// W of response i. Probabilities are those that the policy had when it sampled.
std::vector<double> PathWeights(const RewardBatch& batch, std::size_t i) {
  const auto length = static_cast<std::size_t>(batch.lengths[i]);
  OPO_CHECK(batch.logprobs[i].size() == length && batch.sum_sqs[i].size() == length);
  std::vector<double> weights(length);
  double sum = 0;
  for (std::size_t t = 0; t < length; ++t) {
    const double p = std::exp(static_cast<double>(batch.logprobs[i][t]));
    // A square: below 0 only by rounding, and then verl's 1e-8 could make the divisor 0.
    sum += std::max(0.0, 1 - 2 * p + static_cast<double>(batch.sum_sqs[i][t]));
    weights[t] = sum;
  }
  return weights;
}

}  // namespace

AdvantageResult OtbAdvantages(const RewardBatch& batch, const AlgorithmConfig& config) {
  OPO_CHECK(batch.logprobs.size() == batch.rewards.size());
  OPO_CHECK(batch.sum_sqs.size() == batch.rewards.size());
  std::vector<std::vector<double>> advantages = Returns(batch, 1);
  std::vector<std::vector<double>> baselines(advantages.size());
  for (const Peers& group : Groups(batch)) {
    std::vector<std::vector<double>> weights;
    std::size_t longest = 0;
    for (std::size_t i = group.begin; i < group.end; ++i) {
      weights.push_back(PathWeights(batch, i));
      baselines[i].resize(weights.back().size());
      longest = std::max(longest, weights.back().size());
    }
    for (std::size_t t = 0; t < longest; ++t) {
      std::vector<std::size_t> alive;
      for (std::size_t i = group.begin; i < group.end; ++i) {
        if (weights[i - group.begin].size() > t) alive.push_back(i);
      }
      const double first = advantages[alive[0]][t];
      bool all_equal = true;
      double weighted = 0;
      double sum = 1e-8;
      for (const std::size_t i : alive) {
        const double weight = weights[i - group.begin][t];
        all_equal = all_equal && advantages[i][t] == first;
        weighted += weight * advantages[i][t];
        sum += weight;
      }
      const bool tail = alive.size() == 1 && group.size() > 1;
      const double baseline = tail && config.handle_zero_tail ? 0.0
                              : all_equal                     ? first
                                                              : weighted / sum;
      for (const std::size_t i : alive) {
        baselines[i][t] = baseline;
        advantages[i][t] -= baseline;
      }
    }
  }
  return TokenResult(std::move(advantages), baselines);
}

}  // namespace opo
