// Runs of reward models, of AIHF and of direct advantages on tiny models: what they learn, what
// they refuse, and the same bits after a kill.
#include "train/reward_model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/rng.h"
#include "model/load.h"
#include "train/runs.h"

namespace opo {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

class RewardModels : public RunTest {
 protected:
  void Write(const std::string& name, const std::vector<ordered_json>& rows) {
    std::ofstream file(Folder(name));
    for (const ordered_json& row : rows) file << row.dump() << "\n";
  }
  // A byte-level model of 115,000 weights.
  TrainConfig Config(const std::string& name, const Settings& settings) const {
    Settings all = {"run.dir=" + Folder(name), "monitor.tensorboard=false",
                    "monitor.report_every=0",  "model.init.max_position=128",
                    "train.lr=3e-3",           "checkpoint.every=0"};
    all.insert(all.end(), settings.begin(), settings.end());
    return LoadTrainConfig("", all);
  }
  std::string Refusal(const Settings& settings) const {
    try {
      Config("refused", settings);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUsage);
      return error.what();
    }
    return "";
  }
  struct Steps {
    std::vector<ordered_json> metrics;
    TrainResult result;
    double Number(std::size_t step, const char* key) const {
      return metrics.at(step).at(key).get<double>();
    }
    double Mean(std::size_t first, std::size_t count, const char* key) const {
      double sum = 0;
      for (std::size_t i = first; i < first + count; ++i) sum += Number(i, key);
      return sum / static_cast<double>(count);
    }
  };
  static Steps Run(const TrainConfig& config, bool resume = false, bool eval = false) {
    const Outcome outcome = Take(config, resume, eval);
    const Steps steps{outcome.steps, outcome.result};
    for (const ordered_json& step : steps.metrics) {
      EXPECT_GT(step.at("exact/compared_tokens").get<idx>(), 0);
      EXPECT_EQ(step.at("exact/mismatched_tokens").get<idx>(), 0);
    }
    return steps;
  }
};

std::string Word(std::uint32_t seed, std::uint32_t place, char first, int letters) {
  std::string word;
  const auto bits = Philox4x32({seed, place, 0, 0}, {1, 2});
  for (int i = 0; i < 6; ++i) {
    const std::uint32_t draw = bits[static_cast<std::size_t>(i / 2)] >> (16 * (i % 2)) & 0xffff;
    word += static_cast<char>(first + draw % static_cast<std::uint32_t>(letters));
  }
  return word;
}

// What is chosen are words of a to m, what is rejected words of n to z.
std::vector<ordered_json> Pairs(std::uint32_t seed, std::uint32_t count) {
  std::vector<ordered_json> rows;
  for (std::uint32_t i = 0; i < count; ++i) {
    rows.push_back({{"prompt", Word(seed, 3 * i, 'a', 26)},
                    {"chosen", Word(seed, 3 * i + 1, 'a', 13)},
                    {"rejected", Word(seed, 3 * i + 2, 'n', 13)}});
  }
  return rows;
}

TEST(PairMetrics, AreTrlsOnTheSameScores) {
  std::ifstream file(OPO_SOURCE_DIR "/tests/algo/golden/trl_reward.json");
  const auto golden = nlohmann::json::parse(file);
  for (const auto& c : golden.at("cases")) {
    std::vector<RolloutGroup> groups;
    for (std::size_t p = 0; p < c.at("chosen").size(); ++p) {
      RolloutGroup& group = groups.emplace_back();
      for (const char* key : {"chosen", "rejected"}) {
        Rollout& rollout = group.rollouts.emplace_back();
        rollout.tokens = {1, 2, 2};
        rollout.values = {9, 9, c.at(key)[p].get<float>()};
      }
    }
    ordered_json metrics;
    PutPairMetrics(groups, "", metrics);
    // Scores are f32 here; TRL's accuracy is.
    for (const auto& [name, value] : c.at("metrics").items()) {
      EXPECT_NEAR(metrics.at(name).get<double>(), value.get<double>(), 1e-6) << name;
    }
  }
}

TEST(PairMetrics, ATieIsNotRight) {
  RolloutGroup group;
  for (int i = 0; i < 2; ++i) {
    Rollout& rollout = group.rollouts.emplace_back();
    rollout.tokens = {1};
    rollout.values = {0.5f};
  }
  ordered_json metrics;
  PutPairMetrics(std::span(&group, 1), "eval/", metrics);
  EXPECT_EQ(metrics.at("eval/accuracy"), 0.0);
  EXPECT_EQ(metrics.at("eval/margin"), 0.0);
}

class RewardModelRuns : public RewardModels {
 protected:
  RewardModelRuns() {
    Write("pairs.jsonl", Pairs(1, 400));
    Write("held_out.jsonl", Pairs(2, 64));
  }
  Settings Base() const {
    return {"algorithm.name=reward_model", "data.train=" + Folder("pairs.jsonl"),
            "data.eval=" + Folder("held_out.jsonl"), "rollout.prompts=16", "train.steps=20"};
  }
};

TEST_F(RewardModelRuns, AccuracyOnHeldOutPairsRisesFromChance) {
  const Steps steps = Run(Config("run", Base()), false, /*eval=*/true);
  const ordered_json& before = steps.result.before.metrics;
  const ordered_json& after = steps.result.after.metrics;
  RecordProperty("before", before.dump());
  RecordProperty("after", after.dump());
  EXPECT_GT(before.at("eval/accuracy").get<double>(), 0.2) << before;
  EXPECT_LT(before.at("eval/accuracy").get<double>(), 0.8) << before;
  EXPECT_GT(after.at("eval/accuracy").get<double>(), 0.95) << after;
  EXPECT_LT(after.at("eval/loss").get<double>(), 0.3) << after;
  EXPECT_GT(after.at("eval/margin").get<double>(), 1) << after;
  EXPECT_LT(steps.Number(19, "actor/pg_loss"), steps.Number(0, "actor/pg_loss"));
  EXPECT_GT(steps.Number(19, "accuracy"), 0.9);

  // What the report reads.
  std::ifstream file(Folder("run/calibration.json"));
  const auto calibration = nlohmann::json::parse(file);
  EXPECT_EQ(calibration.at("step"), 20);
  EXPECT_EQ(calibration.at("error").get<double>(),
            after.at("eval/calibration_error").get<double>());
  double right = 0;
  idx pairs = 0;
  for (const auto& bin : calibration.at("bins")) {
    pairs += bin.at("pairs").get<idx>();
    right += bin.at("pairs").get<double>() * bin.at("accuracy").get<double>();
  }
  EXPECT_EQ(pairs, 64);
  EXPECT_NEAR(right / 64, after.at("eval/accuracy").get<double>(), 1e-12);

  // What was saved is a model with a score, and says what the run said.
  const Weights weights = LoadWeights(Folder("run/model"), SlabOf::kNothing);
  EXPECT_TRUE(weights.config.has_values);
  EXPECT_FALSE(weights.config.has_logits);
  const Steps again = Run(Config("again", With(Base(), {"model.path=" + Folder("run/model"),
                                                        "train.lr=0", "train.steps=1"})),
                          false, /*eval=*/true);
  EXPECT_EQ(again.result.before.metrics.at("eval/loss"), after.at("eval/loss"));
}

TEST_F(RewardModelRuns, AKilledRunGoesOnToTheSameBits) {
  for (const char* dtype : {"bf16", "f32"}) {
    const Settings settings =
        With(Base(), {"train.steps=5", "checkpoint.every=2", "train.shards=2",
                      std::string("model.dtype=") + dtype, "algorithm.center_coef=0.01"});
    const std::string name = std::string("whole_") + dtype;
    const Steps whole = Run(Config(name, settings));
    const Steps threads = Run(Config("threads_" + name, With(settings, {"run.threads=3"})));
    EXPECT_EQ(threads.result.weights_digest, whole.result.weights_digest);
    Run(Config("cut_" + name, With(settings, {"train.steps=3"})));
    const Steps resumed = Run(Config("cut_" + name, settings), /*resume=*/true);
    EXPECT_EQ(resumed.metrics.size(), 2U);
    EXPECT_EQ(resumed.result.weights_digest, whole.result.weights_digest);
  }
}

TEST_F(RewardModelRuns, AMarginOfARowMovesItsLoss) {
  std::vector<ordered_json> rows = Pairs(1, 16);
  for (ordered_json& row : rows) row["margin"] = 1.5;
  Write("margins.jsonl", rows);
  Write("plain.jsonl", Pairs(1, 16));
  const Settings one = {"train.steps=1", "rollout.prompts=16", "data.eval="};
  const auto loss = [&](const char* name, const Settings& more) {
    return Run(Config(name, With(With(Base(), one), more))).Number(0, "actor/pg_loss");
  };
  const double plain = loss("plain", {"data.train=" + Folder("plain.jsonl")});
  const Settings with = {"data.train=" + Folder("margins.jsonl")};
  EXPECT_GT(loss("with", with), plain + 0.5);
  EXPECT_EQ(loss("without", With(with, {"algorithm.margin_coef=0"})), plain);
}

TEST_F(RewardModelRuns, TheBestCheckpointCanBeTheMostAccurateOne) {
  const Settings settings = With(Base(), {"train.steps=6", "eval.every=1", "checkpoint.every=1",
                                          "checkpoint.keep_last=1", "train.lr=1e-2"});
  const auto best = [&](const std::string& name, const char* by, bool largest) {
    const Steps steps =
        Run(Config(name, With(settings, {std::string("checkpoint.best_by=") + by})));
    std::size_t expected = 0;
    const std::string key = std::string("eval/") + by;
    for (std::size_t i = 1; i < 6; ++i) {
      const double now = steps.Number(i, key.c_str());
      const double then = steps.Number(expected, key.c_str());
      if (largest ? now > then : now < then) expected = i;
    }
    EXPECT_TRUE(
        fs::exists(Folder(name + "/checkpoints/step_00000" + std::to_string(expected + 1))));
  };
  best("by_accuracy", "accuracy", true);
  best("by_loss", "loss", false);
}

TEST_F(RewardModelRuns, WhatMeansNothingIsRefusedWithItsCure) {
  const std::pair<const char*, const char*> refused[] = {
      {"rollout.temperature=0.5", "nothing is sampled or rewarded; remove it"},
      {"rollout.samples=4", "remove it"},
      {"algorithm.kl_coef=0.1", "algorithm.kl_coef"},
      {"algorithm.entropy_coef=0.1", "algorithm.entropy_coef"},
      {"algorithm.demo_weight=2", "it is one of"},
      {"algorithm.loss_agg=token-mean", "seq-mean-token-sum"},
      {"learned_reward.lr=1e-3", "has no reward model that learns; remove it"},
  };
  for (const auto& [setting, says] : refused) {
    EXPECT_NE(Refusal(With(Base(), {setting})).find(says), std::string::npos)
        << setting << ": " << Refusal(With(Base(), {setting}));
  }
  EXPECT_NE(Refusal({"checkpoint.best_by=accuracy"}).find("reward_model"), std::string::npos);
  EXPECT_EQ(Refusal(Base()), "");
  // A file without pairs.
  Write("demonstrations.jsonl", {{{"prompt", "a"}, {"completion", "b"}}});
  EXPECT_THROW(Run(Config("none", With(Base(), {"data.train=" + Folder("demonstrations.jsonl")}))),
               Error);
}

// A policy that is to answer with one letter, as its demonstrations and the chosen answers do.
// What the pairs taught is a reward like another, for methods that compare a prompt's answers too.
TEST_F(RewardModelRuns, PoliciesLearnFromTheirScores) {
  Run(Config("rm", Base()));
  for (const char* name : {"rebel", "online_dpo"}) {
    const Steps steps = Run(Config(
        name, {std::string("algorithm.name=") + name, "data.train=" + Folder("held_out.jsonl"),
               "reward.0.kind=model", "reward.0.path=" + Folder("rm/model"), "rollout.prompts=8",
               "rollout.samples=4", "rollout.max_new_tokens=6", "train.steps=20"}));
    EXPECT_GT(steps.Mean(15, 5, "rewards/model/mean"), steps.Mean(0, 3, "rewards/model/mean") + 0.2)
        << name;
  }
}

class AihfRuns : public RewardModels {
 protected:
  AihfRuns() {
    std::vector<ordered_json> pairs = Pairs(1, 200);
    std::vector<ordered_json> demonstrations;
    for (std::uint32_t i = 0; i < 200; ++i) {
      const std::string letter = pairs[i].at("chosen").get<std::string>().substr(0, 1);
      pairs[i]["chosen"] = letter;
      demonstrations.push_back({{"prompt", Word(5, i, 'a', 26)}, {"completion", letter}});
    }
    Write("pairs.jsonl", pairs);
    Write("demonstrations.jsonl", demonstrations);
  }
  Settings Base() const {
    return {"algorithm.name=aihf",
            "data.train=" + Folder("demonstrations.jsonl"),
            "learned_reward.pairs=" + Folder("pairs.jsonl"),
            "learned_reward.pairs_per_step=16",
            "learned_reward.lr=3e-3",
            "rollout.prompts=8",
            "rollout.samples=4",
            "rollout.max_new_tokens=8",
            "algorithm.center_coef=0.01",
            "train.steps=4"};
  }
};

TEST_F(AihfRuns, BothObjectivesRise) {
  // The rule is only watched: the policy's reward is the learned one.
  const Steps steps = Run(Config("run", With(Base(), {"train.steps=40", "reward.0.kind=regex",
                                                      "reward.0.pattern=(?s)^.{0,2}$"})));
  const double first = steps.Mean(0, 5, "rewards/regex/mean");
  const double last = steps.Mean(35, 5, "rewards/regex/mean");
  RecordProperty("rule", std::to_string(first) + " to " + std::to_string(last));
  EXPECT_GT(last, first + 0.2);
  EXPECT_GT(steps.Mean(35, 5, "reward_model/accuracy"),
            steps.Mean(0, 2, "reward_model/accuracy") + 0.2);
  // The policy comes to what the demonstrations are to the reward.
  const auto gap = [&](std::size_t step) {
    return steps.Number(step, "reward_model/demonstrations") -
           steps.Number(step, "reward_model/samples");
  };
  double widest = 0;
  for (std::size_t i = 0; i < 40; ++i) widest = std::max(widest, gap(i));
  EXPECT_LT(gap(39), widest / 2);
  EXPECT_EQ(steps.metrics[0].at("critic/score/mean"), steps.metrics[0].at("reward_model/samples"));
}

TEST_F(AihfRuns, BothModelsGoOnToTheSameBits) {
  const Settings settings = With(Base(), {"checkpoint.every=2", "algorithm.kl_coef=0.05",
                                          "algorithm.kl_in=reward", "learned_reward.steps=2"});
  const auto digests = [](const Steps& steps) {
    return steps.metrics.back().at("exact/reward_model_digest").get<std::string>() +
           steps.result.weights_digest;
  };
  const Steps whole = Run(Config("whole", settings));
  Run(Config("cut", With(settings, {"train.steps=3"})));
  const Steps resumed = Run(Config("cut", settings), /*resume=*/true);
  EXPECT_EQ(resumed.metrics.size(), 1U);
  EXPECT_EQ(digests(resumed), digests(whole));
  EXPECT_EQ(digests(Run(Config("threads", With(settings, {"run.threads=3", "run.tape_mb=0"})))),
            digests(whole));
  ExpectReplays("whole", 3, 4);
}

TEST_F(AihfRuns, WithoutDemonstrationsItsRewardIsAPlainRewardModelToTheBit) {
  const Steps aihf = Run(Config("aihf", With(Base(), {"algorithm.demo_weight=0"})));
  const Steps plain = Run(Config(
      "plain", {"algorithm.name=reward_model", "algorithm.center_coef=0.01",
                "data.train=" + Folder("pairs.jsonl"), "rollout.prompts=16", "train.steps=4"}));
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(aihf.metrics[i].at("exact/reward_model_digest"),
              plain.metrics[i].at("exact/weights_digest"));
    EXPECT_EQ(aihf.metrics[i].at("reward_model/loss"), plain.metrics[i].at("actor/pg_loss"));
    EXPECT_EQ(aihf.metrics[i].at("reward_model/accuracy"), plain.metrics[i].at("accuracy"));
  }
}

TEST_F(AihfRuns, WithoutPairsOnlyDemonstrationsAreLearned) {
  const Steps irl =
      Run(Config("irl", With(Base(), {"learned_reward.pairs=", "algorithm.center_coef=0"})));
  for (const ordered_json& step : irl.metrics) {
    EXPECT_FALSE(step.contains("reward_model/accuracy"));
    const double gap = step.at("reward_model/demonstrations").get<double>() -
                       step.at("reward_model/samples").get<double>();
    // Both are means of the same scores, one over groups of equal size.
    EXPECT_NEAR(step.at("reward_model/loss").get<double>(), -gap, 1e-6);
  }
  EXPECT_LT(irl.Number(3, "reward_model/loss"), irl.Number(0, "reward_model/loss"));
}

TEST_F(AihfRuns, WhatMeansNothingIsRefused) {
  EXPECT_NE(Refusal(With(Base(), {"learned_reward.pairs=", "algorithm.demo_weight=0"}))
                .find("would learn from nothing"),
            std::string::npos);
  EXPECT_NE(Refusal(With(Base(), {"rollout.dynamic_sampling=true"})).find("remove it"),
            std::string::npos);
  EXPECT_NE(Refusal(With(Base(), {"rollout.samples=1"})).find("at least 2"), std::string::npos);
}

// States of the tiny model as ids of bytes; the critic learns that those with an 'a' are good.
class StepRuns : public RewardModels {
 protected:
  static std::vector<TokenId> Bytes(const std::string& text) { return {text.begin(), text.end()}; }
  StepRuns() {
    std::vector<ordered_json> states;
    std::vector<ordered_json> candidates;
    for (std::uint32_t i = 0; i < 96; ++i) {
      const std::string good = Word(7, 2 * i, 'a', 13);
      const std::string bad = Word(7, 2 * i + 1, 'n', 13);
      for (const std::string& word : {good, bad}) {
        states.push_back({{"prompt", word},
                          {"state_ids", Bytes("x" + word + "\n")},
                          {"values", {word == good ? 0.875 : 0.125}}});
      }
      candidates.push_back({{"prompt", good},
                            {"state_ids", Bytes("q" + std::to_string(i % 8) + ":")},
                            {"step_ids", {Bytes("ab\n"), Bytes("yz\n"), Bytes("no\n")}},
                            {"values", i % 4 == 3 ? std::vector<double>{0.5, 0.5, 0.55}
                                                  : std::vector<double>{0.9, 0.3, 0.3}}});
    }
    Write("states.jsonl", states);
    Write("candidates.jsonl", candidates);
  }
};

TEST_F(StepRuns, ACriticLearnsTheRates) {
  const Steps steps =
      Run(Config("critic", {"algorithm.name=step_critic", "data.train=" + Folder("states.jsonl"),
                            "rollout.prompts=32", "train.steps=30"}));
  const double entropy = -(0.875 * std::log(0.875) + 0.125 * std::log(0.125));
  EXPECT_NEAR(steps.Number(0, "actor/pg_loss"), std::log(2.0), 0.1);
  EXPECT_LT(steps.Mean(25, 5, "actor/pg_loss"), entropy + 0.08) << "the least is " << entropy;
}

TEST_F(StepRuns, DirectAdvantagesAreLearnedAndNarrowStatesLeftOut) {
  const Settings settings = {"algorithm.name=direct_advantage",
                             "data.train=" + Folder("candidates.jsonl"),
                             "algorithm.step_beta=0.2",
                             "rollout.prompts=8",
                             "train.steps=30",
                             "checkpoint.every=2"};
  const Steps steps = Run(Config("whole", settings));
  const double begin = steps.Number(0, "actor/pg_loss");
  // (0.4^2 + 2 * 0.2^2) / 3 / 0.2^2 / 2, of states that are all alike: a quarter was left out.
  EXPECT_NEAR(begin, 1.0, 1e-6);
  EXPECT_LT(steps.Mean(25, 5, "actor/pg_loss"), 0.2 * begin);
  const Settings five = With(settings, {"train.steps=5"});
  const Steps whole = Run(Config("five", five));
  Run(Config("cut", With(settings, {"train.steps=3"})));
  EXPECT_EQ(Run(Config("cut", five), /*resume=*/true).result.weights_digest,
            whole.result.weights_digest);
  EXPECT_THROW(Run(Config("none", With(settings, {"algorithm.min_gap=0.9"}))), Error);
}

TEST_F(StepRuns, DataOfTheOtherKindIsRefused) {
  for (const auto& [name, file, says] :
       {std::tuple{"step_critic", "candidates.jsonl", "a critic learns states"},
        std::tuple{"direct_advantage", "states.jsonl", "of no state span"}}) {
    try {
      Run(Config("other", {std::string("algorithm.name=") + name, "data.train=" + Folder(file)}));
      ADD_FAILURE() << name;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(says), std::string::npos) << error.what();
    }
  }
  EXPECT_NE(Refusal({"algorithm.name=step_critic", "data.system=x",
                     "data.train=" + Folder("states.jsonl")})
                .find("token ids already"),
            std::string::npos);
}

}  // namespace
}  // namespace opo
