// The kind "choice": 1 if the letter that the completion chooses is that of the gold answer.
#include <algorithm>
#include <array>

#include "math/scan.h"
#include "reward/kinds.h"

namespace opo {
namespace {

bool IsWord(char c) {
  return IsLetter(c) || IsDigit(c) || (static_cast<unsigned char>(c) & 0x80U) != 0;
}
char Upper(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; }

// A letter A to Z that stands alone at `at`: "B", "(b)", "**B**", "\boxed{B}", "\text{B}".
char LetterAt(std::string_view text, std::size_t at) {
  constexpr std::string_view kSkipped = " \t\r\n*([{:$";
  while (at < text.size()) {
    if (kSkipped.find(text[at]) != std::string_view::npos) {
      ++at;
    } else if (text[at] == '\\') {  // \boxed, \text, ...
      std::size_t end = at + 1;
      while (end < text.size() && IsLetter(text[end])) ++end;
      if (end == at + 1 || end == text.size() || text[end] != '{') return 0;
      at = end + 1;
    } else {
      break;
    }
  }
  if (at >= text.size() || !IsLetter(text[at])) return 0;
  if (at + 1 < text.size() && (IsWord(text[at + 1]) || text[at + 1] == '\'')) return 0;
  return Upper(text[at]);
}

}  // namespace

// The last choice that is announced; else the last line's only capital letter on its own.
char ChosenLetter(std::string_view text) {
  const std::string lower = LowerCopy(text);
  constexpr std::array<std::string_view, 10> kAnnounced = {
      "<answer>",  "\\boxed", "answer is", "answer:",        "answer **",
      "choice is", "choice:", "option is", "correct option", "choose"};
  std::size_t best = 0;
  char found = 0;
  for (const std::string_view words : kAnnounced) {
    for (std::size_t at = lower.rfind(words); at != std::string::npos && at + 1 > best;
         at = at == 0 ? std::string::npos : lower.rfind(words, at - 1)) {
      const bool boxed = words == "\\boxed";
      std::size_t from = at + (boxed ? 0 : words.size());
      for (const std::string_view filler : {" is", " option", " choice", " answer"}) {
        if (!boxed && std::string_view(lower).substr(from).starts_with(filler)) {
          from += filler.size();
        }
      }
      const char letter = LetterAt(text, from);
      if (letter == 0) continue;
      best = at + 1;
      found = letter;
      break;
    }
  }
  if (found != 0) return found;
  const std::string_view body = Trim(text);
  const std::size_t line = body.rfind('\n');
  const std::string_view last = line == std::string_view::npos ? body : body.substr(line + 1);
  for (std::size_t i = 0; i < last.size(); ++i) {
    const bool alone = last[i] >= 'A' && last[i] <= 'Z' && (i == 0 || !IsWord(last[i - 1])) &&
                       (i + 1 == last.size() || (!IsWord(last[i + 1]) && last[i + 1] != '\''));
    if (!alone) continue;
    // "A bird" and "I think" are words; "A or B" and "A and B" are two choices.
    const std::string_view next = last.substr(std::min(i + 1, last.size()));
    const bool word = (last[i] == 'A' || last[i] == 'I') && next.size() > 1 && next[0] == ' ' &&
                      IsLetter(next[1]) && !next.starts_with(" or ") && !next.starts_with(" and ");
    if (word) continue;
    if (found != 0 && found != last[i]) return 0;  // "A or B"
    found = last[i];
  }
  // "b" or "(b)" and nothing else.
  const bool one = std::count_if(last.begin(), last.end(), IsWord) == 1;
  return found == 0 && one ? LetterAt(last, 0) : found;
}

namespace {

class ChoiceReward final : public RuleReward {
 public:
  RewardResult Judge(const RewardQuery& query) const override {
    if (query.problem.answer.empty()) return NoGoldAnswer();
    const char gold = ChosenLetter(query.problem.answer);
    if (gold == 0) {
      return RewardError("gold",
                         "no choice's letter in the gold answer " + Excerpt(query.problem.answer));
    }
    const char found = ChosenLetter(query.completion);
    if (found == 0) return Scored(0, "no choice in the completion");
    return Scored(found == gold ? 1 : 0, std::string("chose ") + found);
  }
};

}  // namespace

std::unique_ptr<Reward> MakeChoiceReward(const RewardConfig&, const std::string&) {
  return std::make_unique<ChoiceReward>();
}

}  // namespace opo
