// RL algorithms as pure arithmetic: rewards and lengths to advantages, log-probs and advantages to
// token losses. Nothing here knows a tensor, a model or a thread.
//
// Notation of docs/algorithms.md: response i of K has reward r_i and length l_i (trainable tokens,
// EOS counts). All sums are f64, in index order.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/types.h"

namespace opo {

// A batch of responses as parallel arrays. Responses of one prompt share a group number; groups are
// numbered from 0 and stand together.
struct RewardBatch {
  std::vector<double> rewards;
  std::vector<idx> lengths;
  std::vector<idx> groups;
};

struct AdvantageResult {
  std::vector<double> advantages;  // one a response (the same for each of its tokens)
  std::vector<double> baselines;   // what was subtracted, one a response
};

struct Algorithm {
  std::string_view name;
  std::string_view summary;  // one line
  std::string_view source;   // paper or code
  std::string_view default_aggregation;
  AdvantageResult (*advantages)(const RewardBatch& batch);
};

// The explicit table; order is that of docs/algorithms.md.
std::span<const Algorithm> Algorithms();
// Throws Error(kUsage) naming the nearest known name.
const Algorithm& FindAlgorithm(std::string_view name);

// How token losses become one number; verl's names.
//   token-mean            sum m L / sum m
//   seq-mean-token-sum    (1/n) sum_i sum_t m L
//   seq-mean-token-mean   (1/n) sum_i (1/l_i) sum_t m L
//   seq-mean-token-sum-norm  (1/(n * norm)) sum m L      (Dr. GRPO's constant normaliser)
// n counts responses with at least one token. Computed once per optimizer step over the whole
// batch. Returns the weight of each token of response i (one number a response); 0 for empty
// responses. Throws Error(kUsage) for an unknown mode, naming the known ones.
std::vector<double> TokenWeights(std::string_view mode, std::span<const idx> lengths, double norm);
std::span<const std::string_view> AggregationModes();

// The loss of one token and its derivative by the policy's log-prob.
struct TokenLoss {
  double loss = 0;
  double dlogprob = 0;
  bool clipped = false;        // the clip is active: no gradient
  bool clipped_lower = false;  // the dual clip is active (A < 0)
};

struct ClipConfig {
  double low = 0.2;   // ratio >= 1 - low
  double high = 0.2;  // ratio <= 1 + high
  double dual = 3.0;  // verl's clip_ratio_c; <= 1 switches the dual clip off
};

// On-policy: L = -A * lp as gradient; the reported loss is -A (the surrogate at ratio 1).
TokenLoss PolicyGradientLoss(double advantage);
// PPO clip with verl's dual clip (verl core_algos.compute_policy_loss_vanilla): ratio =
// exp(clamp(policy_logprob - rollout_logprob, -20, 20)).
TokenLoss PpoClipLoss(double policy_logprob, double rollout_logprob, double advantage,
                      const ClipConfig& clip);

}  // namespace opo
