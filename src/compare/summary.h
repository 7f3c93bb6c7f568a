// What a run comes to, and what several come to beside each other.
//
// Columns of a run, from its metrics.jsonl (means over `window` steps where it says so):
//   reward/first, reward/last, reward/peak   mean training reward (`reward_key`): of the first
//                                            window, the last, the best
//   reward/drop                              peak - last
//   grad_norm/max, grad_norm/spikes          the largest; steps above `spike` medians of the run
//   entropy/last, length/last, kl/last       of the last window; KL (k3, nats a token) to the start
//   tokens/total, updates/total, steps/total what was spent
//   tokens/to_target, seconds/to_target      sampled, and taken by the steps, until the window's
//                                            reward first reached the target; NaN where it never
//                                            did
//   step_s/median, memory_gb/peak, models    the price of a step
//   collapsed                                1: it ended by non-finite numbers, or its last reward
//                                            is below half its peak; else 0; NaN where rewards
//                                            fall below 0
// Runs on given answers have no reward, entropy and length; their tokens are those they read.
// and from the evaluation of its last model "eval/..." with the names of `opo eval`'s JSON, after
// "<set>/" where there are several sets; quantities with an interval by their value.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "compare/plan.h"

namespace opo {

using RunNumbers = std::map<std::string, double>;

struct FinishedRun {
  CompareRun run;
  std::string status = "done";  // or why it ended early
  RunNumbers numbers;           // none where it failed before its end
  std::string first_rollouts;   // digest of its first step's rollouts
};

// Fills numbers and first_rollouts from the run's folder. Throws Error(kInput) for files that are
// torn or miss a number.
void SummarizeTraining(const CompareConfig& config, FinishedRun& finished);
// The evaluation's numbers out of `opo eval`'s JSON.
RunNumbers SummarizeEval(const nlohmann::ordered_json& eval);

// The whole comparison as compare.json has it (docs/comparing.md): cells by arm and column, paired
// differences of all arms to the first, and the claims' verdicts. `start`: the start's evaluation.
nlohmann::ordered_json Comparison(const CompareConfig& config, const std::vector<FinishedRun>& runs,
                                  const RunNumbers& start);

// For people: the columns that matter most, arms as rows.
std::string ComparisonTable(const nlohmann::ordered_json& comparison);

}  // namespace opo
