#include "reward/reward.h"

#include <gtest/gtest.h>

#include <chrono>

#include "base/error.h"
#include "reward/kinds.h"

namespace opo {
namespace {

Problem WithAnswer(const std::string& answer) {
  Problem problem;
  problem.answer = answer;
  return problem;
}

RewardResult ScoreOf(const RewardConfig& config, const std::string& gold,
                     std::string_view completion) {
  return MakeReward({config})->Score(WithAnswer(gold), completion, FinishReason::kEos);
}

std::string MessageOf(const std::vector<RewardConfig>& terms) {
  try {
    MakeReward(terms);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    return error.what();
  }
  ADD_FAILURE() << "accepted";
  return "";
}

TEST(Number, LastNumberInNormalForm) {
  const struct {
    const char* text;
    const char* number;  // null: there is none
  } cases[] = {
      {"56", "56"},
      {"The answer is 56.", "56"},
      {"7 * 8 = 56", "56"},
      {"56.0", "56"},
      {"56.50", "56.5"},
      {"0056", "56"},
      {".5", "0.5"},
      {"0.5", "0.5"},
      {"-.5", "-0.5"},
      {"-5", "-5"},
      {"it is (-5)", "-5"},
      {"+5", "5"},
      {"\xe2\x88\x92"
       "5",
       "-5"},  // U+2212
      {"9-5", "5"},
      {"x-5", "5"},
      {"3 - 5", "5"},
      {"-0", "0"},
      {"-0.00", "0"},
      {"1,234", "1234"},
      {"$1,234,567.890!", "1234567.89"},
      {"-1,234", "-1234"},
      {"1,2,3", "3"},
      {"1,2345", "2345"},
      {"1234,567", "567"},
      {"1,234,56", "56"},
      {"12,", "12"},
      {"\\boxed{56}", "56"},
      {"**56**", "56"},
      {"56%", "56"},
      {"5 then 6 then seven", "6"},
      {"123456789012345678901234567890", "123456789012345678901234567890"},
      {"", nullptr},
      {"no digits at all, - . ,", nullptr},
      {".", nullptr},
      {"-", nullptr},
  };
  for (const auto& c : cases) {
    const auto got = LastNumber(c.text);
    if (c.number) {
      EXPECT_EQ(got.value_or("none"), c.number) << c.text;
    } else {
      EXPECT_FALSE(got.has_value()) << c.text;
    }
  }
}

TEST(Number, NormalFormsAreTheirOwnNormalForm) {
  for (const char* text : {"56", "-0.5", "1,234.50", "000.100"}) {
    const std::string once = LastNumber(text).value();
    EXPECT_EQ(LastNumber(once).value(), once);
  }
}

TEST(Number, Scores) {
  EXPECT_EQ(ScoreOf({}, "56", "It is 56.0.").value, 1.0);
  EXPECT_EQ(ScoreOf({}, "1234", "1,234").value, 1.0);
  EXPECT_EQ(ScoreOf({}, "#### 56", "56").value, 1.0);
  EXPECT_EQ(ScoreOf({}, "56", "56 or 57").value, 0.0);
  EXPECT_EQ(ScoreOf({}, "56", "-56").value, 0.0);
  // As doubles these two would be the same.
  EXPECT_EQ(ScoreOf({}, "9007199254740993", "9007199254740992").value, 0.0);
  const RewardResult none = ScoreOf({}, "56", "I do not know");
  EXPECT_EQ(none.verdict, Verdict::kScored);
  EXPECT_EQ(none.value, 0.0);
  EXPECT_EQ(none.note, "no number in the completion");
  EXPECT_EQ(ScoreOf({}, "56", "is 56!").note, "found '56'");
}

TEST(Number, WithoutAGoldNumberThereIsNoScore) {
  EXPECT_EQ(ScoreOf({}, "", "56").verdict, Verdict::kSkipped);
  EXPECT_EQ(ScoreOf({}, "blue", "56").verdict, Verdict::kError);
}

TEST(Number, IsLinearInTheText) {
  std::string text;
  for (int i = 0; i < 200'000; ++i) text += "1,111,";
  const auto start = std::chrono::steady_clock::now();
  EXPECT_TRUE(LastNumber(text).has_value());
  EXPECT_TRUE(LastNumber(std::string(2'000'000, '.')) == std::nullopt);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

TEST(Exact, IgnoresWhiteSpaceAtTheEndsOnly) {
  const RewardConfig exact = {.kind = "exact"};
  EXPECT_EQ(ScoreOf(exact, " blue\n", "blue ").value, 1.0);
  EXPECT_EQ(ScoreOf(exact, "blue", "Blue").value, 0.0);
  EXPECT_EQ(ScoreOf(exact, "light blue", "light  blue").value, 0.0);
  EXPECT_EQ(ScoreOf(exact, "", "blue").verdict, Verdict::kSkipped);
}

TEST(Regex, GroupOneIsComparedWithTheGoldAnswer) {
  const RewardConfig config = {.kind = "regex", .pattern = "answer: *(\\w+)"};
  EXPECT_EQ(ScoreOf(config, "blue", "The answer: blue, I think").value, 1.0);
  EXPECT_EQ(ScoreOf(config, "blue", "The answer: red").value, 0.0);
  EXPECT_EQ(ScoreOf(config, "blue", "blue").note, "no match");
  EXPECT_EQ(ScoreOf(config, "", "answer: blue").verdict, Verdict::kSkipped);
  const RewardConfig optional_group = {.kind = "regex", .pattern = "a(b)?"};
  EXPECT_EQ(ScoreOf(optional_group, "b", "ac").value, 0.0);
}

TEST(Regex, WithoutAGroupAMatchIsEnough) {
  const RewardConfig config = {.kind = "regex", .pattern = "<think>.+</think>"};
  EXPECT_EQ(ScoreOf(config, "", "x <think>hm</think> y").value, 1.0);
  EXPECT_EQ(ScoreOf(config, "", "<think></think>").value, 0.0);
}

TEST(Regex, InvalidUtf8MatchesNothingAndDoesNotFail) {
  const RewardConfig config = {.kind = "regex", .pattern = "\\d+"};
  const RewardResult result = ScoreOf(config, "", "\xff\xfe 5 \xc3");
  EXPECT_EQ(result.verdict, Verdict::kScored);
  EXPECT_EQ(result.value, 1.0);
  EXPECT_EQ(ScoreOf(config, "", std::string_view()).value, 0.0);
  EXPECT_EQ(ScoreOf(config, "", std::string_view("\0\0", 2)).value, 0.0);
}

TEST(Regex, RunawayMatchesAreErrorsInBoundedTime) {
  const auto start = std::chrono::steady_clock::now();
  for (const char* pattern :
       {"(a+)+$", "(a|aa)+$", "a*a*a*a*a*[xd]", "(?:a*)*\\1([xd])", "(a(?1)?)[xd]"}) {
    const RewardResult result =
        ScoreOf({.kind = "regex", .pattern = pattern}, "x", std::string(4000, 'a') + "c");
    EXPECT_EQ(result.verdict, Verdict::kError) << pattern;
    EXPECT_NE(result.note.find("limit"), std::string::npos) << pattern << ": " << result.note;
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

TEST(Regex, ManyStartsThatEachStayBelowTheLimitAreAnErrorToo) {
  const RewardConfig config = {.kind = "regex", .pattern = "a*a*a*[xd]"};
  EXPECT_EQ(ScoreOf(config, "", std::string(100, 'a')).verdict, Verdict::kScored);
  EXPECT_EQ(ScoreOf(config, "", std::string(1000, 'a')).verdict, Verdict::kError);
}

TEST(Regex, OrdinaryPatternsOnLongAnswersStayBelowTheLimits) {
  std::string text;
  for (int i = 0; i < 20'000; ++i) text += "step " + std::to_string(i) + ", ";
  const RewardConfig config = {.kind = "regex", .pattern = "(?s).*answer:\\s*(\\d+)"};
  EXPECT_EQ(ScoreOf(config, "7", text + "answer: 7").value, 1.0);
  EXPECT_EQ(ScoreOf(config, "7", text).note, "no match");
}

TEST(Format, TheWholeCompletionMustMatch) {
  const RewardConfig config = {.kind = "format", .pattern = "\\d+|\\d+ apples"};
  EXPECT_EQ(ScoreOf(config, "", "56").value, 1.0);
  EXPECT_EQ(ScoreOf(config, "", "56 apples").value, 1.0);  // not satisfied with the first branch
  EXPECT_EQ(ScoreOf(config, "", "It is 56").value, 0.0);
  EXPECT_EQ(ScoreOf(config, "", "56 pears").value, 0.0);
}

TEST(Sum, WeighsItsTerms) {
  const auto reward = MakeReward(
      {{.kind = "number", .weight = 1.0}, {.kind = "format", .pattern = "\\d+", .weight = 0.25}});
  const Problem problem = WithAnswer("56");
  const auto value = [&](const char* completion) {
    return reward->Score(problem, completion, FinishReason::kEos).value;
  };
  EXPECT_EQ(value("56"), 1.25);
  EXPECT_EQ(value("is 56"), 1.0);
  EXPECT_EQ(value("57"), 0.25);
  EXPECT_EQ(value("is 57"), 0.0);
  EXPECT_EQ(reward->Score(problem, "is 57", FinishReason::kEos).note,
            "found '57'; not of the format");
}

TEST(Sum, ASkipOrAnErrorOfATermIsThatOfTheSum) {
  const RewardConfig format = {.kind = "format", .pattern = ".*"};
  const RewardConfig runaway = {.kind = "regex", .pattern = "(a|aa)+$"};
  const std::string text = std::string(4000, 'a') + "c";
  const auto skip =
      MakeReward({format, {.kind = "number"}})->Score(WithAnswer(""), "56", FinishReason::kLength);
  EXPECT_EQ(skip.verdict, Verdict::kSkipped);
  EXPECT_EQ(skip.value, 0.0);
  const auto error =
      MakeReward({format, runaway})->Score(WithAnswer("a"), text, FinishReason::kLength);
  EXPECT_EQ(error.verdict, Verdict::kError);
  EXPECT_EQ(error.value, 0.0);
}

TEST(MakeReward, RefusesWhatMakesNoSense) {
  EXPECT_EQ(MessageOf({}), "reward: there is none; write a [[reward]] section");
  EXPECT_EQ(MessageOf({{.kind = "number"}, {.kind = "nubmer"}}),
            "reward.1.kind = \"nubmer\": unknown; did you mean \"number\"? known are: number, "
            "exact, regex, format");
  EXPECT_EQ(MessageOf({{.kind = "regex"}}), "reward.0.pattern: is missing; give one");
  EXPECT_EQ(MessageOf({{.kind = "exact", .pattern = "x"}}),
            "reward.0.pattern: the kind \"exact\" takes none; remove it");
  EXPECT_EQ(MessageOf({{.kind = "format", .pattern = "(a"}}),
            "reward.0.pattern: missing closing parenthesis at offset 2 of '(a'");
  EXPECT_EQ(RewardKinds(), (std::vector<std::string>{"number", "exact", "regex", "format"}));
}

TEST(Excerpt, IsShortAndNeverCutsACharacter) {
  std::string text(59, 'x');
  text += "\xc3\xa9\xc3\xa9";  // é starts at byte 59, so a cut at 60 would split it
  EXPECT_EQ(Excerpt(text), "'" + std::string(59, 'x') + "...'");
  EXPECT_EQ(Excerpt("short"), "'short'");
}

TEST(FinishReason, Names) {
  EXPECT_STREQ(FinishReasonName(FinishReason::kEos), "eos");
  EXPECT_STREQ(FinishReasonName(FinishReason::kStop), "stop");
  EXPECT_STREQ(FinishReasonName(FinishReason::kLength), "length");
}

}  // namespace
}  // namespace opo
