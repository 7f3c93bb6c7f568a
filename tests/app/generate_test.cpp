// opo generate, chat and eval as their users meet them.
#include <gtest/gtest.h>

#include "app/program.h"

namespace opo {
namespace {

using nlohmann::json;

class Generation : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    scratch_ = new ScratchFolder;
    const auto made = RunProgram({"init", Model(), "--std", "0.1", "--max-position", "64"});
    ASSERT_EQ(made.exit_code, 0) << made.err;
  }
  static void TearDownTestSuite() { delete scratch_; }
  static std::string Model() { return *scratch_ / "model"; }

  static ProgramResult Generate(std::vector<std::string> more) {
    std::vector<std::string> args = {"generate", "--model", Model(), "--max-new-tokens", "12"};
    args.insert(args.end(), more.begin(), more.end());
    return RunProgram(args);
  }
  static std::string Write(const std::string& name, const std::string& text) {
    std::ofstream(*scratch_ / name) << text;
    return *scratch_ / name;
  }
  static std::vector<json> Lines(const ProgramResult& result) {
    EXPECT_EQ(result.exit_code, 0) << result.err;
    std::vector<json> lines;
    std::istringstream text(result.out);
    for (std::string line; std::getline(text, line);) lines.push_back(json::parse(line));
    return lines;
  }

  static ScratchFolder* scratch_;
};
ScratchFolder* Generation::scratch_ = nullptr;

TEST_F(Generation, EachBadValueIsRefusedByName) {
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"--temperature", "-1"},
      {"--temperature", "nan"},
      {"--temperature", "1e-9"},
      {"--top-k", "-1"},
      {"--top-k", "2.5"},
      {"--top-p", "0"},
      {"--top-p", "1.01"},
      {"--min-p", "-0.1"},
      {"--min-p", "x"},
      {"--repetition-penalty", "0"},
      {"--repetition-penalty", ""},
      {"--presence-penalty", "3"},
      {"--frequency-penalty", "inf"},
      {"--logit-bias", "5"},
      {"--logit-bias", "x=1"},
      {"--logit-bias", "5=inf"},
      {"--logit-bias", "{\"5\":[]}"},
      {"--logit-bias", "{"},
      {"--seed", "-1"},
      {"--max-new-tokens", "0"},
      {"-n", "0"},
  };
  for (const auto& [option, value] : bad) {
    // Alone, or the option would be there twice.
    const auto result =
        RunProgram({"generate", "--model", Model(), "--prompt", "x", option, value});
    EXPECT_EQ(result.exit_code, 2) << option << " " << value;
    EXPECT_NE(result.err.find(option), std::string::npos) << result.err;
  }
  const auto outside = Generate({"--prompt", "x", "--logit-bias", "259=1"});
  EXPECT_EQ(outside.exit_code, 2);
  EXPECT_NE(outside.err.find("259"), std::string::npos) << outside.err;
}

TEST_F(Generation, SeedsAndSamples) {
  const std::vector<std::string> four = {"--prompt", "x", "-n", "4", "--json"};
  const auto a = Lines(Generate(four));
  ASSERT_EQ(a.size(), 4U);
  EXPECT_NE(a[0]["ids"], a[1]["ids"]);
  EXPECT_EQ(a, Lines(Generate(four)));
  const auto b = Lines(Generate({"--prompt", "x", "-n", "4", "--json", "--seed", "2"}));
  EXPECT_NE(a[0]["ids"], b[0]["ids"]);
  // Fewer samples are the first ones.
  EXPECT_EQ(Lines(Generate({"--prompt", "x", "--json"}))[0], a[0]);
}

TEST_F(Generation, BiasesForbidAndForce) {
  for (const json& line :
       Lines(Generate({"--prompt", "x", "-n", "3", "--json", "--logit-bias", "65=1000"}))) {
    EXPECT_EQ(line["text"], "AAAAAAAAAAAA");
    EXPECT_LT(line["logprobs"][0].get<double>(), -0.5) << "the model's own log-prob";
  }
  const auto object =
      Lines(Generate({"--prompt", "x", "--json", "--logit-bias", "{\"66\":1000,\"65\":\"-inf\"}"}));
  EXPECT_EQ(object[0]["text"], "BBBBBBBBBBBB");
  const auto twice =
      Generate({"--prompt", "x", "--logit-bias", "5=1", "--logit-bias", "{\"5\":2}"});
  EXPECT_EQ(twice.exit_code, 2);
  EXPECT_NE(twice.err.find("twice"), std::string::npos) << twice.err;
}

TEST_F(Generation, LinesHaveTheirOwnSettings) {
  const std::string input = Write(
      "in.jsonl",
      "{\"prompt\":\"a\",\"id\":\"first\",\"n\":2,\"logit_bias\":{\"65\":1000},\"answer\":\"5\"}\n"
      "{\"prompt\":\"b\",\"max_new_tokens\":3,\"stop\":[\"CC\"],\"logit_bias\":{\"67\":1000}}\n"
      "{\"prompt_ids\":[100,101],\"temperature\":0,\"top_k\":5,\"seed\":8}\n");
  const auto lines = Lines(Generate({"--input", input, "--json"}));
  ASSERT_EQ(lines.size(), 4U);
  EXPECT_EQ(lines[0]["id"], "first");
  EXPECT_EQ(lines[1]["id"], "first");
  EXPECT_EQ(lines[1]["sample"], 1);
  EXPECT_EQ(lines[1]["text"], "AAAAAAAAAAAA");
  EXPECT_EQ(lines[2]["text"], "");
  EXPECT_EQ(lines[2]["finish_reason"], "stop");
  EXPECT_EQ(lines[2]["ids"].size(), 2U);
  EXPECT_EQ(lines[3]["prompt"], 2);
  // Each line alone gives the same.
  const std::string last = Write("last.jsonl", "{\"prompt_ids\":[100,101]}\n");
  EXPECT_EQ(Lines(Generate({"--input", last, "--json", "--temperature", "0"}))[0]["ids"],
            lines[3]["ids"]);
}

TEST_F(Generation, BadLinesAreRefusedByPlaceAndKey) {
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"{\"prompt\":\"a\",\"temprature\":1}", "did you mean `temperature`"},
      {"{\"prompt\":\"a\",\"top_p\":2}", "`top_p`"},
      {"{\"prompt\":\"a\",\"top_p\":\"1\"}", "`top_p`"},
      {"{\"prompt\":\"a\",\"n\":0}", "`n`"},
      {"{\"prompt\":\"a\",\"n\":1.5}", "`n`"},
      {"{\"prompt\":\"a\",\"seed\":-1}", "`seed`"},
      {"{\"prompt\":\"a\",\"stop\":\"\"}", "`stop`"},
      {"{\"prompt\":\"a\",\"stop\":[1]}", "`stop`"},
      {"{\"prompt\":\"a\",\"logit_bias\":[1]}", "`logit_bias`"},
      {"{\"prompt\":\"a\",\"logit_bias\":{\"a\":1}}", "`logit_bias`"},
      {"{\"prompt\":\"a\",\"max_new_tokens\":63}", "64 positions"},
      {"{\"prompt\":\"a\",\"id\":[]}", "`id`"},
      {"{\"prompt\":\"a\",\"logit_bias\":{\"259\":1}}", "259"},
      {"{\"n\":1}", "prompt_ids"},
  };
  for (const auto& [line, named] : bad) {
    const std::string input = Write("bad.jsonl", "{\"prompt\":\"fine\"}\n\n" + line + "\n");
    const auto result = Generate({"--input", input});
    EXPECT_EQ(result.exit_code, 3) << line;
    EXPECT_NE(result.err.find("line 3"), std::string::npos) << result.err;
    EXPECT_NE(result.err.find(named), std::string::npos) << result.err;
  }
}

TEST_F(Generation, AStreamedAnswerIsTheAnswer) {
  for (const char* seed : {"1", "2", "3", "4"}) {
    const std::vector<std::string> options = {"--prompt", "x", "--seed", seed, "--stop", "Q"};
    std::vector<std::string> as_json = options;
    as_json.emplace_back("--json");
    EXPECT_EQ(Generate(options).out, Lines(Generate(as_json))[0]["text"].get<std::string>() + "\n");
  }
}

TEST_F(Generation, ProgressGoesToStderrAndCanBeQuiet) {
  EXPECT_NE(Generate({"--prompt", "x", "-n", "3"}).err.find("answer 3/3"), std::string::npos);
  EXPECT_EQ(Generate({"--prompt", "x", "-n", "3", "--quiet"}).err, "");
}

// A byte is a token here, and there are 64 positions.
TEST_F(Generation, ChatTakesTurnsAndSaysWhenPositionsEnd) {
  const auto chat = [](const std::string& input) {
    return RunProgram({"chat", "--model", Model(), "--max-new-tokens", "9", "--logit-bias",
                       "65=1000", "--stop", "AAAAAA"},
                      -1, SIGKILL, input);
  };
  const auto two = chat("hello\nagain\n");
  EXPECT_EQ(two.exit_code, 0) << two.err;
  EXPECT_EQ(two.out, "\n\n") << "cut before the stop string, and nothing of it shown";
  const std::string message(70, 'm');
  const auto cut =
      RunProgram({"chat", "--model", Model(), "--max-new-tokens", "25", "--logit-bias", "65=1000"},
                 -1, SIGKILL, "hello\n" + message + "\nhi again\n/reset\nhi\n\nx\n");
  EXPECT_EQ(cut.exit_code, 0) << cut.err;
  // hello\n and 25 A; then hello\n, the answer\n, hi again\n: 41 tokens, so 23 are left.
  EXPECT_EQ(cut.out, std::string(25, 'A') + "\n" + std::string(23, 'A') + "\n" +
                         std::string(25, 'A') + "\n");
  EXPECT_NE(cut.err.find("was not taken"), std::string::npos) << cut.err;
  EXPECT_NE(cut.err.find("no more positions"), std::string::npos) << cut.err;
}

TEST_F(Generation, EvalWritesWhatWasSampled) {
  const auto lines =
      Lines(RunProgram({"eval", "--model", Model(), "-n", "3", "--json", "--max-new-tokens", "4",
                        "--temperature", "1", "--top-k", "20", "--repetition-penalty", "1.1"}));
  ASSERT_EQ(lines.size(), 18U * 3 + 1);
  EXPECT_EQ(lines[4]["problem"], 1);
  EXPECT_EQ(lines[4]["sample"], 1);
  EXPECT_NE(lines[3]["text"], lines[4]["text"]);
  EXPECT_GT(lines[4]["length"], 0);
  EXPECT_EQ(lines.back()["samples"], 3);
  double sum = 0;
  for (std::size_t i = 0; i + 1 < lines.size(); ++i) sum += lines[i]["reward"].get<double>();
  EXPECT_NEAR(lines.back()["pass_rate"].get<double>(), sum / 54, 1e-12);
}

}  // namespace
}  // namespace opo
