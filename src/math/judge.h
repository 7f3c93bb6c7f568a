// The math verifier: does a completion's final answer equal the gold answer? Rule-based and
// deterministic; docs/verifier.md says what is found and how it is judged.
//
// Every call ends, with the same verdict on every machine: what it may do is bounded by counts
// (bytes, depth, nodes, bits, terms), never by the clock. No input throws.
#pragma once

#include <string>
#include <string_view>

namespace opo {

struct MathJudgement {
  enum class Verdict {
    kCorrect,
    kWrong,
    kNoAnswer,  // the completion has no final answer
    kBadGold,   // the gold answer is empty or cannot be understood
  };
  Verdict verdict = Verdict::kWrong;
  std::string gold;       // the gold answer as it was read
  std::string extracted;  // the completion's final answer as it was found
  std::string why;        // the rule that decided
};

const char* MathVerdictName(MathJudgement::Verdict verdict);  // "correct", "wrong", ...

MathJudgement JudgeMath(std::string_view gold, std::string_view completion);

}  // namespace opo
