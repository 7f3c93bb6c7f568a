// The numbers of an evaluation, as pure functions. docs/evaluation.md defines them for users.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/interval.h"
#include "base/types.h"

namespace opo {

// An answer is right if its reward is at least this, where nothing else is said.
inline constexpr double kPassThreshold = 0.5;
inline constexpr idx kBootstrapResamples = 1000;

// 1, 2, 4, ... up to n, and n itself.
std::vector<idx> PowersUpTo(idx n);

// The unbiased estimate 1 - C(n-c, k) / C(n, k) of the chance that k answers hold a right one,
// from n answers of which c are right. REQUIRES 0 <= c <= n and 1 <= k <= n.
double PassAtK(idx n, idx c, idx k);

// Answers that say the same, and how many of them are right (0 to votes).
struct VoteClass {
  idx votes = 0;
  double right = 0;
};

// For k < n the expectation over subsets is exact up to so many answers.
inline constexpr idx kMaxVoters = 64;

// The expectation, over all subsets of k of the n answers, of the part of right answers in the
// class with the most votes. Tied classes win with equal chance. Answers that are in no class do
// not vote; where nobody votes it is 0. REQUIRES 1 <= k <= n, and k == n or n <= kMaxVoters.
double MajorityAtK(std::span<const VoteClass> classes, idx n, idx k);

// Mean of `values` (one a problem) with the percentile bootstrap: the 2.5th and 97.5th percentiles
// of the means of resamples drawn with replacement, by Philox from `seed`. Nothing where there are
// no values.
std::optional<Interval> BootstrapMean(std::span<const double> values, std::uint64_t seed,
                                      idx resamples = kBootstrapResamples);

std::optional<double> MeanOf(std::span<const double> values);
// Of the sample (ddof 1). Nothing for fewer than two.
std::optional<double> DeviationOf(std::span<const double> values);
// Pearson's. Nothing for fewer than two, and where one of them does not vary.
std::optional<double> CorrelationOf(std::span<const double> x, std::span<const double> y);

}  // namespace opo
