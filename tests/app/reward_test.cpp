// Rewards as a run meets them: a program in the place of a built-in one, faults, and the journal.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "app/program.h"
#include "base/types.h"

namespace opo {
namespace {

namespace fs = std::filesystem;

class Judged : public testing::Test {
 protected:
  void SetUp() override {
    if (std::system("python3 -c pass >/dev/null 2>&1") != 0) GTEST_SKIP() << "there is no python3";
  }

  // A judge in Python: `body` sees the request as `q`, its number as `n`, and sets `answer`.
  std::string Judge(const std::string& name, const std::string& body) {
    std::string path = scratch_ / (name + ".py");
    std::ofstream(path) << "import json, os, random, re, sys\n"
                           "for n, line in enumerate(sys.stdin):\n"
                           "    q = json.loads(line)\n"
                        << body << "    print(json.dumps(answer), flush=True)\n";
    return path;
  }

  // The tiny example with one reward, checkpoints at every second step.
  ProgramResult Run(const std::string& dir, const std::vector<std::string>& rewards,
                    int steps = 8) {
    Configure(rewards, steps);
    return RunProgram({"train", scratch_ / "run.toml", "--quiet", "--set", "run.dir=" + dir});
  }

  void Configure(const std::vector<std::string>& rewards, int steps) {
    std::ofstream config(scratch_ / "run.toml");
    std::string tiny = ReadText(Example("tiny.toml"));
    config << tiny.substr(0, tiny.find("[[reward]]"));
    for (const std::string& reward : rewards) config << "[[reward]]\n" << reward << "\n";
    config << "[train]\nlr = 2e-3\nsteps = " << steps
           << "\n[checkpoint]\nevery = 2\nkeep_last = 100\n";
  }

  static std::string Program(const std::string& path, const std::string& more = "") {
    return "kind = \"program\"\ncommand = [\"python3\", \"" + path + "\"]\n" + more;
  }

  static std::string DigestOf(const ProgramResult& result) {
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.exit_code == 0 ? result.last_line()["weights_digest"].get<std::string>() : "";
  }

  ScratchFolder scratch_;
};

TEST_F(Judged, AProgramThatScoresAsABuiltInRewardGivesTheSameRun) {
  const std::string digit =
      Judge("digit", "    answer = 1.0 if re.search('[0-9]', q['solution_str']) else 0.0\n");
  const std::string built_in =
      DigestOf(Run(scratch_ / "a", {"kind = \"regex\"\npattern = \"[0-9]\"\n"}));
  EXPECT_EQ(built_in, DigestOf(Run(scratch_ / "b", {Program(digit, "workers = 2\n")})));
  const auto last = StepsOf(scratch_ / "b").back();
  EXPECT_EQ(last["reward/errors"], 0);
  EXPECT_EQ(last["rewards/program/mean"], StepsOf(scratch_ / "a").back()["rewards/regex/mean"]);
}

// The judge rolls dice, so that only the journal can give a resumed run the same bits.
TEST_F(Judged, AResumeAsksNobodyTwice) {
  const std::string dice = Judge("dice", "    answer = random.random()\n");
  const std::string dir = scratch_ / "dice";
  const std::string whole = DigestOf(Run(dir, {Program(dice)}));
  EXPECT_NE(whole, DigestOf(Run(scratch_ / "other", {Program(dice)}))) << "the dice are loaded";
  const auto steps = StepsOf(dir);
  const std::string journal = ReadText(dir + "/rewards.jsonl");
  for (const char* step : {"step_000004", "step_000006", "step_000008"}) {
    fs::remove_all(dir + "/checkpoints/" + step);
  }
  EXPECT_EQ(DigestOf(RunProgram({"train", "--resume", dir, "--quiet"})), whole);
  EXPECT_EQ(StepsOf(dir), steps);
  std::map<std::string, int> lines;
  std::istringstream in(ReadText(dir + "/rewards.jsonl"));
  for (std::string line; std::getline(in, line);) {
    const auto entry = nlohmann::json::parse(line);
    if (entry["phase"] == "train")
      ++lines[entry["training/global_step"].dump() + " " + entry["answer"].dump()];
  }
  EXPECT_EQ(lines.size(), 8U * 128U);
  for (const auto& [key, count] : lines) EXPECT_EQ(count, 1) << key;
}

TEST_F(Judged, KilledWhileTheJudgeAnswersAndResumed) {
  const std::string slow =
      Judge("slow", "    import time; time.sleep(0.002)\n    answer = random.random()\n");
  const std::string dir = scratch_ / "slow";
  Configure({Program(slow)}, 6);
  std::vector<std::string> args = {"train",        scratch_ / "run.toml", "--quiet",
                                   "--set",        "run.dir=" + dir,      "--set",
                                   "train.steps=6"};
  ProgramResult result;
  for (int attempt = 0; attempt < 12; ++attempt) {
    result = RunProgram(args, attempt < 6 ? 300 + 170 * attempt : -1);
    if (result.exit_code == 0) break;
    if (fs::exists(dir + "/manifest.json")) args = {"train", "--resume", dir, "--quiet"};
  }
  const std::string killed = DigestOf(result);
  // What stands in the journal is what was used: another resume from the first checkpoint agrees.
  for (const char* step : {"step_000004", "step_000006"}) {
    fs::remove_all(dir + "/checkpoints/" + step);
  }
  EXPECT_EQ(DigestOf(RunProgram({"train", "--resume", dir, "--quiet"})), killed);
}

TEST_F(Judged, AnErrorEndsTheRunUnlessTheConfigSaysOtherwise) {
  const std::string flaky = Judge(
      "flaky", "    answer = {'error': 'no idea'} if n % 40 == 39 else len(q['completion_ids'])\n");
  const ProgramResult failed = Run(scratch_ / "fail", {Program(flaky)}, 2);
  EXPECT_EQ(failed.exit_code, 1);
  EXPECT_NE(failed.err.find("\"program\" failed (program)"), std::string::npos) << failed.err;
  EXPECT_NE(failed.err.find("no idea"), std::string::npos) << failed.err;
  EXPECT_NE(failed.err.find("the answer was: "), std::string::npos) << failed.err;

  const std::string skip =
      DigestOf(Run(scratch_ / "skip", {Program(flaky, "on_error = \"skip\"")}, 2));
  const auto step = StepsOf(scratch_ / "skip").front();
  EXPECT_GE(step["reward/errors"].get<int>(), 3);
  EXPECT_EQ(step["rewards/program/errors/program"], step["reward/errors"]);
  const std::string scored = DigestOf(
      Run(scratch_ / "score", {Program(flaky, "on_error = \"score\"\nerror_score = -1\n")}, 2));
  EXPECT_NE(skip, scored);
  EXPECT_EQ(StepsOf(scratch_ / "score").front()["reward/errors"], 0);

  const ProgramResult limit =
      Run(scratch_ / "limit", {Program(flaky, "on_error = \"skip\"\nerror_limit = 0.01\n")}, 2);
  EXPECT_EQ(limit.exit_code, 1);
  EXPECT_NE(limit.err.find("error_limit"), std::string::npos) << limit.err;
}

TEST_F(Judged, NormalizeThenSumIsAnotherRun) {
  const std::vector<std::string> terms = {
      "kind = \"regex\"\npattern = \"[0-9]\"\n",
      "kind = \"length\"\nweight = -0.5\n",
  };
  const std::string sum = DigestOf(Run(scratch_ / "sum", terms, 3));
  std::vector<std::string> args = {"train",
                                   scratch_ / "run.toml",
                                   "--quiet",
                                   "--set",
                                   "run.dir=" + (scratch_ / "each"),
                                   "--set",
                                   "algorithm.multi_objective_aggregation=normalize_then_sum"};
  EXPECT_NE(sum, DigestOf(RunProgram(args)));
  EXPECT_NEAR(StepsOf(scratch_ / "each").front()["critic/rewards/mean"].get<double>(), 0, 1e-12);
}

// ------------------------------------------------------------------ reward models

class RewardModel : public testing::Test {
 protected:
  void SetUp() override {
    rm_ = scratch_ / "rm";
    const ProgramResult made =
        RunProgram({"init", rm_, "--value-head", "--std", "0.3", "--seed", "5"});
    ASSERT_EQ(made.exit_code, 0) << made.err;
  }

  // The tiny example with one more reward, checkpoints at every second step.
  std::string Config(const std::string& term, int steps = 6) {
    const std::string tiny = ReadText(Example("tiny.toml"));
    const std::string path = scratch_ / "run.toml";
    std::ofstream(path) << tiny.substr(0, tiny.find("[train]")) << "[[reward]]\n"
                        << term << "\n[train]\nlr = 2e-3\nsteps = " << steps
                        << "\n[checkpoint]\nevery = 2\nkeep_last = 100\n";
    return path;
  }
  std::string MakeModel() {
    const std::string path = scratch_ / "model";
    RunProgram({"init", path});
    return path;
  }
  std::string Term(const std::string& more = "") const {
    return "kind = \"model\"\npath = \"" + rm_ + "\"\n" + more;
  }
  static ProgramResult Train(const std::string& config, const std::string& dir,
                             const std::vector<std::string>& more = {}) {
    return RunProgram(
        WithSettings(WithSettings({"train", config, "--quiet"}, {"run.dir=" + dir}), more));
  }
  ScratchFolder scratch_;
  std::string rm_;
};

// Its score rises where it is the reward; resume, replay and memory plans have the same bits, with
// the running moments in the checkpoint.
TEST_F(RewardModel, IsARewardOfWhichARunIsResumedWithTheSameBits) {
  const std::string config = Config(Term("normalize = \"whiten\"\nclip = 2\n"));
  const std::string dir = scratch_ / "run";
  const ProgramResult whole = Train(config, dir);
  ASSERT_EQ(whole.exit_code, 0) << whole.err;
  const std::string digest = whole.last_line()["weights_digest"];
  const auto steps = StepsOf(dir);
  for (const auto& step : steps) {
    EXPECT_LE(std::abs(step["rewards/model/mean"].get<double>()), 2);
    EXPECT_NE(step["rewards/model/score/mean"], step["rewards/model/mean"]);
    EXPECT_GT(step["rewards/model/running_std"], 0);
  }
  const auto state = nlohmann::json::parse(ReadText(dir + "/checkpoints/step_000002/state.json"));
  EXPECT_NEAR(state["reward_moments"]["model"][0].get<double>(), 2 * 16 * 8, 1e-9);
  EXPECT_EQ(state["reward_moments"]["model"][1], steps[1]["rewards/model/running_mean"]);
  for (const char* step : {"step_000004", "step_000006"}) {
    fs::remove_all(dir + "/checkpoints/" + step);
  }
  const ProgramResult resumed = RunProgram({"train", "--resume", dir, "--quiet"});
  ASSERT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_EQ(resumed.last_line()["weights_digest"], digest);
  EXPECT_EQ(StepsOf(dir), steps);
  const ProgramResult replay = RunProgram({"replay", dir, "--step", "4"});
  EXPECT_EQ(replay.exit_code, 0) << replay.err;
  // Without the moments it is another run.
  const ProgramResult raw = Train(Config(Term()), scratch_ / "raw");
  ASSERT_EQ(raw.exit_code, 0) << raw.err;
  EXPECT_NE(raw.last_line()["weights_digest"], digest);
  // Another model in its place is noticed.
  RunProgram({"init", rm_, "--value-head", "--std", "0.3", "--seed", "6"});
  const ProgramResult other =
      RunProgram({"train", "--resume", dir, "--quiet", "--set", "train.steps=8"});
  EXPECT_NE(other.exit_code, 0);
  EXPECT_NE(other.err.find("reward_models"), std::string::npos) << other.err;
}

TEST_F(RewardModel, ThatIsTheRewardIsLearned) {
  const std::string dir = scratch_ / "run";
  std::string config = Config(Term("normalize = \"scale\"\n"), 40);
  std::string text = ReadText(config);
  const std::size_t first = text.find("[[reward]]");
  text.erase(first, text.rfind("[[reward]]") - first);  // alone
  std::ofstream(config) << text;
  const ProgramResult result = Train(config, dir, {"checkpoint.every=0"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto steps = StepsOf(dir);
  const auto mean = [&](std::size_t begin) {
    double sum = 0;
    for (std::size_t i = begin; i < begin + 5; ++i) {
      sum += steps[i]["rewards/model/score/mean"].get<double>();
    }
    return sum / 5;
  };
  EXPECT_GT(mean(35), mean(0) + 0.5 * steps.back()["rewards/model/running_std"].get<double>());
}

TEST_F(RewardModel, PlanEvaluationAndLogProbsKnowIt) {
  const std::string one = Config(Term());
  const std::string two = scratch_ / "two.toml";
  std::ofstream(two) << ReadText(one) << "[[reward]]\n" << Term("name = \"again\"\n");
  const auto plan = [](const std::string& config) {
    const ProgramResult result = RunProgram({"plan", config, "--json"});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.last_line();
  };
  const auto with = plan(one);
  const auto without = plan(Example("tiny.toml"));
  const auto twice = plan(two);
  EXPECT_EQ(without["frozen_bytes"], 0);
  const idx frozen = with["frozen_bytes"];
  EXPECT_GT(frozen, 100'000 * 2);  // 115,000 weights of 2 bytes
  EXPECT_LT(twice["frozen_bytes"].get<idx>(), 2 * frozen) << "the weights are there once";
  EXPECT_EQ(with["total_bytes"].get<idx>() - without["total_bytes"].get<idx>(), frozen);

  const ProgramResult eval = RunProgram(
      {"eval", "--model", MakeModel(), "--data", "arithmetic", "--prompts", "4", "--reward",
       "model", "--reward-set", "path=" + rm_, "--max-new-tokens", "8", "--json", "--quiet"});
  ASSERT_EQ(eval.exit_code, 0) << eval.err;
  EXPECT_NE(eval.last_line()["pass_rate"], 0);
  const ProgramResult clipped =
      RunProgram({"eval", "--model", MakeModel(), "--reward", "model", "--reward-set",
                  "path=" + rm_, "--reward-set", "clip=1", "--quiet"});
  EXPECT_EQ(clipped.exit_code, 2);
  EXPECT_NE(clipped.err.find("for training"), std::string::npos) << clipped.err;

  const ProgramResult scores = RunProgram({"logprobs", "--model", rm_}, -1, SIGKILL,
                                          R"({"prompt_ids":[65,66],"completion_ids":[67,68]})"
                                          "\n");
  ASSERT_EQ(scores.exit_code, 0) << scores.err;
  EXPECT_FALSE(scores.last_line().contains("logprobs"));
  EXPECT_EQ(scores.last_line()["values"].size(), 2u);
  EXPECT_TRUE(scores.last_line()["score"].is_number());
  const ProgramResult answers = RunProgram({"generate", "--model", rm_, "--prompt", "Hi"});
  EXPECT_NE(answers.exit_code, 0);
  EXPECT_NE(answers.err.find("no LM head"), std::string::npos) << answers.err;
  const ProgramResult policy = Train(Config(Term()), scratch_ / "x", {"model.path=" + rm_});
  EXPECT_NE(policy.exit_code, 0);
  EXPECT_NE(policy.err.find("no LM head"), std::string::npos) << policy.err;
}

}  // namespace
}  // namespace opo
