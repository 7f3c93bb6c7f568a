#include "train/reward_model.h"

#include "base/error.h"
#include "train/step_metrics.h"

namespace opo {

using nlohmann::ordered_json;

double ScoreOf(const Rollout& rollout) {
  OPO_CHECK(!rollout.values.empty() && rollout.values.size() == rollout.tokens.size());
  return static_cast<double>(rollout.values.back());
}

std::vector<double> ScoreDifferences(std::span<const RolloutGroup> groups) {
  std::vector<double> differences;
  for (const RolloutGroup& group : groups) {
    if (group.rollouts.size() != 2) continue;
    differences.push_back(ScoreOf(group.rollouts[0]) - ScoreOf(group.rollouts[1]));
  }
  return differences;
}

void PutPairMetrics(std::span<const RolloutGroup> groups, const std::string& prefix,
                    ordered_json& metrics) {
  Spread scores;
  for (const RolloutGroup& group : groups) {
    for (const Rollout& rollout : group.rollouts) scores.Add(ScoreOf(rollout));
  }
  Spread margin;
  Spread right;
  for (const double difference : ScoreDifferences(groups)) {
    margin.Add(difference);
    right.Add(difference > 0 ? 1 : 0);
  }
  if (right.count > 0) {
    metrics[prefix + "accuracy"] = right.mean();
    metrics[prefix + "margin"] = margin.mean();
  }
  if (scores.count == 0) return;
  metrics[prefix + "mean_reward"] = scores.mean();
  metrics[prefix + "min_reward"] = scores.min;
  metrics[prefix + "max_reward"] = scores.max;
}

ordered_json CalibrationJson(idx step, const Calibration& calibration) {
  ordered_json out = {{"step", step},
                      {"error", calibration.error},
                      {"best_scale", calibration.best_scale},
                      {"bins", ordered_json::array()}};
  for (const CalibrationBin& bin : calibration.bins) {
    out["bins"].push_back({{"low", bin.low},
                           {"high", bin.high},
                           {"pairs", bin.pairs},
                           {"confidence", bin.confidence},
                           {"accuracy", bin.accuracy}});
  }
  return out;
}

}  // namespace opo
