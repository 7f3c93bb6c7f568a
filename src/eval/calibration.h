// Whether a reward model's preferences come true as often as it says: the reliability curve.
#pragma once

#include <span>
#include <vector>

#include "base/types.h"

namespace opo {

// Pairs whose confidence is in (low, high]; the first bin has 0.5 too.
struct CalibrationBin {
  double low = 0, high = 0;
  idx pairs = 0;
  double confidence = 0;  // mean of what was said; 0 without pairs, like the next
  double accuracy = 0;    // part of the pairs whose chosen answer had the higher score
};

struct Calibration {
  std::vector<CalibrationBin> bins;
  // The expected calibration error: the mean over pairs of |accuracy - confidence| of their bin.
  double error = 0;
  // The score difference's factor that would make the pairs likeliest: below 1 it is too sure,
  // above 1 not sure enough. 1 where there is none (all pairs right, or all wrong).
  double best_scale = 1;
};

inline constexpr idx kCalibrationBins = 10;

// `differences`: s+ - s- of pairs. In the top-label form: a pair's confidence is sigmoid(|s+ -
// s-|), that the answer with the higher score is the chosen one, which a tie is by half. (The form
// in which each pair counts in both orders says the same twice: its curve is this one and its point
// reflection at 0.5, its error the same.) Bins of equal width over [0.5, 1].
Calibration CalibrationOf(std::span<const double> differences, idx bins = kCalibrationBins);

}  // namespace opo
