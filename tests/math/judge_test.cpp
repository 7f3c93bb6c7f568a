// The verifier against cases written by hand (cases.jsonl), the collected sets, and identities.
#include "math/judge.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "math/tokens.h"
#include "text/shared_data.h"

namespace opo {
namespace {

using Verdict = MathJudgement::Verdict;

bool Correct(const std::string& gold, const std::string& answer) {
  return JudgeMath(gold, answer).verdict == Verdict::kCorrect;
}

TEST(MathJudge, CasesOfOurOwn) {
  const auto cases = ReadJsonLines(std::string(OPO_SOURCE_DIR) + "/tests/math/cases.jsonl");
  ASSERT_GT(cases.size(), 1400U);
  for (const auto& row : cases) {
    const MathJudgement j =
        JudgeMath(row["gold"].get<std::string>(), row["pred"].get<std::string>());
    EXPECT_EQ(j.verdict == Verdict::kCorrect, row["expected"].get<bool>())
        << row << "\nread as " << j.gold << " and " << j.extracted << ": " << j.why;
  }
}

// Counts the right verdicts; those of cases whose label is one grader's policy apart.
struct Score {
  int cases = 0;
  int right = 0;
  int sound_cases = 0;
  int sound_right = 0;
};

Score ScoreOf(const std::string& path) {
  Score score;
  for (const auto& row : ReadJsonLines(path)) {
    const bool right = Correct(row["gold"].get<std::string>(), row["pred"].get<std::string>()) ==
                       row["expected"].get<bool>();
    const bool quirk = row.value("quirk", false);
    ++score.cases;
    score.right += right;
    score.sound_cases += !quirk;
    score.sound_right += right && !quirk;
  }
  return score;
}

TEST(MathJudge, CollectedCases) {
  OPO_NEEDS_SHARED_DATA("equiv_dev.jsonl");
  const Score score = ScoreOf(SharedData("equiv_dev.jsonl"));
  ASSERT_EQ(score.cases, 519);
  EXPECT_GE(score.right, 0.92 * score.cases);
  EXPECT_GE(score.sound_right, 0.97 * score.sound_cases);
}

TEST(MathJudge, CollectedModelOutputs) {
  OPO_NEEDS_SHARED_DATA("equiv_modelout_dev.jsonl");
  const Score score = ScoreOf(SharedData("equiv_modelout_dev.jsonl"));
  ASSERT_EQ(score.cases, 264);
  EXPECT_GE(score.right, 0.995 * score.cases);
}

// The gold answers of the data sets that people train on: each equals itself, as it is and boxed.
TEST(MathJudge, GoldAnswersOfDataSetsEqualThemselves) {
  for (const char* file :
       {"sets/math500.jsonl", "sets/olympiadbench.jsonl", "sets/minerva_math.jsonl",
        "sets/aime2024.jsonl", "sets/gsm8k_test.jsonl"}) {
    OPO_NEEDS_SHARED_DATA(file);
    int wrong = 0;
    int rows = 0;
    for (const auto& row : ReadJsonLines(SharedData(file))) {
      const std::string gold = row["reward_model"]["ground_truth"].get<std::string>();
      ++rows;
      if (Correct(gold, gold) && Correct(gold, "So it is \\boxed{" + gold + "}.")) continue;
      if (++wrong <= 5) std::printf("%s: %s\n", file, gold.c_str());
    }
    EXPECT_LE(wrong, rows / 200) << file;
  }
}

TEST(MathJudge, SaysWhatItFoundAndWhy) {
  MathJudgement j = JudgeMath("\\frac{1}{2}", "Half of it: \\boxed{0.5}");
  EXPECT_EQ(j.verdict, Verdict::kCorrect);
  EXPECT_EQ(j.gold, "\\frac{1}{2}");
  EXPECT_EQ(j.extracted, "0.5");
  EXPECT_EQ(j.why, "the same value");
  EXPECT_EQ(JudgeMath("", "5").verdict, Verdict::kBadGold);
  EXPECT_EQ(JudgeMath(" \n", "5").verdict, Verdict::kBadGold);
  EXPECT_EQ(JudgeMath("5", "").verdict, Verdict::kNoAnswer);
  EXPECT_EQ(JudgeMath("5", "so \\boxed{5").verdict, Verdict::kNoAnswer);
  EXPECT_STREQ(MathVerdictName(Verdict::kNoAnswer), "no_answer");
}

// Threads get the verdicts that one alone gets, and leave nothing behind (the leak sanitizer
// looks).
TEST(MathJudge, ManyThreadsAgree) {
  const std::vector<std::pair<std::string, std::string>> pairs = {
      {"2^{100}", "1267650600228229401496703205376"},
      {"\\binom{n}{k}", "\\frac{n!}{k!(n-k)!}"},
      {"(x+1)^{20}", "(1+x)^{20}"},
      {"\\sin 1 + \\pi", "\\pi+\\sin(1)"}};
  std::vector<int> right(4, 0);
  std::vector<std::thread> threads;
  for (int& count : right) {
    threads.emplace_back([&count, &pairs] {
      for (const auto& [gold, answer] : pairs) count += Correct(gold, answer);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const int count : right) EXPECT_EQ(count, 4);
}

class Chance {
 public:
  std::uint64_t Next(std::uint64_t below) {
    state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL;
    return (state_ >> 33) % below;
  }

 private:
  std::uint64_t state_ = 7;
};

// An arithmetic expression in LaTeX with its value, computed here with 64-bit fractions.
struct Arithmetic {
  std::string text;
  std::int64_t above = 0;
  std::int64_t below = 1;
};

Arithmetic RandomArithmetic(Chance& chance, int depth) {
  if (depth == 0 || chance.Next(4) == 0) {
    const auto n = static_cast<std::int64_t>(chance.Next(12) + 1);
    return {std::to_string(n), n, 1};
  }
  const Arithmetic a = RandomArithmetic(chance, depth - 1);
  const Arithmetic b = RandomArithmetic(chance, depth - 1);
  Arithmetic out;
  switch (chance.Next(4)) {
    case 0:
      out = {"(" + a.text + "+" + b.text + ")", a.above * b.below + b.above * a.below,
             a.below * b.below};
      break;
    case 1:
      out = {"\\left(" + a.text + " - " + b.text + "\\right)",
             a.above * b.below - b.above * a.below, a.below * b.below};
      break;
    case 2:
      out = {a.text + (chance.Next(2) ? " \\cdot " : "\\times ") + b.text, a.above * b.above,
             a.below * b.below};
      break;
    default:
      if (b.above == 0) return a;
      out = {"\\frac{" + a.text + "}{" + b.text + "}", a.above * b.below, a.below * b.above};
      break;
  }
  const std::int64_t divisor = std::gcd(out.above, out.below) * (out.below < 0 ? -1 : 1);
  out.above /= divisor;
  out.below /= divisor;
  return out;
}

TEST(MathJudge, ArithmeticAgreesWithFractions) {
  Chance chance;
  for (int i = 0; i < 2000; ++i) {
    const Arithmetic a = RandomArithmetic(chance, 3);
    const std::string value = a.below == 1 ? std::to_string(a.above)
                                           : (a.above < 0 ? "-" : "") + std::string("\\frac{") +
                                                 std::to_string(a.above < 0 ? -a.above : a.above) +
                                                 "}{" + std::to_string(a.below) + "}";
    EXPECT_TRUE(Correct(a.text, value)) << a.text << " = " << value;
    EXPECT_TRUE(Correct(value, a.text)) << a.text << " = " << value;
    const Arithmetic b = RandomArithmetic(chance, 2);
    EXPECT_EQ(Correct(a.text, b.text), a.above == b.above && a.below == b.below)
        << a.text << " and " << b.text;
  }
}

// Polynomials in x and y by their coefficients: equal exactly if all of those are.
TEST(MathJudge, PolynomialsAgreeWithTheirCoefficients) {
  Chance chance;
  const char* monomials[] = {"", "x", "y", "xy", "x^2", "y^{2}", "x^2y"};
  for (int i = 0; i < 500; ++i) {
    std::vector<int> a(7);
    for (int& c : a) c = static_cast<int>(chance.Next(9)) - 4;
    std::vector<int> b = a;
    const bool same = chance.Next(2) == 0;
    if (!same) b[chance.Next(7)] += 1 + static_cast<int>(chance.Next(3));
    const auto text = [&](const std::vector<int>& c, bool reversed) {
      std::string out = "0";
      for (std::size_t k = 0; k < 7; ++k) {
        const std::size_t m = reversed ? 6 - k : k;
        out += (c[m] < 0 ? " - " : " + ") + std::to_string(std::abs(c[m])) + monomials[m];
      }
      return out;
    };
    EXPECT_EQ(Correct(text(a, false), text(b, true)), same) << text(a, false);
    // (ax + b)(cx + d) and its expansion.
    const std::string factored = "(" + std::to_string(a[0]) + "x+" + std::to_string(a[1] + 5) +
                                 ")(" + std::to_string(a[2]) + "x+" + std::to_string(a[3] + 5) +
                                 ")";
    const int c2 = a[0] * a[2];
    const int c1 = a[0] * (a[3] + 5) + a[2] * (a[1] + 5);
    const int c0 = (a[1] + 5) * (a[3] + 5);
    const auto expanded = [&](int last) {
      return std::to_string(c2) + "x^2+" + std::to_string(c1) + "x+" + std::to_string(last);
    };
    EXPECT_TRUE(Correct(factored, expanded(c0))) << factored;
    EXPECT_FALSE(Correct(factored, expanded(c0 + 1))) << factored;
  }
}

// Equivalence does not depend on which side is gold, for answers without a rounding or a name.
TEST(MathJudge, IsSymmetricForExactAnswers) {
  const std::vector<std::string> answers = {"5",
                                            "-5",
                                            "\\frac{1}{2}",
                                            "0.5",
                                            "2\\sqrt{3}",
                                            "\\sqrt{12}",
                                            "\\pi",
                                            "e^{i\\pi}",
                                            "-1",
                                            "x+1",
                                            "1+x",
                                            "(1,2)",
                                            "[1,2]",
                                            "(2,1)",
                                            "\\{1,2\\}",
                                            "\\{2,1\\}",
                                            "1,2",
                                            "x>3",
                                            "(3,\\infty)",
                                            "\\pm 2",
                                            "2,-2",
                                            "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}",
                                            "\\infty",
                                            "-\\infty",
                                            "3:2",
                                            "6:4",
                                            "50\\%",
                                            "90^\\circ",
                                            "\\frac{\\pi}{2}",
                                            "n!",
                                            "\\log_2 8",
                                            "3",
                                            "\\text{even}",
                                            "yes"};
  int equal = 0;
  for (const std::string& a : answers) {
    for (const std::string& b : answers) {
      EXPECT_EQ(Correct(a, b), Correct(b, a)) << a << " and " << b;
      equal += Correct(a, b);
    }
  }
  EXPECT_EQ(equal, static_cast<int>(answers.size()) + 2 * 16);
}

TEST(MathJudge, NormalisingTwiceIsNormalisingOnce) {
  for (const std::string text : {"x² − 3·y ≤ √5", "½ + ¾π", "x⁻¹ ± 2", "\\\\frac{1}{2}", "（3，5）",
                                 "{1,2} ∪ {3}", "a²³", "10°",
                                 "\f"
                                 "rac{1}{2}",
                                 "\t"
                                 "ext{cm}",
                                 "\xff\xfe",
                                 "1\xe2\x80\xaf"
                                 "000"}) {
    const std::string once = NormaliseText(text);
    EXPECT_EQ(NormaliseText(once), once) << text;
  }
}

}  // namespace
}  // namespace opo
