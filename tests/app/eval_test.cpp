// opo eval as its users meet it: metrics, several sets, kills, and the same bits whatever the
// batch.
#include <gtest/gtest.h>

#include <cmath>

#include "app/program.h"

namespace opo {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

class Evals : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    scratch_ = new ScratchFolder;
    for (const char* seed : {"1", "2"}) {
      const auto made = RunProgram({"init", *scratch_ / ("model" + std::string(seed)), "--std",
                                    "0.1", "--max-position", "64", "--seed", seed});
      ASSERT_EQ(made.exit_code, 0) << made.err;
    }
    std::ofstream file(*scratch_ / "other.jsonl");
    for (int i = 0; i < 5; ++i) {
      file << json({{"id", "q" + std::to_string(i)},
                    {"prompt", "say " + std::to_string(i)},
                    {"answer", std::to_string(i)}})
           << "\n";
    }
  }
  static void TearDownTestSuite() { delete scratch_; }
  static std::string Model(int number = 1) {
    return *scratch_ / ("model" + std::to_string(number));
  }

  static std::vector<std::string> Command(const std::vector<std::string>& more) {
    std::vector<std::string> args = {"eval", "--model",       Model(), "-n",
                                     "4",    "--temperature", "1",     "--max-new-tokens",
                                     "12",   "--prompts",     "6",     "--quiet"};
    args.insert(args.end(), more.begin(), more.end());
    return args;
  }
  static std::vector<std::string> TwoSets(const std::vector<std::string>& more) {
    std::vector<std::string> args =
        Command({"--data", "arithmetic", "--data", *scratch_ / "other.jsonl", "--reference",
                 Model(2), "--reward", "regex", "--reward-set", "pattern=[0-9]", "--threads", "2"});
    args.insert(args.end(), more.begin(), more.end());
    return args;
  }
  static json Timeless(json summary) {
    for (json& set : summary["sets"]) {
      EXPECT_TRUE(set.contains("seconds"));
      set.erase("seconds");
    }
    return summary;
  }
  // Answers and summary of a call with --json.
  static std::vector<json> Lines(const ProgramResult& result) {
    EXPECT_EQ(result.exit_code, 0) << result.err;
    std::vector<json> lines;
    std::istringstream text(result.out);
    for (std::string line; std::getline(text, line);) lines.push_back(json::parse(line));
    if (!lines.empty()) lines.back() = Timeless(lines.back());
    return lines;
  }

  static ScratchFolder* scratch_;
};
ScratchFolder* Evals::scratch_ = nullptr;

TEST_F(Evals, TheSummaryFollowsFromTheAnswers) {
  const auto lines = Lines(RunProgram(TwoSets({"--json"})));
  ASSERT_EQ(lines.size(), (6U + 5) * 4 + 1);
  const json& summary = lines.back();
  EXPECT_EQ(summary["schema"], 1);
  EXPECT_EQ(summary["model"], Model());
  EXPECT_EQ(summary["settings"]["k"], json({1, 2, 4}));
  ASSERT_EQ(summary["sets"].size(), 2U);
  std::size_t at = 0;
  for (const json& set : summary["sets"]) {
    EXPECT_EQ(set["name"], at == 0 ? "arithmetic" : "other");
    const auto problems = set["problems"].get<std::size_t>();
    double reward = 0;
    double length = 0;
    double truncated = 0;
    for (std::size_t p = 0; p < problems; ++p) {
      int correct = 0;
      for (int s = 0; s < 4; ++s, ++at) {
        EXPECT_EQ(lines[at]["set"], set["name"]);
        EXPECT_EQ(lines[at]["problem"], p);
        EXPECT_EQ(lines[at]["sample"], s);
        correct += lines[at]["reward"] == 1.0 ? 1 : 0;
        reward += lines[at]["reward"].get<double>();
        length += lines[at]["length"].get<double>();
        truncated += lines[at]["finish_reason"] == "length" ? 1 : 0;
      }
      EXPECT_EQ(set["per_problem"][p]["correct"], correct);
    }
    const auto n = static_cast<double>(4 * problems);
    EXPECT_NEAR(set["mean@4"]["value"].get<double>(), reward / n, 1e-12);
    EXPECT_NEAR(set["pass@1"]["value"].get<double>(), reward / n, 1e-12);
    EXPECT_NEAR(set["length"]["mean"].get<double>(), length / n, 1e-12);
    EXPECT_NEAR(set["truncated"].get<double>(), truncated / n, 1e-12);
    EXPECT_LE(set["pass@2"]["value"], set["pass@4"]["value"]);
    EXPECT_TRUE(set.contains("maj@4"));
    // 259 tokens, nearly uniform; two models, both of them close to it.
    EXPECT_GT(set["entropy"].get<double>(), 1);
    EXPECT_LT(set["entropy"].get<double>(), std::log(259));
    EXPECT_GT(set["kl"]["k3_token"].get<double>(), 0);
    EXPECT_NEAR(set["kl"]["k1_sequence"].get<double>(),
                set["kl"]["k1_token"].get<double>() * length / n, 1e-9);
  }
}

TEST_F(Evals, AModelIsNoDistanceFromItself) {
  const auto lines = Lines(RunProgram(Command({"--reference", Model(), "--json"})));
  EXPECT_EQ(lines.back()["sets"][0]["kl"]["k1_token"], 0);
  EXPECT_EQ(lines.back()["sets"][0]["kl"]["k3_sequence"], 0);
}

TEST_F(Evals, AJudgeSaysHowOftenOneModelsAnswersAreTheBetter) {
  const std::string first = *scratch_ / "first.json";
  const auto judged = [&](const std::vector<std::string>& more) {
    std::vector<std::string> args = Command({"--judge", "length", "--json"});
    args.insert(args.end(), more.begin(), more.end());
    return Lines(RunProgram(args));
  };
  const auto theirs = judged({"--out", first});
  EXPECT_FALSE(theirs.back()["sets"][0].contains("win_rate"));
  // Against themselves: as many pairs lost as won.
  EXPECT_EQ(judged({"--against", first}).back()["sets"][0]["win_rate"]["value"], 0.5);
  const auto ours = judged({"--against", first, "--seed", "5"});
  double score = 0;
  double wins = 0;
  const std::size_t problems = ours.back()["sets"][0]["problems"];
  for (std::size_t p = 0; p < problems; ++p) {
    for (std::size_t s = 0; s < 4; ++s) {
      const int mine = ours[p * 4 + s]["length"];
      score += mine / 12.0;
      for (std::size_t other = 0; other < 4; ++other) {
        const int yours = theirs[p * 4 + other]["length"];
        wins += mine > yours ? 1 : mine == yours ? 0.5 : 0;
      }
    }
  }
  const json& set = ours.back()["sets"][0];
  const auto n = static_cast<double>(problems);
  EXPECT_NEAR(set["judge"]["value"].get<double>(), score / (4 * n), 1e-12);
  EXPECT_NEAR(set["win_rate"]["value"].get<double>(), wins / (16 * n), 1e-12);
  EXPECT_NE(set["win_rate"]["value"], 0.5);
  // The judge is no part of the reward.
  EXPECT_EQ(Lines(RunProgram(Command({"--json", "--seed", "5"}))).back()["sets"][0]["mean@4"],
            set["mean@4"]);
  const auto refused =
      RunProgram(Command({"--judge", "length", "--judge-set", "max_tokens=7", "--against", first}));
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_NE(refused.err.find("judge_set"), std::string::npos) << refused.err;
}

TEST_F(Evals, ASetDoesNotDependOnWhatElseIsAsked) {
  const json both = Lines(RunProgram(TwoSets({"--json"}))).back();
  const json one =
      Lines(RunProgram(Command({"--data", *scratch_ / "other.jsonl", "--reference", Model(2),
                                "--reward", "regex", "--reward-set", "pattern=[0-9]", "--json"})))
          .back();
  EXPECT_EQ(both["sets"][1], one["sets"][0]);
}

TEST_F(Evals, TheSameBitsWhateverTheBatch) {
  const auto want = Lines(RunProgram(TwoSets({"--json"})));
  const std::vector<std::vector<std::string>> ways = {
      {"--slots", "1"},
      {"--slots", "7", "--threads", "1"},
      {"--out", *scratch_ / "chunks.json", "--chunk", "1"},
      {"--out", *scratch_ / "some.json", "--chunk", "4", "--threads", "4"},
  };
  for (auto way : ways) {
    way.push_back("--json");
    std::vector<std::string> args = TwoSets({});
    // An option may be there once.
    const bool threads = std::find(way.begin(), way.end(), "--threads") != way.end();
    if (threads) args.resize(args.size() - 2);
    args.insert(args.end(), way.begin(), way.end());
    EXPECT_EQ(Lines(RunProgram(args)), want) << way[0] << " " << way[1];
  }
}

TEST_F(Evals, AKilledOrFailedOneGoesOnToTheSameBits) {
  const std::string whole = *scratch_ / "whole.json";
  const auto want = Lines(RunProgram(TwoSets({"--out", whole, "--chunk", "2", "--json"})));
  const std::string journal = ReadText(whole + ".answers/answers.jsonl");
  ASSERT_EQ(std::count(journal.begin(), journal.end(), '\n'), 1 + 6 + 5);
  int kills = 0;
  // Behind a chunk; in the middle of the head, or of a chunk's lines; before the summary's rename;
  // a full disk, and a failing one.
  for (const std::string fault :
       {"kill:eval-chunk:nth=2", "kill:eval-chunk:nth=5", "kill:write:path=answers.jsonl:nth=1",
        "kill:write:path=answers.jsonl:nth=3", "kill:write:path=answers.jsonl:nth=6",
        "kill:before-rename", "write:ENOSPC:path=answers.jsonl:after=4000",
        "fsync:EIO:path=answers.jsonl:nth=3"}) {
    const std::string out = *scratch_ / ("killed" + std::to_string(kills++) + ".json");
    const auto args = TwoSets({"--out", out, "--chunk", "2", "--json"});
    ::setenv("OPO_FAULT", fault.c_str(), 1);
    const ProgramResult killed = RunProgram(args);
    ::unsetenv("OPO_FAULT");
    const bool kill = fault.starts_with("kill");
    ASSERT_EQ(killed.exit_code, kill ? 128 + SIGKILL : 1) << fault << killed.err;
    if (!kill) {
      EXPECT_NE(killed.err.find("answers.jsonl: cannot be"), std::string::npos) << killed.err;
    }
    EXPECT_FALSE(fs::exists(out));
    const std::string left = ReadText(out + ".answers/answers.jsonl");
    EXPECT_TRUE(left.empty() || journal.starts_with(left)) << fault;
    EXPECT_EQ(Lines(RunProgram(args)), want) << fault;
    // What was there was not sampled again.
    EXPECT_EQ(ReadText(out + ".answers/answers.jsonl"), journal) << fault;
    EXPECT_EQ(Timeless(json::parse(ReadText(out))), Timeless(json::parse(ReadText(whole))));
  }
}

TEST_F(Evals, FinishedAnswersAreCountedAnewAndOthersRefused) {
  const std::string out = *scratch_ / "kept.json";
  const json first = Lines(RunProgram(Command({"--out", out, "--json"}))).back();
  const auto again = RunProgram(Command(
      {"--out", out, "--json", "--k", "3", "--bleu-tokenizer", "none", "--pass-threshold", "2"}));
  const json second = Lines(again).back();
  EXPECT_EQ(second["sets"][0]["mean@4"], first["sets"][0]["mean@4"]);
  EXPECT_EQ(second["sets"][0]["pass@3"]["value"], 0);
  EXPECT_TRUE(second["sets"][0].contains("maj@4"));
  const std::vector<std::pair<std::vector<std::string>, std::string>> others = {
      {{"--seed", "2"}, "`seed` was 1 and is 2"}, {{"--top-p", "0.9"}, "`top_p`"},
      {{"--reward", "math"}, "`reward`"},         {{"--system", "Be brief."}, "`data arithmetic`"},
      {{"--reference", Model(2)}, "`reference`"}, {{"--dtype", "f32"}, "`dtype`"},
  };
  for (const auto& [option, message] : others) {
    std::vector<std::string> args = Command({"--out", out});
    args.insert(args.end(), option.begin(), option.end());
    const ProgramResult refused = RunProgram(args);
    EXPECT_EQ(refused.exit_code, 2) << refused.err;
    EXPECT_NE(refused.err.find(message), std::string::npos) << refused.err;
    EXPECT_NE(refused.err.find("choose another --out"), std::string::npos) << refused.err;
  }
  // Weights that differ, in a folder of the same name.
  const std::string moved = *scratch_ / "moved";
  fs::copy(Model(), moved);
  const auto with = [&](const std::string& model) {
    return RunProgram({"eval", "--model", model, "--prompts", "2", "--max-new-tokens", "4", "--out",
                       *scratch_ / "moved.json"});
  };
  EXPECT_EQ(with(moved).exit_code, 0);
  fs::remove_all(moved);
  fs::copy(Model(2), moved);
  const ProgramResult other = with(moved);
  EXPECT_EQ(other.exit_code, 2);
  EXPECT_NE(other.err.find("`model` was"), std::string::npos) << other.err;
  EXPECT_EQ(with(Model()).exit_code, 0) << "the same weights elsewhere";
}

TEST_F(Evals, ARunReportsTheSameNumbers) {
  const std::string run = *scratch_ / "run";
  const ProgramResult trained = RunProgram(WithSettings(
      {"train", Example("tiny.toml"), "--quiet"},
      {"run.dir=" + run, "train.steps=1", "eval.every=1", "eval.samples=4", "eval.temperature=1",
       "eval.prompts=6", "rollout.prompts=4", "rollout.samples=4", "rollout.max_new_tokens=8"}));
  ASSERT_EQ(trained.exit_code, 0) << trained.err;
  const json step = StepsOf(run).back();
  const json set =
      Lines(RunProgram({"eval", "--model", run + "/model", "-n", "4", "--temperature", "1",
                        "--max-new-tokens", "8", "--prompts", "6", "--reward", "regex",
                        "--reward-set", "pattern=[0-9]", "--json", "--quiet"}))
          .back()["sets"][0];
  const std::string aux = "val-aux/arithmetic/";
  EXPECT_EQ(step.at(aux + "response_length/mean"), set["length"]["mean"]);
  EXPECT_EQ(step.at(aux + "response_length/clip_ratio"), set["truncated"]);
  EXPECT_EQ(step.at(aux + "entropy"), set["entropy"]);
  for (const char* k : {"1", "2", "4"}) {
    // Of either term a half, so at least as many pass as have a digit.
    EXPECT_GE(step.at(aux + "reward/pass@" + k), set[std::string("pass@") + k]["value"]);
  }
  EXPECT_LE(step.at(aux + "reward/pass@2"), step.at(aux + "reward/pass@4"));
  EXPECT_TRUE(step.contains("val-core/arithmetic/reward/mean@4"));
}

TEST_F(Evals, TheTableHasAColumnASet) {
  const ProgramResult result = RunProgram(TwoSets({}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  std::istringstream lines(result.out);
  std::string head;
  std::getline(lines, head);
  EXPECT_LT(head.find("arithmetic"), head.find("other"));
  EXPECT_NE(head.find("other"), std::string::npos);
  for (const char* row :
       {"\nproblems ", "\nmean@4 ", "\npass@2 ", "\nmaj@4 ", "\nlength cv_within ",
        "\nkl k3_token ", "\nself_bleu ", "\nrep_5 ", "\nphrases backtracking "}) {
    EXPECT_NE(result.out.find(row), std::string::npos) << row << "\n" << result.out;
  }
}

TEST_F(Evals, BadOptionsAreRefusedByName) {
  const std::string other = *scratch_ / "other.jsonl";
  fs::create_directories(*scratch_ / "second");
  fs::copy_file(other, *scratch_ / "second/other.jsonl", fs::copy_options::overwrite_existing);
  const std::vector<std::pair<std::vector<std::string>, std::string>> bad = {
      {{"--k", "5"}, "raise -n"},
      {{"--k", "0"}, "--k"},
      {{"--chunk", "2"}, "needs --out"},
      {{"--against", other}, "needs --judge"},
      {{"--judge-set", "max_tokens=7"}, "needs --judge"},
      {{"--bleu-tokenizer", "intl"}, "--bleu-tokenizer"},
      {{"--prompts", "-1"}, "--prompts"},
      {{"--rep-n", "0"}, "--rep-n"},
      {{"--data", other, "--data", *scratch_ / "second/other.jsonl"}, "both called other"},
  };
  for (const auto& [options, message] : bad) {
    std::vector<std::string> args = {"eval", "--model", Model(), "-n", "4"};
    args.insert(args.end(), options.begin(), options.end());
    const ProgramResult result = RunProgram(args);
    EXPECT_EQ(result.exit_code, 2) << result.err;
    EXPECT_NE(result.err.find(message), std::string::npos) << result.err;
  }
  const std::string wide = *scratch_ / "wide";
  ASSERT_EQ(RunProgram({"init", wide, "--vocab", "300"}).exit_code, 0);
  const ProgramResult vocabulary = RunProgram(Command({"--reference", wide}));
  EXPECT_EQ(vocabulary.exit_code, 3) << vocabulary.err;
  EXPECT_NE(vocabulary.err.find("another vocabulary"), std::string::npos) << vocabulary.err;
}

}  // namespace
}  // namespace opo
