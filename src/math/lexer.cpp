#include <algorithm>
#include <array>
#include <unordered_map>
#include <unordered_set>

#include "math/scan.h"
#include "math/tokens.h"
#include "math/words.h"

namespace opo {
namespace {

class Lexer {
 public:
  explicit Lexer(std::string_view text) : text_(text) {}

  std::vector<MathToken> Run() {
    Lex(0);
    return std::move(tokens_);
  }

 private:
  void Push(TokenKind kind, std::string text, bool quoted = false) {
    tokens_.push_back({kind, std::move(text), space_, quoted});
    space_ = false;
  }
  void Mark(std::string text) { Push(TokenKind::kMark, std::move(text)); }

  char Peek(std::size_t ahead = 0) const {
    return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0';
  }

  void Lex(int depth) {
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (IsSpace(c) || c == '~') {
        space_ = true;
        ++at_;
      } else if (IsDigit(c) || (c == '.' && IsDigit(Peek(1)))) {
        Number();
      } else if (IsLetter(c)) {
        Letters();
      } else if (c == '\\') {
        Command(depth);
      } else {
        Sign(c);
      }
    }
  }

  void Number() {
    const std::size_t begin = at_;
    while (IsDigit(Peek())) ++at_;
    if (Peek() == '.' && (IsDigit(Peek(1)) || text_.substr(at_ + 1, 9) == "\\overline" ||
                          text_.substr(at_ + 1, 4) == "\\dot" || Peek(1) == '(')) {
      ++at_;
      while (IsDigit(Peek())) ++at_;
      if (Peek() == '.' && IsDigit(Peek(1))) {  // 12.34.56: not a number
        while (IsDigit(Peek()) || (Peek() == '.' && IsDigit(Peek(1)))) ++at_;
        Push(TokenKind::kText, std::string(text_.substr(begin, at_ - begin)), true);
        return;
      }
    } else if (Peek() == '.' && !IsLetter(Peek(1))) {
      Push(TokenKind::kNumber, std::string(text_.substr(begin, at_ - begin)));
      if (Peek(1) != '.') ++at_;  // "5."
      return;
    }
    if (Peek() == 'e' || Peek() == 'E') {
      const std::size_t sign = Peek(1) == '+' || Peek(1) == '-' ? 1 : 0;
      if (IsDigit(Peek(1 + sign))) {
        at_ += 1 + sign;
        while (IsDigit(Peek())) ++at_;
      }
    }
    Push(TokenKind::kNumber, std::string(text_.substr(begin, at_ - begin)));
  }

  // A run of letters outside of a command: a function, a constant, a word, or a product of letters.
  void Letters() {
    const std::size_t begin = at_;
    while (IsLetter(Peek())) ++at_;
    const std::string_view run = text_.substr(begin, at_ - begin);
    Run(run);
  }

  void Run(std::string_view run) {
    if (run == "and" || run == "or") return Mark(std::string(run));
    if (run.size() > 1) {
      if (const char* function = PlainFunction(run)) return Push(TokenKind::kFunction, function);
      if (const char* mark = PlainMark(run)) return Mark(mark);
      if (IsGreek(run)) return Push(TokenKind::kSymbol, std::string(run));
      if (run.size() == 4 && run.substr(1) == "bar")
        return Push(TokenKind::kSymbol, std::string(run));
      if (run == "USD" || run == "EUR" || run == "GBP") {
        return Push(TokenKind::kText, std::string(run));
      }
      if (AfterValue() && IsUnit(run)) return Push(TokenKind::kText, std::string(run));
      if (LooksLikeWord(run)) return Push(TokenKind::kText, std::string(run));
      // A function's or a constant's name at the end or the start of letters: "xsin", "pir".
      for (std::size_t cut = 1; cut + 1 < run.size() && run.size() <= 8; ++cut) {
        const std::string_view tail = run.substr(cut);
        if (tail == "pi" || (tail.size() > 2 && PlainFunction(tail))) {
          Run(run.substr(0, cut));
          return Run(tail);
        }
      }
    }
    for (const char letter : run) Push(TokenKind::kSymbol, std::string(1, letter));
  }

  bool AfterValue() const {
    if (tokens_.empty()) return false;
    const MathToken& last = tokens_.back();
    return last.kind == TokenKind::kNumber ||
           (last.kind == TokenKind::kMark && (last.text == "}" || last.text == ")"));
  }

  bool AfterValueOrUnit() const {
    if (AfterValue()) return true;
    if (tokens_.size() < 2) return false;
    const MathToken& last = tokens_.back();
    if (last.kind == TokenKind::kText || last.text == "deg") return true;
    const MathToken& before = tokens_[tokens_.size() - 2];
    return (last.text == "/" || last.text == "*") && before.kind == TokenKind::kText;
  }

  // The braces' content after at_ (which may be spaces before '{'), or nothing.
  bool Braced(std::string_view& content) {
    std::size_t at = at_;
    while (at < text_.size() && IsSpace(text_[at])) ++at;
    if (at >= text_.size() || text_[at] != '{') return false;
    int depth = 0;
    for (std::size_t end = at; end < text_.size(); ++end) {
      if (text_[end] == '\\') {
        ++end;
      } else if (text_[end] == '{') {
        ++depth;
      } else if (text_[end] == '}' && --depth == 0) {
        content = text_.substr(at + 1, end - at - 1);
        at_ = end + 1;
        return true;
      }
    }
    return false;
  }

  // "A and C", "I, III": short names with connectives.
  static bool IsShortList(std::string_view content) {
    bool connective = content.find(',') != std::string_view::npos;
    for (std::size_t i = 0; i < content.size();) {
      const std::size_t begin = i;
      while (i < content.size() && IsLetter(content[i])) ++i;
      const std::string_view word = content.substr(begin, i - begin);
      connective |= word == "and" || word == "or";
      if (word != "and" && word != "or" &&
          (word.size() > 3 || LooksLikeWord(word) || IsUnit(word))) {
        return false;
      }
      if (i == begin) ++i;
    }
    return connective;
  }

  // Words in \text{}: as math where they are math, else as one text token.
  void Words(std::string_view content, int depth) {
    std::size_t begin = 0;
    std::size_t end = content.size();
    const auto skip = [](char c) { return IsSpace(c) || c == '~' || c == '(' || c == ')'; };
    while (begin < end && IsSpace(content[begin])) ++begin;
    while (end > begin && IsSpace(content[end - 1])) --end;
    if (begin == end) {
      space_ = true;
      return;
    }
    content = content.substr(begin, end - begin);
    std::string_view core = content;
    while (!core.empty() && (skip(core.front()) || core.front() == ',')) core.remove_prefix(1);
    while (!core.empty() && (skip(core.back()) || core.back() == ',')) core.remove_suffix(1);
    if (AfterValueOrUnit() && IsUnitExpression(core)) {
      space_ = true;
      return Push(TokenKind::kText, std::string(core), true);
    }
    const bool has_math = content.find_first_of("0123456789\\$=<>") != std::string_view::npos;
    if (depth < 4 &&
        (has_math || IsShortList(content) || core.size() <= 1 || core == "and" || core == "or")) {
      Lexer inner(content);
      inner.space_ = true;
      inner.Lex(depth + 1);
      for (MathToken& token : inner.tokens_) tokens_.push_back(std::move(token));
      space_ = true;
      return;
    }
    space_ = true;
    Push(TokenKind::kText, std::string(content), true);
    space_ = true;
  }

  void Command(int depth) {
    ++at_;
    const char c = Peek();
    if (!IsLetter(c)) {
      if (c != '\0') ++at_;
      switch (c) {
        case '\\':
          return Mark("\\\\");
        case '{':
          return Mark("\\{");
        case '}':
          return Mark("\\}");
        case '|':
          return Mark("|");
        case '%':
          return Mark("%");
        case '&':
          return Mark("and");
        case '!':  // glues: 32,\! 349
          while (IsSpace(Peek())) ++at_;
          space_ = false;
          return;
        case ' ':
        case ',':
        case ';':
        case ':':
        case '>':
          space_ = true;
          return;
        default:
          return;  // \$, \#, \(, a lone backslash
      }
    }
    const std::size_t begin = at_;
    while (IsLetter(Peek())) ++at_;
    const std::string_view name = text_.substr(begin, at_ - begin);
    switch (CommandClass(name)) {
      case CommandKind::kNothing:
        space_ = true;
        return;
      case CommandKind::kText: {
        std::string_view content;
        if (Braced(content)) Words(content, depth);
        return;
      }
      case CommandKind::kFont: {  // \mathrm{cm} is words, \mathrm{e} is e
        std::string_view content;
        if (!Braced(content)) return;
        if (content == "R" && name == "mathbb") return Mark("R");
        std::string_view core = content;
        while (!core.empty() && (IsSpace(core.front()) || core.front() == '~')) {
          core.remove_prefix(1);
        }
        if (core.size() > 1 &&
            std::all_of(core.begin(), core.end(), [](char x) { return IsLetter(x); })) {
          if (const char* function = PlainFunction(core)) {
            return Push(TokenKind::kFunction, function);
          }
          if (IsGreek(core)) return Push(TokenKind::kSymbol, std::string(core));
          if (core.size() == 2 && IsUnit(core)) {
            return Push(TokenKind::kText, std::string(core), true);
          }
          return Words(core, depth);
        }
        if (name != "mathbb" && (content.size() > core.size() || AfterValueOrUnit()) &&
            IsUnitExpression(core)) {
          space_ = true;
          return Push(TokenKind::kText, std::string(core), true);
        }
        return Words(content, depth);
      }
      case CommandKind::kSkipArgument: {
        std::string_view content;
        Braced(content);
        return;
      }
      case CommandKind::kEnvironment: {
        std::string_view content;
        if (!Braced(content)) return;
        std::string environment(content);
        while (!environment.empty() && environment.back() == '*') environment.pop_back();
        if (environment == "array" && name == "begin") Braced(content);  // the columns
        return Mark(std::string(name) + ":" + environment);
      }
      case CommandKind::kSize: {  // \left( and the like; "\left." is nothing
        while (IsSpace(Peek())) ++at_;
        if (Peek() == '.') ++at_;
        if (Peek() == '{' || Peek() == '}') {
          const char brace = Peek();
          ++at_;
          return Mark(std::string(1, brace));
        }
        return;
      }
      case CommandKind::kMark:
        return Mark(LatexMark(name));
      case CommandKind::kFunction:
        return Push(TokenKind::kFunction, LatexFunction(name));
      case CommandKind::kSymbol:
        return Push(TokenKind::kSymbol, SymbolName(name));
    }
  }

  void Sign(char c) {
    const std::string_view rest = text_.substr(at_);
    struct Rule {
      std::string_view text;
      const char* mark;
    };
    if (rest.substr(0, 3) == "{,}") {  // a comma that groups digits
      at_ += 3;
      return Mark(",");
    }
    static constexpr std::array<Rule, 14> kRules = {{{"**", "^"},
                                                     {"<=", "<="},
                                                     {">=", ">="},
                                                     {"!=", "!="},
                                                     {"==", "="},
                                                     {"=>", "->"},
                                                     {"->", "->"},
                                                     {"+-", "pm"},
                                                     {"+/-", "pm"},
                                                     {"...", "dots"},
                                                     {"<<", "<"},
                                                     {">>", ">"},
                                                     {"''", "''"},
                                                     {"=<", "<="}}};
    for (const Rule& rule : kRules) {
      if (rest.substr(0, rule.text.size()) != rule.text) continue;
      // "a+-3" is a sum, "x = +-3" and "1 +- 3" have two values.
      if (rule.text == "+-" && !space_ && !tokens_.empty() &&
          (AfterValue() || tokens_.back().kind == TokenKind::kSymbol)) {
        break;
      }
      at_ += rule.text.size();
      return Mark(rule.mark);
    }
    ++at_;
    switch (c) {
      case '$':
      case '.':
      case '?':
      case '"':
      case '`':
      case '#':
        space_ = true;
        return;
      default:
        return Mark(std::string(1, c));
    }
  }

  std::string_view text_;
  std::size_t at_ = 0;
  bool space_ = false;
  std::vector<MathToken> tokens_;
};

}  // namespace

std::vector<MathToken> LexMath(std::string_view text) {
  if (text.size() > kMaxAnswerBytes) return {};
  return Lexer(text).Run();
}

}  // namespace opo
