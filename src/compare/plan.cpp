#include "compare/plan.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "base/error.h"
#include "base/fields.h"
#include "base/file.h"
#include "train/given.h"

namespace opo {

namespace {

constexpr double kMaxCount = 1e9;

FieldCheck Count() { return Range(0, kMaxCount); }

// Where it exists beside the file.
void ResolveBeside(std::string& path, const std::filesystem::path& folder) {
  std::error_code ignored;
  if (path.empty() || !std::filesystem::exists(folder / path, ignored)) return;
  path = std::filesystem::absolute(folder / path, ignored).lexically_normal().string();
}

void CheckBudget(const CompareBudget& budget, const std::string& place) {
  const int given = (budget.steps > 0) + (budget.updates > 0) + (budget.tokens > 0);
  if (given == 1) return;
  Fail(ErrorCode::kUsage, "{}: give one of steps, updates and tokens{}", place,
       given == 0 ? "" : ", not several");
}

std::string StartDir(const CompareConfig& config) { return config.dir + "/start"; }

// What every run of the comparison is told on top of its config.
std::vector<std::string> Told(const CompareConfig& config, const CompareArm& arm, idx seed) {
  std::vector<std::string> told = {"checkpoint.every=0", "checkpoint.keep_last=1",
                                   "checkpoint.keep_best=false"};
  if (!config.start.config.empty()) told.push_back("model.path=" + StartDir(config) + "/model");
  told.insert(told.end(), config.set.begin(), config.set.end());
  told.insert(told.end(), arm.set.begin(), arm.set.end());
  told.push_back(fmt::format("train.seed={}", seed));
  told.push_back("run.dir=" + config.dir + "/" + arm.name + "/" + std::to_string(seed));
  return told;
}

TrainConfig ArmConfig(const CompareConfig& config, const CompareArm& arm, idx seed) {
  const CompareBudget& budget = arm.budget.empty() ? config.budget : arm.budget;
  std::vector<std::string> told = Told(config, arm, seed);
  const auto load = [&] {
    try {
      return LoadTrainConfig(arm.config.empty() ? config.config : arm.config, told);
    } catch (const Error& error) {
      Fail(error.code(), "arm \"{}\": {}", arm.name, error.what());
    }
  };
  if (budget.steps > 0) told.push_back(fmt::format("train.steps={}", budget.steps));
  if (budget.tokens > 0) {
    told.push_back(fmt::format("train.max_tokens={}", budget.tokens));
    told.push_back(fmt::format("train.steps={}", static_cast<idx>(kMaxCount)));
  }
  if (budget.updates > 0) {
    const idx a_step = UpdatesPerBatch(load());
    if (budget.updates % a_step != 0) {
      Fail(ErrorCode::kUsage, "arm \"{}\": budget.updates = {}: a step takes {}; give a multiple",
           arm.name, budget.updates, a_step);
    }
    told.push_back(fmt::format("train.steps={}", budget.updates / a_step));
  }
  return load();
}

void Check(const CompareConfig& config) {
  const auto usage = ErrorCode::kUsage;
  if (config.config.empty()) Fail(usage, "config: name the training config of all arms");
  if (config.arm.size() < 2) Fail(usage, "[[arm]]: a comparison needs at least two");
  CheckBudget(config.budget, "[budget]");
  std::set<std::string> names;
  for (const CompareArm& arm : config.arm) {
    const std::string place = fmt::format("[[arm]] \"{}\"", arm.name);
    const bool plain =
        !arm.name.empty() &&
        arm.name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_-") == std::string::npos;
    if (!plain || arm.name == "start") {
      Fail(usage, "{}: name it with a-z, 0-9, _ and - (it is a folder), not \"start\"", place);
    }
    if (!names.insert(arm.name).second) Fail(usage, "{}: there are two of this name", place);
    if (!arm.budget.empty()) CheckBudget(arm.budget, place + ": budget");
  }
  for (const CompareClaim& claim : config.claim) {
    for (const std::string& name : {claim.arm, claim.against}) {
      if (names.count(name) != 0) continue;
      Fail(usage, "[[claim]] \"{}\": there is no arm \"{}\"", claim.id, name);
    }
    if (claim.key.empty()) Fail(usage, "[[claim]] \"{}\": key names the column", claim.id);
  }
}

}  // namespace

void VisitFields(Fields& f, CompareBudget& c) {
  f.Field("steps", c.steps, "rollout batches", Count());
  f.Field("updates", c.updates, "optimizer steps", Count());
  f.Field("tokens", c.tokens, "tokens sampled", Count());
}

void VisitFields(Fields& f, CompareArm& c) {
  f.Field("name", c.name, "its name and folder");
  f.Field("summary", c.summary, "what it is, for the table");
  f.Field("config", c.config,
          "its own training config, of any verb that trains; empty: that of all");
  f.Field("set", c.set, "its settings, as \"train.lr=1e-6\"");
  f.Section("budget", c.budget, "Its own budget; none: that of all");
}

void VisitFields(Fields& f, CompareStart& c) {
  f.Field("config", c.config, "training config of the start; empty: none");
  f.Field("set", c.set, "settings of that run");
}

void VisitFields(Fields& f, CompareEval& c) {
  f.Field("args", c.args, "of `opo eval`, for every arm's model and the start; empty: none");
  f.Field("judge", c.judge,
          "a reward model that prefers one of two answers: the arms' win rates against the start; "
          "empty: none");
}

void VisitFields(Fields& f, CompareClaim& c) {
  f.Field("id", c.id, "its short name");
  f.Field("text", c.text, "what is claimed");
  f.Field("key", c.key, "the column that decides");
  f.Field("arm", c.arm, "of whom");
  f.Field("against", c.against, "compared with whom");
  f.Field("direction", c.direction, "how the claim has it", OneOf({"higher", "lower"}));
}

void VisitFields(Fields& f, CompareConfig& c) {
  f.Field("title", c.title, "heads table and report");
  f.Field("dir", c.dir, "the comparison's folder; empty: runs/compare-<name of this file>");
  f.Field("config", c.config, "the training config that all arms are variants of");
  f.Field("set", c.set, "settings of all arms, as \"train.lr=1e-6\"");
  f.Field("seeds", c.seeds, "how many seeds; intervals need two, a verdict three", Range(1, 1000));
  f.Field("first_seed", c.first_seed, "the first of them", Count());
  f.Field("window", c.window, "steps that first, last and peak reward are means of", Range(1, 1e6));
  f.Field("reward_key", c.reward_key,
          "the metric that reward columns are of, such as one term's \"rewards/NAME/mean\"; runs "
          "without it have none");
  f.Field("target_reward", c.target_reward,
          "for the tokens and seconds that it takes to get there; 0: none");
  f.Field("spike", c.spike, "a gradient norm above so many medians of its run is a spike",
          Above(1));
  f.Field("keep_models", c.keep_models, "keep the arms' checkpoints after their evaluation");
  f.Section("start", c.start, "A run that makes the model that all arms begin with");
  f.Section("budget", c.budget, "What each arm may spend: one of these");
  f.Section("eval", c.eval, "Evaluation of the start and of each arm's last model");
  f.List("arm", c.arm, "A variant", /*may_be_empty=*/true);
  f.List("claim", c.claim, "What is to be decided, written down before the run",
         /*may_be_empty=*/true);
}

CompareConfig LoadCompareConfig(const std::string& path, const std::vector<std::string>& overrides,
                                const std::string& model) {
  CompareConfig config;
  Fields fields = FieldsOf(config);
  fields.LoadTomlFile(path);
  for (const std::string& assignment : overrides) fields.Set(assignment);
  const std::filesystem::path file(path);
  ResolveBeside(config.config, file.parent_path());
  ResolveBeside(config.start.config, file.parent_path());
  for (CompareArm& arm : config.arm) ResolveBeside(arm.config, file.parent_path());
  for (std::string& arg : config.eval.args) ResolveBeside(arg, file.parent_path());
  ResolveBeside(config.eval.judge, file.parent_path());
  if (!model.empty()) {
    std::vector<std::string>& set = config.start.config.empty() ? config.set : config.start.set;
    set.push_back("model.path=" + std::filesystem::absolute(model).string());
  }
  if (config.dir.empty()) config.dir = "runs/compare-" + file.stem().string();
  config.dir = std::filesystem::absolute(config.dir).lexically_normal().string();
  if (config.title.empty()) config.title = file.stem().string();
  try {
    Check(config);
    CompareRuns(config);
  } catch (const Error& error) {
    Fail(error.code(), "{}: {}", path, error.what());
  }
  return config;
}

std::string PrintCompareConfig(const CompareConfig& config) {
  CompareConfig copy = config;
  return FieldsOf(copy).Print();
}

CompareRun StartRun(const CompareConfig& config) {
  CompareRun run;
  if (config.start.config.empty()) return run;
  run.dir = StartDir(config);
  std::vector<std::string> told = {"checkpoint.every=0", "checkpoint.keep_last=1"};
  told.insert(told.end(), config.start.set.begin(), config.start.set.end());
  told.push_back("run.dir=" + run.dir);
  run.config = LoadTrainConfig(config.start.config, told);
  return run;
}

std::vector<CompareRun> CompareRuns(const CompareConfig& config) {
  std::vector<CompareRun> runs;
  for (idx seed = config.first_seed; seed < config.first_seed + config.seeds; ++seed) {
    for (const CompareArm& arm : config.arm) {
      CompareRun run{arm.name, seed, "", ArmConfig(config, arm, seed)};
      run.dir = run.config.run.dir;
      runs.push_back(std::move(run));
    }
  }
  return runs;
}

idx ModelsHeld(const TrainConfig& config) {
  // Of given answers the reference is kept as numbers.
  const bool reference = TermsNeedReference(config.algorithm) && !IsGiven(config);
  const bool critic = NeedsCritic(config) && !SharesCritic(config);
  std::set<std::string> rewards;
  for (const RewardConfig& term : config.reward) {
    if (term.kind == "model") rewards.insert(term.path);
  }
  return 1 + (reference ? 1 : 0) + (critic ? 1 : 0) + (LearnsReward(config) ? 1 : 0) +
         std::ssize(rewards);
}

}  // namespace opo
