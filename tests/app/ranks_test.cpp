// Runs of several ranks through mpirun: the same bits for any number of them (E4), and no fault of
// one rank that the others wait for.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <thread>

#include "app/program.h"

namespace opo {
namespace {

// mpirun is there, and the program was built with the MPI that it belongs to.
bool HaveRanks() {
  static const bool have = [] {
    const ProgramResult result = RunOnRanks(2, {"train", "--print-config"});
    if (result.exit_code == 0) return true;
    std::printf("mpirun cannot start two ranks here: %s\n", result.err.substr(0, 300).c_str());
    return false;
  }();
  return have;
}

#define OPO_NEEDS_RANKS() \
  if (!HaveRanks()) GTEST_SKIP() << "needs mpirun, and a program built with MPI"

// A run with everything that ranks share: evaluation, a reference, checkpoints. The model is wide
// enough that seven ranks each own a part of its slab.
std::vector<std::string> Arguments(const std::string& run,
                                   const std::vector<std::string>& more = {},
                                   const std::string& verb = "train",
                                   const std::string& config = "tiny.toml") {
  return WithSettings(WithSettings({verb, Example(config), "--quiet"},
                                   {"run.dir=" + run, "train.steps=3", "train.shards=8",
                                    "checkpoint.every=2", "eval.every=2", "monitor.kl_every=1",
                                    "model.init.hidden_size=96", "run.threads=1"}),
                      more);
}

std::vector<std::string> SortedLines(const std::string& path) {
  std::vector<std::string> lines;
  std::istringstream text(ReadText(path));
  for (std::string line; std::getline(text, line);) lines.push_back(line);
  std::sort(lines.begin(), lines.end());
  return lines;
}

void ExpectSameForAnyRanks(const std::vector<int>& numbers, const std::vector<std::string>& more,
                           const std::string& verb = "train",
                           const std::string& config = "tiny.toml") {
  const ScratchFolder scratch;
  const std::string one = scratch / "one";
  const ProgramResult alone = RunOnRanks(1, Arguments(one, more, verb, config));
  ASSERT_EQ(alone.exit_code, 0) << alone.err;
  const std::string digest = alone.last_line()["weights_digest"];
  for (const int ranks : numbers) {
    SCOPED_TRACE(ranks);
    const std::string run = scratch / std::to_string(ranks);
    const ProgramResult result = RunOnRanks(ranks, Arguments(run, more, verb, config));
    ASSERT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(result.last_line()["weights_digest"], digest);
    EXPECT_EQ(StepsOf(run), StepsOf(one));
    EXPECT_EQ(ReadText(run + "/samples.jsonl"), ReadText(one + "/samples.jsonl"));
    EXPECT_EQ(SortedLines(run + "/rewards.jsonl"), SortedLines(one + "/rewards.jsonl"));
    for (const char* file :
         {"model/model.safetensors", "checkpoints/step_000003/optimizer.safetensors"}) {
      EXPECT_TRUE(ReadText(run + "/" + file) == ReadText(one + "/" + file)) << file;
    }
  }
}

TEST(Ranks, AnyNumberGivesTheSameBits) {
  OPO_NEEDS_RANKS();
  ExpectSameForAnyRanks({2, 3, 4, 7}, {});
}

TEST(Ranks, OffPolicyUpdatesAndDynamicSamplingToo) {
  OPO_NEEDS_RANKS();
  ExpectSameForAnyRanks({2, 3}, {"algorithm.exact=false", "train.mini_batch=8", "train.epochs=2",
                                 "rollout.dynamic_sampling=true", "rollout.max_draws=3",
                                 "reward.0.normalize=whiten", "reward.1.clip=0.5"});
}

// Log-probs of the reference and of the policy between updates, and greedy answers, are shared
// work.
TEST(Ranks, LossesThatTakeMorePassesToo) {
  OPO_NEEDS_RANKS();
  ExpectSameForAnyRanks({2, 3},
                        {"algorithm.name=gspo", "algorithm.exact=false", "train.mini_batch=8",
                         "algorithm.kl_coef=0.1", "algorithm.entropy_coef=0.01"});
  ExpectSameForAnyRanks({3}, {"algorithm.name=remax", "algorithm.kl_coef=0.1",
                              "algorithm.kl_in=reward", "lora.rank=4"});
}

// Pairs: their scoring, the reference on disk and the judgement behind the refinement prompt.
TEST(Ranks, PreferencesToo) {
  OPO_NEEDS_RANKS();
  const ScratchFolder scratch;
  std::string rows;
  for (int i = 0; i < 20; ++i) {
    const std::string n = std::to_string(i);
    rows +=
        R"({"prompt": "say )" + n + R"(", "chosen": ")" + n + R"(!", "rejected": ")" + n + "?\"}\n";
  }
  std::ofstream(scratch / "pairs.jsonl") << rows;
  std::ofstream(scratch / "sr.toml") << "[algorithm]\nname = \"sr_dpo\"\n";
  const auto run = [&](int ranks) {
    const std::string folder = scratch / std::to_string(ranks);
    const ProgramResult result = RunOnRanks(
        ranks,
        WithSettings({"dpo", scratch / "sr.toml", "--quiet"},
                     {"data.train=" + (scratch / "pairs.jsonl"), "data.held_out=0.2",
                      "run.dir=" + folder, "train.steps=3", "train.shards=4", "rollout.prompts=8",
                      "eval.every=2", "model.init.max_position=320", "run.threads=1"}));
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.last_line();
  };
  const auto one = run(1);
  const auto three = run(3);
  EXPECT_EQ(three["weights_digest"], one["weights_digest"]);
  EXPECT_EQ(three["eval_after"], one["eval_after"]);
  EXPECT_EQ(StepsOf(scratch / "3"), StepsOf(scratch / "1"));
}

// A critic's values, and its own gradient; answers that go on in the next step.
TEST(Ranks, CriticsToo) {
  OPO_NEEDS_RANKS();
  ExpectSameForAnyRanks(
      {2, 3}, {"algorithm.name=ppo", "algorithm.exact=false", "train.mini_batch=8",
               "algorithm.kl_coef=0.1", "algorithm.kl_in=reward", "algorithm.kl_target=0.01"});
  ExpectSameForAnyRanks({2}, {"algorithm.name=ppo", "critic.init=shared"});
  ExpectSameForAnyRanks({3}, {"algorithm.name=t_ppo", "algorithm.exact=false", "rollout.window=3"});
}

// One prompt of a step is scored by its owner; with a KL term all are.
TEST(Ranks, GivenAnswersToo) {
  OPO_NEEDS_RANKS();
  ExpectSameForAnyRanks({3}, {"model.path=", "monitor.kl_every=0"}, "sft", "sft.toml");
  ExpectSameForAnyRanks({2}, {"model.path=", "algorithm.kl_coef=0.1"}, "sft", "sft.toml");
}

TEST(Ranks, AnAdapterWithMomentsInBf16Too) {
  OPO_NEEDS_RANKS();
  ExpectSameForAnyRanks({3}, {"lora.rank=16", "train.moments=bf16"});
}

TEST(Ranks, ARunGoesOnWithAnotherNumber) {
  OPO_NEEDS_RANKS();
  const ScratchFolder scratch;
  const std::string one = scratch / "one";
  const std::string run = scratch / "run";
  const ProgramResult whole = RunOnRanks(1, Arguments(one, {"train.steps=6"}));
  ASSERT_EQ(whole.exit_code, 0) << whole.err;
  ASSERT_EQ(RunOnRanks(3, Arguments(run)).exit_code, 0);
  for (const auto& [ranks, steps] : {std::pair{2, 4}, {7, 5}, {1, 6}}) {
    const ProgramResult more = RunOnRanks(ranks, {"train", "--quiet", "--resume", run, "--set",
                                                  "train.steps=" + std::to_string(steps)});
    ASSERT_EQ(more.exit_code, 0) << more.err;
  }
  EXPECT_EQ(StepsOf(run), StepsOf(one));
  EXPECT_TRUE(ReadText(run + "/model/model.safetensors") ==
              ReadText(one + "/model/model.safetensors"));
}

TEST(Ranks, MoreThanShardsAreRefused) {
  OPO_NEEDS_RANKS();
  const ScratchFolder scratch;
  const ProgramResult result = RunOnRanks(3, Arguments(scratch / "run", {"train.shards=2"}));
  EXPECT_EQ(result.exit_code, 2) << result.err;
  EXPECT_NE(result.err.find("train.shards = 2: there are 3 ranks"), std::string::npos)
      << result.err;
}

// The code that the program gave, or that of an mpirun that hung afterwards (OnRanks).
void ExpectExit(const ProgramResult& result, int code) {
  EXPECT_TRUE(result.exit_code == code || result.exit_code == 137) << result.exit_code << "\n"
                                                                   << result.err;
}

TEST(Ranks, AnErrorOfOneEndsAllWithItsMessage) {
  OPO_NEEDS_RANKS();
  const ScratchFolder scratch;
  // A judge that fails where it is the first to come, and so at one rank only.
  const std::string judge = scratch / "judge.py";
  std::ofstream(judge) << "import json, os, sys\n"
                          "try:\n"
                          "    os.mkdir(sys.argv[1]); sys.exit('no luck')\n"
                          "except FileExistsError: pass\n"
                          "for line in sys.stdin:\n"
                          "    print(json.dumps({'id': json.loads(line)['id'], 'score': 0.5}), "
                          "flush=True)\n";
  const std::string command =
      "reward.0.command=[\"python3\",\"" + judge + "\",\"" + (scratch / "first") + "\"]";
  const ProgramResult result = RunOnRanks(
      3, Arguments(scratch / "run", {"reward.0.kind=program", "reward.0.pattern=", command}));
  ExpectExit(result, 1);
  EXPECT_NE(result.err.find("), evaluation: the reward \"program\" failed (crash): problem "),
            std::string::npos)
      << result.err;
  EXPECT_NE(result.err.find("no luck"), std::string::npos) << result.err;
  const auto said = result.err.find("opo: rank ");
  EXPECT_EQ(result.err.find("opo: rank ", said + 1), std::string::npos) << result.err;
}

// What eval wrote with --json, but for its times.
std::string WithoutSeconds(const std::string& out) {
  std::istringstream lines(out);
  std::string rest;
  for (std::string text; std::getline(lines, text);) {
    auto line = nlohmann::ordered_json::parse(text);
    if (line.contains("sets")) {
      for (auto& set : line["sets"]) set.erase("seconds");
    }
    rest += line.dump() + "\n";
  }
  return rest;
}

TEST(Ranks, EvalAndGenerateGiveTheSameAnswers) {
  OPO_NEEDS_RANKS();
  const ScratchFolder scratch;
  ASSERT_EQ(RunOnRanks(1, Arguments(scratch / "run")).exit_code, 0);
  const std::string prompts = scratch / "prompts.jsonl";
  std::ofstream file(prompts);
  for (int i = 0; i < 7; ++i) file << "{\"prompt\": \"count to " << i << "\"}\n";
  file.close();
  const std::string model = scratch / "run/model";
  const std::vector<std::string> eval = {
      "eval", "--model",          model, "--data", "arithmetic", "-n", "2", "--temperature",
      "1",    "--max-new-tokens", "8",   "--json", "--quiet"};
  const std::vector<std::string> generate = {
      "generate",         "--model", model,    "--input", prompts,  "-n", "3",
      "--max-new-tokens", "8",       "--json", "--quiet", "--seed", "5"};
  for (const auto& arguments : {eval, generate}) {
    const ProgramResult one = RunOnRanks(1, arguments);
    ASSERT_EQ(one.exit_code, 0) << one.err;
    for (const int ranks : {2, 3}) {
      const ProgramResult result = RunOnRanks(ranks, arguments);
      ASSERT_EQ(result.exit_code, 0) << result.err;
      EXPECT_EQ(WithoutSeconds(result.out), WithoutSeconds(one.out)) << ranks;
    }
  }
}

TEST(Ranks, AnEvaluationThatOneRankBeganIsFinishedBySeveral) {
  OPO_NEEDS_RANKS();
  const ScratchFolder scratch;
  const std::string model = scratch / "model";
  const std::string other = scratch / "other";
  ASSERT_EQ(RunProgram({"init", model, "--max-position", "64"}).exit_code, 0);
  ASSERT_EQ(RunProgram({"init", other, "--max-position", "64", "--seed", "2"}).exit_code, 0);
  const auto command = [&](const std::string& out) {
    return std::vector<std::string>{"eval",    "--model",
                                    model,     "--reference",
                                    other,     "-n",
                                    "3",       "--temperature",
                                    "1",       "--max-new-tokens",
                                    "8",       "--prompts",
                                    "9",       "--quiet",
                                    "--out",   out,
                                    "--chunk", "2",
                                    "--json"};
  };
  const ProgramResult one = RunOnRanks(1, command(scratch / "one.json"));
  ASSERT_EQ(one.exit_code, 0) << one.err;
  ::setenv("OPO_FAULT", "kill:eval-chunk:nth=2", 1);
  EXPECT_EQ(RunOnRanks(1, command(scratch / "two.json")).exit_code, 128 + SIGKILL);
  ::unsetenv("OPO_FAULT");
  const ProgramResult two = RunOnRanks(2, command(scratch / "two.json"));
  ASSERT_EQ(two.exit_code, 0) << two.err;
  EXPECT_EQ(WithoutSeconds(two.out), WithoutSeconds(one.out));
  EXPECT_EQ(ReadText(scratch / "two.json.answers/answers.jsonl"),
            ReadText(scratch / "one.json.answers/answers.jsonl"));
}

TEST(Ranks, AVerbForOneProcessSaysSo) {
  OPO_NEEDS_RANKS();
  const ProgramResult result = RunOnRanks(2, {"doctor"});
  EXPECT_EQ(result.exit_code, 2) << result.err;
  EXPECT_NE(result.err.find("doctor: runs as one process, and 2 were started"), std::string::npos);
}

// The process of a rank below `launcher`.
pid_t ProcessOfRank(const std::string& run, int rank) {
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string pid = entry.path().filename().string();
    if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
    const std::string command = ReadText(entry.path().string() + "/cmdline");
    if (!command.starts_with(Program()) || command.find(run) == std::string::npos) continue;
    const std::string wanted = "OMPI_COMM_WORLD_RANK=" + std::to_string(rank);
    const std::string environment = ReadText(entry.path().string() + "/environ");
    if (environment.find(wanted + '\0') != std::string::npos) {
      return static_cast<pid_t>(std::stoi(pid));
    }
  }
  return -1;
}

// Sends the signal to a rank when the first step is done.
ProgramResult RunAndSignal(const std::string& run, int rank, int signal) {
  std::thread other([&] {
    for (int i = 0; i < 600 && StepsOf(run).empty(); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    const pid_t pid = ProcessOfRank(run, rank);
    if (pid > 0) ::kill(pid, signal);
  });
  const ProgramResult result =
      RunOnRanks(2, Arguments(run, {"train.steps=100000", "run.heartbeat_s=2"}));
  other.join();
  return result;
}

TEST(Ranks, AStoppedOneIsNoticed) {
  OPO_NEEDS_RANKS();
  const ScratchFolder scratch;
  for (const int rank : {0, 1}) {
    const std::string run = scratch / ("stopped" + std::to_string(rank));
    const ProgramResult result = RunAndSignal(run, rank, SIGSTOP);
    ExpectExit(result, 1);
    EXPECT_NE(result.err.find("rank " + std::to_string(rank) + " ("), std::string::npos);
    EXPECT_NE(result.err.find("not heard of for 2 s"), std::string::npos) << result.err;
  }
}

TEST(Ranks, AKilledOneEndsTheJobAndTheRunGoesOn) {
  OPO_NEEDS_RANKS();
  const ScratchFolder scratch;
  const std::string run = scratch / "run";
  const ProgramResult killed = RunAndSignal(run, 1, SIGKILL);
  EXPECT_NE(killed.exit_code, 0);
  const auto steps = std::to_string(StepsOf(run).size() + 2);
  const ProgramResult more =
      RunOnRanks(3, {"train", "--quiet", "--resume", run, "--set", "train.steps=" + steps});
  ASSERT_EQ(more.exit_code, 0) << more.err;
  const std::string one = scratch / "one";
  ASSERT_EQ(RunOnRanks(1, Arguments(one, {"train.steps=" + steps})).exit_code, 0);
  EXPECT_EQ(StepsOf(run), StepsOf(one));
}

TEST(Ranks, SigUsr1EndsTheJobWithACheckpoint) {
  OPO_NEEDS_RANKS();
  const ScratchFolder scratch;
  const std::string run = scratch / "run";
  const ProgramResult result = RunAndSignal(run, 1, SIGUSR1);
  EXPECT_EQ(result.exit_code, 128 + SIGUSR1) << result.err;
  EXPECT_TRUE(std::filesystem::exists(run + "/model/model.safetensors"));
}

}  // namespace
}  // namespace opo
