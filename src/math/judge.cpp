#include "math/judge.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "math/compare.h"
#include "math/extract.h"
#include "math/parser.h"
#include "math/scan.h"
#include "math/tokens.h"

namespace opo {
namespace {

using Verdict = MathJudgement::Verdict;

// Lower case, without punctuation, markup and articles, one space between words.
std::string PlainWords(std::string_view text) {
  std::string out;
  std::string word;
  const auto flush = [&] {
    if (!word.empty() && word != "a" && word != "an" && word != "the") {
      if (!out.empty()) out += ' ';
      out += word;
    }
    word.clear();
  };
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\\') {
      std::size_t end = i + 1;
      while (end < text.size() && IsLetter(text[end])) ++end;
      const std::string_view name = text.substr(i + 1, end - i - 1);
      flush();
      const bool markup = name.empty() || name == "text" || name == "mbox" || name == "mathrm" ||
                          name == "textbf" || name == "quad" || name == "left" || name == "right" ||
                          name == "mathbf" || name == "textit" || name == "hbox";
      if (!markup) word = std::string(name);
      i = end - 1;
      if (!word.empty()) flush();
      continue;
    }
    if (IsLetter(c) || IsDigit(c) || static_cast<unsigned char>(c) >= 0x80) {
      word += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    } else if (c == '-' || c == '\'') {
      continue;  // well-known, it's
    } else if (c == '+' || c == '=' || c == '<' || c == '>' || c == '^' || c == '*' || c == '/') {
      flush();
      out += c;
    } else {
      flush();
    }
  }
  flush();
  return out;
}

// Three letters in a row: text that may be compared as words, where case does not count.
bool HasWord(std::string_view text) {
  int run = 0;
  for (const char c : text) {
    run = IsLetter(c) || static_cast<unsigned char>(c) >= 0x80 ? run + 1 : 0;
    if (run == 3) return true;
  }
  return false;
}

// Without the white space, which says nothing between signs.
std::string Squeezed(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c != ' ' && c != '\n' && c != '\t' && c != '\r') out += c;
  }
  return out;
}

// The ways to read commas: groups of digits, a list, a decimal comma.
std::vector<MathReading> ReadingsOf(std::string_view text) {
  std::vector<MathReading> readings = {{true, false}};
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
  if (group) readings.push_back({false, false});
  if (decimal) readings.push_back({true, true});
  return readings;
}

struct Parsed {
  MathReading reading;
  ParsedAnswer answer;
};

// All trees of a text.
std::vector<Parsed> ParseAll(std::string_view text, MathTree& tree) {
  std::vector<Parsed> trees;
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
      : gold_text_(NormaliseText(gold)), completion_(NormaliseText(completion)) {}

  MathJudgement Run() {
    gold_ = FindGoldAnswer(gold_text_);
    if (gold_.readings.empty()) return Result(Verdict::kBadGold, "", "the gold answer is empty");
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
  MathJudgement Result(Verdict verdict, std::string extracted, std::string why) const {
    return {verdict, gold_.readings.empty() ? std::string() : gold_.readings[0],
            std::move(extracted), std::move(why)};
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
    if (found == '\0') found = FindChoice(completion_);
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
      for (const std::string& reading : answer.readings) {
        const std::string_view text = TrimAnswer(reading);
        if (text.empty()) continue;
        if (!gold_squeezed.empty() && gold_squeezed == Squeezed(text)) {
          return Result(Verdict::kCorrect, reading, "the same text");
        }
        if (HasWord(gold) && HasWord(text) && !gold_words.empty() &&
            gold_words == PlainWords(text)) {
          return Result(Verdict::kCorrect, reading, "the same words");
        }
        // (C) Cecile and C.
        const char letter = ChoiceLetter(gold, false);
        if (letter != '\0' && gold[0] != '(' && letter == ChoiceLetter(text, true)) {
          return Result(Verdict::kCorrect, reading, "the letter of a choice");
        }
      }
      for (const std::string& reading : answer.readings) {
        const std::string_view text = TrimAnswer(reading);
        std::vector<Parsed> trees = ParseAll(text, tree);
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
        if (!trees.empty() && !IsWords(trees)) break;  // mathematics: later readings do not count
      }
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
  return Judge(gold, completion).Run();
}

}  // namespace opo
