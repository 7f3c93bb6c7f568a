// Whole runs of every algorithm: each trains, and each keeps the exactness contract with whatever
// terms its loss has.
#include <gtest/gtest.h>

#include <filesystem>
#include <map>

#include "base/error.h"
#include "base/fault.h"
#include "train/runs.h"

namespace opo {
namespace {

namespace fs = std::filesystem;

class AlgorithmRuns : public RunTest {
 protected:
  TrainConfig Config(const std::string& name, const Settings& settings) const {
    Settings all = {"run.dir=" + Folder(name), "eval.prompts=1", "monitor.tensorboard=false"};
    all.insert(all.end(), settings.begin(), settings.end());
    return LoadTrainConfig(std::string(OPO_SOURCE_DIR) + "/examples/tiny.toml", all);
  }
};

// Those of one update a batch as that, the others with two.
bool OnPolicyByDefinition(std::string_view name) {
  return name.starts_with("opo") || name == "otb" || name == "reinforce";
}

class EveryAlgorithm : public AlgorithmRuns, public testing::WithParamInterface<std::string> {};

TEST_P(EveryAlgorithm, TrainsTheTinyModelToAHigherReward) {
  const std::string name = GetParam();
  Settings settings = {"algorithm.name=" + name, "train.steps=30", "checkpoint.every=0"};
  if (!OnPolicyByDefinition(name)) {
    settings.insert(settings.end(), {"algorithm.exact=false", "train.mini_batch=8"});
  }
  if ((FindAlgorithm(name).needs & kNeedsCritic) != 0) settings.push_back("critic.lr=1e-2");
  if (name == "t_ppo") {
    settings.insert(settings.end(), {"rollout.window=4", "rollout.samples=4"});
  }
  const auto steps = Run(Config("run", settings));
  ASSERT_EQ(steps.size(), 30U);
  const auto mean = [&](std::size_t first) {
    double sum = 0;
    for (std::size_t i = first; i < first + 5; ++i) sum += steps[i]["reward"].get<double>();
    return sum / 5;
  };
  RecordProperty("first", std::to_string(mean(0)));
  RecordProperty("last", std::to_string(mean(25)));
  // A run that learns nothing (train.lr = 0) moves by less than 0.05.
  EXPECT_GT(mean(25), mean(0) + 0.1) << "from " << mean(0) << " to " << mean(25);
  for (const auto& step : steps) {
    ASSERT_GT(step["exact/compared_tokens"].get<int>(), 0);
    ASSERT_EQ(step["exact/mismatched_tokens"].get<int>(), 0);
  }
}

// Those that sample; what learns from given answers has tests of its own.
std::vector<std::string> AllNames() {
  std::vector<std::string> names;
  for (const Algorithm& algorithm : Algorithms()) {
    // These learn from other data.
    constexpr unsigned kOther =
        kNeedsDemonstrations | kNeedsPairs | kNeedsSteps | kNeedsLearnedReward;
    if ((algorithm.needs & kOther) != 0) continue;
    names.emplace_back(algorithm.name);
  }
  return names;
}
INSTANTIATE_TEST_SUITE_P(Table, EveryAlgorithm, testing::ValuesIn(AllNames()),
                         [](const auto& name) { return name.param; });

// A batch of 32 answers.
const Settings kSmall = {"rollout.prompts=8", "rollout.samples=4"};

// One of each kind of loss, of what it asks for, and of terms.
const std::map<std::string, Settings> kKinds = {
    {"clip_kl_entropy",
     {"algorithm.name=grpo", "algorithm.exact=false", "train.mini_batch=4", "train.epochs=2",
      "algorithm.kl_coef=0.1", "algorithm.entropy_coef=0.01"}},
    {"kl_exact", {"algorithm.name=dr_grpo", "algorithm.kl_coef=0.1", "algorithm.kl_estimator=k2"}},
    {"gspo",
     {"algorithm.name=gspo", "algorithm.exact=false", "train.mini_batch=2", "train.shards=2",
      "algorithm.entropy_coef=0.01"}},
    {"rebel",
     {"algorithm.name=rebel", "algorithm.exact=false", "train.epochs=2", "train.shards=4",
      "algorithm.kl_coef=0.05", "algorithm.kl_in=reward"}},
    {"online_dpo",
     {"algorithm.name=online_dpo", "algorithm.exact=false", "train.mini_batch=4", "train.shards=2",
      "algorithm.beta=0.5", "algorithm.kl_coef=0.05", "algorithm.kl_in=reward"}},
    {"remax", {"algorithm.name=remax", "rollout.dynamic_sampling=true", "rollout.max_draws=2"}},
    {"reinforce_pp",
     {"algorithm.name=reinforce_pp", "algorithm.kl_coef=0.05", "algorithm.kl_in=reward"}},
    {"otb", {"algorithm.name=otb"}},
    {"lora", {"algorithm.name=grpo", "lora.rank=4", "algorithm.kl_coef=0.1"}},
};

class EveryKind : public AlgorithmRuns, public testing::WithParamInterface<std::string> {};

// E3, E5, E6 and the replay.
TEST_P(EveryKind, GivesTheSameBitsResumedReplayedAndOnOtherThreads) {
  Settings settings = kKinds.at(GetParam());
  settings.insert(settings.end(), {"train.steps=5", "checkpoint.every=2", "checkpoint.keep_last=9",
                                   "train.lr=1e-2", kSmall[0], kSmall[1]});
  const auto digest = [](const auto& steps) {
    return steps.back().at("exact/weights_digest").template get<std::string>();
  };
  const auto whole = Run(Config("whole", settings));
  EXPECT_EQ(digest(Run(Config("plan", With(settings, {"run.threads=3", "run.tape_mb=0"})))),
            digest(whole));
  Run(Config("cut", With(settings, {"train.steps=3"})));
  const auto resumed = Run(Config("cut", settings), /*resume=*/true);
  ASSERT_EQ(resumed.size(), 2U);
  EXPECT_EQ(digest(resumed), digest(whole));

  ExpectReplays("whole", 3, 5);
}

// Numbers that the terms are known by.
TEST_P(EveryKind, SaysWhatItsTermsAre) {
  Settings settings = kKinds.at(GetParam());
  settings.insert(settings.end(), {"train.steps=3", "checkpoint.every=0", "train.lr=1e-2",
                                   "monitor.kl_every=1", kSmall[0], kSmall[1]});
  const TrainConfig config = Config("run", settings);
  const auto steps = Run(config);
  const auto number = [&](std::size_t step, const char* key) {
    return steps[step].at(key).get<double>();
  };
  EXPECT_EQ(number(0, "monitor/kl_k3"), 0) << "the policy is its own reference still";
  EXPECT_GT(number(2, "monitor/kl_k3"), 0);
  EXPECT_EQ(steps[0].contains("actor/kl_loss"), KlInLoss(config.algorithm));
  EXPECT_EQ(steps[0].contains("actor/reward_kl_penalty"), KlInReward(config.algorithm));
  EXPECT_EQ(steps[0].contains("timing_s/gen_max"), NeedsGreedy(config));
  if (KlInLoss(config.algorithm)) {
    EXPECT_EQ(number(0, "actor/kl_coef"), config.algorithm.kl_coef);
    EXPECT_GT(number(2, "actor/kl_loss"), 0);
    // On policy it is what the monitor measures, if all of the batch is learned from.
    if (UpdatesPerBatch(config) == 1 && KlEstimator(config.algorithm) == "k3") {
      EXPECT_NEAR(number(2, "actor/kl_loss"), number(2, "monitor/kl_k3"), 1e-12);
    }
    // Groups without advantages are learned from too.
    for (const auto& step : steps) {
      EXPECT_EQ(step["learn/tokens"].get<double>(),
                step["response_length/mean"].get<double>() *
                    static_cast<double>(32 * config.train.epochs));
    }
  }
  if (KlInReward(config.algorithm)) {
    EXPECT_EQ(number(0, "actor/reward_kl_penalty"), 0);
    EXPECT_NE(number(2, "actor/reward_kl_penalty"), 0);
  }
}

class Faults : public AlgorithmRuns {
 protected:
  void TearDown() override { SetFaults(""); }
};

TEST_F(Faults, AChangedOrNonFiniteReferenceEndsTheRunBeforeTheWeightsChange) {
  const auto ends = [&](const char* fault, ErrorCode code, const char* says) {
    SetFaults(fault);
    const Settings settings = {"algorithm.name=grpo", "algorithm.kl_coef=0.1", "train.steps=3"};
    try {
      Run(Config("run", settings));
      ADD_FAILURE() << fault << ": no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      EXPECT_NE(std::string(error.what()).find(says), std::string::npos) << error.what();
    }
    fs::remove_all(folder_);
  };
  ends("flip:reference:step=2:nth=20:index=1", ErrorCode::kExactness, "step 2: prompt 2 (problem ");
  ends("nan:reference:step=2:nth=20:index=1", ErrorCode::kWork,
       "step 2: the reference log-prob is not finite, first at prompt 2, answer 3, token 1");
  ends("nan:advantage:step=2", ErrorCode::kWork, "step 2: the advantage is not finite");
}

TEST_F(Faults, SoDoesATokensAdvantage) {
  SetFaults("inf:advantage:step=2:nth=20:index=1");
  try {
    Run(Config("run", {"algorithm.name=otb", "train.steps=3"}));
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("answer 3, token 1"), std::string::npos)
        << error.what();
  }
}

std::vector<std::string> KindNames() {
  std::vector<std::string> names;
  for (const auto& [name, settings] : kKinds) names.push_back(name);
  return names;
}
INSTANTIATE_TEST_SUITE_P(Losses, EveryKind, testing::ValuesIn(KindNames()),
                         [](const auto& name) { return name.param; });

}  // namespace
}  // namespace opo
