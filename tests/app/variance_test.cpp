// `opo variance` on a model that is made here, and runs of opo_exact, which trains with the norms
// that the lab measures.
#include <gtest/gtest.h>

#include <cmath>

#include "app/program.h"

namespace opo {
namespace {

using nlohmann::json;

class Variance : public testing::Test {
 protected:
  Variance() {
    const auto made =
        RunProgram({"init", scratch_ / "model", "--std", "0.1", "--max-position", "128"});
    EXPECT_EQ(made.exit_code, 0) << made.err;
    std::ofstream data(scratch_ / "data.jsonl");
    for (int i = 0; i < 6; ++i) {
      data << R"({"prompt": "say )" << i << R"( and something", "answer": ")" << i << "\"}\n";
    }
  }
  ProgramResult Run(const std::vector<std::string>& more) const {
    std::vector<std::string> args = {"variance",
                                     "--model",
                                     scratch_ / "model",
                                     "--data",
                                     scratch_ / "data.jsonl",
                                     "-n",
                                     "6",
                                     "--max-new-tokens",
                                     "40",
                                     "--reward",
                                     "regex",
                                     "--reward-set",
                                     "pattern=[0-9].*[a-f]",
                                     "--quiet"};
    args.insert(args.end(), more.begin(), more.end());
    return RunProgram(args);
  }
  static json WithoutTimes(json value) {
    for (const char* key : {"sampling_s", "gradients_s", "price"}) value.erase(key);
    return value;
  }
  ScratchFolder scratch_;
};

TEST_F(Variance, WritesWhatItPrints) {
  const auto result = Run({"--out", scratch_ / "lab", "--json", "--length-exponent", "1,1.6"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json lab = result.last_line();
  EXPECT_EQ(lab, json::parse(ReadText(scratch_ / "lab/variance.json")));
  EXPECT_EQ(lab["schema"], 1);
  EXPECT_EQ(lab["prompts"], 6);
  EXPECT_EQ(lab["samples"], 6);
  EXPECT_GT(lab["compared_tokens"].get<int>(), 100);
  EXPECT_EQ(lab["mismatched_tokens"], 0);
  std::vector<std::string> names;
  const double none = lab["estimators"][0]["cross_fitted"]["variance"];
  EXPECT_GT(none, 0) << "no reward, no variance: the test's task was meant to be solved at times";
  for (const json& row : lab["estimators"]) {
    names.push_back(row["name"]);
    const json& v = row["cross_fitted"];
    EXPECT_NEAR(v["relative_to_none"].get<double>(), v["variance"].get<double>() / none, 1e-12);
    EXPECT_LE(v["low"], v["high"]);
    // The overall figure is the mean of the prompts'.
    double sum = 0;
    for (const json& p : lab["per_prompt"]) sum += p["variance"][names.back()].get<double>();
    EXPECT_NEAR(sum / 6, v["variance"].get<double>(), 1e-9 * none);
  }
  EXPECT_EQ(names, (std::vector<std::string>{"none", "mean", "leave_one_out", "length",
                                             "length^1.6", "otb", "optimal"}));
  EXPECT_EQ(lab["estimators"][4]["exponent"], 1.6);
  // Estimated on other answers, mean and leave-one-out are the same; in sample only one is biased.
  EXPECT_EQ(lab["estimators"][1]["cross_fitted"], lab["estimators"][2]["cross_fitted"]);
  EXPECT_EQ(lab["estimators"][2]["in_sample"]["bias"], 0.0);
  ASSERT_EQ(lab["fit"]["points"].size(), 36U);
  for (const json& point : lab["fit"]["points"]) {
    EXPECT_GE(point[0], 1);
    EXPECT_GT(point[1], 0.0);
  }
  for (const json& p : lab["per_prompt"]) {
    EXPECT_GE(p["b_star"], 0.0);
    EXPECT_LE(p["b_star"], 1.0);
  }
  const auto table = Run({"--length-exponent", "1,1.6"});
  ASSERT_EQ(table.exit_code, 0) << table.err;
  EXPECT_NE(table.out.find("length^1.6"), std::string::npos) << table.out;
}

TEST_F(Variance, ThreadsChangeNothingAndTheSeedDoes) {
  const auto run = [&](const std::vector<std::string>& more) {
    const auto result = Run(more);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return WithoutTimes(result.last_line());
  };
  const json one = run({"--json", "--threads", "1", "--prompts", "3"});
  EXPECT_EQ(one["prompts"], 3);
  EXPECT_EQ(one, run({"--json", "--threads", "3", "--prompts", "3"}));
  EXPECT_NE(one["per_prompt"], run({"--json", "--prompts", "3", "--seed", "9"})["per_prompt"]);
}

// Single passes agree with the pass over all: in f32 to its rounding.
TEST_F(Variance, ThePriceIsToldAndTheNormsAgree) {
  const auto result = Run({"--json", "--price", "--prompts", "1", "--dtype", "f32"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json price = result.last_line()["price"];
  EXPECT_GT(price["single_passes_s"], 0.0);
  EXPECT_GT(price["norms_s"], 0.0);
  EXPECT_LT(price["largest_difference"], 1e-5);
}

TEST_F(Variance, RefusesWhatIsNotThePolicy) {
  for (const std::vector<std::string>& more : {std::vector<std::string>{"--top-p", "0.9"},
                                               {"--temperature", "0"},
                                               {"-n", "3"},
                                               {"--memory-mb", "1"},
                                               {"--length-exponent", "nan"}}) {
    const auto result = Run(more);
    EXPECT_EQ(result.exit_code, 2) << more[0] << ": " << result.err;
    EXPECT_FALSE(result.err.empty());
  }
}

class OpoExact : public testing::Test {
 protected:
  std::vector<std::string> Arguments(const std::string& run,
                                     const std::vector<std::string>& more = {}) const {
    return WithSettings(WithSettings({"train", Example("tiny.toml"), "--quiet"},
                                     {"run.dir=" + (scratch_ / run), "algorithm.name=opo_exact",
                                      "train.steps=6", "train.shards=4", "checkpoint.every=3"}),
                        more);
  }
  static std::string DigestOf(const ProgramResult& result) {
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.last_line()["weights_digest"];
  }
  ScratchFolder scratch_;
};

TEST_F(OpoExact, RaisesTheReward) {
  DigestOf(RunProgram(Arguments("run", {"train.steps=60", "checkpoint.every=0"})));
  const auto steps = StepsOf(scratch_ / "run");
  double first = 0;
  double last = 0;
  for (std::size_t i = 0; i < 5; ++i) {
    first += steps[i]["critic/score/mean"].get<double>() / 5;
    last += steps[steps.size() - 1 - i]["critic/score/mean"].get<double>() / 5;
    EXPECT_EQ(steps[i]["exact/mismatched_tokens"], 0);
  }
  EXPECT_GT(last, first + 0.3) << "from " << first << " to " << last;
}

TEST_F(OpoExact, ThreadsTapeMemoryAndRanksChangeNoBit) {
  const std::string want = DigestOf(RunProgram(Arguments("one", {"run.threads=1"})));
  EXPECT_EQ(want, DigestOf(RunProgram(Arguments("threads", {"run.threads=3"}))));
  EXPECT_EQ(want, DigestOf(RunProgram(Arguments("tape", {"run.tape_mb=0", "run.memory_mb=60"}))));
  EXPECT_NE(want, DigestOf(RunProgram(Arguments("opo", {"algorithm.name=opo"}))));
  if (RunOnRanks(2, {"train", "--print-config"}).exit_code != 0) {
    std::printf("mpirun cannot start two ranks here: not tried\n");
    return;
  }
  for (const int ranks : {2, 3}) {
    EXPECT_EQ(want,
              DigestOf(RunOnRanks(ranks, Arguments(std::to_string(ranks), {"run.threads=1"}))))
        << ranks << " ranks";
  }
}

TEST_F(OpoExact, AResumedRunHasTheSameBits) {
  const std::string want = DigestOf(RunProgram(Arguments("whole")));
  DigestOf(RunProgram(Arguments("half", {"train.steps=3"})));
  EXPECT_EQ(want, DigestOf(RunProgram({"train", "--resume", scratch_ / "half", "--quiet", "--set",
                                       "train.steps=6"})));
}

}  // namespace
}  // namespace opo
