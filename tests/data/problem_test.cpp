#include "data/problem.h"

#include <gtest/gtest.h>

#include <fstream>

#include "base/error.h"

namespace opo {
namespace {

using Json = nlohmann::ordered_json;

std::string MessageOf(const std::string& text) {
  try {
    ParseProblems(text, DataFormat::kJsonLines, "p.jsonl");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInput);
    return error.what();
  }
  ADD_FAILURE() << "accepted: " << text;
  return "";
}

TEST(Problems, VerlSchema) {
  const auto problems = ParseProblems(
      R"({"data_source": "gsm8k", "prompt": [{"role": "system", "content": "Be brief."}, )"
      R"({"role": "user", "content": "1+1?"}], "ability": "math", )"
      R"("reward_model": {"style": "rule", "ground_truth": "2"}, )"
      R"("extra_info": {"split": "train", "index": 17}})",
      DataFormat::kJsonLines, "p.jsonl");
  ASSERT_EQ(problems.size(), 1U);
  const Problem& p = problems[0];
  EXPECT_EQ(p.id, "17");
  EXPECT_EQ(p.answer, "2");
  EXPECT_EQ(p.data_source, "gsm8k");
  ASSERT_EQ(p.messages.size(), 2U);
  EXPECT_EQ(p.messages[1]["content"], "1+1?");
  EXPECT_EQ(p.extra["ability"], "math");
  EXPECT_EQ(p.extra["extra_info"]["split"], "train");
  EXPECT_FALSE(p.extra.contains("prompt"));
}

TEST(Problems, PlainRows) {
  const auto problems = ParseProblems(
      "\xef\xbb\xbf{\"prompt\": \"1+1?\", \"answer\": 2, \"id\": \"a\", \"level\": 3}\r\n"
      "\n"
      "{\"prompt\": \"no answer\"}",
      DataFormat::kJsonLines, "folder/sums.jsonl");
  ASSERT_EQ(problems.size(), 2U);
  EXPECT_EQ(problems[0].messages.dump(), R"([{"role":"user","content":"1+1?"}])");
  EXPECT_EQ(problems[0].answer, "2");
  EXPECT_EQ(problems[0].id, "a");
  EXPECT_EQ(problems[0].data_source, "sums");
  EXPECT_EQ(problems[0].extra.dump(), R"({"answer":2,"level":3})");
  EXPECT_EQ(problems[1].answer, "");
  EXPECT_EQ(problems[1].id, "");
}

TEST(Problems, ErrorsNameFileLineAndField) {
  EXPECT_EQ(
      MessageOf("{\"prompt\": \"a\"}\n{\"answer\": \"b\"}"),
      "p.jsonl:2: has no 'prompt'; its keys are: answer; data.prompt_key names the one to take");
  EXPECT_EQ(MessageOf("{\"prompt\": [{\"role\": \"user\"}]}"),
            "p.jsonl:1: 'prompt[0].content' must be text");
  EXPECT_EQ(MessageOf("{\"prompt\": [\"a\"]}"), "p.jsonl:1: 'prompt[0].role' must be text");
  EXPECT_EQ(MessageOf("{\"prompt\": []}"),
            "p.jsonl:1: 'prompt' must be text or a list of messages");
  EXPECT_EQ(MessageOf("{\"prompt\": \"a\", \"id\": [1]}"),
            "p.jsonl:1: 'id' must be text or a number");
  EXPECT_EQ(MessageOf("{\"promt\": \"a\", \"x\": 1}"),
            "p.jsonl:1: has no 'prompt'; did you mean 'promt'? its keys are: promt, x; "
            "data.prompt_key names the one to take");
  EXPECT_EQ(MessageOf("\n[1]"), "p.jsonl:2: must be a JSON object");
  EXPECT_EQ(MessageOf("{\"prompt\": \"a\""), "p.jsonl:1: not valid JSON at byte 15 of the line");
  EXPECT_EQ(MessageOf(" \n\n"), "p.jsonl: has no rows");
  EXPECT_NE(MessageOf("{\"prompt\": \"\xff\"}").find("not valid JSON"), std::string::npos);
}

TEST(Problems, DeepNestingIsRefusedNotRecursed) {
  const std::string deep(1'000'000, '[');
  EXPECT_NE(MessageOf("{\"prompt\": " + deep).find("nested deeper than 64"), std::string::npos);
}

TEST(Problems, LoadReadsAFileAndNamesAMissingOne) {
  const std::string path = testing::TempDir() + "/set.jsonl";
  std::ofstream(path) << "{\"prompt\": \"a\", \"answer\": \"b\"}\n";
  EXPECT_EQ(LoadProblems(path).at(0).data_source, "set");
  try {
    LoadProblems(path + ".absent");
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInput);
    EXPECT_NE(std::string(error.what()).find("set.jsonl.absent"), std::string::npos);
  }
}

// One row with these keys.
Problem Row(const std::string& json, const ProblemKeys& keys = {}) {
  return ProblemFromRow(Json::parse(json), "p:1", "p", keys);
}

std::string RowError(const std::string& json, const ProblemKeys& keys) {
  try {
    Row(json, keys);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInput);
    return error.what();
  }
  ADD_FAILURE() << "accepted: " << json;
  return "";
}

TEST(Problems, TrlSchema) {
  const Problem p = Row(R"({"prompt": "1+1?", "solution": "\\boxed{2}", "level": "easy"})");
  EXPECT_EQ(p.answer, "\\boxed{2}");
  EXPECT_EQ(p.extra.dump(), R"({"solution":"\\boxed{2}","level":"easy"})");
  EXPECT_EQ(Row(R"({"prompt": "a", "ground_truth": "x", "solution": "y"})").answer, "y");
  EXPECT_EQ(Row(R"({"prompt": "a", "ground_truth": "x"})").answer, "x");
  const Problem chat = Row(R"({"prompt": [{"role": "user", "content": "a"}], "answer": null})");
  EXPECT_EQ(chat.messages[0]["content"], "a");
  EXPECT_EQ(chat.answer, "");
}

TEST(Problems, OpenRlhfsKeysAndTemplate) {
  ProblemKeys keys{"input", "meta.label", "uid", "Question: {}\nAnswer:"};
  const Problem p =
      Row(R"({"input": "1+1?", "meta": {"label": 2.5}, "uid": 7, "id": "kept"})", keys);
  EXPECT_EQ(p.messages.dump(), R"([{"role":"user","content":"Question: 1+1?\nAnswer:"}])");
  EXPECT_EQ(p.answer, "2.5");
  EXPECT_EQ(p.id, "7");
  EXPECT_EQ(p.extra["id"], "kept");
  EXPECT_FALSE(p.extra.contains("input"));
  // A column whose name has a dot comes before a path.
  keys.answer = "a.b";
  EXPECT_EQ(Row(R"({"input": "x", "a.b": "1", "a": {"b": "2"}, "uid": 1})", keys).answer, "1");
  // The template goes around the last user message.
  const Problem chat =
      Row(R"({"input": [{"role":"user","content":"a"},{"role":"user","content":"b"},)"
          R"({"role":"assistant","content":"c"}], "a.b": "", "uid": 1})",
          keys);
  EXPECT_EQ(chat.messages[0]["content"], "a");
  EXPECT_EQ(chat.messages[1]["content"], "Question: b\nAnswer:");
  EXPECT_NE(RowError(R"({"input": [{"role":"system","content":"a"}], "a.b": "", "uid": 1})", keys)
                .find("has no user message"),
            std::string::npos);
}

TEST(Problems, KeysThatAreNamedMustBeThere) {
  EXPECT_EQ(RowError(R"({"question": "a", "answers": "b"})", {"question", "answer", "", ""}),
            "p:1: has no 'answer'; did you mean 'answers'? its keys are: question, answers; "
            "data.answer_key names the one to take");
  EXPECT_EQ(
      RowError(R"({"prompt": "a", "m": {"x": 1}})", {"", "m.label", "", ""}),
      "p:1: has no 'm.label'; its keys are: prompt, m; data.answer_key names the one to take");
  EXPECT_EQ(RowError(R"({"prompt": "a", "m": 1})", {"", "m.y", "", ""}).substr(0, 16),
            "p:1: has no 'm.y");
  EXPECT_EQ(Row(R"({"prompt": "a", "m": null})", {"", "m", "", ""}).answer, "");
}

TEST(Problems, GoldAnswersThatAreNoTextBecomeCompactJson) {
  const Problem p = Row(
      R"({"prompt": "a", "reward_model": {"ground_truth": {"target": 18, "numbers": [65, 75]}}})");
  EXPECT_EQ(p.answer, R"({"target":18,"numbers":[65,75]})");
  EXPECT_EQ(p.extra["reward_model"]["ground_truth"]["target"], 18);
  EXPECT_EQ(Row(R"({"prompt": "a", "answer": true})").answer, "true");
}

TEST(Problems, BadRowsAreCountedWhereThatIsAskedFor) {
  const std::string text =
      "{\"prompt\": \"a\"}\nnot json\n[1]\n{\"answer\": 1}\n{\"prompt\": \"b\"}\n";
  LoadOptions options;
  options.skip_bad = true;
  LoadReport report;
  const auto problems = ParseProblems(text, DataFormat::kJsonLines, "p.jsonl", options, &report);
  EXPECT_EQ(problems.size(), 2U);
  EXPECT_EQ(report.rows, 5);
  EXPECT_EQ(report.bad, 3);
  EXPECT_EQ(report.first_bad, "p.jsonl:2: not valid JSON at byte 2 of the line");
  try {
    ParseProblems("x\ny\n", DataFormat::kJsonLines, "p.jsonl", options);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("no rows that can be read; the first of 2: p.jsonl:1"),
              std::string::npos);
  }
}

TEST(Problems, ANameThatIsNothingNamesTheBuiltInSets) {
  try {
    LoadProblems("coutdown");
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("did you mean countdown? "), std::string::npos)
        << error.what();
  }
}

TEST(Problems, NormalisedForgetsWhatCopiesDifferIn) {
  EXPECT_EQ(Normalised("  What is  2 + 3?\n"), "what is 2 + 3");
  EXPECT_EQ(Normalised("what is 2 + 3"), "what is 2 + 3");
  EXPECT_NE(Normalised("What is 2 * 3?"), Normalised("What is 2 + 3?"));
  EXPECT_NE(Normalised("1 23"), Normalised("12 3"));
  EXPECT_EQ(Normalised("Pay $1,000.50 (now)."), "pay 1000.50 now");
  EXPECT_EQ(Normalised("É数"), "É数");
}

}  // namespace
}  // namespace opo
