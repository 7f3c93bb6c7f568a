// opo compare on a model of a few thousand weights: the same start and first rollouts for all, and
// a comparison that was killed comes to the same numbers.
#include <gtest/gtest.h>

#include "app/program.h"

namespace opo {
namespace {

class Compare : public ::testing::Test {
 protected:
  Compare() {
    std::ofstream(folder_ / "tiny.toml") << R"(
[model.init]
hidden_size = 32
intermediate_size = 64
num_layers = 1
max_position = 64
[data]
train = "arithmetic"
[rollout]
prompts = 4
samples = 4
max_new_tokens = 8
[[reward]]
kind = "regex"
pattern = "[0-9a-f]"
[train]
lr = 5e-3
[monitor]
kl_every = 1
)";
    std::ofstream(folder_ / "two.toml") << R"(
title = "two"
config = "tiny.toml"
seeds = 2
window = 2
target_reward = 0.01
[budget]
updates = 4
[eval]
args = ["--data", "arithmetic", "--reward", "regex", "--reward-set", "pattern=[0-9a-f]", "-n", "4",
        "--temperature", "1", "--max-new-tokens", "8"]
[[arm]]
name = "opo"
[[arm]]
name = "grpo-off-policy"
set = ["algorithm.name=grpo", "algorithm.exact=false", "train.mini_batch=2"]
[[claim]]
id = "kl"
key = "kl/last"
arm = "opo"
against = "grpo-off-policy"
direction = "lower"
)";
  }
  std::vector<std::string> Command(const std::string& dir) const {
    return {"compare", folder_ / "two.toml", "--set", "dir=" + (folder_ / dir), "--json",
            "--quiet"};
  }
  // What must not depend on time or memory.
  static nlohmann::json Bits(const nlohmann::json& all) {
    nlohmann::json out;
    for (const char* arm : {"opo", "grpo-off-policy"}) {
      for (const char* key : {"reward/last", "kl/last", "grad_norm/max", "entropy/last",
                              "tokens/total", "updates/total", "eval/pass@4"}) {
        out[arm][key] = all.at("cells").at(arm).at(key).at("values");
      }
    }
    return out;
  }
  ScratchFolder folder_;
};

TEST_F(Compare, ArmsShareStartAndFirstRolloutsAndBudget) {
  const ProgramResult result = RunProgram(Command("a"));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto all = result.last_line();
  EXPECT_TRUE(all.at("same_first_rollouts").get<bool>());
  EXPECT_EQ(all.at("runs").size(), 4u);
  // 4 updates: 4 steps on policy, 2 steps of two mini-batches.
  const auto& cells = all.at("cells");
  EXPECT_EQ(cells.at("opo").at("updates/total").at("mean"), 4);
  EXPECT_EQ(cells.at("opo").at("steps/total").at("mean"), 4);
  EXPECT_EQ(cells.at("grpo-off-policy").at("updates/total").at("mean"), 4);
  EXPECT_EQ(cells.at("grpo-off-policy").at("steps/total").at("mean"), 2);
  EXPECT_EQ(all.at("claims").at(0).at("verdict"), "undecided");  // two seeds
  EXPECT_FALSE(std::filesystem::exists(folder_ / "a/opo/1/checkpoints"));
  EXPECT_EQ(nlohmann::json::parse(ReadText(folder_ / "a/compare.json")), all);
  EXPECT_NE(ReadText(folder_ / "a/report.html").find("grpo-off-policy"), std::string::npos);

  // Once more: nothing is run again.
  const ProgramResult again = RunProgram(Command("a"));
  EXPECT_EQ(again.last_line(), all);

  // Killed at several places, it goes on to the same numbers.
  for (const int milliseconds : {300, 900, 1500, 2500}) {
    RunProgram(Command("b"), milliseconds, SIGKILL);
  }
  const ProgramResult resumed = RunProgram(Command("b"));
  ASSERT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_EQ(Bits(resumed.last_line()), Bits(all));
}

TEST_F(Compare, AnArmOnGivenAnswersIsTrainedByItsOwnVerb) {
  std::ofstream pairs(folder_ / "pairs.jsonl");
  for (int i = 0; i < 8; ++i) {
    pairs << R"({"prompt": ")" << i << R"(", "chosen": "a", "rejected": "b"})"
          << "\n";
  }
  pairs.close();
  std::ofstream(folder_ / "dpo.toml") << R"(
[model.init]
hidden_size = 32
intermediate_size = 64
num_layers = 1
max_position = 64
[data]
train = ")" << std::string(folder_ / "pairs.jsonl")
                                      << R"("
[rollout]
prompts = 4
[algorithm]
name = "dpo"
)";
  auto command = Command("f");
  command.insert(command.end(),
                 {"--set", "seeds=1", "--set", "arm.1.config=" + (folder_ / "dpo.toml"), "--set",
                  "arm.1.set=[]", "--set", "reward_key=rewards/regex/mean", "--set",
                  "claim.0.key=updates/total"});
  const ProgramResult result = RunProgram(command);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto all = result.last_line();
  EXPECT_TRUE(all.at("same_first_rollouts").get<bool>());
  EXPECT_EQ(all.at("arms").at(1).at("algorithm"), "dpo");
  const auto& cells = all.at("cells");
  EXPECT_FALSE(cells.at("opo").at("reward/last").at("mean").is_null());
  const auto& dpo = cells.at("grpo-off-policy");
  EXPECT_TRUE(dpo.at("reward/last").at("mean").is_null());
  EXPECT_EQ(dpo.at("updates/total").at("mean"), 4);
  EXPECT_GT(dpo.at("eval/pass@4").at("mean"), 0);
}

TEST_F(Compare, OtherSettingsInTheSameFolderAreRefused) {
  auto command = Command("c");
  command.insert(command.end(), {"--set", "seeds=1"});
  ASSERT_EQ(RunProgram(command).exit_code, 0);
  const ProgramResult other = RunProgram(Command("c"));
  EXPECT_EQ(other.exit_code, 2);
  EXPECT_NE(other.err.find("other settings"), std::string::npos) << other.err;
}

TEST_F(Compare, ArmsThatCannotBeTrainedAreRefusedBeforeAnythingRuns) {
  auto command = Command("d");
  command.insert(command.end(), {"--set", "arm.1.set=[\"train.mini_batch=3\"]"});
  const ProgramResult result = RunProgram(command);
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_NE(result.err.find("grpo-off-policy"), std::string::npos) << result.err;
  EXPECT_FALSE(std::filesystem::exists(folder_ / "d"));
}

TEST_F(Compare, ATokenBudgetEndsARun) {
  auto command = Command("e");
  command.insert(command.end(),
                 {"--set", "budget.updates=0", "--set", "budget.tokens=2000", "--set", "seeds=1"});
  const ProgramResult result = RunProgram(command);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto comparison = result.last_line();
  for (const auto& [arm, cells] : comparison.at("cells").items()) {
    const double tokens = cells.at("tokens/total").at("mean");
    const double steps = cells.at("steps/total").at("mean");
    EXPECT_GE(tokens, 2000) << arm;
    EXPECT_LT(tokens * (steps - 1) / steps, 2000) << arm;  // not a step more, as they go
  }
}

}  // namespace
}  // namespace opo
