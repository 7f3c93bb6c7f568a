// One flipped bit in whole runs, and steps of runs taken once more.
#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <map>

#include "app/program.h"

namespace opo {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Strings = std::vector<std::string>;

class TinyRuns : public testing::Test {
 protected:
  Strings Args(const std::string& name, const Strings& settings = {}, int steps = 7) {
    Strings args = {"train", Example("tiny.toml"), "--quiet"};
    Strings all = {"run.dir=" + (scratch_ / name), "train.steps=" + std::to_string(steps),
                   "checkpoint.every=3", "checkpoint.keep_last=100"};
    all.insert(all.end(), settings.begin(), settings.end());
    for (const std::string& s : all) args.insert(args.end(), {"--set", s});
    return args;
  }
  std::string Make(const std::string& name, const Strings& settings = {}, int steps = 7) {
    const ProgramResult result = RunProgram(Args(name, settings, steps));
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.exit_code == 0 ? result.last_line()["weights_digest"].get<std::string>() : "";
  }
  ProgramResult Replay(const std::string& name, const std::string& step, Strings more = {}) {
    more.insert(more.begin(), {"replay", scratch_ / name, "--step", step, "--json"});
    return RunProgram(more);
  }
  // A line of metrics.jsonl, or of another file of the run, changed.
  void Edit(const std::string& name, const std::string& file,
            const std::function<bool(json&)>& change) {
    const std::string path = scratch_ / (name + "/" + file);
    std::istringstream lines(ReadText(path));
    std::string all;
    for (std::string line; std::getline(lines, line);) {
      json value = json::parse(line);
      if (change(value)) all += value.dump() + "\n";
    }
    std::ofstream(path) << all;
  }
  ScratchFolder scratch_;
};

bool Holds(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

struct Planted {
  const char* fault;
  const char* place;  // a part of the message
  bool tape_only = false;
};

constexpr Planted kFlips[] = {
    {"flip:logprob:step=3", "prompt 0 (problem "},
    {"flip:logprob:step=3:nth=70:index=1", "sample 5, token 1"},
    {"flip:logprob:step=3:nth=128:bit=30", "prompt 15 (problem "},
    {"flip:prefix_kv:step=3", "its own token 0, layer 0: its key or value"},
    {"flip:prefix_kv:step=3:nth=16:index=12345:bit=14", "prompt 15 (problem "},
    {"flip:prefix_kv:step=3:nth=7:index=77:bit=3", "its own token "},
    {"flip:sample_kv:step=3", "prompt 0 (problem "},
    {"flip:sample_kv:step=3:nth=300:index=999:bit=9", "its key or value"},
    {"flip:sample_kv:step=3:nth=128:index=1:bit=15", "sample 7, token 0, layer 1"},
    {"flip:tape:step=3", "its own token 0, layer 0: its record", true},
    {"flip:tape:step=3:nth=2:index=4:bit=7", "prompt 0 (problem ", true},
    {"flip:tape:step=3:nth=144:index=54321:bit=5", "sample 7, token ", true},
    {"flip:tape:step=3:nth=60:index=7654:bit=1", "its record on the tape", true},
    {"flip:packed:step=3", "layer 0, input_layernorm"},
    {"flip:packed:step=3:index=5:bit=6", "layer 0, post_attention_layernorm"},
    {"flip:packed:step=3:index=11", "layer 1, q_proj, k_proj, v_proj"},
    {"flip:packed_learn:step=3:index=20000:bit=6", "packed weights changed in memory"},
    {"flip:packed_learn:step=3:index=23", "the embedding"},
};

// The run stops in step 3, says where, and has changed nothing: a resume ends as if nothing had
// been.
TEST_F(TinyRuns, OneFlippedBitAnywhereStopsTheStep) {
  const std::string want = Make("whole");
  int runs = 0;
  for (const char* tape : {"run.tape_mb=-1", "run.tape_mb=0", "run.tape_mb=1"}) {
    const bool all_taped = std::string(tape) == "run.tape_mb=-1";
    const bool some_taped = std::string(tape) == "run.tape_mb=1";
    for (const Planted& planted : kFlips) {
      if (planted.tape_only && !all_taped) continue;
      if (some_taped && std::string(planted.fault).find("_kv") == std::string::npos) continue;
      const std::string name = "flip" + std::to_string(runs++);
      ::setenv("OPO_FAULT", planted.fault, 1);
      const ProgramResult stopped = RunProgram(Args(name, {tape}));
      ::unsetenv("OPO_FAULT");
      EXPECT_EQ(stopped.exit_code, 4) << planted.fault << " " << tape << "\n" << stopped.err;
      EXPECT_TRUE(Holds(stopped.err, "step 3: ") && Holds(stopped.err, planted.place))
          << planted.fault << " " << tape << "\n"
          << stopped.err;
      EXPECT_EQ(StepsOf(scratch_ / name).size(), 2U) << planted.fault;
      if (runs % 7 != 1) continue;
      const ProgramResult resumed = RunProgram({"train", "--resume", scratch_ / name, "--quiet"});
      EXPECT_EQ(resumed.exit_code, 0) << resumed.err;
      EXPECT_EQ(resumed.last_line()["weights_digest"].get<std::string>(), want);
    }
  }
  EXPECT_EQ(runs, 18 + 14 + 6);
}

// Off policy, with LoRA (whose frozen weights are packed once), and in an evaluation.
TEST_F(TinyRuns, OtherRunsAreGuardedToo) {
  const std::map<std::string, Strings> runs = {
      {"off policy", {"train.mini_batch=8", "algorithm.exact=false"}},
      {"lora", {"lora.rank=4"}},
      {"dynamic", {"rollout.dynamic_sampling=true"}},
      {"f32", {"model.dtype=f32"}}};
  int number = 0;
  for (const auto& [what, settings] : runs) {
    for (const char* fault : {"flip:logprob:step=2:nth=100", "flip:prefix_kv:step=2:nth=9:index=5",
                              "flip:sample_kv:step=2:nth=40", "flip:tape:step=2:nth=50:index=9",
                              "flip:packed:step=2:index=12", "flip:packed_learn:step=2:index=2"}) {
      ::setenv("OPO_FAULT", fault, 1);
      const ProgramResult stopped = RunProgram(Args("run" + std::to_string(number++), settings));
      ::unsetenv("OPO_FAULT");
      EXPECT_EQ(stopped.exit_code, 4) << what << ", " << fault << "\n" << stopped.err;
      EXPECT_TRUE(Holds(stopped.err, "step 2: ")) << what << ", " << fault << "\n" << stopped.err;
    }
  }
  ::setenv("OPO_FAULT", "flip:sample_kv:nth=5", 1);
  const ProgramResult stopped = RunProgram(Args("evaluated", {"eval.prompts=4"}));
  ::unsetenv("OPO_FAULT");
  EXPECT_EQ(stopped.exit_code, 4) << stopped.err;
}

TEST_F(TinyRuns, EveryStepReplaysToItsBits) {
  const std::map<std::string, Strings> runs = {
      {"on_policy", {}},
      {"off_policy",
       {"train.mini_batch=8", "train.epochs=2", "algorithm.exact=false", "algorithm.name=grpo"}},
      {"lora", {"lora.rank=4"}},
      {"dynamic", {"rollout.dynamic_sampling=true", "rollout.samples=2", "rollout.max_draws=2"}},
      {"bf16_moments", {"train.moments=bf16", "train.shards=4", "train.schedule=cosine"}}};
  const Strings varied[] = {{},
                            {"--threads", "3", "--tape-mb", "0"},
                            {"--threads", "1", "--memory", "60"},
                            {"--tape-mb", "1"}};
  for (const auto& [name, settings] : runs) {
    Make(name, settings);
    for (int step = 1; step <= 7; ++step) {
      const ProgramResult result =
          Replay(name, std::to_string(step), varied[static_cast<std::size_t>(step) % 4]);
      EXPECT_EQ(result.exit_code, 0) << name << " " << step << "\n" << result.err;
      if (result.exit_code != 0) continue;
      const json out = result.last_line();
      const int from = (step - 1) / 3 * 3;
      EXPECT_EQ(out["from_step"], from) << name;
      EXPECT_TRUE(out["equal"].get<bool>());
      ASSERT_EQ(out["steps"].size(), static_cast<std::size_t>(step - from));
      const json recorded = StepsOf(scratch_ / name).at(static_cast<std::size_t>(step - 1));
      for (const auto& [kind, key] :
           std::map<std::string, std::string>{{"rollouts", "exact/rollout_digest"},
                                              {"gradient", "exact/gradient_digest"},
                                              {"weights", "exact/weights_digest"}}) {
        const json& digest = out["steps"].back()[kind];
        EXPECT_EQ(digest["recorded"], recorded[key]) << name;
        EXPECT_EQ(digest["replayed"], recorded[key]) << name;
        EXPECT_EQ(digest["replayed"].get<std::string>().size(), 32U);
      }
    }
  }
  EXPECT_EQ(Replay("on_policy", "2..7").last_line()["steps"].size(), 7U);
  // The table, and what it costs beforehand.
  const ProgramResult table = RunProgram({"replay", scratch_ / "on_policy", "--step", "5"});
  EXPECT_EQ(table.exit_code, 0);
  EXPECT_TRUE(Holds(table.err, "replaying from step 3: 2 steps")) << table.err;
  EXPECT_TRUE(Holds(table.out, "gradient") && Holds(table.out, "equal")) << table.out;
}

// The control: digests that were altered, each kind, and answers.
TEST_F(TinyRuns, AReplayFindsWhatWasAltered) {
  Make("run");
  const std::string path = scratch_ / "run/metrics.jsonl";
  const std::string metrics = ReadText(path);
  for (const char* kind : {"rollout", "gradient", "weights"}) {
    Edit("run", "metrics.jsonl", [&](json& line) {
      std::string digest = line[std::string("exact/") + kind + "_digest"];
      digest[7] = digest[7] == '0' ? '1' : '0';
      if (line["training/global_step"] == 5)
        line[std::string("exact/") + kind + "_digest"] = digest;
      return true;
    });
    const ProgramResult result = Replay("run", "5");
    EXPECT_EQ(result.exit_code, 4) << kind;
    EXPECT_TRUE(Holds(result.err, std::string("step 5: the ") + kind)) << result.err;
    EXPECT_FALSE(result.last_line()["equal"].get<bool>());
    EXPECT_EQ(Replay("run", "4").exit_code, 0) << "only step 5 was altered";
    std::ofstream(path) << metrics;
  }
  const std::string rewards = ReadText(scratch_ / "run/rewards.jsonl");
  Edit("run", "rewards.jsonl", [](json& line) {
    if (line["training/global_step"] == 5 && line["answer"] == 43) line["digest"] = "another";
    return true;
  });
  const ProgramResult other = Replay("run", "5");
  EXPECT_EQ(other.exit_code, 4);
  EXPECT_TRUE(Holds(other.err, "step 5: prompt 5 (problem ") && Holds(other.err, "sample 3"))
      << other.err;
  // Another reward: the gradient differs. None: the file is at fault.
  std::ofstream(scratch_ / "run/rewards.jsonl") << rewards;
  Edit("run", "rewards.jsonl", [](json& line) {
    if (line["training/global_step"] == 5) line["value"] = 1 - line["value"].get<double>();
    return line["training/global_step"] != 6 || line["answer"] != 9;
  });
  const ProgramResult rewarded = Replay("run", "5");
  EXPECT_EQ(rewarded.exit_code, 4);
  EXPECT_TRUE(rewarded.last_line()["steps"].back()["rollouts"]["equal"].get<bool>());
  EXPECT_TRUE(Holds(rewarded.err, "step 5: the gradient")) << rewarded.err;
  std::ofstream(scratch_ / "run/rewards.jsonl") << rewards;
  Edit("run", "rewards.jsonl",
       [](json& line) { return line["training/global_step"] != 6 || line["answer"] != 9; });
  const ProgramResult missing = Replay("run", "6");
  EXPECT_EQ(missing.exit_code, 3);
  EXPECT_TRUE(Holds(missing.err, "step 6, answer 9")) << missing.err;
  // A fault in the replay itself.
  ::setenv("OPO_FAULT", "flip:packed:step=5:index=1", 1);
  EXPECT_EQ(Replay("run", "5").exit_code, 4);
  ::unsetenv("OPO_FAULT");
}

TEST_F(TinyRuns, AReplayOnlyReads) {
  Make("run", {"eval.every=2", "eval.prompts=4", "monitor.kl_every=1"});
  const auto state = [&] {
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(scratch_ / "run")) {
      files[entry.path().string()] =
          (entry.is_regular_file() ? ReadText(entry.path().string()) : "") +
          std::to_string(entry.last_write_time().time_since_epoch().count());
    }
    return files;
  };
  const auto before = state();
  EXPECT_EQ(Replay("run", "1..7").exit_code, 0);
  EXPECT_EQ(state(), before);
}

TEST_F(TinyRuns, DamagedAndMissingCheckpoints) {
  Make("run");
  const std::string file = scratch_ / "run/checkpoints/step_000006/optimizer.safetensors";
  std::string bytes = ReadText(file);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  std::ofstream(file, std::ios::binary) << bytes;
  const ProgramResult earlier = Replay("run", "7");
  EXPECT_EQ(earlier.exit_code, 0) << earlier.err;
  EXPECT_EQ(earlier.last_line()["from_step"], 3);
  EXPECT_TRUE(Holds(earlier.err, "step_000006")) << earlier.err;
  fs::remove_all(scratch_ / "run/checkpoints");
  const ProgramResult first = Replay("run", "7");
  EXPECT_EQ(first.exit_code, 0) << first.err;
  EXPECT_EQ(first.last_line()["from_step"], 0);
  EXPECT_TRUE(Holds(first.err, "replaying from step 0: 7 steps")) << first.err;
}

TEST_F(TinyRuns, WhatAReplayRefuses) {
  Make("run", {"run.isa=portable"}, 4);
  const auto refused = [&](const Strings& args, int code, const std::string& part) {
    Strings all = {"replay"};
    all.insert(all.end(), args.begin(), args.end());
    const ProgramResult result = RunProgram(all);
    EXPECT_EQ(result.exit_code, code) << result.err;
    EXPECT_TRUE(Holds(result.err, part)) << result.err;
  };
  const std::string run = scratch_ / "run";
  refused({run}, 2, "--step");
  refused({run, "--step", "5"}, 2, "has the steps 1 to 4");
  refused({run, "--step", "0"}, 2, "--step 0");
  refused({run, "--step", "3..2"}, 2, "--step 3..2");
  refused({run, "--step", "two"}, 2, "give a step as 7");
  refused({run, "--step", "2", "--set", "train.seed=5"}, 2, "`seed` was 1");
  refused({run, "--step", "2", "--isa", "vax"}, 2, "vax");
  refused({scratch_ / "nothing", "--step", "2"}, 2, "config.toml");
  // Where this machine has a path that rounds otherwise, it is refused, with the reason.
  const ProgramResult doctor = RunProgram({"doctor"});
  if (Holds(doctor.out + doctor.err, "avx512bf16")) {
    refused({run, "--step", "2", "--isa", "avx512bf16"}, 2, "round otherwise");
  }
  fs::remove(run + "/rewards.jsonl");
  refused({run, "--step", "2"}, 3, "rewards.jsonl");
  fs::remove(run + "/metrics.jsonl");
  refused({run, "--step", "2"}, 3, "metrics.jsonl");
}

// The judge is asked once in its life.
TEST_F(TinyRuns, AReplayNeedsNoJudge) {
  if (std::system("python3 -c pass >/dev/null 2>&1") != 0) GTEST_SKIP() << "there is no python3";
  const std::string judge = scratch_ / "judge";
  std::ofstream(judge) << "#!/usr/bin/env python3\n"
                          "import json, random, sys\n"
                          "for line in sys.stdin:\n"
                          "    print(json.dumps(random.random()), flush=True)\n";
  fs::permissions(judge, fs::perms::owner_all);
  std::ofstream config(scratch_ / "run.toml");
  const std::string tiny = ReadText(Example("tiny.toml"));
  config << tiny.substr(0, tiny.find("[[reward]]"))
         << "[[reward]]\nkind = \"program\"\ncommand = [\"" << judge << "\"]\n"
         << "[train]\nsteps = 4\nlr = 2e-3\n[checkpoint]\nevery = 2\n";
  config.close();
  const ProgramResult run = RunProgram(
      {"train", scratch_ / "run.toml", "--quiet", "--set", "run.dir=" + (scratch_ / "run")});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  fs::remove(judge);
  for (const char* step : {"1", "2", "4"}) {
    const ProgramResult result = Replay("run", step);
    EXPECT_EQ(result.exit_code, 0) << result.err;
  }
}

TEST_F(TinyRuns, ARunThatGoesOnCanBeReplayed) {
  Strings args = Args("run", {"checkpoint.keep_last=1"}, 400);
  std::thread training([&] { RunProgram(args, 6000, SIGTERM); });
  const std::string metrics = scratch_ / "run/metrics.jsonl";
  for (int i = 0; i < 500 && ReadText(metrics).size() < 20000; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  for (const char* step : {"1", "5", "7"}) {
    const ProgramResult result = Replay("run", step);
    EXPECT_EQ(result.exit_code, 0) << result.err;
  }
  training.join();
}

}  // namespace
}  // namespace opo
