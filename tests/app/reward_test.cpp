// Rewards as a run meets them: a program in the place of a built-in one, faults, and the journal.
#include <gtest/gtest.h>

#include <map>

#include "app/program.h"

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

}  // namespace
}  // namespace opo
