// The variance of the policy gradient under different baselines, from the rewards of sampled
// answers and the inner products of their gradients. docs/variance.md has the formulas.
//
// Notation: answer i of a prompt's K has reward r_i, length l_i and gradient g_i of log pi(y_i). An
// estimator is (r_i - b) g_i; its variance is the trace of its covariance over answers to the
// prompt, E[(r-b)^2 |g|^2] - |E[(r-b) g]|^2. Overall figures are means over prompts.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/interval.h"
#include "base/types.h"

namespace opo {

// A prompt's answers.
struct VarianceGroup {
  std::vector<double> rewards;
  std::vector<double> lengths;
  std::vector<double> token_weights;  // sum over tokens of 1 - 2 pi + sum p^2: OTB's W
  std::vector<double> products;       // (K, K): g_i . g_j
  std::size_t size() const { return rewards.size(); }
};

// Fewer have no pair of others to estimate a baseline on.
inline constexpr std::size_t kVarianceSamples = 4;

// How a baseline weighs the others' rewards.
enum class BaselineWeights { kNone, kMean, kLeaveOneOut, kLength, kToken, kNorm };

struct VarianceEstimator {
  BaselineWeights weights = BaselineWeights::kNone;
  double exponent = 1;  // of the length
  std::string name() const;
};
// none, mean, leave_one_out, length for each exponent, otb, optimal.
std::vector<VarianceEstimator> VarianceEstimators(std::span<const double> length_exponents);

// The variance for a constant b where answer i has probability m_i / sum m.
double VarianceOfBaseline(const VarianceGroup& group, std::span<const double> m, double b);

// One prompt under one estimator; m: how often, or how probable, each answer is.
struct PromptVariance {
  // The baseline of answer i estimated on the others: unbiased for the variance of an estimator
  // with such a baseline, its estimation noise included.
  double cross_fitted = 0;
  double in_sample = 0;     // the baseline as trainers use it, the variance as it then looks
  double bias_squared = 0;  // |E[in-sample estimator] - gradient|^2; an estimate, may be negative
  double baseline = 0;      // on all answers
};
PromptVariance MeasurePrompt(const VarianceGroup& group, const VarianceEstimator& estimator,
                             std::span<const double> m);
// An unbiased estimate of |E[r g]|^2, the same for all estimators.
double GradientSquared(const VarianceGroup& group, std::span<const double> m);

struct VarianceReport {
  struct Row {
    VarianceEstimator estimator;
    Interval cross_fitted;
    Interval relative_to_none;
    Interval in_sample;
    double bias = 0;  // the root of the mean over prompts of bias_squared
  };
  std::vector<Row> rows;
  double gradient_norm = 0;  // the root of the mean over prompts of |E[r g]|^2
  // log |g|^2 = a + slope log l over all answers (slope = 2 alpha), and within prompts (a of each
  // prompt its own), which is what a prompt's baseline sees.
  Interval slope, within_slope;
  double r2 = 0, within_r2 = 0;
  // Shares of variance that a baseline saves: 1 - V / V_mean.
  Interval length_over_mean, optimal_over_mean;
  // (V_mean - V_length) / (V_mean - V_optimal), and the same from none. Nothing where the
  // denominator is not positive; no interval where it is not in 2.5% of the resamples.
  std::optional<double> of_possible, of_possible_from_none;
  std::optional<Interval> of_possible_interval, of_possible_from_none_interval;
  // One a group, of each row.
  std::vector<std::vector<PromptVariance>> prompts;
};

// Intervals are percentiles of `resamples` bootstrap resamples, drawn by Philox from the seed: over
// prompts, or, where there is one, over its answers. The length's row is the first exponent's.
// REQUIRES groups of at least kVarianceSamples answers, and at least one.
VarianceReport AnalyseVariance(std::span<const VarianceGroup> groups,
                               std::span<const double> length_exponents, std::uint64_t seed,
                               idx resamples = 2000);

}  // namespace opo
