// A run's numbers out of its metrics, and the comparison out of the runs' numbers.
#include "compare/summary.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "base/error.h"

namespace opo {
namespace {

using nlohmann::ordered_json;

class Summary : public ::testing::Test {
 protected:
  Summary() {
    std::string name = (std::filesystem::temp_directory_path() / "opo_compare_XXXXXX").string();
    run_.dir = ::mkdtemp(name.data());
    config_.window = 2;
    config_.target_reward = 0.5;
  }
  ~Summary() override { std::filesystem::remove_all(run_.dir); }

  void Write(const std::vector<double>& rewards, const std::vector<double>& norms,
             const std::string& end = "") {
    std::ofstream file(run_.dir + "/metrics.jsonl");
    for (std::size_t i = 0; i < rewards.size(); ++i) {
      ordered_json line;
      line["critic/score/mean"] = rewards[i];
      line["perf/total_num_tokens"] = 100;
      line["actor/grad_norm"] = norms[i];
      line["actor/entropy"] = 1.0 + static_cast<double>(i);
      line["response_length/mean"] = 10;
      line["training/optimizer_steps"] = 4;
      line["timing_s/step"] = 2.0;
      line["perf/cpu_memory_used_gb"] = 1.5;
      line["exact/rollout_digest"] = "d" + std::to_string(i);
      if (i == 0) line["monitor/kl_k3"] = 0.25;
      file << line.dump() << "\n";
    }
    file << end;
  }

  RunNumbers Summarize() {
    FinishedRun finished;
    finished.run = run_;
    SummarizeTraining(config_, finished);
    EXPECT_EQ(finished.first_rollouts, "d0");
    return finished.numbers;
  }

  CompareConfig config_;
  CompareRun run_;
};

TEST_F(Summary, OfARunThatRisesAndFalls) {
  Write({0.1, 0.3, 0.6, 0.8, 0.2, 0.2}, {1, 1, 1, 5, 1, 1});
  const RunNumbers n = Summarize();
  EXPECT_NEAR(n.at("reward/first"), 0.2, 1e-12);
  EXPECT_NEAR(n.at("reward/last"), 0.2, 1e-12);
  EXPECT_NEAR(n.at("reward/peak"), 0.7, 1e-12);
  EXPECT_NEAR(n.at("reward/drop"), 0.5, 1e-12);
  EXPECT_EQ(n.at("collapsed"), 1);  // 0.2 is below half of 0.7
  EXPECT_EQ(n.at("grad_norm/spikes"), 1);
  EXPECT_EQ(n.at("grad_norm/max"), 5);
  EXPECT_NEAR(n.at("entropy/last"), 5.5, 1e-12);
  EXPECT_EQ(n.at("kl/last"), 0.25);
  EXPECT_EQ(n.at("tokens/total"), 600);
  EXPECT_EQ(n.at("tokens/to_target"), 400);  // (0.6 + 0.8) / 2 is the first window at 0.5
  EXPECT_EQ(n.at("seconds/to_target"), 8);
  EXPECT_EQ(n.at("updates/total"), 24);
  EXPECT_EQ(n.at("steps/total"), 6);
}

TEST_F(Summary, RewardsBelowZeroHaveTargetsAndNoHalf) {
  config_.target_reward = -0.5;
  Write({-2, -1, 0, -2, -2}, {1, 1, 1, 1, 1});
  const RunNumbers n = Summarize();
  EXPECT_EQ(n.at("reward/drop"), 1.5);
  EXPECT_EQ(n.at("tokens/to_target"), 300);
  EXPECT_TRUE(std::isnan(n.at("collapsed")));
}

TEST_F(Summary, TheRewardMayBeOneTerm) {
  config_.reward_key = "response_length/mean";
  Write({0.1, 0.2, 0.3}, {1, 1, 1});
  EXPECT_EQ(Summarize().at("reward/last"), 10);
  config_.reward_key = "rewards/rule/mean";
  for (const char* more : {R"("rewards/rule/mean": 0.5)",
                           R"("rewards/rule/mean": 0.1, "rewards/rule/score/mean": 0.5)"}) {
    Write({0.1}, {1});
    std::ifstream file(run_.dir + "/metrics.jsonl");
    std::string line;
    std::getline(file, line);
    line.pop_back();
    std::ofstream(run_.dir + "/metrics.jsonl") << line << ", " << more << "}\n";
    EXPECT_EQ(Summarize().at("reward/last"), 0.5) << more;
  }
  config_.reward_key = "rewards/none/mean";
  EXPECT_THROW(Summarize(), Error);
}

TEST_F(Summary, GivenAnswersHaveNoReward) {
  run_.config.algorithm.name = "dpo";
  Write({0.1, 0.2, 0.3}, {1, 1, 1});
  FinishedRun finished;
  finished.run = run_;
  SummarizeTraining(config_, finished);
  EXPECT_EQ(finished.first_rollouts, "");
  EXPECT_EQ(finished.numbers.count("reward/last"), 0u);
  EXPECT_EQ(finished.numbers.at("tokens/total"), 300);
  EXPECT_EQ(finished.numbers.at("updates/total"), 12);
}

TEST_F(Summary, ATargetThatIsNotReachedIsNoNumber) {
  Write({0.1, 0.2, 0.3}, {1, 1, 1});
  const RunNumbers n = Summarize();
  EXPECT_TRUE(std::isnan(n.at("tokens/to_target")));
  EXPECT_TRUE(std::isnan(n.at("seconds/to_target")));
  EXPECT_EQ(n.at("collapsed"), 0);
}

TEST_F(Summary, TornAndIncompleteFilesAreRefused) {
  Write({0.1}, {1}, "{\"critic/score/mean\": 0.");
  EXPECT_THROW(Summarize(), Error);
  std::ofstream(run_.dir + "/metrics.jsonl") << "{\"critic/score/mean\": 0.5}\n";
  try {
    Summarize();
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInput);
    EXPECT_NE(std::string(error.what()).find("perf/total_num_tokens"), std::string::npos);
  }
}

TEST(SummarizeEval, FlattensSetsAndTakesValuesOfIntervals) {
  const auto eval = ordered_json::parse(R"({"schema": 1, "sets": [{"name": "a", "problems": 3,
      "pass@1": {"value": 0.5, "low": 0.4, "high": 0.6}, "length": {"mean": 12.0},
      "per_problem": [{"correct": 1}]}]})");
  const RunNumbers n = SummarizeEval(eval);
  EXPECT_EQ(n.at("eval/pass@1"), 0.5);
  EXPECT_EQ(n.at("eval/length/mean"), 12.0);
  EXPECT_EQ(n.count("eval/pass@1/low"), 0u);
  EXPECT_EQ(n.size(), 3u);
  EXPECT_THROW(SummarizeEval(ordered_json::object()), Error);
}

class ComparisonOf : public ::testing::Test {
 protected:
  ComparisonOf() {
    config_.title = "test";
    config_.arm = {{.name = "opo", .summary = "", .config = "", .set = {}, .budget = {}},
                   {.name = "grpo", .summary = "", .config = "", .set = {}, .budget = {}}};
    config_.claim = {{.id = "kl",
                      .text = "stays closer",
                      .key = "kl/last",
                      .arm = "opo",
                      .against = "grpo",
                      .direction = "lower"}};
    for (idx seed = 1; seed <= 3; ++seed) {
      Add("opo", seed, 0.10 + 0.01 * static_cast<double>(seed));
      Add("grpo", seed, 0.20 + 0.011 * static_cast<double>(seed));
    }
  }
  void Add(const std::string& arm, idx seed, double kl) {
    FinishedRun run;
    run.run.arm = arm;
    run.run.seed = seed;
    run.status = "done";
    run.numbers = {{"kl/last", kl}, {"zzz/unknown", 1}};
    run.first_rollouts = "digest" + std::to_string(seed);
    runs_.push_back(run);
  }
  CompareConfig config_;
  std::vector<FinishedRun> runs_;
};

TEST_F(ComparisonOf, DecidesAClaim) {
  const ordered_json all = Comparison(config_, runs_, {});
  EXPECT_EQ(all.at("claims").at(0).at("verdict"), "confirmed");
  EXPECT_NEAR(all.at("claims").at(0).at("mean").get<double>(), -0.102, 1e-12);
  EXPECT_EQ(all.at("cells").at("opo").at("kl/last").at("values").size(), 3u);
  EXPECT_EQ(all.at("columns").at(1).at("key"), "zzz/unknown");
  EXPECT_TRUE(all.at("same_first_rollouts").get<bool>());
  EXPECT_NE(ComparisonTable(all).find("confirmed"), std::string::npos);
}

TEST_F(ComparisonOf, ARunWithoutNumbersIsNeitherZeroNorCounted) {
  runs_.back().numbers.clear();
  runs_.back().status = "non-finite numbers";
  const ordered_json all = Comparison(config_, runs_, {});
  EXPECT_EQ(all.at("claims").at(0).at("seeds"), 2);
  EXPECT_EQ(all.at("claims").at(0).at("verdict"), "undecided");
  EXPECT_TRUE(all.at("cells").at("grpo").at("kl/last").at("values").at(2).is_null());
}

TEST_F(ComparisonOf, WhatNoRunHasIsNoColumn) {
  for (FinishedRun& run : runs_) run.numbers["tokens/to_target"] = std::nan("");
  const ordered_json all = Comparison(config_, runs_, {});
  for (const ordered_json& column : all.at("columns")) {
    EXPECT_NE(column.at("key"), "tokens/to_target");
  }
  runs_.front().numbers["tokens/to_target"] = 5;
  EXPECT_EQ(Comparison(config_, runs_, {}).at("columns").at(1).at("key"), "tokens/to_target");
}

TEST_F(ComparisonOf, OtherFirstRolloutsAreSeen) {
  runs_.back().first_rollouts = "another";
  EXPECT_FALSE(Comparison(config_, runs_, {}).at("same_first_rollouts").get<bool>());
}

TEST_F(ComparisonOf, AClaimAboutAColumnWithoutNumbersIsUndecided) {
  config_.claim.front().key = "tokens/to_target";
  const ordered_json all = Comparison(config_, runs_, {});
  EXPECT_EQ(all.at("claims").at(0).at("verdict"), "undecided");
  EXPECT_EQ(all.at("claims").at(0).at("seeds"), 0);
  EXPECT_NE(ComparisonTable(all).find("undecided"), std::string::npos);
}

TEST_F(ComparisonOf, AClaimAboutNoColumnIsRefused) {
  config_.claim.front().key = "kl/lats";
  try {
    Comparison(config_, runs_, {});
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("kl/last"), std::string::npos);
  }
}

}  // namespace
}  // namespace opo
