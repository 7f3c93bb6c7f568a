// Token losses, their derivatives, and how they are weighed into one number.
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "algo/algorithm.h"
#include "base/error.h"

namespace opo {
namespace {

constexpr std::string_view kModes[] = {"token-mean", "seq-mean-token-sum", "seq-mean-token-mean",
                                       "seq-mean-token-sum-norm"};

}  // namespace

std::span<const std::string_view> AggregationModes() { return kModes; }

std::vector<double> TokenWeights(std::string_view mode, std::span<const idx> lengths, double norm) {
  if (std::find(std::begin(kModes), std::end(kModes), mode) == std::end(kModes)) {
    Fail(ErrorCode::kUsage, "algorithm.loss_agg = \"{}\": unknown; known are: {}", mode,
         fmt::join(kModes, ", "));
  }
  const auto tokens = static_cast<double>(std::accumulate(lengths.begin(), lengths.end(), idx{0}));
  const auto sequences = static_cast<double>(
      std::count_if(lengths.begin(), lengths.end(), [](idx length) { return length > 0; }));
  OPO_CHECK(mode != "seq-mean-token-sum-norm" || norm > 0);
  std::vector<double> weights;
  weights.reserve(lengths.size());
  for (const idx length : lengths) {
    OPO_CHECK(length >= 0);
    double denominator = sequences;
    if (mode == "token-mean") denominator = tokens;
    if (mode == "seq-mean-token-mean") denominator *= static_cast<double>(length);
    if (mode == "seq-mean-token-sum-norm") denominator *= norm;
    weights.push_back(length > 0 ? 1.0 / denominator : 0.0);
  }
  return weights;
}

TokenLoss PolicyGradientLoss(const LossToken& token) {
  return {.loss = -token.advantage, .dlogprob = -token.advantage};
}

TokenLoss LikelihoodLoss(const LossToken& token, const AlgorithmConfig&) {
  return {.loss = -token.advantage * token.policy, .dlogprob = -token.advantage};
}

TokenLoss PpoClipLoss(const LossToken& token, const AlgorithmConfig& config) {
  OPO_CHECK(config.clip_low >= 0 && config.clip_high >= 0 && config.clip_dual >= 0);  // Resolved()
  const double advantage = token.advantage;
  const double difference = token.policy - token.rollout;
  const double ratio = std::exp(std::clamp(difference, -20.0, 20.0));
  const double unclipped = -advantage * ratio;
  const double bounded =
      -advantage * std::clamp(ratio, 1.0 - config.clip_low, 1.0 + config.clip_high);
  TokenLoss result;
  result.clipped = bounded > unclipped;
  result.loss = result.clipped ? bounded : unclipped;
  const double dual_bound = -advantage * config.clip_dual;
  result.clipped_lower = config.clip_dual > 1.0 && advantage < 0 && result.loss > dual_bound;
  if (result.clipped_lower) result.loss = dual_bound;
  // d ratio / d logprob = ratio, except where one of the three clamps holds it constant.
  const bool constant = result.clipped || result.clipped_lower || std::abs(difference) > 20.0;
  result.dlogprob = constant ? 0.0 : unclipped;
  return result;
}

TokenLoss ValueLoss(double value, double old_value, double target, double clip) {
  const double error = value - target;
  TokenLoss result{.loss = 0.5 * error * error, .dlogprob = error};
  if (clip == 0) return result;
  const double bounded = std::clamp(value, old_value - clip, old_value + clip) - target;
  // Where it is the larger one, V is out of bounds and the clamp holds it constant.
  result.clipped = bounded * bounded > error * error;
  if (result.clipped) result = {.loss = 0.5 * bounded * bounded, .dlogprob = 0, .clipped = true};
  return result;
}

}  // namespace opo
