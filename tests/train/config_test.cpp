#include "train/config.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/error.h"

namespace opo {
namespace {

namespace fs = std::filesystem;

std::string MessageOf(const std::vector<std::string>& overrides) {
  try {
    LoadTrainConfig("", overrides);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    return error.what();
  }
  ADD_FAILURE() << "accepted";
  return "";
}

void ExpectRefused(const std::vector<std::string>& overrides, const char* key, const char* cure) {
  const std::string message = MessageOf(overrides);
  EXPECT_NE(message.find(key), std::string::npos) << message;
  EXPECT_NE(message.find(cure), std::string::npos) << message;
}

class ConfigFiles : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) / "config_test";
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  std::string Write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name) << text;
    return (folder_ / name).string();
  }
  fs::path folder_;
};

TEST(TrainConfig, DefaultsAreValidAndResolve) {
  const TrainConfig c = LoadTrainConfig("", {});
  EXPECT_EQ(c.algorithm.name, "opo");
  EXPECT_EQ(c.reward.size(), 1U);
  EXPECT_EQ(c.run.dir, "runs/opo-1");
  EXPECT_EQ(LossAggregation(c), "token-mean");
  EXPECT_EQ(LossNorm(c), 32.0);
  EXPECT_EQ(MiniBatchPrompts(c), 16);
  EXPECT_EQ(EvalMaxNewTokens(c), 32);
}

TEST(TrainConfig, OtherKeysStandInForZeros) {
  const TrainConfig c =
      LoadTrainConfig("", {"algorithm.name=dr_grpo", "rollout.max_new_tokens=20", "eval.samples=4",
                           "rollout.prompts=6", "algorithm.exact=false", "train.mini_batch=3"});
  EXPECT_EQ(LossAggregation(c), "seq-mean-token-sum-norm");
  EXPECT_EQ(LossNorm(c), 20.0);
  EXPECT_EQ(MiniBatchPrompts(c), 3);
  EXPECT_EQ(EvalMaxNewTokens(c), 20);
}

TEST_F(ConfigFiles, FileThenOverrides) {
  const std::string path = Write("sums.toml", R"(
[train]
lr = 2e-5
steps = 7
[rollout]
stop = ["\n\n"]
[[reward]]
kind = "regex"
pattern = '(\d+)$'
[[reward]]
kind = "format"
pattern = '\d+'
weight = 0.1
)");
  const TrainConfig c = LoadTrainConfig(
      path, {"train.steps=9", "train.seed=4", "train.steps=11", "reward.1.weight=0.2"});
  EXPECT_EQ(c.train.lr, 2e-5);
  EXPECT_EQ(c.train.steps, 11);
  EXPECT_EQ(c.rollout.stop, std::vector<std::string>{"\n\n"});
  ASSERT_EQ(c.reward.size(), 2U);
  EXPECT_EQ(c.reward[0].pattern, "(\\d+)$");
  EXPECT_EQ(c.reward[1].weight, 0.2);
  EXPECT_EQ(c.run.dir, "runs/sums-4");
}

TEST_F(ConfigFiles, PathsAreLookedForBesideTheFile) {
  Write("data.jsonl", "{}");
  const std::string path =
      Write("a.toml", "[data]\ntrain = \"data.jsonl\"\neval = \"absent.jsonl\"");
  const TrainConfig c = LoadTrainConfig(path, {});
  EXPECT_EQ(c.data.train, (folder_ / "data.jsonl").lexically_normal().string());
  EXPECT_EQ(c.data.eval, "absent.jsonl");
}

TEST_F(ConfigFiles, PrintReadsBackToTheSamePrint) {
  TrainConfig c = LoadTrainConfig(
      "", {"train.lr=1.25e-6", "rollout.stop=[\"a\\n\", \"b\"]", "reward.0.kind=regex",
           "reward.0.pattern=\"(\\d+)\"", "reward.1.kind=exact", "data.system=Say \"hi\"."});
  const std::string printed = PrintTrainConfig(c);
  const std::string path = Write("printed.toml", printed);
  EXPECT_EQ(PrintTrainConfig(LoadTrainConfig(path, {})), printed);
  EXPECT_NE(printed.find("lr = 1.25e-06\n"), std::string::npos) << printed;
}

TEST(TrainConfig, EveryKeyIsExplained) {
  // In the print every key's line follows a comment line.
  std::istringstream lines(PrintTrainConfig(TrainConfig{}));
  std::string before;
  int keys = 0;
  for (std::string line; std::getline(lines, line); before = line) {
    if (line.empty() || line[0] == '#') continue;
    EXPECT_EQ(before.rfind("# ", 0), 0U) << line;
    EXPECT_GT(before.size(), 4U) << line;
    EXPECT_LE(before.size(), 400U) << before;  // the algorithms are many
    ++keys;
  }
  EXPECT_GT(keys, 60);
}

TEST_F(ConfigFiles, ErrorsNameFileLineAndKey) {
  const std::string path = Write("bad.toml", "[train]\nsteps = 3\nlearning_rate = 1\n");
  try {
    LoadTrainConfig(path, {});
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).rfind(path + ":3: key 'train.learning_rate'", 0), 0U)
        << error.what();
  }
  try {
    LoadTrainConfig((folder_ / "absent.toml").string(), {});
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_NE(std::string(error.what()).find("absent.toml"), std::string::npos);
  }
}

TEST(TrainConfig, ExactModeRefusesWhatIsOffPolicy) {
  const char* cure = "algorithm.exact = false";
  ExpectRefused({"train.mini_batch=8"}, "train.mini_batch", cure);
  ExpectRefused({"train.epochs=2"}, "train.epochs", cure);
  ExpectRefused({"rollout.top_p=0.9"}, "rollout.top_p", cure);
  ExpectRefused({"rollout.top_k=50"}, "rollout.top_k", cure);
  ExpectRefused({"rollout.min_p=0.05"}, "rollout.min_p", cure);
  ExpectRefused({"rollout.repetition_penalty=1.1"}, "rollout.repetition_penalty", cure);
  ExpectRefused({"rollout.presence_penalty=0.5"}, "rollout.presence_penalty", cure);
  ExpectRefused({"rollout.frequency_penalty=-0.5"}, "rollout.frequency_penalty", cure);
  LoadTrainConfig(
      "", {"train.mini_batch=8", "train.epochs=2", "rollout.top_p=0.9", "rollout.top_k=50",
           "rollout.min_p=0.05", "rollout.repetition_penalty=1.1", "rollout.presence_penalty=0.5",
           "rollout.frequency_penalty=0.5", "algorithm.exact=false"});
  LoadTrainConfig("", {"train.mini_batch=16"});  // one step a batch all the same
}

TEST(TrainConfig, OpoHasNeitherKlNorEntropyTermInExactMode) {
  const char* cure = "set algorithm.exact = false";
  for (const char* name : {"algorithm.name=opo", "algorithm.name=opo_batch"}) {
    ExpectRefused({name, "algorithm.kl_coef=0.1"}, "algorithm.kl_coef", cure);
    ExpectRefused({name, "algorithm.kl_coef=0.1", "algorithm.kl_in=reward"}, "algorithm.kl_coef",
                  cure);
    ExpectRefused({name, "algorithm.entropy_coef=0.01"}, "algorithm.entropy_coef", cure);
    LoadTrainConfig("", {name, "algorithm.kl_coef=0.1", "algorithm.entropy_coef=0.01",
                         "algorithm.exact=false"});
  }
  LoadTrainConfig("", {"algorithm.name=grpo", "algorithm.kl_coef=0.1"});
  ExpectRefused({"algorithm.kl_estimator=k4"}, "algorithm.kl_estimator", "k3");
}

TEST(TrainConfig, TheKlTermHasAnEstimatorForItsPlace) {
  const auto load = [](std::vector<std::string> more) {
    more.push_back("algorithm.name=grpo");
    return LoadTrainConfig("", more);
  };
  const TrainConfig none = load({"algorithm.kl_in=reward"});
  EXPECT_FALSE(KlInLoss(none.algorithm) || KlInReward(none.algorithm) || NeedsReference(none));
  const TrainConfig loss = load({"algorithm.kl_coef=0.1"});
  EXPECT_TRUE(KlInLoss(loss.algorithm) && NeedsReference(loss));
  EXPECT_EQ(KlEstimator(loss.algorithm), "k3");
  const TrainConfig reward = load({"algorithm.kl_coef=0.1", "algorithm.kl_in=reward"});
  EXPECT_TRUE(KlInReward(reward.algorithm) && NeedsReference(reward));
  EXPECT_EQ(KlEstimator(reward.algorithm), "k1");
  EXPECT_EQ(KlEstimator(load({"algorithm.kl_estimator=k2"}).algorithm), "k2");
}

TEST(TrainConfig, KeysMustFitTogether) {
  ExpectRefused({"train.mini_batch=17", "algorithm.exact=false"}, "train.mini_batch",
                "rollout.prompts");
  ExpectRefused({"train.mini_batch=5", "algorithm.exact=false"}, "must divide", "rollout.prompts");
  ExpectRefused({"train.warmup_steps=21"}, "train.warmup_steps", "train.steps");
  ExpectRefused({"train.shards=3"}, "train.shards", "power of two");
  ExpectRefused({"rollout.stop=[\"\"]"}, "rollout.stop", "remove");
  ExpectRefused({"rollout.samples=1"}, "rollout.samples", "opo_batch");
  ExpectRefused({"model.init.num_kv_heads=3"}, "model.init.num_kv_heads", "divide");
  ExpectRefused({"model.init.head_dim=15"}, "model.init.head_dim", "even");
  ExpectRefused({"rollout.max_new_tokens=256"}, "rollout.max_new_tokens", "max_position");
  ExpectRefused({"algorithm.loss_agg=seq-mean-token-mean"}, "algorithm.loss_agg", "token-mean");
  ExpectRefused({"reward.0.kind=regex"}, "reward.0.pattern", "missing");
  ExpectRefused({"reward.0.kind=regexp"}, "reward.0.kind", "did you mean 'regex'");
  ExpectRefused({"algorithm.name=trpo"}, "algorithm.name", "dr_grpo");
  ExpectRefused({"algorithm.name=grpo", "algorithm.length_exponent=2"}, "algorithm.length_exponent",
                "opo_loo");
  LoadTrainConfig("", {"algorithm.loss_agg=seq-mean-token-mean", "algorithm.length_exponent=-1"});
  ExpectRefused({"algorithm.clip_low=-0.5"}, "algorithm.clip_low", "algorithm's own");
  ExpectRefused({"algorithm.name=em_pg", "algorithm.em_pg_weight=centred", "rollout.samples=1"},
                "rollout.samples", "at least 2");
  ExpectRefused({"rollout.lr=1"}, "rollout.lr", "train.lr");
  LoadTrainConfig("", {"rollout.samples=1", "algorithm.name=opo_batch"});
}

}  // namespace
}  // namespace opo
