// What a step says of itself: verl's metric names, with TRL's five most-watched ones as aliases.
#pragma once

#include <cmath>
#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "train/floor.h"
#include "train/learner.h"

namespace opo {

// Mean, largest and smallest of a metric, under verl's names.
struct Spread {
  double sum = 0;
  double max = -INFINITY;
  double min = INFINITY;
  idx count = 0;
  void Add(double x) {
    sum += x;
    max = std::max(max, x);
    min = std::min(min, x);
    ++count;
  }
  double mean() const { return count > 0 ? sum / static_cast<double>(count) : 0; }
  void Put(nlohmann::ordered_json& out, const std::string& name) const {
    if (count == 0) return;
    out[name + "/mean"] = mean();
    out[name + "/max"] = max;
    out[name + "/min"] = min;
  }
};

// The matrix work of a step, for its floor.
StepWork WorkOf(std::span<const RolloutGroup> groups, const LearnResult& learned);

// Lengths, entropy, perplexity (exp of the tokens' mean -log pi), and the log-probs' agreement
// between sampler and learner in verl's terms.
void PutRolloutMetrics(std::span<const RolloutGroup> groups, nlohmann::ordered_json& metrics);

// Clip fractions, KL, and the gradient-variance proxies of verl's metric_utils: W = sum over tokens
// of 1 - 2 p + sum p^2; needs "actor/grad_norm".
void PutLearnMetrics(std::span<const RolloutGroup> groups, const LearnResult& learned,
                     nlohmann::ordered_json& metrics);

// What the critic said and what it was to say, over the tokens of answers with returns:
// "critic/values", "critic/returns", "critic/vf_explained_var" = 1 - var(G - V) / (var G + 1e-5).
void PutValueMetrics(std::span<const RolloutGroup> groups, nlohmann::ordered_json& metrics);
// "critic/vf_loss", "critic/vf_clipfrac", "critic/vpred_mean" of the sum of so many updates.
void PutValueLoss(const LearnResult& learned, idx updates, nlohmann::ordered_json& metrics);

// Rates, and the step against its floor (train/floor.h); needs the "timing_s" metrics.
void PutPerformanceMetrics(const ModelConfig& model, std::span<const RolloutGroup> groups,
                           const LearnResult& learned, double gemm_rate,
                           nlohmann::ordered_json& metrics);

}  // namespace opo
