// Text that is made to hang, crash or exhaust a verifier: every call ends soon, with a verdict.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "math/judge.h"

namespace opo {
namespace {

std::string Repeat(std::string_view text, std::size_t times) {
  std::string out;
  out.reserve(text.size() * times);
  for (std::size_t i = 0; i < times; ++i) out += text;
  return out;
}

std::vector<std::string> HostileTexts() {
  std::vector<std::string> texts = {
      "2^{2^{100}}",
      "2^{2^{2^{2^{2^{49}}}}}",
      "9^{9^{9^{9}}}",
      "(x+1)^{10^6}",
      "(x+1)^{1000}(y+1)^{1000}(z+1)^{1000}",
      "(a+b+c+d+e+f+g+h)^{60}",
      "(a+b+c+d+k+f+g+h)^{60} - (h+g+f+k+d+c+b+a)^{60}",
      "100!!!",
      "100!!!!!!!!!!",
      "(10^{9})!",
      "\\binom{10^{12}}{5\\cdot 10^{11}}",
      "\\binom{4000}{2000}^{4000}",
      "e^{e^{e^{e^{10}}}}",
      "\\sin(10^{10^{10}})",
      "\\Gamma(10^{100})",
      "1e999999999",
      "1e-999999999",
      "0.(" + Repeat("3", 5000) + ")",
      "0." + Repeat("3", 9000),
      Repeat("9", 9000),
      Repeat("9", 4999) + "^{" + Repeat("9", 4000) + "}",
      "\\sqrt[10^{9}]{2}",
      "\\sqrt[2^{100}]{2}",
      "\\sum_{k=1}^{10^{9}} \\frac{1}{k}",
      "\\sum_{a=1}^{1999}\\sum_{b=1}^{1999}\\sum_{c=1}^{1999} abc",
      "\\prod_{k=1}^{1999} k^{k^{k}}",
      "\\log_{1}(2)",
      "\\frac{1}{0}",
      "0^0",
      "0^{-1}",
      "\\ln 0",
      "\\tan 90^\\circ",
      "\\lfloor \\sqrt{2}\\cdot\\sqrt{2} \\rfloor",
      Repeat("(", 10'000),
      Repeat("[", 10'000),
      Repeat("{", 10'000),
      Repeat("\\{", 10'000),
      Repeat("(", 2000) + "1" + Repeat(")", 2000),
      Repeat("{", 4000) + "1" + Repeat("}", 4000),
      Repeat("|", 10'000),
      Repeat("-", 9000) + "1",
      Repeat("1+", 4999) + "1",
      Repeat("1/", 4999) + "1",
      Repeat("2^", 4999) + "1",
      Repeat("x!", 4000),
      "x" + Repeat("!", 9000),
      "x" + Repeat("'", 9000),
      "f" + Repeat("'", 9000) + "(x)",
      Repeat("\\sin ", 1500) + "x",
      Repeat("\\sqrt", 1500) + "2",
      Repeat("\\sqrt{", 1500) + "2" + Repeat("}", 1500),
      Repeat("\\pm 1", 1500),
      Repeat("1\\pm", 2000) + "1",
      Repeat("(1,2)\\cup", 1000) + "(3,4)",
      Repeat("1,", 4999) + "1",
      Repeat("x,", 4999) + "y",
      Repeat("a and ", 1500),
      Repeat("x=", 4000) + "1",
      Repeat("x<", 4000) + "1",
      Repeat("1:", 4000) + "1",
      Repeat("x_", 4000) + "1",
      Repeat("x_{", 3000) + "1" + Repeat("}", 3000),
      Repeat("\\left", 1800),
      Repeat("\\text{", 1500) + Repeat("}", 1500),
      Repeat("\\mathrm{", 1000) + "x" + Repeat("}", 1000),
      Repeat("\\begin{pmatrix}", 600) + Repeat("\\end{pmatrix}", 600),
      "\\begin{pmatrix}" + Repeat("1&", 4000) + "1\\end{pmatrix}",
      "\\begin{pmatrix}" + Repeat("1\\\\", 3000) + "1\\end{pmatrix}",
      "\\begin{vmatrix}" + Repeat("x&", 4000) + "1\\end{vmatrix}",
      Repeat("\\frac", 2000),
      Repeat("\\frac{1}{", 1000) + "1" + Repeat("}", 1000),
      Repeat("\\overline{", 1000) + "1" + Repeat("}", 1000),
      "\\boxed",
      "\\boxed{",
      "\\boxed{}",
      "\\boxed{\\boxed{\\boxed{}}}",
      std::string("\0\x01\xff\xfe\x80", 5),
      Repeat("\xf0\x9f\x98\x80", 2000),
      Repeat("\xe2\x88\x9a", 2000) + "2",
      Repeat("\xc2\xb2", 3000),
  };
  constexpr std::size_t kMegabyte = 1 << 20;
  for (const std::string_view unit : {"\\",
                                      "\\\\",
                                      "{",
                                      "}",
                                      "$",
                                      "\\(",
                                      "\\[",
                                      "(",
                                      "1",
                                      " ",
                                      "\n",
                                      "\\boxed{",
                                      "\\boxed",
                                      "box",
                                      "\\boxed{1}",
                                      "\\boxed{1},",
                                      "\\frac{",
                                      "\\frac{1}{2}",
                                      "####",
                                      "#### 1\n",
                                      "answer",
                                      "answer is ",
                                      "the answer is",
                                      "answer to ",
                                      "A:",
                                      "\nA: ",
                                      "<",
                                      "</",
                                      "<answer>",
                                      "<answer>1</answer>",
                                      "<think>",
                                      "</think>",
                                      "[asy]",
                                      "[asy][/asy]",
                                      "**",
                                      "**1**",
                                      "*",
                                      "1,",
                                      "1.",
                                      "1 ",
                                      "-1",
                                      "1/",
                                      "x^",
                                      "x_",
                                      "\\text{",
                                      "$1$",
                                      "$$",
                                      "\\[1\\]",
                                      "a",
                                      "a ",
                                      "A ",
                                      "\xff",
                                      "\xe2\x88\x92",
                                      "\xe7\xad\x94\xe6\xa1\x88",
                                      "1e",
                                      "10^{",
                                      "^{2}",
                                      "'",
                                      "'('",
                                      "__",
                                      " is ",
                                      " is 1",
                                      "I hope it is correct",
                                      "word(",
                                      "\f",
                                      "\trac",
                                      "<|im_end|>",
                                      "\\ ",
                                      "$\\$"}) {
    texts.push_back(Repeat(unit, kMegabyte / unit.size()));
  }
  return texts;
}

TEST(MathHostile, EveryTextEndsSoonAsAnswerAndAsGold) {
  const std::vector<std::string> texts = HostileTexts();
  for (const std::string& text : texts) {
    const std::string shown = text.substr(0, 40) + " (" + std::to_string(text.size()) + " bytes)";
    const std::string boxed = "\\boxed{" + text + "}";
    for (const auto& [gold, answer] : {std::pair<std::string_view, std::string_view>{"1", text},
                                       {text, "1"},
                                       {text, text},
                                       {"x+1", boxed}}) {
      const auto begin = std::chrono::steady_clock::now();
      const MathJudgement judgement = JudgeMath(gold, answer);
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
      // A thousand times what an ordinary case takes, and room for slow, busy machines and
      // sanitizers; a bound that is missing takes minutes.
      EXPECT_LT(seconds.count(), 5.0) << shown;
      if (std::getenv("OPO_MATH_TIMES") != nullptr && seconds.count() > 0.02) {
        std::printf("%8.1f ms  %s\n", seconds.count() * 1e3, shown.c_str());
      }
      EXPECT_NE(std::string(MathVerdictName(judgement.verdict)), "");
    }
  }
}

// What is too large to compute is still equal to itself, and to nothing else.
TEST(MathHostile, GiantsAreEqualToThemselves) {
  using Verdict = MathJudgement::Verdict;
  for (const std::string giant : {"2^{2^{100}}", "9^{9^{9^{9}}}", "100!!!", "(10^{9})!",
                                  "\\binom{10^{12}}{5}", "2^{10^{9}}"}) {
    EXPECT_EQ(JudgeMath(giant, "\\boxed{" + giant + "}").verdict, Verdict::kCorrect) << giant;
    EXPECT_EQ(JudgeMath(giant, "\\boxed{7}").verdict, Verdict::kWrong) << giant;
  }
  EXPECT_EQ(JudgeMath("10^{10^{10^{10}}}", "10^{10}").verdict, Verdict::kWrong);
  EXPECT_EQ(JudgeMath("2^{2^{100}}", "2^{2^{101}}").verdict, Verdict::kWrong);
  EXPECT_EQ(JudgeMath("3^{2025}", "3^{2024}\\cdot 3").verdict, Verdict::kCorrect);
  EXPECT_EQ(JudgeMath("3^{2025}", "2^{2025}").verdict, Verdict::kWrong);
  EXPECT_EQ(JudgeMath("1/2004!", "1/2005!").verdict, Verdict::kWrong);
}

}  // namespace
}  // namespace opo
