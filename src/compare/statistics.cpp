#include "compare/statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace opo {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// The 97.5% quantile of Student's t for 1 ... 30 degrees of freedom (NIST/SEMATECH handbook,
// 1.3.6.7.2); beyond, Cornish-Fisher's series, which is right to 1e-4 there.
double StudentQuantile(int degrees) {
  constexpr double kTable[] = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306,
                               2.262,  2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
                               2.110,  2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064,
                               2.060,  2.056, 2.052, 2.048, 2.045, 2.042};
  if (degrees <= 30) return kTable[degrees - 1];
  const double z = 1.959964;
  const double n = degrees;
  return z + (z * z * z + z) / (4 * n) +
         (5 * std::pow(z, 5) + 16 * z * z * z + 3 * z) / (96 * n * n);
}

}  // namespace

SeedMean MeanOverSeeds(std::span<const double> values) {
  std::vector<double> known;
  std::copy_if(values.begin(), values.end(), std::back_inserter(known),
               [](double v) { return !std::isnan(v); });
  SeedMean result{kNaN, kNaN, kNaN, static_cast<int>(known.size())};
  if (known.empty()) return result;
  const auto n = static_cast<double>(known.size());
  double sum = 0;
  for (const double v : known) sum += v;
  result.mean = sum / n;
  if (known.size() < 2) return result;
  double squares = 0;
  for (const double v : known) squares += (v - result.mean) * (v - result.mean);
  const double half = StudentQuantile(result.count - 1) * std::sqrt(squares / (n - 1) / n);
  result.low = result.mean - half;
  result.high = result.mean + half;
  return result;
}

SeedMean PairedMean(std::span<const double> a, std::span<const double> b) {
  std::vector<double> differences;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    differences.push_back(a[i] - b[i]);
  }
  return MeanOverSeeds(differences);
}

std::string_view VerdictOf(const SeedMean& difference, bool claimed_higher) {
  const bool above = difference.low > 0;
  const bool below = difference.high < 0;
  if (difference.count < 3 || (!above && !below)) return "undecided";
  return above == claimed_higher ? "confirmed" : "not confirmed";
}

double Median(std::span<const double> values) {
  std::vector<double> sorted(values.begin(), values.end());
  if (sorted.empty()) return kNaN;
  std::sort(sorted.begin(), sorted.end());
  const std::size_t half = sorted.size() / 2;
  return sorted.size() % 2 == 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

}  // namespace opo
