// Whole runs that train a LoRA adapter, through the program: the contract, the folder that comes
// out, its merge, and what is refused.
#include <gtest/gtest.h>

#include <cmath>

#include "app/program.h"

namespace opo {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class Adapter : public testing::Test {
 protected:
  Adapter() {
    const ProgramResult made = RunProgram({"init", base_, "--seed", "3", "--std", "0.2"});
    EXPECT_EQ(made.exit_code, 0) << made.err;
  }
  std::vector<std::string> Run(const std::string& name, std::vector<std::string> settings = {}) {
    std::vector<std::string> args = {"train", Example("tiny.toml"), "--quiet"};
    settings.insert(settings.begin(), {"model.path=" + base_, "lora.rank=4", "train.steps=6",
                                       "checkpoint.every=2", "run.dir=" + (scratch_ / name)});
    for (const std::string& s : settings) args.insert(args.end(), {"--set", s});
    return args;
  }
  std::string Digest(const std::string& name, const std::vector<std::string>& settings = {}) {
    const ProgramResult result = RunProgram(Run(name, settings));
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.exit_code == 0 ? result.last_line()["weights_digest"].get<std::string>() : "";
  }
  // Log-probs of a fixed completion.
  std::vector<double> LogProbs(const std::string& model) {
    const ProgramResult result =
        RunProgram({"logprobs", "--model", model, "--dtype", "f32"}, -1, SIGKILL,
                   R"({"prompt_ids": [72, 105, 33], "completion_ids": [40, 41, 99, 120, 7, 200]})"
                   "\n");
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.last_line()["logprobs"].get<std::vector<double>>();
  }

  ScratchFolder scratch_;
  const std::string base_ = scratch_ / "base";
};

TEST_F(Adapter, ThreadsTapeAndMemoryChangeNothing) {
  const std::string want = Digest("one", {"run.threads=1"});
  EXPECT_EQ(want, Digest("three", {"run.threads=3", "run.tape_mb=0"}));
  EXPECT_EQ(StepsOf(scratch_ / "one").size(), 6U);
  for (const json& step : StepsOf(scratch_ / "one")) {
    EXPECT_EQ(step["exact/mismatched_tokens"].get<int>(), 0);
    EXPECT_GT(step["exact/compared_tokens"].get<int>(), 0);
  }
  EXPECT_NE(want, Digest("few", {R"(lora.targets=["q_proj","v_proj"])"}));
}

TEST_F(Adapter, KilledAndResumedGivesTheSameBits) {
  const std::string want = Digest("whole");
  std::vector<std::string> args = Run("killed");
  ProgramResult result;
  for (int attempt = 0; attempt < 30; ++attempt) {
    result = RunProgram(args, attempt < 8 ? 60 + attempt * 90 : -1);
    if (result.exit_code == 0) break;
    ASSERT_EQ(result.exit_code, 128 + SIGKILL) << result.err;
    if (fs::exists(scratch_ / "killed/manifest.json")) {
      args = {"train", "--resume", scratch_ / "killed", "--quiet"};
    }
  }
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.last_line()["weights_digest"].get<std::string>(), want);
}

// A fresh adapter is the base, bit for bit; the KL of the first step is exactly 0.
TEST_F(Adapter, BeginsAsItsBase) {
  Digest("run", {"monitor.kl_every=1", "train.lr=1e-2"});
  const auto steps = StepsOf(scratch_ / "run");
  EXPECT_EQ(steps.at(0)["monitor/kl_k1"].get<double>(), 0.0);
  EXPECT_EQ(steps.at(0)["monitor/kl_k3"].get<double>(), 0.0);
  EXPECT_GT(steps.at(5)["monitor/kl_k3"].get<double>(), 0.0);
}

// The trained adapter, unmerged, and what `opo convert` merges it into, are one model; both differ
// from the base. f32 sums in another order: 1e-4 is far above their noise and far below the
// difference that training made.
TEST_F(Adapter, MergesIntoItsBase) {
  Digest("run", {"train.lr=1e-2", "model.dtype=f32"});
  const std::string adapter = scratch_ / "run/model";
  EXPECT_TRUE(fs::exists(adapter + "/adapter_model.safetensors"));
  const std::string merged = scratch_ / "merged";
  const ProgramResult converted = RunProgram({"convert", adapter, merged, "--type", "f32"});
  ASSERT_EQ(converted.exit_code, 0) << converted.err;
  const auto one = LogProbs(adapter);
  const auto two = LogProbs(merged);
  const auto base = LogProbs(base_);
  double moved = 0;
  for (std::size_t i = 0; i < one.size(); ++i) {
    EXPECT_NEAR(one[i], two[i], 1e-4);
    moved = std::max(moved, std::abs(one[i] - base[i]));
  }
  EXPECT_GT(moved, 1e-2);
}

TEST_F(Adapter, RaisesTheReward) {
  Digest("run", {"train.steps=24", "train.lr=1e-2", "lora.rank=8"});
  const auto steps = StepsOf(scratch_ / "run");
  double before = 0;
  double after = 0;
  for (std::size_t i = 0; i < 4; ++i) {
    before += steps[i]["critic/score/mean"].get<double>();
    after += steps[steps.size() - 1 - i]["critic/score/mean"].get<double>();
  }
  EXPECT_GT(after, 2 * before);
}

TEST_F(Adapter, ContinuesFromAPeftFolderAndRefusesAnother) {
  Digest("first");
  const std::string adapter = scratch_ / "first/model";
  const std::string model = "model.path=" + adapter;
  EXPECT_NE(Digest("second", {model, "lora.rank=0"}), "");
  EXPECT_TRUE(fs::exists(scratch_ / "second/model/adapter_config.json"));
  const ProgramResult twice = RunProgram(Run("third", {model}));
  EXPECT_EQ(twice.exit_code, 2);
  EXPECT_NE(twice.err.find("lora.rank"), std::string::npos) << twice.err;
  const ProgramResult unknown = RunProgram(Run("fourth", {R"(lora.targets=["lm_head"])"}));
  EXPECT_EQ(unknown.exit_code, 2);
  EXPECT_NE(unknown.err.find("lm_head"), std::string::npos) << unknown.err;
  fs::remove_all(base_);
  const ProgramResult alone = RunProgram({"generate", "--model", adapter, "--prompt", "a"});
  EXPECT_EQ(alone.exit_code, 3);
  EXPECT_NE(alone.err.find("base_model_name_or_path"), std::string::npos) << alone.err;
}

}  // namespace
}  // namespace opo
