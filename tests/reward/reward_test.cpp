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

// All terms of one answer. Errors are shown here, not thrown.
RewardScores ScoresOf(std::vector<RewardConfig> terms, const std::string& gold,
                      std::string_view completion, std::span<const TokenId> tokens = {}) {
  for (RewardConfig& term : terms) {
    if (term.on_error == "fail") term.on_error = "skip";
    term.error_limit = 1;
  }
  const Problem problem = WithAnswer(gold);
  const RewardQuery query{problem, "", completion, tokens, FinishReason::kEos};
  RewardScores scores;
  RewardSet(terms).Score(std::span(&query, 1), std::span(&scores, 1));
  return scores;
}

RewardResult ScoreOf(const RewardConfig& config, const std::string& gold,
                     std::string_view completion) {
  return *ScoresOf({config}, gold, completion).terms[0];
}

std::string MessageOf(const std::vector<RewardConfig>& terms) {
  try {
    RewardSet{terms};
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
  const std::vector<RewardConfig> terms = {{.kind = "number", .weight = 1.0},
                                           {.kind = "format", .weight = 0.25, .pattern = "\\d+"}};
  const auto value = [&](const char* completion) {
    return ScoresOf(terms, "56", completion).total.value;
  };
  EXPECT_EQ(value("56"), 1.25);
  EXPECT_EQ(value("is 56"), 1.0);
  EXPECT_EQ(value("57"), 0.25);
  EXPECT_EQ(value("is 57"), 0.0);
  EXPECT_EQ(ScoresOf(terms, "56", "is 57").total.note, "found '57'; not of the format");
}

// As TRL: a term that says nothing leaves the sum; an answer of which none says anything is out.
TEST(Sum, ATermThatDoesNotApplyLeavesTheSum) {
  const RewardConfig format = {.kind = "format", .pattern = ".*"};
  const RewardScores some = ScoresOf({format, {.kind = "number"}}, "", "56");
  EXPECT_EQ(some.total.verdict, Verdict::kScored);
  EXPECT_EQ(some.total.value, 1.0);
  EXPECT_FALSE(some.values[1].has_value());
  const RewardScores none = ScoresOf({{.kind = "number"}, {.kind = "exact"}}, "", "56");
  EXPECT_EQ(none.total.verdict, Verdict::kSkipped);
  EXPECT_EQ(none.total.value, 0.0);
}

// (a|aa)+$ on this text is beyond the pattern's limits.
const RewardConfig kRunaway = {.kind = "regex", .pattern = "(a|aa)+$"};
const std::string kRunawayText = std::string(4000, 'a') + "c";

TEST(OnError, SkipTakesTheAnswerOutAndScoreGivesTheConfiguredValue) {
  RewardConfig runaway = kRunaway;
  const RewardConfig format = {.kind = "format", .weight = 0.5, .pattern = ".*"};
  runaway.on_error = "skip";
  const RewardScores skipped = ScoresOf({format, runaway}, "a", kRunawayText);
  EXPECT_EQ(skipped.total.verdict, Verdict::kError);
  EXPECT_EQ(skipped.total.reason, "pattern");
  EXPECT_EQ(skipped.total.value, 0.0);
  runaway.on_error = "score";
  runaway.error_score = -1;
  const RewardScores scored = ScoresOf({format, runaway}, "a", kRunawayText);
  EXPECT_EQ(scored.total.verdict, Verdict::kScored);
  EXPECT_EQ(scored.total.value, -0.5);
}

std::string FailureOf(RewardSet& set, const std::vector<std::string>& completions) {
  const Problem problem = WithAnswer("a");
  std::vector<RewardQuery> queries;
  for (const std::string& text : completions) {
    queries.push_back({problem, "", text, {}, FinishReason::kEos});
  }
  std::vector<RewardScores> scores(queries.size());
  try {
    set.Score(queries, scores);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kWork);
    return error.what();
  }
  return "";
}

TEST(OnError, FailEndsTheRunAndNamesTheAnswer) {
  RewardSet set({kRunaway});
  EXPECT_EQ(FailureOf(set, {"a", "a"}), "");
  const std::string message = FailureOf(set, {"a", kRunawayText});
  EXPECT_NE(message.find("\"regex\" failed (pattern)"), std::string::npos) << message;
  EXPECT_NE(message.find("aaac"), std::string::npos) << message;
  EXPECT_NE(message.find("reward.0.on_error"), std::string::npos) << message;
}

TEST(OnError, MoreErrorsThanTheLimitEndTheRunAllTheSame) {
  RewardConfig runaway = kRunaway;
  runaway.on_error = "skip";
  runaway.error_limit = 0.5;
  RewardSet set({runaway});
  EXPECT_EQ(FailureOf(set, {"a", kRunawayText}), "");
  const std::string message = FailureOf(set, {"a", kRunawayText, kRunawayText});
  EXPECT_NE(message.find("2 of 3 answers"), std::string::npos) << message;
  EXPECT_NE(message.find("error_limit = 0.5"), std::string::npos) << message;
}

// What the journal brings back is not asked for again, and what is new is told as it comes.
TEST(Sum, KnownTermsAreNotAskedAgain) {
  const Problem problem = WithAnswer("56");
  const std::vector<RewardQuery> queries(2, {problem, "", "56", {}, FinishReason::kEos});
  std::vector<RewardScores> scores(2);
  scores[0].terms = {RewardResult{Verdict::kScored, 0.125, "from the journal", {}, {}}};
  std::vector<std::size_t> told;
  RewardSet({{.kind = "number"}}).Score(queries, scores, [&](std::size_t term, std::size_t query) {
    EXPECT_EQ(term, 0U);
    told.push_back(query);
  });
  EXPECT_EQ(scores[0].total.value, 0.125);
  EXPECT_EQ(scores[1].total.value, 1.0);
  EXPECT_EQ(told, (std::vector<std::size_t>{1}));
}

TEST(RewardSet, RefusesWhatMakesNoSense) {
  EXPECT_EQ(MessageOf({}), "reward: there is none; write a [[reward]] section");
  EXPECT_NE(MessageOf({{.kind = "number"}, {.kind = "nubmer"}})
                .find("reward.1.kind = \"nubmer\": unknown; did you mean \"number\"? known are: "
                      "number, exact, "),
            std::string::npos);
  EXPECT_EQ(MessageOf({{.kind = "regex"}}), "reward.0.pattern: is missing; give one");
  EXPECT_EQ(MessageOf({{.kind = "exact", .pattern = "x"}}),
            "reward.0.pattern: the kind \"exact\" takes none; remove it");
  EXPECT_EQ(MessageOf({{.kind = "number", .timeout_s = 3}}),
            "reward.0.timeout_s: the kind \"number\" takes none; remove it");
  EXPECT_EQ(MessageOf({{.kind = "number"}, {.kind = "number"}}),
            "reward.1.name: there is another term \"number\"; give each a name, for the metrics");
  EXPECT_EQ(MessageOf({{.kind = "format", .pattern = "(a"}}),
            "reward.0.pattern: missing closing parenthesis at offset 2 of '(a'");
  EXPECT_EQ(MessageOf({{.kind = "overlong", .max_tokens = 10, .buffer_tokens = 11}}),
            "reward.0.buffer_tokens = 11: must be from 1 to max_tokens = 10");
}

TEST(Format, WithoutAPatternThoughtsAndAnswerStandInTheirTags) {
  const RewardConfig config = {.kind = "format"};
  const auto value = [&](const char* text) { return ScoreOf(config, "", text).value; };
  EXPECT_EQ(value("<think>2+2</think><answer>4</answer>"), 1.0);
  EXPECT_EQ(value("\n<think>a < b\n</think>\n\n<answer>\n4 </answer>\n"), 1.0);
  EXPECT_EQ(value("<think></think><answer></answer>"), 1.0);
  EXPECT_EQ(value("<think>x</think> 4"), 0.0);
  EXPECT_EQ(value("<answer>4</answer>"), 0.0);
  EXPECT_EQ(value("<think>x<think>y</think><answer>4</answer>"), 0.0);
  EXPECT_EQ(value("<think>x</think><answer>4</answer><answer>5</answer>"), 0.0);
  EXPECT_EQ(value("so <think>x</think><answer>4</answer>"), 0.0);
  const std::string text = "<think>" + std::string(200'000, 'x') + "</think><answer>4</answer>";
  EXPECT_EQ(ScoreOf(config, "", text).value, 1.0);
}

TEST(Choice, TheAnnouncedLetterElseTheOnlyOne) {
  const struct {
    const char* gold;
    const char* completion;
    double value;
  } cases[] = {
      {"B", "B", 1},
      {"B", "(b)", 1},
      {"(B)", "The answer is B.", 1},
      {"B", "The answer is (B), not A", 1},
      {"B", "First I thought the answer is A. No, the answer is **B**.", 1},
      {"B", "so \\boxed{\\text{B}}", 1},
      {"B", "<answer> B </answer>", 1},
      {"B", "Answer: B) the second", 1},
      {"B", "The correct answer: option B", 1},
      {"A", "A bird in the hand.\nA", 1},
      {"B", "I think it is B", 1},
      {"B", "The answer is A", 0},
      {"B", "A or B", 0},
      {"B", "Bananas", 0},
      {"B", "", 0},
      {"A", "A bird in the hand", 0},
      {"I", "The answer is I", 1},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(ScoreOf({.kind = "choice"}, c.gold, c.completion).value, c.value) << c.completion;
  }
  EXPECT_EQ(ScoreOf({.kind = "choice"}, "forty", "A").verdict, Verdict::kError);
  EXPECT_EQ(ScoreOf({.kind = "choice"}, "", "A").verdict, Verdict::kSkipped);
  std::string announced;
  for (int i = 0; i < 100'000; ++i) announced += "answer is ";
  EXPECT_EQ(ScoreOf({.kind = "choice"}, "A", announced).value, 0.0);
}

TEST(Countdown, EveryNumberOnceAndTheTarget) {
  const char* gold = R"({"target": 24, "numbers": [3, 3, 8, 8]})";
  const struct {
    const char* completion;
    double value;
  } cases[] = {
      {"8 / (3 - 8 / 3)", 1},  // fractions on the way
      {"<think>hm</think><answer>8/(3-8/3) = 24</answer>", 1},
      {"So it is \\boxed{8 \\div (3 - 8 \\div 3)}.", 1},
      {"Let me see.\nAnswer: 8 / (3 - 8 / 3).", 1},
      {"3 * 8", 0},          // not all
      {"3 * 8 * 8 / 8", 0},  // not these
      {"8 + 8 + 3 + 3", 0},
      {"8 / (3 - 8 / 3", 0},
      {"24", 0},
      {"8 / (8 - 8) * 3 * 3", 0},
      {"", 0},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(ScoreOf({.kind = "countdown"}, gold, c.completion).value, c.value) << c.completion;
  }
  EXPECT_EQ(ScoreOf({.kind = "countdown"}, R"({"target":5,"numbers":[5]})", "--5").value, 1.0);
  EXPECT_EQ(ScoreOf({.kind = "countdown"}, "24", "24").reason, "gold");
  // Hostile: deep, long, large.
  for (const std::string& text :
       {std::string(400, '('), std::string(100'000, '('), std::string(400, '-') + "3",
        std::string("999999999999*999999999999*999999999999"), std::string("99999999999999999")}) {
    EXPECT_EQ(ScoreOf({.kind = "countdown"}, gold, text).value, 0.0);
  }
}

double ByTokens(const RewardConfig& config, const std::vector<TokenId>& tokens) {
  return *ScoresOf({config}, "", "", tokens).values[0];
}

// The values of TRL's docstrings (trl/rewards/other_rewards.py).
TEST(Overlong, IsTrlsSoftPunishment) {
  const RewardConfig config = {.kind = "overlong", .max_tokens = 100, .buffer_tokens = 20};
  const auto value = [&](std::size_t n) { return ByTokens(config, std::vector<TokenId>(n, 1)); };
  EXPECT_EQ(value(80), 0.0);
  EXPECT_EQ(value(90), -0.5);
  EXPECT_EQ(value(100), -1.0);
  EXPECT_EQ(value(101), -1.0);
}

TEST(Repetition, IsTrlsPenalty) {
  const RewardConfig config = {.kind = "repetition", .ngram = 2};
  EXPECT_EQ(ByTokens(config, {1, 2, 3, 4}), 0.0);
  EXPECT_EQ(ByTokens(config, {5, 5, 5, 5, 5}), -0.75);
  EXPECT_EQ(ByTokens(config, {5}), 0.0);
  EXPECT_EQ(ByTokens({.kind = "repetition"}, {1, 2, 1, 2, 1, 2}), -0.5);  // 121 212 121 212
}

TEST(Length, IsAPartOfTheLongest) {
  const RewardConfig config = {.kind = "length", .max_tokens = 4};
  EXPECT_EQ(ByTokens(config, {1}), 0.25);
  EXPECT_EQ(ByTokens(config, {1, 1, 1, 1, 1}), 1.0);
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
