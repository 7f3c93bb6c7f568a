// opo data: what each verb writes, and what it refuses.
#include <gtest/gtest.h>

#include <set>

#include "app/program.h"

namespace opo {
namespace {

using nlohmann::json;

class Data : public ::testing::Test {
 protected:
  std::string Write(const std::string& name, const std::string& text) const {
    std::ofstream(scratch_ / name, std::ios::binary) << text;
    return scratch_ / name;
  }
  std::string Model() const {
    const std::string path = scratch_ / "model";
    EXPECT_EQ(RunProgram({"init", path}).exit_code, 0);
    return path;
  }
  ScratchFolder scratch_;
};

const std::string kVerl = std::string(OPO_SOURCE_DIR) + "/tests/format/golden/parquet/verl";

std::vector<json> Lines(const std::string& text) {
  std::vector<json> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(json::parse(line));
  return lines;
}

TEST_F(Data, MakeWritesVerlsSchema) {
  const std::string path = scratch_ / "gcd.jsonl";
  const ProgramResult made =
      RunProgram({"data", "make", "gcd", "--size", "20", "--seed", "3", "-o", path});
  EXPECT_EQ(made.exit_code, 0) << made.err;
  EXPECT_EQ(made.err, "gcd: 20 rows\n");
  const std::vector<json> rows = Lines(ReadText(path));
  ASSERT_EQ(rows.size(), 20U);
  EXPECT_EQ(rows[4]["data_source"], "gcd");
  EXPECT_EQ(rows[4]["prompt"][0]["role"], "user");
  EXPECT_EQ(rows[4]["reward_model"]["style"], "rule");
  EXPECT_EQ(rows[4]["extra_info"], json({{"split", "train"}, {"index", 4}}));
  // To standard output the same.
  EXPECT_EQ(RunProgram({"data", "make", "gcd", "--size", "20", "--seed", "3"}).out, ReadText(path));
  const auto held_out =
      Lines(RunProgram({"data", "make", "gcd", "--size", "20", "--held-out"}).out);
  EXPECT_EQ(held_out.size(), 2U);

  const ProgramResult wrong = RunProgram({"data", "make", "gdc"});
  EXPECT_EQ(wrong.exit_code, 2);
  EXPECT_NE(wrong.err.find("did you mean gcd? "), std::string::npos) << wrong.err;
}

TEST_F(Data, ConvertKeepsTheRows) {
  const std::string out = scratch_ / "verl.jsonl";
  const ProgramResult result = RunProgram({"data", "convert", kVerl + ".parquet", out});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(Lines(ReadText(out)), Lines(ReadText(kVerl + ".jsonl")));
  EXPECT_EQ(RunProgram({"data", "convert", out, out}).exit_code, 2);
  EXPECT_EQ(RunProgram({"data", "convert", out, scratch_ / "x.csv"}).exit_code, 2);
  const ProgramResult damaged =
      RunProgram({"data", "convert", Write("d.csv", "a,b\n1\n"), scratch_ / "d.jsonl"});
  EXPECT_EQ(damaged.exit_code, 3);
  EXPECT_NE(damaged.err.find("d.csv:2: has 1 fields"), std::string::npos) << damaged.err;
  EXPECT_FALSE(std::filesystem::exists(scratch_ / "d.jsonl"));
}

TEST_F(Data, ShowPrintsWhatTheModelSees) {
  const std::string file = Write("q.csv", "question,gold,level\n1+1?,2,easy\n2+2?,4,hard\n");
  const ProgramResult result =
      RunProgram({"data", "show", file, "--model", Model(), "-n", "1", "--prompt-key", "question",
                  "--answer-key", "gold", "--template", "Q: {}", "--system", "Be brief."});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out,
            "--- row 1 of 2, 18 tokens, q\nBe brief.\nQ: 1+1?\n\n--- answer: 2\n"
            "--- for rewards: gold, level\n");
  const ProgramResult lines = RunProgram(
      {"data", "show", file, "--model", scratch_ / "model", "--json", "--prompt-key", "question"});
  ASSERT_EQ(Lines(lines.out).size(), 2U);
  EXPECT_EQ(Lines(lines.out)[1]["text"], "2+2?\n");
  EXPECT_EQ(Lines(lines.out)[1]["tokens"], 5);
  const ProgramResult wrong = RunProgram({"data", "show", file, "--model", scratch_ / "model"});
  EXPECT_EQ(wrong.exit_code, 3);
  EXPECT_NE(wrong.err.find("q.csv:2: has no 'prompt'; its keys are: question, gold, level; "
                           "data.prompt_key names the one to take"),
            std::string::npos)
      << wrong.err;
}

TEST_F(Data, CheckReportsWhatIsWrong) {
  const std::string train =
      Write("t.jsonl",
            "{\"prompt\": \"What is 1 + 1?\", \"answer\": 2}\n"
            "{\"prompt\": \"what is  1 + 1\", \"answer\": 3}\n"
            "{\"prompt\": \"What is 1 * 1?\"}\n"
            "nonsense\n"
            "{\"prompt\": \"Long one, longer than the limit\", \"answer\": 0}\n");
  const std::string eval = Write("e.jsonl", "{\"prompt\": \"What is 1 * 1 ?\", \"answer\": 1}\n");
  const ProgramResult result = RunProgram({"data", "check", train, "--eval", eval, "--model",
                                           Model(), "--prompt-limit", "20", "--json"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  const json report = result.last_line();
  const json& data = report["data"];
  EXPECT_EQ(data["rows"], 5);
  EXPECT_EQ(data["bad"], 1);
  EXPECT_EQ(data["first_bad"].get<std::string>().substr(train.size()),
            ":4: not valid JSON at byte 2 of the line");
  EXPECT_EQ(data["without_answer"], 1);
  EXPECT_EQ(data["duplicates"], 1);
  EXPECT_EQ(data["duplicates_with_another_answer"], 1);
  EXPECT_EQ(data["longer_than_prompt_limit"], 1);
  EXPECT_EQ(data["prompt_tokens"],
            json({{"min", 15}, {"p50", 15}, {"p90", 32}, {"p99", 32}, {"max", 32}}));
  EXPECT_EQ(report["overlap"], 1);
  EXPECT_EQ(report["first_overlap"], "what is 1 * 1");
  const ProgramResult text = RunProgram({"data", "check", train, "--eval", eval});
  EXPECT_NE(text.out.find("in both: 1 questions; the first: what is 1 * 1\n"), std::string::npos)
      << text.out;
  EXPECT_EQ(RunProgram({"data", "check", train, "--prompt-limit", "5"}).exit_code, 2);
}

TEST_F(Data, BuiltInSetsHaveNothingInCommonWithWhatTheyHoldOut) {
  const json report =
      RunProgram({"data", "check", "countdown", "--eval", "countdown", "--json"}).last_line();
  EXPECT_EQ(report["overlap"], 0);
  EXPECT_EQ(report["data"]["rows"], 2000);
  EXPECT_EQ(report["eval"]["rows"], 200);
  EXPECT_EQ(report["data"]["duplicates"], 0);
}

// A run on a mix of Parquet, CSV and a built-in set; what is too long is left out and said.
TEST_F(Data, TrainTakesAllOfIt) {
  const std::string csv = Write(
      "sums.csv", "question,gold\n1+1?,2\n\"a question that is longer than all the others\",4\n");
  const std::string config = Write("run.toml",
                                   "[data]\nprompt_limit = 40\noverlong = \"drop\"\nsize = 30\n"
                                   "[[data.mix]]\npath = \"sums.csv\"\nprompt_key = \"question\"\n"
                                   "answer_key = \"gold\"\n"
                                   "[[data.mix]]\npath = \"arithmetic:1\"\nweight = 3\n"
                                   "[rollout]\nprompts = 4\nsamples = 2\nmax_new_tokens = 4\n"
                                   "[train]\nsteps = 2\n[checkpoint]\nevery = 0\n");
  const std::string run = scratch_ / "run";
  const ProgramResult result = RunProgram({"train", config, "--set", "run.dir=" + run});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(result.err.find("sums.csv: 1 of 2 prompts have more than data.prompt_limit = 40 tokens "
                            "and are dropped"),
            std::string::npos)
      << result.err;
  std::set<std::string> inputs;
  for (const json& line : Lines(ReadText(run + "/samples.jsonl"))) inputs.insert(line["input"]);
  EXPECT_TRUE(inputs.contains("1+1?\n"));
  EXPECT_GT(inputs.size(), 3U);
  // The resolved config is read back.
  const ProgramResult again = RunProgram({"train", run + "/config.toml", "--print-config"});
  EXPECT_NE(again.out.find("[[data.mix]]"), std::string::npos) << again.err;

  const ProgramResult error = RunProgram(
      {"train", config, "--set", "run.dir=" + run + "2", "--set", "data.overlong=error"});
  EXPECT_EQ(error.exit_code, 3);
  EXPECT_NE(error.err.find("sums.csv: problem 2 (id '') has 46 prompt tokens, data.prompt_limit is "
                           "40; raise it, or set data.overlong"),
            std::string::npos)
      << error.err;
  const ProgramResult cut = RunProgram(
      {"train", config, "--set", "run.dir=" + run + "3", "--set", "data.overlong=truncate"});
  EXPECT_EQ(cut.exit_code, 0);
  EXPECT_NE(cut.err.find("lose their beginning"), std::string::npos) << cut.err;
}

TEST_F(Data, TrainReadsVerlsParquet) {
  const std::string run = scratch_ / "run";
  const std::string config =
      Write("verl.toml", "[data]\ntrain = \"" + kVerl +
                             ".parquet\"\nheld_out = 0.3\n[rollout]\nprompts = 4\n"
                             "samples = 2\nmax_new_tokens = 4\n[train]\nsteps = 1\n"
                             "[checkpoint]\nevery = 0\n");
  const ProgramResult result = RunProgram({"train", config, "--set", "run.dir=" + run});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_TRUE(result.last_line().contains("eval_after")) << result.out;
  const std::vector<json> samples = Lines(ReadText(run + "/samples.jsonl"));
  ASSERT_EQ(samples.size(), 8U);  // all answers to 4 prompts
  EXPECT_NE(samples[0]["input"].get<std::string>().find("Ärger, 数学"), std::string::npos);
}

// What eval measures is what a run filters by: the same keys and template on both sides.
// The better answer is the one with more of what is rewarded; what was cut off, or differs in
// nothing, is in no pair. A reward model learns from the file as it is.
TEST_F(Data, MakePairsWritesTheBestAndTheWorst) {
  const std::string out = scratch_ / "pairs.jsonl";
  const auto make = [&](const std::string& pattern) {
    return RunProgram({"data", "make-pairs", "gcd", "--size", "6", "--model", Model(), "--samples",
                       "8", "--reward", "regex", "--reward-set", "pattern=" + pattern,
                       "--max-new-tokens", "200", "--quiet", "-o", out});
  };
  const ProgramResult result = make("[a-z]");
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const std::string written = ReadText(out);
  const std::vector<json> pairs = Lines(written);
  ASSERT_GT(pairs.size(), 0U);
  EXPECT_EQ(result.last_line()["pairs"], pairs.size());
  EXPECT_EQ(result.last_line()["pairs"].get<int>() + result.last_line()["ties"].get<int>(), 6);
  const auto has_letter = [](const json& answer) {
    const std::string text = answer.at(0).at("content");
    return std::any_of(text.begin(), text.end(), [](char c) { return c >= 'a' && c <= 'z'; });
  };
  for (const json& pair : pairs) {
    EXPECT_TRUE(has_letter(pair.at("chosen"))) << pair;
    EXPECT_FALSE(has_letter(pair.at("rejected"))) << pair;
    EXPECT_EQ(pair.at("margin"), 1);
    EXPECT_EQ(pair.at("prompt").at(0).at("role"), "user");
  }
  ASSERT_EQ(make("[a-z]").exit_code, 0);
  EXPECT_EQ(ReadText(out), written);

  Write("rm.toml",
        "[model]\npath = \"model\"\n[data]\ntrain = \"pairs.jsonl\"\n[rollout]\nprompts = 1\n"
        "[algorithm]\nname = \"reward_model\"\n[train]\nsteps = 1\n[checkpoint]\nevery = 0\n");
  const ProgramResult learned =
      RunProgram({"rm", scratch_ / "rm.toml", "--set", "run.dir=" + (scratch_ / "rm"), "--quiet"});
  EXPECT_EQ(learned.exit_code, 0) << learned.err;
  const ProgramResult none = make("no answer says this");
  EXPECT_EQ(none.exit_code, 1);
  EXPECT_NE(none.err.find("none of 6 problems has two answers that differ in reward"),
            std::string::npos)
      << none.err;
  EXPECT_EQ(ReadText(out), written) << "the file that was there is kept";
}

// Direct advantages from end to end: a model that writes three lines, each "a" or "b", and is right
// where all are "a"; how often its states end right, a critic of that, what it says of their next
// lines, and a policy that learned it.
TEST_F(Data, MakeStepsLeadsToAPolicyThatIsRightMoreOften) {
  std::string demonstrations;
  std::string problems;
  for (char first = 'p'; first <= 's'; ++first) {
    for (char second = 'p'; second <= 's'; ++second) {
      const std::string word = {first, second};
      problems += json({{"prompt", word}, {"answer", "-"}}).dump() + "\n";
      for (int lines = 0; lines < 8; ++lines) {
        std::string text;
        for (int bit = 0; bit < 3; ++bit) text += (lines >> bit & 1) == 0 ? "a\n" : "b\n";
        text.pop_back();
        demonstrations += json({{"prompt", word}, {"completion", text}}).dump() + "\n";
      }
    }
  }
  const std::string data = Write("problems.jsonl", problems);
  Write("demonstrations.jsonl", demonstrations);
  const std::string config =
      Write("run.toml", "[checkpoint]\nevery = 0\n[monitor]\nreport_every = 0\n");
  // A run named as its algorithm is, whose model is returned.
  const auto learn = [&](const std::string& verb, const std::string& algorithm,
                         const std::string& from, const std::string& rows,
                         std::vector<std::string> settings) {
    const std::string run = scratch_ / algorithm;
    settings.insert(settings.begin(),
                    {"algorithm.name=" + algorithm, "model.path=" + from, "run.dir=" + run,
                     "data.train=" + (scratch_ / rows), "train.steps=60"});
    std::vector<std::string> arguments = {verb, config, "--quiet"};
    for (const std::string& setting : settings) {
      arguments.insert(arguments.end(), {"--set", setting});
    }
    const ProgramResult result = RunProgram(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return run + "/model";
  };
  const std::vector<std::string> reward = {"--reward",
                                           "regex",
                                           "--reward-set",
                                           "pattern=^a\na\na$",
                                           "--temperature",
                                           "1",
                                           "--quiet",
                                           "--max-new-tokens",
                                           "8"};
  const auto run = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), reward.begin(), reward.end());
    const ProgramResult result = RunProgram(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result;
  };
  const auto right = [&](const std::string& model) {
    const ProgramResult result =
        run({"eval", "--model", model, "--data", data, "-n", "16", "--json"});
    return result.last_line()["sets"][0]["pass@1"]["value"].get<double>();
  };

  const std::string start =
      learn("sft", "sft", "", "demonstrations.jsonl", {"rollout.prompts=32", "train.lr=5e-3"});
  const double before = right(start);
  EXPECT_LT(before, 0.35) << "an eighth, but for what it was trained to";

  const std::string states = scratch_ / "states.jsonl";
  const std::vector<std::string> make = {"data", "make-steps", data, "--model", start};
  const auto with = [&](const std::vector<std::string>& more) {
    std::vector<std::string> all = make;
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  const std::vector<std::string> make_states = with({"--completions", "16", "-o", states});
  run(make_states);
  const std::string written = ReadText(states);
  for (const json& row : Lines(written)) {
    const std::string state = row.at("state");
    const double rate = row.at("values").at(0);
    EXPECT_EQ(row.at("completions"), 16);
    if (state.find('b') != std::string::npos) {
      EXPECT_EQ(rate, 0) << state;
    } else if (state == "a\na\n") {
      EXPECT_GT(rate, 0);
    }
  }
  // Killed in the middle of a row, the same command writes the same file.
  Write("states.jsonl", written.substr(0, written.size() / 2));
  run(make_states);
  EXPECT_EQ(ReadText(states), written);

  const std::string critic = learn("rm", "step_critic", start, "states.jsonl",
                                   {"rollout.prompts=32", "train.lr=5e-3", "train.steps=150"});
  run(with({"--critic", critic, "--candidates", "8", "-o", scratch_ / "steps.jsonl"}));
  for (const json& row : Lines(ReadText(scratch_ / "steps.jsonl"))) {
    double sum = 0;
    for (const double advantage : row.at("advantages")) sum += advantage;
    EXPECT_NEAR(sum, 0, 1e-9);
    EXPECT_GE(row.at("steps").size(), 2U);
    if (row.at("state") != "a\na\n") continue;
    for (std::size_t i = 0; i < row.at("steps").size(); ++i) {
      const std::string step = row.at("steps").at(i);
      if (step.ends_with('\n')) continue;
      EXPECT_EQ(row.at("values").at(i), step == "a" ? 1 : 0) << "the answer ends: no critic";
    }
  }
  const std::string policy =
      learn("train", "direct_advantage", start, "steps.jsonl",
            {"rollout.prompts=16", "train.lr=1e-3", "train.steps=100", "algorithm.step_beta=0.2"});
  // With the seeds 1 to 4: 0.09 to 0.12 before, 0.58 to 0.63 behind.
  EXPECT_GT(right(policy), before + 0.3);
}

TEST_F(Data, PassRatesGoFromEvalToTrain) {
  const std::string csv = Write("q.csv", "question,gold\n1+1?,2\n2+2?,4\n");
  const std::string rates = scratch_ / "rates.jsonl";
  const ProgramResult eval = RunProgram(
      {"eval", "--model", Model(), "--data", csv, "--prompt-key", "question", "--answer-key",
       "gold", "--template", "Q: {}", "--max-new-tokens", "2", "--pass-rates", rates, "--quiet"});
  ASSERT_EQ(eval.exit_code, 0) << eval.err;
  const std::vector<json> lines = Lines(ReadText(rates));
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(lines[0]["prompt"], "Q: 1+1?");
  // A random model is right about nothing, so one made-up rate makes the difference.
  Write("rates.jsonl", lines[0].dump() + "\n{\"prompt\": \"Q: 2+2?\", \"pass_rate\": 0.5}\n");
  const std::string config =
      Write("band.toml",
            "[data]\ntrain = \"q.csv\"\nprompt_key = \"question\"\nanswer_key = \"gold\"\n"
            "template = \"Q: {}\"\npass_rates = \"rates.jsonl\"\npass_rate_min = 0.4\n"
            "[rollout]\nprompts = 2\nsamples = 2\nmax_new_tokens = 2\n[train]\nsteps = 1\n"
            "[checkpoint]\nevery = 0\n");
  const std::string run = scratch_ / "run";
  const ProgramResult train = RunProgram({"train", config, "--set", "run.dir=" + run});
  ASSERT_EQ(train.exit_code, 0) << train.err;
  EXPECT_NE(train.err.find("1 of 2 problems have a pass rate outside of 0.4 to 1"),
            std::string::npos)
      << train.err;
  for (const json& line : Lines(ReadText(run + "/samples.jsonl"))) {
    EXPECT_EQ(line["input"], "Q: 2+2?\n");
  }
  const ProgramResult none = RunProgram(
      {"train", config, "--set", "run.dir=" + run + "2", "--set", "data.pass_rate_min=0.9"});
  EXPECT_EQ(none.exit_code, 3);
  EXPECT_NE(none.err.find("no problem has a pass rate from 0.9 to 1; widen the band"),
            std::string::npos)
      << none.err;
}

}  // namespace
}  // namespace opo
