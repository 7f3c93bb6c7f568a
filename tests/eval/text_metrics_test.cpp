// Self-BLEU against sacrebleu, Rep-n, distinct-n and phrases against worked numbers.
#include "eval/text_metrics.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

namespace opo {
namespace {

constexpr double kPrinted = 5e-7;

std::vector<double> Scores(const std::vector<std::string>& texts, const BleuSettings& settings) {
  return SelfBleuScores(texts, settings);
}

TEST(SelfBleu, EqualsSacrebleu) {
  std::ifstream file(std::string(OPO_SOURCE_DIR) + "/tests/eval/golden/self_bleu.json");
  const auto golden = nlohmann::json::parse(file);
  int compared = 0;
  for (const auto& c : golden["cases"]) {
    const auto texts = c["texts"].get<std::vector<std::string>>();
    for (std::size_t i = 0; i < texts.size(); ++i) {
      EXPECT_EQ(BleuTokens(texts[i], "13a"), c["tokens"][i].get<std::vector<std::string>>())
          << texts[i];
    }
    for (const auto& scores : c["scores"]) {
      const BleuSettings settings = {scores["order"], scores["tokenizer"], scores["smoothing"]};
      const std::vector<double> got = Scores(texts, settings);
      for (std::size_t i = 0; i < texts.size(); ++i, ++compared) {
        // Sums of at most 6 logarithms in another order: a few units of the last place of 100.
        EXPECT_NEAR(got[i], scores["values"][i].get<double>(), 1e-11)
            << texts[i] << " " << settings.tokenizer << " " << settings.order;
      }
    }
  }
  EXPECT_GT(compared, 500);
}

TEST(SelfBleu, WorkedNumbers) {
  const std::vector<std::string> letters = {"a b c d", "a b c e", "a b f g"};
  const BleuSettings two = {2, "none", "none"};
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_NEAR(Scores(letters, two)[i] / 100, i < 2 ? 0.707107 : 0.408248, kPrinted);
  }
  EXPECT_NEAR(*SelfBleu(letters, two) / 100, 0.607487, kPrinted);
  const BleuSettings four = {4, "none", "exp"};
  EXPECT_NEAR(Scores(letters, four)[0], 59.460356, kPrinted);
  EXPECT_NEAR(Scores(letters, four)[2], 31.947155, kPrinted);
  EXPECT_NEAR(*SelfBleu(letters, four), 50.289289, kPrinted);
  EXPECT_NEAR(
      *SelfBleu(std::vector<std::string>{"the answer is 42", "the answer is 42", "so x equals 7"},
                four),
      66.666667, kPrinted);
  const std::vector<std::string> sums = {"add 2 and 3 to get 5", "adding 2 and 3 we get 5",
                                         "the sum of 2 and 3 is 5"};
  EXPECT_NEAR(Scores(sums, four)[0], 30.739408, kPrinted);
  EXPECT_NEAR(Scores(sums, four)[2], 22.089591, kPrinted);
  EXPECT_NEAR(*SelfBleu(sums, four), 27.856135, kPrinted);
}

TEST(SelfBleu, EmptyTextsAreLeftOut) {
  const BleuSettings settings;
  EXPECT_FALSE(SelfBleu(std::vector<std::string>{}, settings));
  EXPECT_FALSE(SelfBleu(std::vector<std::string>{"a b", "", " \n\xe3\x80\x80"}, settings));
  EXPECT_NEAR(*SelfBleu(std::vector<std::string>{"a b", "", "a b"}, settings), 100, 1e-11);
}

TEST(SelfBleu, AnyBytesAreAText) {
  const std::vector<std::string> texts = {"\xff\xfe a \x80", std::string("\0.\0,", 4), "\xc3",
                                          "\xe2\x80", std::string(100000, '.')};
  for (const char* tokenizer : {"13a", "none"}) {
    for (const double score : Scores(texts, {4, tokenizer, "exp"})) {
      EXPECT_GE(score, 0);
      EXPECT_LE(score, 100 + 1e-9);
    }
  }
}

std::vector<std::string> Split(const std::string& text) { return Words(text); }

TEST(Repetition, WorkedNumbers) {
  EXPECT_NEAR(RepetitionN(Split("a b a b a b"), 2), 0.6, 1e-15);
  const std::vector<std::vector<std::string>> one = {Split("a b a b a b")};
  EXPECT_NEAR(*DistinctN(one, 2), 0.4, 1e-15);
  const auto cat = Split("the cat sat on the mat and the cat sat");
  const std::vector<double> want = {0.4, 0.222222, 0.125, 0};
  for (idx n = 1; n <= 4; ++n) {
    EXPECT_NEAR(RepetitionN(cat, n), want[static_cast<std::size_t>(n - 1)], kPrinted);
  }
  EXPECT_NEAR(Diversity(cat), 0.680556, kPrinted);
}

TEST(Repetition, ShortTextsAndPools) {
  EXPECT_EQ(RepetitionN(Split(""), 1), 0);
  EXPECT_EQ(RepetitionN(Split("a a"), 3), 0);
  EXPECT_EQ(Diversity(Split("a")), 1);
  const std::vector<std::vector<std::string>> pool = {Split("a b"), Split("a b"), Split(""),
                                                      Split("b a")};
  EXPECT_NEAR(*DistinctN(pool, 1), 2.0 / 6, 1e-15);
  EXPECT_NEAR(*DistinctN(pool, 2), 2.0 / 3, 1e-15);  // none across two texts
  EXPECT_FALSE(DistinctN(pool, 3));
}

TEST(Words, SplitAsPythonDoes) {
  EXPECT_EQ(Words(" a\xc2\xa0"
                  "b\xe3\x80\x80"
                  "c\n\t\x1c"
                  "d\xe2\x80\x8b"
                  "e "),
            (std::vector<std::string>{"a", "b", "c",
                                      "d\xe2\x80\x8b"
                                      "e"}));
  EXPECT_TRUE(Words(" \n ").empty());
  EXPECT_EQ(Words("\xff \xc3"), (std::vector<std::string>{"\xff", "\xc3"}));
}

PhraseCounts Count(const std::string& text) { return CountPhrases(text); }

TEST(Phrases, AreWholeWords) {
  const PhraseCounts counts = Count(
      "Let me CHECK this. Wait,  that\xe2\x80\x99s wrong. Hold\non! Let me re-check, and make "
      "sure.");
  EXPECT_EQ(counts.self_check, 3);    // check, re-check, make sure
  EXPECT_EQ(counts.backtracking, 3);  // wait, that's wrong, hold on
  for (const char* none : {"", "waiter", "checked checkers", "factually", "awaits", "goback"}) {
    EXPECT_EQ(Count(none).self_check + Count(none).backtracking, 0) << none;
  }
  // The longest one that begins first: "let me try again" holds "try again".
  EXPECT_EQ(Count("Let me try again.").backtracking, 1);
  EXPECT_EQ(Count("double-check").self_check, 1);
  EXPECT_EQ(Count("w\xc3\xa4it, \xc3\xa4wait, wait\xc3\xa4").backtracking, 0);
  EXPECT_EQ(Count("wait").backtracking, 1);
  EXPECT_EQ(Count("wait wait").backtracking, 2);
}

}  // namespace
}  // namespace opo
