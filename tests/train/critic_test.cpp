// Whole runs with a critic: what it learns, what its values are compared with, where it may come
// from, and that its bits are the same everywhere.
#include "train/critic.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <map>

#include "base/error.h"
#include "base/fault.h"
#include "base/file.h"
#include "model/load.h"
#include "train/policy.h"
#include "train/runs.h"

namespace opo {
namespace {

namespace fs = std::filesystem;
using Steps = std::vector<nlohmann::ordered_json>;

class Critics : public RunTest {
 protected:
  void TearDown() override { SetFaults(""); }
  TrainConfig Config(const std::string& name, const Settings& settings) const {
    Settings all = {"run.dir=" + Folder(name), "eval.prompts=1",    "monitor.tensorboard=false",
                    "monitor.report_every=0",  "rollout.prompts=8", "rollout.samples=4",
                    "algorithm.name=ppo"};
    all.insert(all.end(), settings.begin(), settings.end());
    return LoadTrainConfig(std::string(OPO_SOURCE_DIR) + "/examples/tiny.toml", all);
  }
};

double Number(const nlohmann::ordered_json& step, const char* key) {
  return step.at(key).get<double>();
}

// With gae_lambda = 1 the critic regresses to the rewards of its answers. Those of the untrained
// policy are noise around their mean, which a fresh head, that says 0, has to find.
TEST_F(Critics, LearnsTheReturnsOfAnswersThatItHasNotSeen) {
  const Steps steps =
      Run(Config("run", {"train.steps=40", "checkpoint.every=0", "critic.lr=1e-2",
                         "critic.clip_value=0", "algorithm.gae_lambda=1",
                         "critic.pretrain_steps=39", "algorithm.exact=false", "train.epochs=4"}));
  ASSERT_EQ(steps.size(), 40U);
  EXPECT_EQ(Number(steps[0], "critic/values/max"), 0) << "a fresh head says 0";
  EXPECT_EQ(Number(steps[0], "critic/values/min"), 0);
  const auto mean = [&](const char* key, std::size_t first) {
    double sum = 0;
    for (std::size_t i = first; i < first + 5; ++i) sum += Number(steps[i], key);
    return sum / 5;
  };
  EXPECT_GT(mean("critic/returns/mean", 0), 0.1);
  EXPECT_NEAR(mean("critic/values/mean", 34), mean("critic/returns/mean", 34), 0.05);
  EXPECT_LT(mean("critic/vf_loss", 34), 0.8 * mean("critic/vf_loss", 0));
  for (std::size_t i = 0; i + 1 < steps.size(); ++i) {
    EXPECT_EQ(steps[i]["exact/weights_digest"], steps[0]["exact/weights_digest"]) << "it waits";
    EXPECT_GT(Number(steps[i], "exact/compared_tokens"), 0);
    EXPECT_GT(Number(steps[i], "exact/compared_values"), 0);
    EXPECT_EQ(Number(steps[i], "exact/mismatched_values"), 0);
    EXPECT_GT(Number(steps[i], "critic/grad_norm"), 0);
    if (i == 0) continue;
    EXPECT_NE(steps[i]["exact/critic_digest"], steps[i - 1]["exact/critic_digest"]);
  }
  EXPECT_NE(steps[39]["exact/weights_digest"], steps[0]["exact/weights_digest"]);
}

// What the critics and their losses come as.
const std::map<std::string, Settings> kCritics = {
    {"own", {}},
    {"own_off_policy",
     {"algorithm.exact=false", "train.mini_batch=4", "train.epochs=2", "train.shards=2",
      "algorithm.kl_coef=0.05", "algorithm.kl_in=reward", "algorithm.kl_target=0.01",
      "algorithm.kl_horizon=100"}},
    {"own_lora", {"lora.rank=4", "critic.lr=1e-2"}},
    {"shared", {"critic.init=shared", "critic.value_coef=0.5"}},
    {"shared_off_policy",
     {"critic.init=shared", "algorithm.exact=false", "train.mini_batch=4", "train.shards=4"}},
    {"ppo_max", {"critic.pretrain_steps=2", "algorithm.name=ppo_max"}},
    {"ptx",
     {"algorithm.name=ppo", "algorithm.ptx_coef=0.5", "algorithm.exact=false", "train.mini_batch=4",
      "train.shards=2"}},
    {"apa", {"algorithm.name=apa"}},
    {"awr", {"algorithm.name=awr", "algorithm.exact=false", "train.mini_batch=4"}},
    {"t_ppo",
     {"algorithm.name=t_ppo", "algorithm.exact=false", "rollout.window=3", "rollout.samples=2",
      "reward.0.normalize=whiten", "reward.0.clip=0.8"}},
};

class EveryCritic : public Critics, public testing::WithParamInterface<std::string> {};

// E1 of values, E3, E5, E6 and the replay.
TEST_P(EveryCritic, GivesTheSameBitsResumedReplayedAndOnOtherThreads) {
  Settings settings = kCritics.at(GetParam());
  settings.insert(settings.end(), {"train.steps=5", "checkpoint.every=2", "checkpoint.keep_last=9",
                                   "train.lr=1e-2"});
  const auto expect_same = [&](const Steps& got, const Steps& whole) {
    for (const char* key :
         {"exact/weights_digest", "exact/critic_digest", "exact/rollout_digest"}) {
      EXPECT_EQ(got.back().value(key, ""), whole.back().value(key, "")) << key;
    }
    EXPECT_EQ(got.back().value("critic/vf_explained_var", 0.0),
              whole.back().value("critic/vf_explained_var", 0.0));
  };
  const Steps whole = Run(Config("whole", settings));
  for (const auto& step : whole) {
    EXPECT_EQ(Number(step, "exact/mismatched_tokens"), 0);
    EXPECT_EQ(step.value("exact/mismatched_values", 0), 0);
  }
  EXPECT_EQ(whole.back().contains("exact/critic_digest"),
            GetParam().find("shared") == std::string::npos);
  expect_same(Run(Config("plan", With(settings, {"run.threads=3", "run.tape_mb=0"}))), whole);
  // A killed run: the config of the whole one, up to its third step.
  Run(Config("cut", With(settings, {"train.steps=3", "train.warmup_steps=0"})));
  const Steps resumed = Run(Config("cut", settings), /*resume=*/true);
  ASSERT_EQ(resumed.size(), 2U);
  expect_same(resumed, whole);

  ExpectReplays("whole", 3, 5);
}

std::vector<std::string> Names() {
  std::vector<std::string> names;
  for (const auto& [name, settings] : kCritics) names.push_back(name);
  return names;
}
INSTANTIATE_TEST_SUITE_P(Kinds, EveryCritic, testing::ValuesIn(Names()),
                         [](const auto& name) { return name.param; });

TEST_F(Critics, AValueThatChangedEndsTheRunBeforeTheWeightsDo) {
  const auto ends = [&](const char* fault, ErrorCode code, const char* says) {
    SetFaults(fault);
    try {
      Run(Config("run", {"train.steps=3"}));
      ADD_FAILURE() << fault << ": no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      EXPECT_NE(std::string(error.what()).find(says), std::string::npos) << error.what();
    }
    fs::remove_all(folder_);
  };
  ends("flip:value:step=2:nth=6:index=1", ErrorCode::kExactness, "first at prompt 1 (problem ");
  ends("nan:value:step=2:nth=6:index=1", ErrorCode::kWork, "step 2: the value is not finite");
}

// The coefficient goes up while the policy is further from its start than it shall be, and down
// below; a resumed run goes on with it.
TEST_F(Critics, TheKlCoefficientIsSteered) {
  const Settings settings = {"train.steps=6",
                             "train.lr=1e-2",
                             "algorithm.kl_coef=0.1",
                             "algorithm.kl_in=reward",
                             "algorithm.kl_target=1e-3",
                             "algorithm.kl_horizon=320",
                             "checkpoint.every=3"};
  const Steps steps = Run(Config("run", settings));
  const char* coef = "actor/reward_kl_penalty_coeff";
  EXPECT_EQ(Number(steps[0], coef), 0.1);
  // Step 1 has no KL yet: one step down by a fifth of 32 / 320.
  EXPECT_NEAR(Number(steps[1], coef), 0.1 * (1 - 0.2 * 0.1), 1e-15);
  for (std::size_t i = 0; i + 1 < steps.size(); ++i) {
    EXPECT_NEAR(Number(steps[i + 1], coef),
                AdaptedKlCoef(Number(steps[i], coef), Number(steps[i], "actor/reward_kl_penalty"),
                              1e-3, 320, 32),
                1e-15);
  }
}

// Where no answer is rewarded and the critic says 0 no advantage is left, so that the step is the
// one of supervised fine-tuning on the same prompts, times the coefficient.
TEST_F(Critics, PtxIsTheLikelihoodOfTheDemonstrations) {
  const auto run = [&](const std::string& name, const Settings& more) {
    Settings all = {"run.dir=" + Folder(name), "model.dtype=f32",     "model.init.hidden_size=32",
                    "rollout.prompts=6",       "train.steps=1",       "checkpoint.every=0",
                    "eval.prompts=1",          "train.clip_norm=1e9", "monitor.tensorboard=false"};
    all.insert(all.end(), more.begin(), more.end());
    return Run(LoadTrainConfig("", all)).front();
  };
  const auto sft = run("sft", {"algorithm.name=sft"});
  const auto ppo = run(
      "ppo", {"algorithm.name=ppo_max", "algorithm.ptx_coef=0.25", "rollout.samples=2",
              "rollout.max_new_tokens=4", "reward.0.kind=regex", "reward.0.pattern=never said"});
  EXPECT_EQ(Number(ppo, "critic/advantages/max"), 0);
  EXPECT_EQ(Number(ppo, "actor/pg_loss"), 0);
  // f32 sums over the same rows, cut into other units.
  EXPECT_NEAR(Number(ppo, "actor/ptx_loss") / Number(sft, "actor/pg_loss"), 1, 1e-5);
  EXPECT_NEAR(Number(ppo, "actor/grad_norm") / Number(sft, "actor/grad_norm"), 0.25, 1e-5);
}

// Clipped rewards, and returns of whole answers that are no more.
TEST_F(Critics, WindowsOfAnswersHaveTheirRewardsNormalised) {
  const Steps steps =
      Run(Config("run", {"train.steps=4", "checkpoint.every=0", "algorithm.name=t_ppo",
                         "algorithm.exact=false", "rollout.window=3", "reward.0.normalize=scale",
                         "reward.0.clip=0.25", "reward.0.weight=1", "reward.1.weight=0"}));
  double highest = 0;
  for (const auto& step : steps) {
    if (Number(step, "rollout/finished_answers") == 0) continue;
    highest = std::max(highest, Number(step, "critic/score/max"));
    EXPECT_LE(Number(step, "critic/score/max"), 0.25);
    EXPECT_LE(Number(step, "critic/returns/max"), 0.25 + 1e-6);
  }
  EXPECT_EQ(highest, 0.25) << "rewards are 0 and 1";
}

TEST_F(Critics, PpoMaxIsItsPapersRecipeButForWhatTheConfigSays) {
  const std::string model = Folder("reward_model");
  std::filesystem::create_directories(model);
  const auto config = [&](const Settings& more) {
    return Config("run", With({"algorithm.name=ppo_max", "train.steps=50", "reward.1.kind=regex",
                               "reward.1.name=watched", "reward.1.pattern=a", "reward.1.weight=0",
                               "reward.2.kind=model", "reward.2.path=" + model},
                              more));
  };
  const TrainConfig recipe = config({});
  EXPECT_EQ(recipe.algorithm.kl_coef, 0.05);
  EXPECT_TRUE(KlInReward(recipe.algorithm));
  for (const std::size_t i : {0, 2}) {
    EXPECT_EQ(recipe.reward[i].normalize, "whiten");
    EXPECT_EQ(recipe.reward[i].clip, 0.8);
  }
  EXPECT_EQ(recipe.reward[1].normalize, "none") << "it is only watched";
  EXPECT_EQ(recipe.reward[1].clip, 0);
  EXPECT_EQ(recipe.critic.init, model);
  EXPECT_EQ(recipe.critic.pretrain_steps, 5);
  EXPECT_EQ(config({"train.steps=1000000000", "train.max_tokens=1000000"}).critic.pretrain_steps,
            10)
      << "tokens end this run";
  // What a run prints is what it does, and is read back as such.
  EXPECT_EQ(PrintTrainConfig(ParseTrainConfig(PrintTrainConfig(recipe))), PrintTrainConfig(recipe));

  const Settings without = {"algorithm.kl_coef=0",     "reward.0.normalize=none",
                            "reward.2.normalize=none", "critic.init=policy",
                            "critic.pretrain_steps=0", "algorithm.kl_in=loss"};
  TrainConfig ppo = config(With(without, {"algorithm.name=ppo"}));
  ppo.algorithm.name = "ppo_max";
  EXPECT_EQ(PrintTrainConfig(config(without)), PrintTrainConfig(ppo));
  EXPECT_EQ(config({"reward.0.clip=0.3"}).reward[0].clip, 0.3);
  EXPECT_EQ(config({"critic.init=shared"}).critic.pretrain_steps, 0) << "it cannot wait";
  EXPECT_EQ(config({"reward.2.weight=0"}).critic.init, "policy") << "no reward is a model's";
}

TEST_F(Critics, WrongUseIsRefusedWithTheCure) {
  const auto refused = [&](const Settings& settings, const char* says) {
    try {
      Config("run", settings);
      ADD_FAILURE() << says << ": accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUsage);
      EXPECT_NE(std::string(error.what()).find(says), std::string::npos) << error.what();
    }
  };
  refused({"algorithm.name=grpo", "critic.lr=1e-3"}, "remove [critic], or take ppo");
  refused({"critic.init=shared", "critic.lr=1e-3"}, "critic.lr: a shared critic");
  refused({"critic.value_coef=0.3"}, "set critic.lr instead");
  refused({"critic.pretrain_steps=20", "train.steps=20"}, "none is left for the policy");
  refused({"algorithm.kl_coef=0.1", "algorithm.kl_target=0.1", "algorithm.kl_horizon=8"},
          "set it to 32 or more");
  refused({"rollout.window=4"}, "rollout.window = 4: is of \"t_ppo\"");
  refused({"algorithm.name=t_ppo"}, "rollout.window");
  refused({"algorithm.name=t_ppo", "rollout.window=2"}, "algorithm.exact = false");
  const Settings window = {"algorithm.name=t_ppo", "rollout.window=2", "algorithm.exact=false"};
  const auto with = [&](const char* setting) {
    Settings all = window;
    all.push_back(setting);
    return all;
  };
  refused(with("critic.init=shared"), "critic.init");
  refused(with("rollout.dynamic_sampling=true"), "rollout.dynamic_sampling");
  refused(with("rollout.stop=[\"x\"]"), "rollout.stop");
}

// The same model, but for the name of one token.
TEST_F(Critics, ACriticWithAnotherTokenizerIsRefused) {
  Run(Config("first", {"train.steps=1", "algorithm.name=opo"}));
  const std::string model = fs::canonical(Folder("first") + "/model").string();
  for (const auto& entry : fs::directory_iterator(model)) {
    if (entry.path().extension() != ".json") continue;
    std::string text = ReadFile(entry.path().string());
    const std::string name = "<|im_start|>";
    for (std::size_t at; (at = text.find(name)) != std::string::npos;) {
      text.replace(at, name.size(), "<|im_begin|>");
    }
    WriteFileAtomically(entry.path().string(), text);
  }
  try {
    Run(Config("run", {"critic.init=" + model, "train.steps=1"}));
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    const std::string says = error.what();
    EXPECT_NE(says.find("its tokenizer is not the policy's: token "), std::string::npos) << says;
    EXPECT_NE(says.find("<|im_begin|>"), std::string::npos) << says;
  }
}

// A policy's checkpoint as the critic: the same as a copy of that policy.
TEST_F(Critics, MayBeginAsAModelOfAFile) {
  Run(Config("first", {"train.steps=1", "algorithm.name=opo"}));
  const std::string model = fs::canonical(Folder("first") + "/model").string();
  const Settings settings = {"train.steps=2", "model.path=" + model};
  Settings with_path = settings;
  with_path.push_back("critic.init=" + model);
  EXPECT_EQ(Run(Config("copy", settings)).back().at("exact/critic_digest"),
            Run(Config("path", with_path)).back().at("exact/critic_digest"));
}

}  // namespace
}  // namespace opo
