// Estimates of the KL divergence from a reference.
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "algo/algorithm.h"
#include "base/error.h"

namespace opo {
namespace {

constexpr std::string_view kEstimators[] = {"k1", "k2", "k3"};
constexpr double kMaxDifference = 20;  // verl's
constexpr double kMaxK3 = 10;

}  // namespace

std::span<const std::string_view> KlEstimators() { return kEstimators; }

KlTerm KlPenalty(std::string_view estimator, double policy, double reference) {
  const double d = policy - reference;
  if (estimator == "k1") return {.value = d, .dlogprob = 1};
  if (estimator == "k2") return {.value = 0.5 * d * d, .dlogprob = d};
  if (estimator == "k3") {
    const double bounded = std::clamp(d, -kMaxDifference, kMaxDifference);
    const double value = std::exp(-bounded) + bounded - 1;
    if (value > kMaxK3) return {.value = kMaxK3, .dlogprob = 0};
    return {.value = value, .dlogprob = bounded == d ? 1 - std::exp(-d) : 0};
  }
  Fail(ErrorCode::kUsage, "KL estimator \"{}\": unknown; known are: {}", estimator,
       fmt::join(kEstimators, ", "));
}

double AdaptedKlCoef(double coef, double kl, double target, double horizon, idx answers) {
  const double error = std::clamp(kl / target - 1, -0.2, 0.2);
  return coef * (1 + error * static_cast<double>(answers) / horizon);
}

}  // namespace opo
