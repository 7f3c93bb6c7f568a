#include "eval/calibration.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/logistic.h"

namespace opo {
namespace {

// The derivative by `scale` of the mean log-likelihood of the pairs; it falls with `scale`.
double SlopeAt(std::span<const double> differences, double scale) {
  double slope = 0;
  for (const double d : differences) slope += d * Sigmoid(-scale * d);
  return slope;
}

double BestScale(std::span<const double> differences) {
  const auto any = [&](auto holds) {
    return std::any_of(differences.begin(), differences.end(), holds);
  };
  if (!any([](double d) { return d > 0; }) || !any([](double d) { return d < 0; })) return 1;
  if (SlopeAt(differences, 0) <= 0) return 0;  // the other way round would be better
  double low = 0;
  double high = 1;
  while (SlopeAt(differences, high) > 0 && high < 1e12) high *= 2;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (SlopeAt(differences, middle) > 0 ? low : high) = middle;
  }
  return (low + high) / 2;
}

}  // namespace

Calibration CalibrationOf(std::span<const double> differences, idx bins) {
  OPO_CHECK(bins > 0);
  Calibration result;
  const auto edge = [&](idx b) {
    return 0.5 + 0.5 * static_cast<double>(b) / static_cast<double>(bins);
  };
  for (idx b = 0; b < bins; ++b) result.bins.push_back({.low = edge(b), .high = edge(b + 1)});
  for (const double difference : differences) {
    const double confidence = Sigmoid(std::abs(difference));
    idx b = 0;
    while (b + 1 < bins && confidence > edge(b + 1)) ++b;
    CalibrationBin& bin = result.bins[static_cast<std::size_t>(b)];
    ++bin.pairs;
    bin.confidence += confidence;
    bin.accuracy += difference > 0 ? 1 : difference == 0 ? 0.5 : 0;
  }
  for (CalibrationBin& bin : result.bins) {
    if (bin.pairs == 0) continue;
    const auto pairs = static_cast<double>(bin.pairs);
    bin.confidence /= pairs;
    bin.accuracy /= pairs;
    result.error +=
        std::abs(bin.accuracy - bin.confidence) * pairs / static_cast<double>(differences.size());
  }
  result.best_scale = BestScale(differences);
  return result;
}

}  // namespace opo
