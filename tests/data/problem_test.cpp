#include "data/problem.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <set>

#include "base/error.h"

namespace opo {
namespace {

std::string MessageOf(const std::string& text) {
  try {
    ParseProblems(text, "p.jsonl");
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
      "p.jsonl");
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
      "folder/sums.jsonl");
  ASSERT_EQ(problems.size(), 2U);
  EXPECT_EQ(problems[0].messages.dump(), R"([{"role":"user","content":"1+1?"}])");
  EXPECT_EQ(problems[0].answer, "2");
  EXPECT_EQ(problems[0].id, "a");
  EXPECT_EQ(problems[0].data_source, "sums");
  EXPECT_EQ(problems[0].extra.dump(), R"({"level":3})");
  EXPECT_EQ(problems[1].answer, "");
  EXPECT_EQ(problems[1].id, "");
}

TEST(Problems, ErrorsNameFileLineAndField) {
  EXPECT_EQ(MessageOf("{\"prompt\": \"a\"}\n{\"answer\": \"b\"}"),
            "p.jsonl:2: 'prompt' must be text or a list of messages");
  EXPECT_EQ(MessageOf("{\"prompt\": [{\"role\": \"user\"}]}"),
            "p.jsonl:1: 'prompt[0].content' must be text");
  EXPECT_EQ(MessageOf("{\"prompt\": [\"a\"]}"), "p.jsonl:1: 'prompt[0].role' must be text");
  EXPECT_EQ(MessageOf("{\"prompt\": []}"),
            "p.jsonl:1: 'prompt' must be text or a list of messages");
  EXPECT_EQ(MessageOf("{\"prompt\": \"a\", \"answer\": [1]}"),
            "p.jsonl:1: 'answer' must be text or a number");
  EXPECT_EQ(MessageOf("{\"prompt\": \"a\", \"reward_model\": {\"ground_truth\": {}}}"),
            "p.jsonl:1: 'reward_model.ground_truth' must be text or a number");
  EXPECT_EQ(MessageOf("\n[1]"), "p.jsonl:2: must be a JSON object");
  EXPECT_EQ(MessageOf("{\"prompt\": \"a\""), "p.jsonl:1: not valid JSON at byte 15 of the line");
  EXPECT_EQ(MessageOf(" \n\n"), "p.jsonl: has no rows; one JSON object a line");
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

TEST(Arithmetic, TheTwoPartsAreTheWholeAndDoNotShareAProduct) {
  const auto train = ArithmeticProblems(false);
  const auto held_out = ArithmeticProblems(true);
  EXPECT_EQ(train.size(), 70U);
  EXPECT_EQ(held_out.size(), 18U);
  std::set<std::string> ids;
  std::set<char> first_factors;
  for (const auto* part : {&train, &held_out}) {
    for (const Problem& p : *part) ids.insert(p.id);
  }
  EXPECT_EQ(ids.size(), 88U);
  std::set<std::string> second_factors;
  for (const Problem& p : held_out) {
    first_factors.insert(p.id[0]);
    second_factors.insert(p.id.substr(2));
    const std::string mirrored = p.id.substr(2) + "*" + p.id.substr(0, 1);
    for (const Problem& t : train) EXPECT_NE(t.id, mirrored);
  }
  EXPECT_EQ(first_factors.size(), 8U);
  EXPECT_EQ(second_factors.size(), 11U);
}

TEST(Arithmetic, ProblemsSayWhatTheyAre) {
  const Problem first = ArithmeticProblems(false).at(0);
  EXPECT_EQ(first.messages.dump(),
            R"([{"role":"user","content":"What is 2 * 3? Give only the number."}])");
  EXPECT_EQ(first.answer, "6");
  EXPECT_EQ(first.data_source, "arithmetic");
}

TEST(PromptOrder, EveryEpochIsAPermutationAndEpochsDiffer) {
  std::vector<idx> epochs[2];
  for (idx step = 0; step < 20; ++step) {
    for (const idx i : PromptOrder(70, 7 * step, 7, 1)) epochs[step / 10].push_back(i);
  }
  EXPECT_NE(epochs[0], epochs[1]);
  for (auto& epoch : epochs) {
    EXPECT_FALSE(std::is_sorted(epoch.begin(), epoch.end()));
    std::sort(epoch.begin(), epoch.end());
    for (idx i = 0; i < 70; ++i) EXPECT_EQ(epoch[static_cast<std::size_t>(i)], i);
  }
}

TEST(PromptOrder, StepsThatCrossAnEpochContinueTheSequence) {
  // The same sequence, cut in steps of 3 and of 12, and one step longer than an epoch.
  std::vector<idx> by3;
  std::vector<idx> by12;
  for (idx step = 0; step < 8; ++step) {
    for (const idx i : PromptOrder(5, 3 * step, 3, 9)) by3.push_back(i);
  }
  for (idx step = 0; step < 2; ++step) {
    for (const idx i : PromptOrder(5, 12 * step, 12, 9)) by12.push_back(i);
  }
  EXPECT_EQ(by3, by12);
}

TEST(PromptOrder, IsPureInSeedAndPosition) {
  EXPECT_EQ(PromptOrder(100, 30, 10, 5), PromptOrder(100, 30, 10, 5));
  EXPECT_NE(PromptOrder(100, 30, 10, 5), PromptOrder(100, 30, 10, 6));
  EXPECT_EQ(PromptOrder(1, 6, 3, 5), (std::vector<idx>{0, 0, 0}));
}

TEST(PromptOrder, ShufflesEvenly) {
  // All 6 orders of 3 problems, 6000 seeds: 1000 each, standard deviation 29.
  std::map<std::vector<idx>, int> counts;
  for (std::uint64_t seed = 0; seed < 6000; ++seed) ++counts[PromptOrder(3, 0, 3, seed)];
  EXPECT_EQ(counts.size(), 6U);
  for (const auto& [order, count] : counts) EXPECT_NEAR(count, 1000, 150);
}

}  // namespace
}  // namespace opo
