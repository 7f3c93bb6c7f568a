// What a comparison runs: one TOML file that names a training config, its variants ("arms"), the
// seeds, the budget and the evaluation.
//
// Arms of one seed share their start, the order of their prompts and, where they sample alike, the
// rollouts of their first step, bit for bit: prompts and random numbers are keyed by the seed
// alone.
#pragma once

#include <string>
#include <vector>

#include "base/types.h"
#include "train/config.h"

namespace opo {

struct CompareBudget {  // [budget], [arm.budget]: one of them
  idx steps = 0;        // rollout batches
  idx updates = 0;      // optimizer steps
  idx tokens = 0;       // sampled, the step in which they are reached included
  bool empty() const { return steps == 0 && updates == 0 && tokens == 0; }
};

struct CompareArm {  // [[arm]]
  std::string name;
  std::string summary;
  std::string config;  // empty: the comparison's
  std::vector<std::string> set;
  CompareBudget budget;
};

struct CompareStart {  // [start]: a run whose model all arms begin with
  std::string config;  // empty: they begin with the config's own
  std::vector<std::string> set;
};

struct CompareEval {  // [eval]
  std::vector<std::string> args;
  std::string judge;
};

struct CompareClaim {  // [[claim]]
  std::string id;
  std::string text;
  std::string key;  // a column
  std::string arm;
  std::string against;
  std::string direction = "higher";
};

struct CompareConfig {
  std::string title;
  std::string dir;
  std::string config;
  std::vector<std::string> set;
  idx seeds = 3;
  idx first_seed = 1;
  idx window = 3;
  std::string reward_key = "critic/score/mean";  // in metrics.jsonl
  double target_reward = 0;
  double spike = 3;
  bool keep_models = false;
  CompareStart start;
  CompareBudget budget;
  CompareEval eval;
  std::vector<CompareArm> arm;
  std::vector<CompareClaim> claim;
};

// The file and overrides "key=value" in order; paths that exist beside the file become absolute, an
// empty dir becomes runs/compare-<file's name without .toml>. `model`, if it is not empty, is put
// into the settings of the start, or of all arms where there is none. Throws Error(kUsage) naming
// file and key, also where an arm's training config is refused.
CompareConfig LoadCompareConfig(const std::string& path, const std::vector<std::string>& overrides,
                                const std::string& model = "");

// As a commented file that says the same.
std::string PrintCompareConfig(const CompareConfig& config);

// One training run of it.
struct CompareRun {
  std::string arm;
  idx seed = 0;
  std::string dir;     // its folder
  TrainConfig config;  // what is trained
};

// The run that makes the start; nothing to do where its dir is empty.
CompareRun StartRun(const CompareConfig& config);
// Seed by seed, arm by arm: a comparison that is cut short has whole seeds.
std::vector<CompareRun> CompareRuns(const CompareConfig& config);
// Models that a run holds in memory beside each other: the policy, a reference where its loss or
// reward has one, a critic, reward models. The reference of monitor.kl_every does not count.
idx ModelsHeld(const TrainConfig& config);

}  // namespace opo
