#include "math/judge.h"

#include <flint/flint.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "math/compare.h"
#include "math/countdown.h"
#include "math/extract.h"
#include "math/parser.h"
#include "math/plain_words.h"
#include "math/scan.h"
#include "math/tokens.h"
#include "math/words.h"

namespace opo {
namespace {

using Verdict = MathJudgement::Verdict;

// Three letters in a row that are no command and no function: text that may be compared as words,
// where case does not count.
bool HasWord(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    if (text[i] == '\\') {
      const std::size_t name = ++i;
      while (i < text.size() && IsLetter(text[i])) ++i;
      const bool environment =
          text.substr(name, i - name) == "begin" || text.substr(name, i - name) == "end";
      while (environment && i < text.size() && text[i] != '}') ++i;
      continue;
    }
    const std::size_t begin = i;
    while (i < text.size() && (IsLetter(text[i]) || static_cast<unsigned char>(text[i]) >= 0x80)) {
      ++i;
    }
    const std::string_view word = text.substr(begin, i - begin);
    if (word.size() >= 3 && PlainFunction(word) == nullptr && PlainMark(word) == nullptr &&
        !IsGreek(word)) {
      return true;
    }
    if (i == begin) ++i;
  }
  return false;
}

// Without the white space, which says nothing but between digits.
std::string Squeezed(std::string_view text) {
  std::string out;
  bool space = false;
  for (const char c : text) {
    if (IsSpace(c)) {
      space = true;
      continue;
    }
    if (space && !out.empty() && IsDigit(out.back()) && IsDigit(c)) out += ' ';
    space = false;
    out += c;
  }
  return out;
}

// The ways to read commas: groups of digits, a list, a decimal comma.
std::vector<MathReading> ReadingsOf(std::string_view text) {
  std::vector<MathReading> readings = {{}};
  bool group = false;
  bool decimal = false;
  for (std::size_t i = 1; i + 1 < text.size(); ++i) {
    if (text[i] != ',' || !IsDigit(text[i - 1]) || !IsDigit(text[i + 1])) continue;
    std::size_t digits = 0;
    while (i + 1 + digits < text.size() && IsDigit(text[i + 1 + digits])) ++digits;
    group |= digits == 3;
    const bool zero = text[i - 1] == '0' && (i == 1 || !IsDigit(text[i - 2]));
    decimal |= digits != 3 || zero;
  }
  if (group) readings.push_back({.group_thousands = false});
  if (decimal) readings.push_back({.decimal_comma = true});
  const bool program = text.find('\\') == std::string_view::npos &&
                       text.find_first_of("*(") != std::string_view::npos;
  for (std::size_t i = 0; program && i < text.size(); ++i) {
    const auto joins = [&](std::size_t k) {
      return k < text.size() && (IsLetter(text[k]) || IsDigit(text[k]));
    };
    if (text[i] == 'E' && !(i > 0 && joins(i - 1)) && !joins(i + 1)) {
      readings.push_back({.capital_e = true});
      break;
    }
  }
  // A letter behind a value and a space.
  for (std::size_t i = 1; i < text.size(); ++i) {
    if (!IsDigit(text[i - 1]) && text[i - 1] != '}') continue;
    std::size_t next = i;
    while (next < text.size() && (IsSpace(text[next]) || text[next] == '\\' || text[next] == ',' ||
                                  text[next] == '~' || text[next] == ';')) {
      ++next;
    }
    if (next > i && next < text.size() && IsLetter(text[next])) {
      readings.push_back({.unit_letters = true});
      break;
    }
    i = std::max(i, next - 1);
  }
  return readings;
}

struct Parsed {
  MathReading reading;
  ParsedAnswer answer;
};

// 1.234.567,89, as written in much of Europe: the same number in our way; else empty.
std::string FromEuropean(std::string_view text) {
  std::string out;
  std::size_t groups = 0;
  std::size_t at = 0;
  const auto digits = [&](std::size_t least, std::size_t most) {
    std::size_t count = 0;
    while (at < text.size() && IsDigit(text[at]) && count < most) {
      out += text[at++];
      ++count;
    }
    return count >= least;
  };
  if (text.size() > 60 || !digits(1, 3)) return {};
  for (; at < text.size() && text[at] == '.'; ++groups) {
    ++at;
    if (!digits(3, 3)) return {};
  }
  const bool comma = at < text.size() && text[at] == ',';
  if (comma) {
    ++at;
    out += '.';
    if (!digits(1, 40)) return {};
  }
  return at == text.size() && (groups >= 2 || (groups == 1 && comma)) ? out : std::string();
}

// Words that stand for a set.
std::string_view SetInWords(std::string_view words) {
  for (const std::string_view all : {"all real numbers", "all reals", "all real number",
                                     "real numbers", "any real number", "all real x"}) {
    if (words == all) return "\\mathbb{R}";
  }
  for (const std::string_view none :
       {"no solution", "no solutions", "no real solutions", "no real solution", "empty set",
        "there is no solution", "there are no solutions"}) {
    if (words == none) return "\\emptyset";
  }
  return {};
}

// All trees of a text.
std::vector<Parsed> ParseAll(std::string_view text, MathTree& tree) {
  std::vector<Parsed> trees;
  if (text.size() < 60) {
    if (const std::string number = FromEuropean(text); !number.empty()) {
      trees.push_back({{}, ParseMath(number, {}, tree)});
      return trees;
    }
    if (const std::string_view set = SetInWords(PlainWords(text)); !set.empty()) {
      trees.push_back({{}, ParseMath(set, {}, tree)});
      return trees;
    }
  }
  for (const MathReading& reading : ReadingsOf(text)) {
    ParsedAnswer answer = ParseMath(text, reading, tree);
    if (answer.root != nullptr) trees.push_back({reading, answer});
  }
  return trees;
}

bool IsWords(const std::vector<Parsed>& trees) {
  return trees.empty() || trees[0].answer.root->op == MathOp::kText;
}

class Judge {
 public:
  Judge(std::string_view gold, std::string_view completion)
      : gold_text_(NormaliseText(Tail(gold))), completion_(NormaliseText(Tail(completion))) {}

  MathJudgement Run() {
    gold_ = FindGoldAnswer(gold_text_);
    if (gold_.readings.empty()) return Result(Verdict::kBadGold, "", "the gold answer is empty");
    if (const auto puzzle = ReadCountdown(gold_text_)) return JudgeCountdown(*puzzle);
    if (Squeezed(gold_text_) == Squeezed(completion_)) {
      return Result(Verdict::kCorrect, completion_, "the same text");
    }
    const char letter = ChoiceLetter(gold_.readings[0], true);
    if (letter != '\0') return JudgeChoice(letter);
    const FinalAnswer answer = FindFinalAnswer(completion_);
    if (answer.readings.empty()) {
      return Result(Verdict::kNoAnswer, "",
                    answer.how.empty() ? "no final answer was found" : answer.how);
    }
    return JudgeAnswer(answer);
  }

 private:
  // Final answers stand at the end: of longer texts the start is not read.
  static std::string_view Tail(std::string_view text) {
    constexpr std::size_t kLongest = 256 * 1024;
    return text.size() <= kLongest ? text : text.substr(text.size() - kLongest);
  }

  MathJudgement Result(Verdict verdict, std::string extracted, std::string why) const {
    return {verdict, gold_.readings.empty() ? std::string() : gold_.readings[0],
            std::move(extracted), std::move(why)};
  }

  // The gold is {"target", "numbers"}: the answer is an expression that reaches it.
  MathJudgement JudgeCountdown(const CountdownGoal& goal) {
    const FinalAnswer answer = FindFinalAnswer(completion_);
    for (const std::string& reading : answer.readings) {
      MathTree tree;
      const ParsedAnswer parsed = ParseMath(TrimAnswer(reading), {}, tree);
      if (parsed.root == nullptr) continue;
      const bool right = ReachesGoal(*parsed.root, goal);
      return Result(right ? Verdict::kCorrect : Verdict::kWrong, reading,
                    right ? "every number once, and the target" : "misses the target");
    }
    return Result(Verdict::kNoAnswer, "", "no expression was found");
  }

  MathJudgement JudgeChoice(char letter) {
    const FinalAnswer answer = FindFinalAnswer(completion_);
    char found = '\0';
    std::string extracted;
    if (!answer.readings.empty()) {
      extracted = answer.readings[0];
      if (answer.how == "boxed" || completion_.find("<answer>") != std::string::npos) {
        found = ChoiceLetter(extracted, false);
      }
    }
    if (found == '\0' && answer.how != "boxed") found = FindChoice(completion_);
    if (found != '\0') {
      return Result(found == letter ? Verdict::kCorrect : Verdict::kWrong, std::string(1, found),
                    "the letter of a choice");
    }
    if (answer.readings.empty()) return Result(Verdict::kNoAnswer, "", "no letter was found");
    return JudgeAnswer(answer);
  }

  MathJudgement JudgeAnswer(const FinalAnswer& answer) {
    MathTree tree;
    std::string why;
    for (const std::string& gold_reading : gold_.readings) {
      const std::string_view gold = TrimAnswer(gold_reading);
      const std::string gold_squeezed = Squeezed(gold);
      const std::vector<Parsed> gold_trees = ParseAll(gold, tree);
      const std::string gold_words = PlainWords(gold);
      const bool gold_is_words = IsWords(gold_trees);
      const bool has_word = HasWord(gold) && !gold_words.empty();
      for (const std::string& reading : answer.readings) {
        const std::string_view text = TrimAnswer(reading);
        if (text.empty()) continue;
        if (!gold_squeezed.empty() && gold_squeezed == Squeezed(text)) {
          return Result(Verdict::kCorrect, reading, "the same text");
        }
        std::vector<Parsed> trees = ParseAll(text, tree);
        const bool is_words = IsWords(trees);
        if (has_word && gold_words == PlainWords(text)) {
          return Result(Verdict::kCorrect, reading, "the same words");
        }
        // (C) Cecile and C.
        const char letter = ChoiceLetter(gold, false);
        if (letter != '\0' && gold[0] != '(' && letter == ChoiceLetter(text, true)) {
          return Result(Verdict::kCorrect, reading, "the letter of a choice");
        }
        if (text.size() > 1 && text.back() == '!') {  // "The answer is 42!"
          for (Parsed& parsed : ParseAll(text.substr(0, text.size() - 1), tree)) {
            trees.push_back(std::move(parsed));
          }
        }
        for (const Parsed& g : gold_trees) {
          for (const Parsed& a : trees) {
            MathWork work;
            if (SameAnswer(*g.answer.root, *a.answer.root, tree, work, &why)) {
              return Result(Verdict::kCorrect, reading, why);
            }
          }
        }
        // Mathematics that was read: what stands elsewhere does not count.
        if (!is_words && !gold_is_words) break;
      }
      if (!gold_is_words) break;
    }
    return Result(Verdict::kWrong, answer.readings[0], "differs from the gold answer");
  }

  std::string gold_text_;
  std::string completion_;
  FinalAnswer gold_;
};

}  // namespace

const char* MathVerdictName(Verdict verdict) {
  switch (verdict) {
    case Verdict::kCorrect:
      return "correct";
    case Verdict::kWrong:
      return "wrong";
    case Verdict::kNoAnswer:
      return "no_answer";
    case Verdict::kBadGold:
      return "bad_gold";
  }
  return "";
}

MathJudgement JudgeMath(std::string_view gold, std::string_view completion) {
  // FLINT and Arb keep constants and small numbers for each thread, and free them only if asked.
  struct Caches {
    ~Caches() { flint_cleanup(); }
  };
  static thread_local Caches caches;
  static_cast<void>(caches);
  return Judge(gold, completion).Run();
}

}  // namespace opo
