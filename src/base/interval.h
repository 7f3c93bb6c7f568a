// A figure and where it lies with 95%, by the bootstrap.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace opo {

struct Interval {
  double value = 0, low = 0, high = 0;
};

// `value`, and the 2.5th and 97.5th percentiles of what its resamples gave, interpolated as NumPy's
// are. REQUIRES at least one resample, and no NaN.
inline Interval PercentileInterval(double value, std::vector<double> resamples) {
  std::sort(resamples.begin(), resamples.end());
  const auto percentile = [&](double part) {
    const double at = part * static_cast<double>(resamples.size() - 1);
    const auto below = static_cast<std::size_t>(at);
    const std::size_t above = std::min(below + 1, resamples.size() - 1);
    const double between = at - static_cast<double>(below);
    return resamples[below] + between * (resamples[above] - resamples[below]);
  };
  return {value, percentile(0.025), percentile(0.975)};
}

}  // namespace opo
