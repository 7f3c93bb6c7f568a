// The whole verifier: gold answer, a newline, completion. A verdict each time, the same one twice,
// and a text that is its own gold is correct.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "math/judge.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::size_t cut = text.find('\n');
  const std::string_view gold = text.substr(0, cut);
  const std::string_view answer =
      cut == std::string_view::npos ? std::string_view() : text.substr(cut + 1);
  const opo::MathJudgement first = opo::JudgeMath(gold, answer);
  const opo::MathJudgement second = opo::JudgeMath(gold, answer);
  if (first.verdict != second.verdict || first.extracted != second.extracted) std::abort();
  using Verdict = opo::MathJudgement::Verdict;
  const opo::MathJudgement self = opo::JudgeMath(gold, gold);
  if (self.verdict == Verdict::kWrong && gold.find("target") == std::string_view::npos) {
    std::abort();
  }
  return 0;
}
