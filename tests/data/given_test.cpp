// Demonstrations and preferences in the forms that they come in.
#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "data/data_set.h"
#include "data/problem.h"

namespace opo {
namespace {

using Json = nlohmann::ordered_json;

Problem Row(const std::string& json, GivenAnswers given, const ProblemKeys& keys = {}) {
  return ProblemFromRow(Json::parse(json), "p.jsonl:1", "p", keys, given);
}
Problem Demonstration(const std::string& json, const ProblemKeys& keys = {}) {
  return Row(json, GivenAnswers::kDemonstrations, keys);
}
Problem Pair(const std::string& json, const ProblemKeys& keys = {}) {
  return Row(json, GivenAnswers::kPairs, keys);
}

// "user: a | assistant: b"
std::string Text(const Json& messages) {
  std::string text;
  for (const Json& message : messages) {
    text += (text.empty() ? "" : " | ") + message["role"].get<std::string>() + ": " +
            message["content"].get<std::string>();
  }
  return text;
}

std::string ErrorOf(const std::string& json, GivenAnswers given, const ProblemKeys& keys = {}) {
  try {
    Row(json, given, keys);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInput);
    return error.what();
  }
  return "accepted: " + json;
}

TEST(GivenRows, DemonstrationsAsMessages) {
  const Problem p = Demonstration(
      R"({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}, )"
      R"({"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}, )"
      R"({"role": "assistant", "content": "d"}], "id": 7, "source": "x"})");
  EXPECT_EQ(Text(p.messages), "system: s | user: a");
  ASSERT_EQ(p.answers.size(), 1U);
  EXPECT_EQ(Text(p.answers[0]), "assistant: b | user: c | assistant: d");
  EXPECT_EQ(p.id, "7");
  EXPECT_EQ(p.extra.dump(), R"({"source":"x"})");
}

TEST(GivenRows, DemonstrationsAsPromptAndCompletion) {
  for (const char* row :
       {R"({"prompt": "a", "completion": "b"})",
        R"({"prompt": [{"role": "user", "content": "a"}], "completion": "b"})",
        R"({"prompt": "a", "completion": [{"role": "assistant", "content": "b"}]})",
        // Some repeat the prompt.
        R"({"prompt": "a", "completion": [{"role": "user", "content": "a"},)"
        R"( {"role": "assistant", "content": "b"}]})"}) {
    const Problem p = Demonstration(row);
    EXPECT_EQ(Text(p.messages), "user: a") << row;
    ASSERT_EQ(p.answers.size(), 1U);
    EXPECT_EQ(Text(p.answers[0]), "assistant: b") << row;
    EXPECT_TRUE(p.extra.empty());
  }
  ProblemKeys keys;
  keys.prompt = "instruction";
  keys.completion = "reply.text";
  keys.template_text = "Do: {}";
  const Problem p =
      Demonstration(R"({"instruction": "a", "reply": {"text": "b"}, "prompt": "other"})", keys);
  EXPECT_EQ(Text(p.messages), "user: Do: a");
  EXPECT_EQ(Text(p.answers[0]), "assistant: b");
}

TEST(GivenRows, PairsBehindAPrompt) {
  for (const char* row :
       {R"({"prompt": "a", "chosen": "b", "rejected": "c"})",
        R"({"prompt": [{"role": "user", "content": "a"}], "chosen": "b", )"
        R"("rejected": [{"role": "assistant", "content": "c"}]})",
        // As ultrafeedback_binarized has it.
        R"({"prompt": "a", "chosen": [{"role": "user", "content": "a"}, {"role": "assistant",)"
        R"( "content": "b"}], "rejected": [{"role": "user", "content": "a"}, {"role":)"
        R"( "assistant", "content": "c"}]})",
        R"({"prompt": "\n\nHuman: a\n\nAssistant:", "chosen": " b", "rejected":)"
        R"( "\n\nHuman: a\n\nAssistant: c"})",
        // As messages, without `prompt`; null as Parquet has it.
        R"({"prompt": null, "chosen": [{"role": "user", "content": "a"}, {"role": "assistant",)"
        R"( "content": "b"}], "rejected": [{"role": "user", "content": "a"}, {"role":)"
        R"( "assistant", "content": "c"}]})",
        // Anthropic's form.
        R"({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\n)"
        R"(Assistant: c"})"}) {
    const Problem p = Pair(row);
    EXPECT_EQ(Text(p.messages), "user: a") << row;
    ASSERT_EQ(p.answers.size(), 2U);
    const bool spaced = std::string(row).find("\" b\"") != std::string::npos;
    EXPECT_EQ(Text(p.answers[0]), spaced ? "assistant:  b" : "assistant: b") << row;
    EXPECT_EQ(Text(p.answers[1]), "assistant: c") << row;
    EXPECT_EQ(p.margin, 0);
  }
}

TEST(GivenRows, ConversationsThatPartLate) {
  // At the second answer.
  const Problem p = Pair(
      R"({"chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c: Human: x\n\nAssistant: d\n\nd",)"
      R"( "rejected": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c: Human: x\n\nAssistant: e"})");
  EXPECT_EQ(Text(p.messages), "user: a | assistant: b | user: c: Human: x");
  EXPECT_EQ(Text(p.answers[0]), "assistant: d\n\nd");
  EXPECT_EQ(Text(p.answers[1]), "assistant: e");
  // At a question: the answers begin with the turn before.
  const Problem q =
      Pair(R"({"chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d",)"
           R"( "rejected": "\n\nHuman: a\n\nAssistant: b\n\nHuman: x\n\nAssistant: e"})");
  EXPECT_EQ(Text(q.messages), "user: a");
  EXPECT_EQ(Text(q.answers[0]), "assistant: b | user: c | assistant: d");
  // One goes on where the other ends.
  const Problem r =
      Pair(R"({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: b)"
           R"(\n\nHuman: c\n\nAssistant: d"})");
  EXPECT_EQ(Text(r.messages), "user: a");
  EXPECT_EQ(Text(r.answers[0]), "assistant: b");
  EXPECT_EQ(Text(r.answers[1]), "assistant: b | user: c | assistant: d");
}

TEST(GivenRows, MarginsAndBoth) {
  EXPECT_EQ(Pair(R"({"prompt": "a", "chosen": "b", "rejected": "c", "margin": 1.5})").margin, 1.5);
  EXPECT_EQ(Pair(R"({"prompt": "a", "chosen": "b", "rejected": "c", "margin": " 2 "})").margin, 2);
  EXPECT_EQ(Pair(R"({"prompt": "a", "chosen": "b", "rejected": "c", "margin": null})").margin, 0);
  EXPECT_EQ(ErrorOf(R"({"prompt": "a", "chosen": "b", "rejected": "c", "margin": "2x"})",
                    GivenAnswers::kPairs),
            "p.jsonl:1: 'margin' must be a number: by how much the chosen answer is better");
  EXPECT_EQ(
      Row(R"({"prompt": "a", "chosen": "b", "rejected": "c"})", GivenAnswers::kBoth).answers.size(),
      2U);
  EXPECT_EQ(Row(R"({"prompt": "a", "completion": "b"})", GivenAnswers::kBoth).answers.size(), 1U);
  // A run that samples takes no answers.
  const Problem p = Row(R"({"prompt": "a", "completion": "b"})", GivenAnswers::kNothing);
  EXPECT_TRUE(p.answers.empty());
  EXPECT_EQ(p.extra.dump(), R"({"completion":"b"})");
}

TEST(GivenRows, ErrorsNameTheFieldAndTheCure) {
  const auto demo = GivenAnswers::kDemonstrations;
  const auto pair = GivenAnswers::kPairs;
  EXPECT_EQ(ErrorOf(R"({"prompt": "a", "answer": "b"})", demo),
            "p.jsonl:1: is no demonstration: needs 'messages', a list of messages with the "
            "assistant's, or a prompt and a 'completion', which data.prompt_key and "
            "data.completion_key name; its keys are: prompt, answer");
  ProblemKeys keys;
  keys.completion = "output";
  EXPECT_EQ(ErrorOf(R"({"prompt": "a", "outputs": "b"})", demo, keys),
            "p.jsonl:1: has no 'output'; did you mean 'outputs'? its keys are: prompt, outputs; "
            "data.completion_key names the one to take");
  EXPECT_EQ(ErrorOf(R"({"messages": [{"role": "user", "content": "a"}]})", demo),
            "p.jsonl:1: 'messages' has no message of the assistant, which would be learned");
  EXPECT_EQ(ErrorOf(R"({"messages": [{"role": "assistant", "content": "a"}]})", demo),
            "p.jsonl:1: 'messages[0]' is the assistant's: a prompt must come before it");
  EXPECT_EQ(ErrorOf(R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant",)"
                    R"( "content": "b"}, {"role": "user", "content": "c"}]})",
                    demo),
            "p.jsonl:1: the answer in 'messages' must end with a message of the assistant, not of "
            "'user'");
  EXPECT_EQ(ErrorOf(R"({"messages": [{"role": "user", "content": null}]})", demo),
            "p.jsonl:1: 'messages[0].content' must be text");
  EXPECT_EQ(ErrorOf(R"({"prompt": "a", "chosen": "b"})", pair),
            "p.jsonl:1: is no pair: has no 'rejected'; what learns from preferences needs 'chosen' "
            "and 'rejected', texts or messages, behind a 'prompt' or with one that both begin with "
            "(`opo data make-pairs` makes such rows); its keys are: prompt, chosen");
  EXPECT_NE(
      ErrorOf(R"({"chosen": "b", "rejected": "c"})", pair)
          .find("has no 'prompt', and 'chosen' is neither messages nor a text in the form of"),
      std::string::npos);
  EXPECT_EQ(ErrorOf(R"({"chosen": [{"role": "user", "content": "a"}], "rejected": )"
                    R"([{"role": "user", "content": "b"}]})",
                    pair),
            "p.jsonl:1: 'chosen' and 'rejected' must begin with the same prompt and then have the "
            "assistant's answers; or give the prompt as 'prompt'");
  EXPECT_EQ(ErrorOf(R"({"prompt": "a", "chosen": [{"role": "user", "content": "x"}, )"
                    R"({"role": "assistant", "content": "y"}], "rejected": "c"})",
                    pair),
            "p.jsonl:1: the answer in 'chosen' must begin with a message of the assistant, not of "
            "'user'");
}

TEST(GivenRows, EqualAnswersAreDroppedAndCounted) {
  LoadOptions options;
  options.given = GivenAnswers::kPairs;
  LoadReport report;
  const auto problems = ParseProblems(
      "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}\n"
      "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"b\"}",
      DataFormat::kJsonLines, "p.jsonl", options, &report);
  EXPECT_EQ(problems.size(), 1U);
  EXPECT_EQ(report.rows, 2);
  EXPECT_EQ(report.ties, 1);
  try {
    ParseProblems("{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"b\"}",
                  DataFormat::kJsonLines, "p.jsonl", options);
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "p.jsonl: has no rows but 1 pairs of equal answers");
  }
}

TEST(GivenRows, BuiltInSetsDemonstrateAndHaveNoPairs) {
  DataConfig config;
  DataSets data = LoadDataSets(config, GivenAnswers::kDemonstrations);
  ASSERT_FALSE(data.eval.empty());
  for (const auto* set : {&data.train, &data.eval}) {
    for (const Problem& p : *set) {
      ASSERT_EQ(p.answers.size(), 1U);
      EXPECT_EQ(Text(p.answers[0]), "assistant: " + p.answer);
    }
  }
  config.train = "countdown";
  config.size = 20;
  data = LoadDataSets(config, GivenAnswers::kDemonstrations);
  EXPECT_EQ(data.train[0].answers[0][0]["content"], data.train[0].extra["extra_info"]["solution"]);
  try {
    LoadDataSets(config, GivenAnswers::kPairs);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("has no pairs"), std::string::npos) << error.what();
  }
}

TEST(GivenRows, SharedPreferenceSets) {
  const std::string folder = std::string(OPO_SOURCE_DIR) + "/../shared/data/preference";
  if (!std::filesystem::exists(folder)) {
    GTEST_SKIP() << "no shared data: " << folder << " is absent";
  }
  for (const char* name : {"gsm8k_openai_solutions", "llamafactory_dpo_en", "math_qwen_cot"}) {
    DataConfig config;
    config.train = folder + "/" + name + ".jsonl";
    config.held_out = 0.1;
    const DataSets data = LoadDataSets(config, GivenAnswers::kPairs);
    EXPECT_GT(data.train.size(), 2 * data.eval.size()) << name;
    EXPECT_GT(data.eval.size(), 0U) << name;
    for (const Problem& p : data.train) {
      ASSERT_EQ(p.answers.size(), 2U);
      ASSERT_NE(Text(p.answers[0]), Text(p.answers[1]));
    }
    // A chosen answer is a demonstration too.
    config.completion_key = "chosen";
    EXPECT_EQ(LoadDataSets(config, GivenAnswers::kDemonstrations).train[0].answers[0],
              data.train[0].answers[0]);
  }
}

}  // namespace
}  // namespace opo
