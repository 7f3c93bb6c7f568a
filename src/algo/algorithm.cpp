#include "algo/algorithm.h"

#include <fmt/ranges.h>

#include "algo/advantages.h"
#include "base/error.h"
#include "base/fields.h"

namespace opo {
namespace {

constexpr Algorithm kAlgorithms[] = {
    {"opo", "reward minus the prompt's length-weighted mean", "arXiv 2505.23585", "token-mean",
     OpoAdvantages},
    {"opo_batch", "reward minus the batch's length-weighted mean", "microsoft/LMOps opo",
     "token-mean", OpoBatchAdvantages},
    {"grpo", "reward minus the prompt's mean, divided by its std", "arXiv 2402.03300", "token-mean",
     GrpoAdvantages},
    {"dr_grpo", "reward minus the prompt's mean", "arXiv 2503.20783", "seq-mean-token-sum-norm",
     DrGrpoAdvantages},
    {"rloo", "reward minus the mean of the prompt's other answers", "arXiv 2402.14740",
     "token-mean", RlooAdvantages},
    {"reinforce", "reward minus the batch's mean", "Williams 1992", "token-mean",
     ReinforceAdvantages},
};

}  // namespace

std::span<const Algorithm> Algorithms() { return kAlgorithms; }

const Algorithm& FindAlgorithm(std::string_view name) {
  std::vector<std::string> known;
  for (const Algorithm& algorithm : kAlgorithms) {
    if (algorithm.name == name) return algorithm;
    known.emplace_back(algorithm.name);
  }
  const std::string near = NearestName(name, known);
  Fail(ErrorCode::kUsage, "unknown algorithm '{}'; {}known are: {}", name,
       near.empty() ? "" : fmt::format("did you mean '{}'? ", near), fmt::join(known, ", "));
}

}  // namespace opo
