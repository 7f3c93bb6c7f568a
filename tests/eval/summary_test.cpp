// What is said of a set, worked out by hand, and the votes behind maj@k.
#include "eval/summary.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/parallel.h"
#include "eval/votes.h"

namespace opo {
namespace {

Answer Make(double reward, const std::string& text, idx length,
            FinishReason finish = FinishReason::kEos) {
  Answer a;
  a.gold = "4";
  a.text = text;
  a.length = length;
  a.finish = finish;
  a.reward.value = reward;
  a.entropy = 0.5 * static_cast<double>(length);
  return a;
}

Answer Unscored(const std::string& text) {
  Answer a = Make(1, text, 4);
  a.reward.verdict = Verdict::kError;
  return a;
}

std::vector<idx> Votes(const std::string& kind, const std::vector<std::string>& texts) {
  std::vector<Answer> answers;
  for (const std::string& text : texts) answers.push_back(Make(1, text, 1));
  std::vector<idx> votes;
  for (const VoteClass& c : VoteClasses(kind, answers, 0.5)) votes.push_back(c.votes);
  return votes;
}

TEST(Votes, EqualAnswersAreOneClass) {
  using List = std::vector<idx>;
  EXPECT_EQ(Votes("number", {"it is 4.0", "4", "so 1,000", "none", "1000.00", "4 or 5"}),
            (List{2, 2, 1}));
  EXPECT_EQ(Votes("math", {"\\boxed{\\frac12}", "The answer is 0.5.", "\\boxed{50\\%}",
                           "\\boxed{x^2+2x+1}", "\\boxed{(x+1)^2}", ""}),
            (List{3, 2}));
  EXPECT_EQ(Votes("exact", {" a", "a ", "A", ""}), (List{2, 1}));
  EXPECT_EQ(Votes("choice", {"The answer is (B).", "b", "C"}), (List{2, 1}));
  EXPECT_EQ(Votes("countdown", {}), List{});
  EXPECT_FALSE(ReadsAnswers("regex"));
}

TEST(Votes, SamenessIsTheVerifiersInEitherDirection) {
  EXPECT_TRUE(SameAnswerFound("math", "0.5", "\\frac{1}{2}"));
  EXPECT_TRUE(SameAnswerFound("math", "\\frac{1}{2}", "0.5"));
  EXPECT_TRUE(SameAnswerFound("countdown", "3*4+1", "1+4*3"));
  EXPECT_FALSE(SameAnswerFound("math", "0.5", "0.51"));
  EXPECT_FALSE(SameAnswerFound("number", "0.5", "1/2"));
}

SummarySettings Settings(idx samples) {
  SummarySettings settings;
  settings.samples = samples;
  settings.k = PowersUpTo(samples);
  settings.reward = "number";
  settings.bleu.tokenizer = "none";
  return settings;
}

TEST(Summary, ASetByHand) {
  const std::vector<Answer> answers = {
      Make(1, "a 4", 2),        Make(0, "wait check 5", 4, FinishReason::kLength),
      Make(0, "a 5", 6),        Make(1, "a 4", 8),  //
      Make(0.5, "b b b b", 10), Make(0.25, "", 0, FinishReason::kLength),
      Make(0, "3", 10),         Unscored("4"),
  };
  const std::vector<std::string> ids = {"one", "two"};
  const auto out = SummariseSet("set", ids, answers, Settings(4));
  EXPECT_EQ(out["name"], "set");
  EXPECT_EQ(out["problems"], 2);
  EXPECT_EQ(out["answers"], 8);
  EXPECT_EQ(out["scored"], 7);
  EXPECT_NEAR(out["mean@4"]["value"].get<double>(), (0.5 + 0.25) / 2, 1e-15);
  EXPECT_NEAR(out["pass@1"]["value"].get<double>(), (0.5 + 1.0 / 3) / 2, 1e-15);
  // C(2,2)/C(4,2) = 1/6 of the pairs of the first hold none, C(2,2)/C(3,2) = 1/3 of the second's.
  EXPECT_NEAR(out["pass@2"]["value"].get<double>(), (5.0 / 6 + 2.0 / 3) / 2, 1e-15);
  EXPECT_EQ(out["pass@4"]["value"], 1);  // the second has too few scored answers
  EXPECT_EQ(out["pass@4"]["low"], 1);
  // 4, 4 and 5, 5: a tie.
  EXPECT_EQ(out["maj@4"]["value"], 0.5);
  EXPECT_NEAR(out["length"]["mean"].get<double>(), 44.0 / 8, 1e-15);
  // 2, 4, 6, 8: sqrt(20/3) / 5; 10, 0, 10, 4: sqrt(72/3) / 6.
  EXPECT_NEAR(out["length"]["cv_within"].get<double>(),
              (std::sqrt(20.0 / 3) / 5 + std::sqrt(72.0 / 3) / 6) / 2, 1e-15);
  EXPECT_NEAR(out["entropy"].get<double>(), 0.5, 1e-15);
  EXPECT_EQ(out["truncated"], 0.25);
  EXPECT_FALSE(out.contains("kl"));
  // rep-2 of "b b b b" is 2/3, of the others 0.
  EXPECT_NEAR(out["rep_2"].get<double>(), 2.0 / 3 / 8, 1e-15);
  EXPECT_NEAR(out["rep_3"].get<double>(), 0.5 / 8, 1e-15);
  EXPECT_NEAR(out["diversity"].get<double>(), (7 + 1.0 / 3 * 0.5) / 8, 1e-15);
  // Words of the first: a 4 wait check 5 a 5 a 4; of the second: b b b b 3 4.
  EXPECT_NEAR(out["distinct_1"].get<double>(), (5.0 / 9 + 3.0 / 6) / 2, 1e-15);
  EXPECT_EQ(out["phrases"]["self_check"], 0.125);
  EXPECT_EQ(out["phrases"]["backtracking"], 0.125);
  const auto& per = out["per_problem"];
  ASSERT_EQ(per.size(), 2U);
  EXPECT_EQ(per[0], nlohmann::ordered_json::parse(R"({"id": "one", "correct": 2, "n": 4,
      "reward_mean": 0.5, "length_mean": 5.0, "truncated": 1})"));
  EXPECT_EQ(per[1]["correct"], 1);
  EXPECT_EQ(per[1]["n"], 3);
  auto strict = Settings(4);
  strict.pass_threshold = 0.75;
  EXPECT_EQ(SummariseSet("set", ids, answers, strict)["per_problem"][1]["correct"], 0);
}

TEST(Summary, WinsOfAllPairs) {
  std::vector<Answer> ours = {Make(1, "a", 1), Make(1, "b", 1), Make(0, "c", 1), Make(0, "d", 1)};
  std::vector<Answer> others = {Make(1, "x", 1), Make(1, "y", 1)};
  const double scores[] = {2, -1, 0.5, 0.5};
  for (std::size_t i = 0; i < 4; ++i) ours[i].judge = scores[i];
  others[0].judge = 2;
  others[1].judge = 0;
  // Of the first problem (tie, loss), of the second (win, win), each against one answer.
  EXPECT_EQ(WinRate(std::span(ours).first(2), std::span(others).first(1)), 0.25);
  const std::vector<std::string> ids = {"one", "two"};
  const auto out = SummariseSet("set", ids, ours, Settings(2), others, 1);
  EXPECT_EQ(out["win_rate"]["value"], (0.25 + 1) / 2);
  EXPECT_EQ(out["judge"]["value"], (0.5 + 0.5) / 2);
}

TEST(Kl, WorkedNumbers) {
  const auto of = [](double logprob, double reference) {
    KlSums kl;
    kl.Add(logprob, reference);
    return kl;
  };
  EXPECT_NEAR(of(-1, -1.2).k1, 0.2, 1e-15);
  EXPECT_NEAR(of(-1, -1.2).k3, 0.018731, 5e-7);
  EXPECT_NEAR(of(-1.2, -1).k1, -0.2, 1e-15);
  EXPECT_NEAR(of(-1.2, -1).k3, 0.021403, 5e-7);
  EXPECT_NEAR(of(-6, -1).k3, 142.413159, 5e-7);
  // Under p both have the mean KL(p || q).
  const std::vector<double> p = {0.5, 0.3, 0.2};
  const std::vector<double> q = {0.4, 0.4, 0.2};
  double k1 = 0;
  double k3 = 0;
  for (std::size_t v = 0; v < 3; ++v) {
    k1 += p[v] * of(std::log(p[v]), std::log(q[v])).k1;
    k3 += p[v] * of(std::log(p[v]), std::log(q[v])).k3;
  }
  EXPECT_NEAR(k1, 0.025267, 5e-7);
  EXPECT_NEAR(k3, k1, 1e-15);
}

TEST(Summary, KlIsPerTokenAndPerAnswer) {
  std::vector<Answer> answers = {Make(1, "4", 2), Make(0, "5", 8)};
  answers[0].kl = KlSums{0.5, 0.25};
  answers[1].kl = KlSums{-0.1, 0.35};
  const auto out = SummariseSet("set", std::vector<std::string>{"a"}, answers, Settings(2));
  EXPECT_NEAR(out["kl"]["k1_token"].get<double>(), 0.04, 1e-15);
  EXPECT_NEAR(out["kl"]["k3_token"].get<double>(), 0.06, 1e-15);
  EXPECT_NEAR(out["kl"]["k1_sequence"].get<double>(), 0.2, 1e-15);
  EXPECT_NEAR(out["kl"]["k3_sequence"].get<double>(), 0.3, 1e-15);
  EXPECT_EQ(out["reward_length_correlation"], -1);
}

TEST(Summary, NothingScoredIsNullAndOneAnswerHasNoSpread) {
  const std::vector<Answer> none = {Unscored("a")};
  const auto out = SummariseSet("set", std::vector<std::string>{"a"}, none, Settings(1));
  EXPECT_TRUE(out["mean@1"].is_null());
  EXPECT_TRUE(out["pass@1"].is_null());
  EXPECT_TRUE(out["maj@1"].is_null());
  EXPECT_TRUE(out["length"]["std"].is_null());
  EXPECT_TRUE(out["self_bleu"].is_null());
  EXPECT_TRUE(out["reward_length_correlation"].is_null());
  auto regex = Settings(1);
  regex.reward = "regex";
  const std::vector<Answer> one = {Make(1, "a", 3)};
  const auto voted = SummariseSet("set", std::vector<std::string>{"a"}, one, regex);
  EXPECT_EQ(voted["mean@1"]["value"], 1);
  EXPECT_TRUE(voted["maj@1"].is_null());
}

TEST(Summary, DoesNotDependOnThreads) {
  std::vector<Answer> answers;
  std::vector<std::string> ids;
  for (idx p = 0; p < 40; ++p) {
    ids.push_back(std::to_string(p));
    for (idx s = 0; s < 6; ++s) {
      const idx word = (p * 7 + s * s) % 11;
      answers.push_back(Make(word % 3 == 0 ? 1 : 0, "so it is " + std::to_string(word), 3 + word));
    }
  }
  SetNumThreads(1);
  const std::string one = SummariseSet("set", ids, answers, Settings(6)).dump();
  SetNumThreads(4);
  EXPECT_EQ(SummariseSet("set", ids, answers, Settings(6)).dump(), one);
}

}  // namespace
}  // namespace opo
