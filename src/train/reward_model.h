// What the run of a reward model says of its pairs, by TRL's names, and of held-out ones.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "eval/calibration.h"
#include "rollout/rollout.h"

namespace opo {

// The score of an answer: what the value head says at the row before its last token, which is a
// copy of the one before (GivenGroup). REQUIRES that it was scored.
double ScoreOf(const Rollout& rollout);

// s+ - s- of each group of two, the chosen answer first.
std::vector<double> ScoreDifferences(std::span<const RolloutGroup> groups);

// Puts, with `prefix` before TRL's names, "accuracy" (pairs whose chosen answer has the higher
// score; a tie has not), "margin" (mean s+ - s-), and "mean_reward", "min_reward", "max_reward" of
// all scores.
void PutPairMetrics(std::span<const RolloutGroup> groups, const std::string& prefix,
                    nlohmann::ordered_json& metrics);

// RUN/calibration.json, which the report reads.
nlohmann::ordered_json CalibrationJson(idx step, const Calibration& calibration);

}  // namespace opo
