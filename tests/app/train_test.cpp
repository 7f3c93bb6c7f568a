// The training program as its users meet it: contract E3, E5, E6 on whole runs, faults, exit codes.
#include <gtest/gtest.h>

#include "app/program.h"

namespace opo {
namespace {

namespace fs = std::filesystem;

// The tiny example, shortened, with a checkpoint every third step.
std::vector<std::string> TinyRun(const std::string& dir,
                                 const std::vector<std::string>& more = {}) {
  return WithSettings(WithSettings({"train", Example("tiny.toml"), "--quiet"},
                                   {"run.dir=" + dir, "train.steps=24", "checkpoint.every=3"}),
                      more);
}

std::string DigestOf(const ProgramResult& result) {
  EXPECT_EQ(result.exit_code, 0) << result.err;
  return result.last_line()["weights_digest"].get<std::string>();
}

class WholeRun : public testing::Test {
 protected:
  ScratchFolder scratch_;
  std::string Digest(const std::string& name, const std::vector<std::string>& more = {}) {
    return DigestOf(RunProgram(TinyRun(scratch_ / name, more)));
  }
};

TEST_F(WholeRun, EveryStepComparesAndNothingDiffers) {
  Digest("run");
  const auto steps = StepsOf(scratch_ / "run");
  ASSERT_EQ(steps.size(), 24U);
  for (const auto& step : steps) {
    EXPECT_GT(step["exact/compared_tokens"].get<int>(), 0);
    EXPECT_EQ(step["exact/mismatched_tokens"].get<int>(), 0);
    EXPECT_EQ(step["exact/logprob_diff_max"].get<double>(), 0.0);
  }
}

TEST_F(WholeRun, ThreadsChangeNothing) {
  const std::string one = Digest("t1", {"run.threads=1"});
  EXPECT_EQ(one, Digest("t2", {"run.threads=2"}));
  EXPECT_EQ(one, Digest("t3", {"run.threads=3"}));
  EXPECT_EQ(StepsOf(scratch_ / "t1"), StepsOf(scratch_ / "t3"));
}

TEST_F(WholeRun, MemoryBudgetsChangeNothing) {
  // Units of at most 32 tokens; 43 MB hold a few of them, 400 MB a whole batch.
  const std::string small =
      Digest("small", {"train.unit_tokens=32", "run.memory_mb=43", "run.tape_mb=0"});
  EXPECT_EQ(small, Digest("large", {"train.unit_tokens=32", "run.memory_mb=400"}));
  const auto steps_small = ReadText(scratch_ / "small/metrics.jsonl");
  const auto first = nlohmann::json::parse(steps_small.substr(0, steps_small.find('\n')));
  EXPECT_GT(first["learn/micro_batches"].get<int>(), 1) << "the budget was meant to be tight";
}

// qwen3 with yarn, on sequences beyond the original context: threads, tape, budget, and the
// model that comes out.
TEST_F(WholeRun, AnotherArchitectureIsAsExact) {
  const std::vector<std::string> model = {"model.init.architecture=qwen3",
                                          "model.init.head_dim=24",
                                          "model.init.rope_type=yarn",
                                          "model.init.rope_factor=4",
                                          "model.init.rope_original_max_position=16",
                                          "train.unit_tokens=32",
                                          "train.steps=6"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.end(), model.begin(), model.end());
    return more;
  };
  const std::string all = Digest("all", with({"run.tape_mb=-1", "run.threads=1"}));
  EXPECT_EQ(all, Digest("none", with({"run.tape_mb=0", "run.threads=3", "run.memory_mb=43"})));
  const auto config = nlohmann::json::parse(ReadText(scratch_ / "all/model/config.json"));
  EXPECT_EQ(config["architectures"][0], "Qwen3ForCausalLM");
  EXPECT_EQ(config["rope_scaling"]["rope_type"], "yarn");
  EXPECT_EQ(config["rope_scaling"]["original_max_position_embeddings"], 16);
}

TEST_F(WholeRun, TheTapeChangesNothing) {
  const std::string none = Digest("none", {"run.tape_mb=0"});
  EXPECT_EQ(none, Digest("some", {"run.tape_mb=1"}));
  EXPECT_EQ(none, Digest("all", {"run.tape_mb=-1"}));
  const auto first_step = [&](const std::string& run) {
    const std::string steps = ReadText(scratch_ / (run + "/metrics.jsonl"));
    return nlohmann::json::parse(steps.substr(0, steps.find('\n')));
  };
  const auto rows = [&](const std::string& run, const std::string& which) {
    return first_step(run)["exact/" + which + "_rows"].get<int>();
  };
  EXPECT_EQ(rows("none", "taped"), 0);
  EXPECT_GT(rows("some", "taped"), 0);
  EXPECT_GT(rows("all", "taped"), rows("some", "taped"));
  for (const char* run : {"some", "all"}) {
    EXPECT_GT(rows(run, "rechecked"), 0);
    EXPECT_EQ(rows(run, "mismatched"), 0);
  }
}

// DAPO's dynamic sampling draws as many prompts as it needs: threads, tape and kills change
// nothing.
TEST_F(WholeRun, DynamicSamplingIsAsExact) {
  const auto with = [](std::vector<std::string> more) {
    more.insert(more.end(), {"rollout.dynamic_sampling=true", "rollout.max_draws=2",
                             "rollout.samples=2", "rollout.prompts=12"});
    return more;
  };
  const std::string want = Digest("all", with({"run.threads=1"}));
  EXPECT_EQ(want, Digest("none", with({"run.threads=3", "run.tape_mb=0"})));
  EXPECT_EQ(want, Digest("some", with({"run.tape_mb=1", "run.memory_mb=60"})));
  EXPECT_EQ(StepsOf(scratch_ / "all").back()["exact/rollout_digest"],
            StepsOf(scratch_ / "none").back()["exact/rollout_digest"]);
  int full = 0;
  int filled = 0;
  for (const auto& step : StepsOf(scratch_ / "all")) {
    const int drawn = step["rollout/prompts_drawn"].get<int>();
    EXPECT_GE(drawn, 12);
    EXPECT_LE(drawn, 24);
    const int uniform =
        step["rollout/groups_all_right"].get<int>() + step["rollout/groups_all_wrong"].get<int>();
    EXPECT_EQ(12 - (drawn - uniform), step["rollout/groups_filled"].get<int>());
    (step["rollout/groups_filled"].get<int>() > 0 ? filled : full) += 1;
  }
  EXPECT_GT(full, 0);
  EXPECT_GT(filled, 0);
  const std::string dir = scratch_ / "killed";
  std::vector<std::string> args = TinyRun(dir, with({}));
  ProgramResult result;
  for (int attempt = 0; attempt < 20; ++attempt) {
    result = RunProgram(args, attempt < 4 ? 200 + 150 * attempt : -1);
    if (result.exit_code == 0) break;
    if (fs::exists(dir + "/manifest.json")) args = {"train", "--resume", dir, "--quiet"};
  }
  EXPECT_EQ(DigestOf(result), want);
  EXPECT_EQ(StepsOf(dir), StepsOf(scratch_ / "all"));
}

TEST_F(WholeRun, SlotsChangeNothing) {
  EXPECT_EQ(Digest("all"), Digest("few", {"rollout.slots=5"}));
}

TEST_F(WholeRun, SeedsUnitsAndShardsDoChangeSomething) {
  // The comparisons above could not fail if the digest did not see such changes.
  const std::string base = Digest("base");
  EXPECT_NE(base, Digest("seed", {"train.seed=2"}));
  EXPECT_NE(base, Digest("shards", {"train.shards=4"}));
}

TEST_F(WholeRun, Bf16MomentsKeepTheContractAndLearn) {
  const std::string bf16 = "train.moments=bf16";
  const std::string want = Digest("whole", {bf16, "run.threads=1"});
  EXPECT_EQ(want, Digest("t3", {bf16, "run.threads=3", "run.tape_mb=0"}));
  EXPECT_NE(want, Digest("f32"));
  const std::string dir = scratch_ / "killed";
  std::vector<std::string> args = TinyRun(dir, {bf16});
  int kills = 0;
  for (const int delay : {350, 420, 500, 640, -1, -1, -1}) {
    const ProgramResult result = RunProgram(args, delay);
    if (result.exit_code == 0) {
      EXPECT_EQ(DigestOf(result), want);
      break;
    }
    ASSERT_EQ(result.exit_code, 128 + SIGKILL) << result.err;
    ++kills;
    if (fs::exists(dir + "/manifest.json")) args = {"train", "--resume", dir, "--quiet"};
  }
  EXPECT_EQ(StepsOf(dir), StepsOf(scratch_ / "whole"));
  EXPECT_GE(kills, 1);
  const ProgramResult refused =
      RunProgram({"train", "--resume", dir, "--quiet", "--set", "train.moments=f32"});
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_NE(refused.err.find("`moments` was \"bf16\""), std::string::npos) << refused.err;
}

TEST_F(WholeRun, Bf16MomentsRaiseTheReward) {
  Digest("run", {"train.moments=bf16", "train.steps=60", "checkpoint.every=0"});
  const auto steps = StepsOf(scratch_ / "run");
  double first = 0;
  double last = 0;
  for (std::size_t i = 0; i < 5; ++i) {
    first += steps[i]["critic/score/mean"].get<double>() / 5;
    last += steps[steps.size() - 1 - i]["critic/score/mean"].get<double>() / 5;
  }
  EXPECT_GT(last, first + 0.3) << "from " << first << " to " << last;
}

TEST_F(WholeRun, SigtermCheckpointsAndResumes) {
  const std::string want = Digest("whole");
  const std::string dir = scratch_ / "term";
  const ProgramResult stopped = RunProgram(TinyRun(dir, {"train.steps=24"}), 300, SIGTERM);
  if (stopped.exit_code != 0) {  // 0: it was done already
    EXPECT_EQ(stopped.exit_code, 128 + SIGTERM) << stopped.err;
    EXPECT_EQ(DigestOf(RunProgram({"train", "--resume", dir, "--quiet"})), want);
  }
}

TEST_F(WholeRun, SeveralUpdatesABatchAreRefusedInExactModeOnly) {
  const ProgramResult refused = RunProgram(TinyRun(scratch_ / "a", {"train.mini_batch=8"}));
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_NE(refused.err.find("algorithm.exact"), std::string::npos) << refused.err;
  Digest("b", {"train.mini_batch=8", "algorithm.exact=false", "train.steps=8",
               "algorithm.clip_low=0.001", "algorithm.clip_high=0.001"});
  double clipped = 0;
  for (const auto& step : StepsOf(scratch_ / "b")) {
    EXPECT_EQ(step["training/optimizer_steps"].get<int>(), 2);
    clipped += step["actor/pg_clipfrac"].get<double>();
  }
  EXPECT_GT(clipped, 0.0) << "the second update never left ratio 1";
}

TEST_F(WholeRun, EveryAlgorithmRuns) {
  for (const char* name : {"opo", "opo_batch", "grpo", "dr_grpo", "rloo", "reinforce"}) {
    Digest(name, {std::string("algorithm.name=") + name, "train.steps=3", "monitor.kl_every=1"});
    const auto steps = StepsOf(scratch_ / name);
    // At the first step the policy is its own reference.
    EXPECT_EQ(steps.at(0)["monitor/kl_k1"].get<double>(), 0.0);
    EXPECT_GT(steps.at(2)["monitor/kl_k3"].get<double>(), 0.0);
  }
}

TEST_F(WholeRun, NonFiniteNumbersStopTheRunBeforeTheWeightsChange) {
  // A reward beyond f32 makes the gradient infinite.
  const ProgramResult result = RunProgram(TinyRun(scratch_ / "nan", {"reward.0.weight=1e300"}));
  EXPECT_EQ(result.exit_code, 1) << result.err;
  EXPECT_NE(result.err.find("not finite"), std::string::npos) << result.err;
}

TEST_F(WholeRun, BadUsageAndBadFilesHaveTheirExitCodes) {
  const ProgramResult typo = RunProgram(TinyRun(scratch_ / "x", {"train.stepz=3"}));
  EXPECT_EQ(typo.exit_code, 2);
  EXPECT_NE(typo.err.find("train.steps"), std::string::npos) << typo.err;
  const ProgramResult missing =
      RunProgram(TinyRun(scratch_ / "y", {"data.train=" + (scratch_ / "absent.jsonl")}));
  EXPECT_EQ(missing.exit_code, 3) << missing.err;
  Digest("taken", {"train.steps=1"});
  const ProgramResult taken = RunProgram(TinyRun(scratch_ / "taken", {"train.steps=1"}));
  EXPECT_EQ(taken.exit_code, 2);
  EXPECT_NE(taken.err.find("--resume"), std::string::npos) << taken.err;
  const ProgramResult isa = RunProgram(TinyRun(scratch_ / "z", {"run.isa=mmx"}));
  EXPECT_EQ(isa.exit_code, 2);
  EXPECT_NE(isa.err.find("portable"), std::string::npos) << isa.err;
}

TEST_F(WholeRun, AResumeWithOtherUnitsOrOnAnotherPathIsRefused) {
  Digest("path", {"train.steps=3", "run.isa=portable"});
  const ProgramResult result =
      RunProgram({"train", "--resume", scratch_ / "path", "--quiet", "--set", "run.isa=portable",
                  "--set", "train.unit_tokens=64"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_NE(result.err.find("unit_tokens"), std::string::npos) << result.err;
  if (RunProgram({"doctor"}).out.find("avx2         self-test passed") == std::string::npos) return;
  const ProgramResult path =
      RunProgram({"train", "--resume", scratch_ / "path", "--quiet", "--set", "run.isa=avx2"});
  EXPECT_EQ(path.exit_code, 2);
  EXPECT_NE(path.err.find("`isa` was"), std::string::npos) << path.err;
}

}  // namespace
}  // namespace opo
