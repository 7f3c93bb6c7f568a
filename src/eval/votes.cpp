#include "eval/votes.h"

#include <map>

#include "math/judge.h"

namespace opo {

bool SameAnswerFound(const std::string& kind, const std::string& a, const std::string& b) {
  if (a == b) return true;
  if (kind != "math" && kind != "countdown") return false;
  const auto says = [](const std::string& gold, const std::string& answer) {
    return JudgeMath(gold, "\\boxed{" + answer + "}").verdict == MathJudgement::Verdict::kCorrect;
  };
  return says(a, b) || says(b, a);
}

std::vector<VoteClass> VoteClasses(const std::string& kind, std::span<const Answer> answers,
                                   double pass_threshold) {
  std::vector<VoteClass> classes;
  std::vector<std::string> first;              // of each class
  std::map<std::string, std::size_t> classed;  // texts that were met
  for (const Answer& answer : answers) {
    if (!answer.scored()) continue;
    const std::string found = AnswerFound(kind, answer.gold, answer.text);
    if (found.empty()) continue;
    auto it = classed.find(found);
    if (it == classed.end()) {
      std::size_t c = 0;
      while (c < first.size() && !SameAnswerFound(kind, first[c], found)) ++c;
      if (c == first.size()) {
        first.push_back(found);
        classes.emplace_back();
      }
      it = classed.emplace(found, c).first;
    }
    ++classes[it->second].votes;
    classes[it->second].right += answer.reward.value >= pass_threshold ? 1 : 0;
  }
  return classes;
}

}  // namespace opo
