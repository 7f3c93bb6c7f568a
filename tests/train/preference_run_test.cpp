// Whole runs on preferences: each method moves its own objective on held-out pairs made by a rule,
// and keeps the exactness contract.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "base/error.h"
#include "base/file.h"
#include "train/runs.h"

namespace opo {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

class PreferenceRuns : public RunTest {
 protected:
  PreferenceRuns() {
    // The rule: a good answer ends in "!". Training and evaluation share no prompt.
    std::string pairs;
    std::string held_out;
    std::string demonstrations;
    for (int i = 0; i < 40; ++i) {
      const std::string word(1 + static_cast<std::size_t>(i) % 3,
                             static_cast<char>('a' + (i * 7) % 26));
      const std::string prompt = "say " + std::to_string(i);
      (i < 30 ? pairs : held_out) +=
          ordered_json{{"prompt", prompt}, {"chosen", word + "!"}, {"rejected", word + "?"}}
              .dump() +
          "\n";
      demonstrations += ordered_json{{"prompt", prompt}, {"completion", word + "!"}}.dump() + "\n";
    }
    WriteFileAtomically(Folder("pairs.jsonl"), pairs);
    WriteFileAtomically(Folder("held_out.jsonl"), held_out);
    WriteFileAtomically(Folder("demonstrations.jsonl"), demonstrations);
    WriteFileAtomically(Folder("both.jsonl"), pairs + demonstrations);
  }

  TrainConfig Config(const std::string& name, const std::string& algorithm,
                     const Settings& more = {}) const {
    Settings all = {"model.init.hidden_size=32",
                    "model.init.intermediate_size=64",
                    "model.init.num_heads=2",
                    "model.init.num_kv_heads=1",
                    "model.init.max_position=320",
                    "data.train=" + Folder("pairs.jsonl"),
                    "data.eval=" + Folder("held_out.jsonl"),
                    "algorithm.name=" + algorithm,
                    "rollout.prompts=8",
                    "train.steps=15",
                    "train.lr=3e-3",
                    "eval.every=5",
                    "checkpoint.every=0",
                    "monitor.tensorboard=false",
                    "run.dir=" + Folder(name)};
    if (algorithm == "aihf_direct") all.push_back("data.train=" + Folder("both.jsonl"));
    all.insert(all.end(), more.begin(), more.end());
    return LoadTrainConfig("", all);
  }
};

class EveryPreference : public PreferenceRuns, public testing::WithParamInterface<const char*> {};

TEST_P(EveryPreference, LearnsWhatTheChosenAnswersHaveInCommon) {
  const std::string name = GetParam();
  const Outcome run = Take(Config("run", name), false, /*evaluate=*/true);
  const auto number = [](const ordered_json& metrics, const char* key) {
    return metrics.at(key).get<double>();
  };
  const ordered_json& before = run.result.before.metrics;
  const ordered_json& after = run.result.after.metrics;
  // It is its own reference.
  EXPECT_EQ(number(before, "eval/rewards/margins"), 0);
  EXPECT_EQ(number(before, "eval/rewards/accuracies"), 0);
  if (name == "dpo" || name == "sr_dpo") {
    EXPECT_NEAR(number(before, "eval/loss"), std::log(2.0), 1e-12);
    EXPECT_NEAR(number(run.steps.front(), "actor/pg_loss"), std::log(2.0), 1e-12);
  }
  EXPECT_EQ(number(after, "eval/rewards/pairs"), 10);
  EXPECT_GE(number(after, "eval/rewards/accuracies"), 0.9);
  EXPECT_GT(number(after, "eval/rewards/margins"), 0.02);
  EXPECT_LT(number(after, "eval/loss"), number(before, "eval/loss"));
  EXPECT_NEAR(number(after, "eval/rewards/margins"),
              number(after, "eval/rewards/chosen") - number(after, "eval/rewards/rejected"), 1e-12);
  for (const ordered_json& step : run.steps) {
    EXPECT_GT(number(step, "exact/compared_tokens"), 0);
    EXPECT_EQ(number(step, "exact/mismatched_tokens"), 0);
    EXPECT_EQ(number(step, "reference/weights_bytes"), 0);
    EXPECT_EQ(step.contains("rewards/refined_margins"), name.starts_with("sr_"));
  }
  if (name.starts_with("sr_")) {
    EXPECT_EQ(number(run.steps.front(), "rewards/refined_margins"), 0);
    EXPECT_NE(number(run.steps.back(), "rewards/refined_margins"), 0);
  }
  if (name == "aihf_direct") {
    EXPECT_GT(number(run.steps.back(), "logps/demonstrations"),
              number(run.steps.front(), "logps/demonstrations"));
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, EveryPreference,
                         testing::Values("dpo", "ipo", "sr_dpo", "sr_ipo", "aihf_direct"),
                         [](const auto& name) { return std::string(name.param); });

TEST_F(PreferenceRuns, ADamagedReferenceIsComputedAgainAndTheRunIsTheSame) {
  const Settings shared = {"run.reference_dir=" + Folder("shared"), "train.steps=3"};
  const Outcome first = Take(Config("first", "dpo", shared));
  EXPECT_EQ(first.steps.front().at("reference/computed"), 30);
  const Outcome second = Take(Config("second", "dpo", shared));
  EXPECT_EQ(second.steps.front().at("reference/computed"), 0);
  EXPECT_EQ(second.digest(), first.digest());
  EXPECT_FALSE(fs::exists(Folder("second") + "/reference"));
  int damaged = 0;
  for (const auto& entry : fs::directory_iterator(Folder("shared"))) {
    if (entry.path().extension() != ".logprobs") continue;
    std::string bytes = ReadFile(entry.path().string());
    bytes[100] ^= 1;
    WriteFileAtomically(entry.path().string(), bytes);
    ++damaged;
  }
  EXPECT_EQ(damaged, 2) << "training and evaluation";
  const Outcome third = Take(Config("third", "dpo", shared));
  EXPECT_EQ(third.steps.front().at("reference/computed"), 30);
  EXPECT_EQ(third.digest(), first.digest());
}

class EveryKindOfPreference : public PreferenceRuns,
                              public testing::WithParamInterface<const char*> {};

// E3, E5, E6 and the replay.
TEST_P(EveryKindOfPreference, GivesTheSameBitsResumedReplayedAndOnOtherThreads) {
  const std::string name = GetParam();
  Settings settings = {"train.steps=5", "checkpoint.every=2", "checkpoint.keep_last=9",
                       "eval.every=0"};
  if (name == "ipo") {
    // Off policy: the answers are scored again before each update but the first.
    settings.insert(settings.end(),
                    {"algorithm.exact=false", "train.mini_batch=4", "train.epochs=2"});
  }
  if (name == "dpo") settings.emplace_back("lora.rank=4");
  const Outcome whole = Take(Config("whole", name, settings));
  EXPECT_EQ(
      Take(Config("plan", name, With(settings, {"run.threads=3", "run.memory_mb=400"}))).digest(),
      whole.digest());
  Take(Config("cut", name, With(settings, {"train.steps=3"})));
  const Outcome resumed = Take(Config("cut", name, settings), /*resume=*/true);
  ASSERT_EQ(resumed.steps.size(), 2U);
  EXPECT_EQ(resumed.steps.front().at("reference/computed"), 0);
  EXPECT_EQ(resumed.digest(), whole.digest());
  // What is not on disk is computed from the weights that the run began with, not those of now.
  Take(Config("bare", name, With(settings, {"train.steps=3"})));
  fs::remove_all(Folder("bare") + "/reference");
  EXPECT_EQ(Take(Config("bare", name, settings), /*resume=*/true).digest(), whole.digest());

  ExpectReplays("whole", 3, 5);
}

INSTANTIATE_TEST_SUITE_P(Kinds, EveryKindOfPreference,
                         testing::Values("dpo", "ipo", "sr_dpo", "aihf_direct"),
                         [](const auto& name) { return std::string(name.param); });

TEST_F(PreferenceRuns, WrongUseIsRefusedWithTheCure) {
  const auto refused = [&](const std::string& algorithm, const Settings& settings) {
    try {
      Take(Config("refused", algorithm, settings));
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  const auto expect = [&](const std::string& got, const char* says) {
    EXPECT_NE(got.find(says), std::string::npos) << got;
  };
  expect(refused("dpo", {"data.train=" + Folder("demonstrations.jsonl")}), "make-pairs");
  expect(refused("dpo", {"data.train=arithmetic"}), "which has no pairs");
  expect(refused("dpo", {"algorithm.beta=0"}), "algorithm.beta");
  expect(refused("dpo", {"algorithm.label_smoothing=0.5"}), "algorithm.label_smoothing");
  expect(refused("dpo", {"rollout.samples=4"}), "rollout.samples");
  expect(refused("dpo", {"algorithm.sr_lambda=1"}), "it is one of sr_dpo, sr_ipo");
  expect(refused("dpo", {"algorithm.loss_agg=token-mean"}), "remove it");
  expect(refused("dpo", {"algorithm.kl_coef=0.1", "algorithm.kl_in=reward"}), "set it to \"loss\"");
  expect(refused("sr_dpo", {"model.init.max_position=96"}), "algorithm.sr_prompt");
}

}  // namespace
}  // namespace opo
