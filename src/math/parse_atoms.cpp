#include <algorithm>

#include "math/parser_state.h"
#include "math/words.h"

namespace opo {
namespace {

bool IsOneOf(std::string_view text, std::initializer_list<std::string_view> words) {
  return std::find(words.begin(), words.end(), text) != words.end();
}

}  // namespace

MathParser::Node MathParser::Mul(Node a, Node b) {
  return tree_.Make(MathOp::kMul, std::vector<Node>{a, b});
}

MathParser::Node MathParser::Call(std::string name, std::vector<Node> args) {
  return tree_.Make(MathOp::kCall, std::move(args), std::move(name));
}

MathParser::Node MathParser::ParsePower() {
  const Deeper deeper(*this);
  if (failed_) return nullptr;
  Node base = ParsePrimary();
  for (int count = 0; !failed_; ++count) {
    if (count > kMaxPostfix) return Failed();
    bool done = false;
    base = ParsePostfix(base, &done);
    if (done) break;
  }
  return failed_ ? nullptr : base;
}

// One of ^ ! ' % degrees after a value.
MathParser::Node MathParser::ParsePostfix(Node value, bool* done) {
  if (Is("^")) {
    // x^\circ, f^\prime, A^T.
    const bool braces = Is("{", 1);
    const std::size_t inner = braces ? 2 : 1;
    if (Is("deg", inner)) {
      at_ += inner + 1;
      if (braces && !Take("}")) return Failed();
      return tree_.Make(MathOp::kDegree, std::vector<Node>{value});
    }
    if (Is("'", inner)) {
      ++at_;
      if (braces) ++at_;
      std::string primes;
      while (Take("'")) primes += '\'';
      if (braces && !Take("}")) return Failed();
      return Call("prime", {value, tree_.Make(MathOp::kSymbol, primes)});
    }
    ++at_;
    Node exponent = ParseExponent();
    if (failed_) return nullptr;
    return tree_.Make(MathOp::kPower, std::vector<Node>{value, exponent});
  }
  if (Is("!")) {
    int count = 0;
    while (Take("!")) ++count;
    if (count > kMaxPostfix) return Failed();
    if (count == 2) return Call("factorial2", {value});
    for (int i = 0; i < count; ++i) value = Call("factorial", {value});
    return value;
  }
  if (Is("%")) {
    ++at_;
    return tree_.Make(MathOp::kPercent, std::vector<Node>{value});
  }
  if (Is("deg")) {
    ++at_;
    return tree_.Make(MathOp::kDegree, std::vector<Node>{value});
  }
  if (Is("'") || Is("''")) {
    std::string primes;
    while (Is("'") || Is("''")) {
      primes += Token().text;
      ++at_;
      if (primes.size() > 20) return Failed();
    }
    return Call("prime", {value, tree_.Make(MathOp::kSymbol, primes)});
  }
  *done = true;
  return value;
}

MathParser::Node MathParser::ParseExponent() {
  const Deeper deeper(*this);
  if (failed_) return nullptr;
  if (Is("{")) return ParseBraces(false);
  bool negative = false;
  while (Is("-") || Is("+")) {
    negative ^= Is("-");
    ++at_;
  }
  Node value = ParsePrimary();
  if (failed_) return nullptr;
  if (Is("^")) {  // a^b^c
    ++at_;
    Node above = ParseExponent();
    if (failed_) return nullptr;
    value = tree_.Make(MathOp::kPower, std::vector<Node>{value, above});
  }
  return negative ? tree_.Make(MathOp::kNeg, std::vector<Node>{value}) : value;
}

MathParser::Node MathParser::ParsePrimary() {
  const Deeper deeper(*this);
  if (AtEnd()) return Failed();
  const MathToken& token = Token();
  switch (token.kind) {
    case TokenKind::kNumber:
      return ParseNumber();
    case TokenKind::kSymbol:
      return ParseSymbol();
    case TokenKind::kFunction:
      return ParseFunction();
    case TokenKind::kText: {
      MathNode* words = tree_.Make(MathOp::kText, token.text);
      ++at_;
      // Several words in a row are one text; words before a value are a label.
      while (!AtEnd() && IsKind(TokenKind::kText)) {
        words->text += ' ';
        words->text += Token().text;
        ++at_;
      }
      const bool colon = Take(":");
      if ((StartsFactor() || Is("-")) && (colon || Token().space)) {
        if (ChangesMeaning(words->text)) return Failed();
        if (Is("-")) {
          ++at_;
          Node value = ParseFactor(true);
          if (failed_) return nullptr;
          return tree_.Make(MathOp::kNeg, std::vector<Node>{value});
        }
        return ParsePower();
      }
      return words;
    }
    case TokenKind::kMark:
      break;
  }
  const std::string mark = token.text;
  if (mark == "(" || mark == "[" || mark == "]") return ParseBrackets();
  if (mark == "{") return ParseBraces(false);
  if (mark == "\\{") return ParseBraces(true);
  if (mark == "|") return ParseBars();
  if (mark == "frac" || mark == "binom") return ParseFraction();
  if (mark == "sqrt") return ParseSqrt();
  if (mark.substr(0, 6) == "begin:") return ParseEnvironment();
  ++at_;
  if (mark == "inf") return tree_.Make(MathOp::kInfinity);
  if (mark == "R") return tree_.Make(MathOp::kReals);
  if (mark == "emptyset") return tree_.Make(MathOp::kSet);
  if (mark == "dots") return tree_.Make(MathOp::kSymbol, "...");
  if (mark == "angle" || mark == "&") return ParsePower();
  if (mark == "re") {
    --at_;
    return ParseFunction();
  }
  if (mark == "lfloor" || mark == "lceil") {
    Node value = ParseSum();
    if (failed_ || !(Take("rfloor") || Take("rceil"))) return Failed();
    return Call(mark == "lfloor" ? "floor" : "ceil", {value});
  }
  if (mark == "overline" || mark == "accent") {
    Node value = ParseArgument(false);
    if (failed_) return nullptr;
    if (mark == "accent") return value;
    if (value->op == MathOp::kSymbol && value->text.size() == 1) {  // \bar{x}_n
      tokens_[at_ - 1] = {TokenKind::kSymbol, value->text + "bar", false, false};
      --at_;
      return ParseSymbol();
    }
    return Call("overline", {value});
  }
  if (mark == "sum" || mark == "prod" || mark == "int" || mark == "lim") {
    return ParseBigOperator(mark);
  }
  return Failed();
}

MathParser::Node MathParser::ParseNumber() {
  std::string digits = Token().text;
  ++at_;
  // 0.1\overline{6}, 0.\dot{3}, 0.(3)
  const bool point = digits.find('.') != std::string::npos;
  if (point && (Is("overline") || (digits.back() == '.' && Is("(")) ||
                (Is("(") && !Token().space && IsKind(TokenKind::kNumber, 1) && Is(")", 2)))) {
    const std::size_t save = at_;
    ++at_;
    const bool braces = Take("{");
    std::string repeating;
    if (IsKind(TokenKind::kNumber)) {
      repeating = Token().text;
      ++at_;
    }
    if (braces && !Take("}")) repeating.clear();
    if (!braces) Take(")");
    if (!repeating.empty() && repeating.find_first_not_of("0123456789") == std::string::npos) {
      MathNode* node = tree_.Make(MathOp::kRepeating, digits);
      node->text2 = repeating;
      return node;
    }
    at_ = save;
  }
  if (!digits.empty() && digits.back() == '.') digits.pop_back();
  if (point && Is("dots")) {  // 0.333...: as many digits as are written
    ++at_;
    MathNode* node = tree_.Make(MathOp::kNumber, digits);
    node->text2 = "...";
    return node;
  }
  if (Is("_")) {
    const std::size_t inner = Is("{", 1) ? 2 : 1;
    if (IsKind(TokenKind::kNumber, inner) && (inner == 1 || Is("}", 3))) {
      MathNode* node = tree_.Make(MathOp::kBased, digits);
      node->text2 = Token(inner).text;
      at_ += inner == 1 ? 2 : 4;
      return node;
    }
    if (Is("{", 1) && IsKind(TokenKind::kText, 2) && Is("}", 3) &&
        BaseWord(Token(2).text) != nullptr) {
      MathNode* node = tree_.Make(MathOp::kBased, digits);
      node->text2 = BaseWord(Token(2).text);
      at_ += 4;
      return node;
    }
    if (Is("{", 1) && (IsKind(TokenKind::kText, 2) || IsKind(TokenKind::kSymbol, 2))) {
      while (!AtEnd() && !Is("}")) ++at_;  // 123_{ten}
      Take("}");
    }
  }
  return Number(std::move(digits));
}

// The argument of a command: a group, or one token (of a number, for \frac, its first digit).
MathParser::Node MathParser::ParseArgument(bool single_digit) {
  const Deeper deeper(*this);
  if (AtEnd()) return Failed();
  if (Is("{")) return ParseBraces(false);
  if (single_digit && IsKind(TokenKind::kNumber) && Token().text.size() > 1) {
    Node digit = Number(Token().text.substr(0, 1));
    tokens_[at_].text.erase(0, 1);
    return digit;
  }
  if (Is("-")) {
    ++at_;
    Node value = ParseArgument(single_digit);
    if (failed_) return nullptr;
    return tree_.Make(MathOp::kNeg, std::vector<Node>{value});
  }
  return ParsePrimary();
}

MathParser::Node MathParser::ParseFraction() {
  const bool binomial = Is("binom");
  ++at_;
  Node above = ParseArgument(true);
  if (failed_) return nullptr;
  Node below = ParseArgument(true);
  if (failed_) return nullptr;
  if (binomial) return Call("binomial", {above, below});
  return Mul(above, tree_.Make(MathOp::kInverse, std::vector<Node>{below}));
}

MathParser::Node MathParser::ParseSqrt() {
  ++at_;
  Node index = nullptr;
  if (Take("[")) {
    index = ParseSum();
    if (failed_ || !Take("]")) return Failed();
  }
  Node value = nullptr;
  if (Is("(")) {
    ++at_;
    value = ParseSum();
    if (failed_ || !Take(")")) return Failed();
  } else {
    value = ParseArgument(false);
  }
  if (failed_) return nullptr;
  if (index == nullptr) return Call("sqrt", {value});
  return tree_.Make(MathOp::kPower, std::vector<Node>{value, tree_.Make(MathOp::kInverse,
                                                                        std::vector<Node>{index})});
}

// ( ... ), [ ... ], half-open intervals, ]a, b[.
MathParser::Node MathParser::ParseBrackets() {
  const Deeper deeper(*this);
  if (failed_) return nullptr;
  const int bars = bars_;
  const int builders = builders_;
  bars_ = 0;
  builders_ = 0;
  std::string open = Token().text;
  ++at_;
  std::string connective;
  bool trailing = false;
  std::vector<Node> items;
  const int outward = outward_;
  outward_ = open == "]" ? 1 : 0;
  if (!Is(")") && !Is("]")) items = ParseItems(&connective, &trailing);
  outward_ = outward;
  if (failed_ || AtEnd()) return Failed();
  bars_ = bars;
  builders_ = builders;
  std::string close = Token().text;
  if (close != ")" && close != "]" &&
      !(close == "[" && (open == "]" || open == "(" || open == "[")))
    return Failed();
  ++at_;
  if (items.size() == 1 && !trailing && ((open == "(") == (close == ")"))) return items[0];
  if (open == "]") open = "(";
  if (close == "[") close = ")";
  if (items.empty() && open == "(") return Failed();
  return tree_.Make(MathOp::kTuple, std::move(items), open + close);
}

// { ... }: a group in LaTeX; with commas, or as \{ \}, a set.
MathParser::Node MathParser::ParseBraces(bool visible) {
  const Deeper deeper(*this);
  if (failed_) return nullptr;
  const int bars = bars_;
  const int builders = builders_;
  bars_ = 0;
  builders_ = visible ? builders + 1 : 0;
  ++at_;
  const auto closes = [this] { return Is("}") || Is("\\}"); };
  std::string connective;
  bool trailing = false;
  std::vector<Node> items;
  if (!closes()) items = ParseItems(&connective, &trailing);
  if (failed_ || AtEnd()) return Failed();
  if (visible && (Is("|") || Is(":"))) {  // {x | condition}
    ++at_;
    builders_ = 0;
    std::vector<Node> conditions = ParseItems(&connective, &trailing);
    if (failed_ || AtEnd() || !closes()) return Failed();
    ++at_;
    bars_ = bars;
    builders_ = builders;
    if (conditions.size() == 1) return conditions[0];
    return tree_.Make(MathOp::kList, std::move(conditions), connective);
  }
  if (Is("choose") || Is("over")) {
    const bool choose = Is("choose");
    ++at_;
    Node below = ParseSum();
    if (failed_ || !closes() || items.size() != 1) return Failed();
    ++at_;
    bars_ = bars;
    builders_ = builders;
    if (choose) return Call("binomial", {items[0], below});
    return Mul(items[0], tree_.Make(MathOp::kInverse, std::vector<Node>{below}));
  }
  if (!closes()) return Failed();
  visible = visible || Is("\\}");
  ++at_;
  bars_ = bars;
  builders_ = builders;
  if (!visible && items.size() == 1) return items[0];
  if (!visible && items.empty()) return Failed();
  return tree_.Make(MathOp::kSet, std::move(items));
}

MathParser::Node MathParser::ParseBars() {
  const Deeper deeper(*this);
  if (failed_) return nullptr;
  ++at_;
  const int builders = builders_;
  builders_ = 0;
  ++bars_;
  Node value = ParseSum();
  --bars_;
  builders_ = builders;
  if (failed_ || !Take("|")) return Failed();
  return Call("abs", {value});
}

// x &= 3^2 \\ &= 9: one chain; lines that do not go on with a relation are items of a list.
MathParser::Node MathParser::ParseAligned(const std::string& name) {
  std::vector<MathToken> kept(tokens_.begin(), tokens_.begin() + static_cast<std::ptrdiff_t>(at_));
  std::size_t i = at_;
  for (; i < tokens_.size() && tokens_[i].text != "end:" + name; ++i) {
    const bool mark = tokens_[i].kind == TokenKind::kMark;
    if (mark && tokens_[i].text == "&") continue;
    if (mark && tokens_[i].text == "\\\\") {
      std::size_t next = i + 1;
      while (next < tokens_.size() && tokens_[next].text == "&") ++next;
      const bool goes_on =
          next < tokens_.size() && tokens_[next].kind == TokenKind::kMark &&
          IsOneOf(tokens_[next].text, {"=", "<", "<=", ">", ">=", "~", "->", "+", "-", "*"});
      const bool ends = next < tokens_.size() && tokens_[next].text == "end:" + name;
      if (!goes_on && !ends) kept.push_back({TokenKind::kMark, ",", false, false});
      continue;
    }
    kept.push_back(tokens_[i]);
  }
  kept.insert(kept.end(), tokens_.begin() + static_cast<std::ptrdiff_t>(i), tokens_.end());
  tokens_ = std::move(kept);
  Node list = ParseList();
  if (failed_ || !Take("end:" + name)) return Failed();
  return list;
}

MathParser::Node MathParser::ParseEnvironment() {
  const Deeper deeper(*this);
  if (failed_) return nullptr;
  const std::string name = Token().text.substr(6);
  ++at_;
  if (name == "aligned" || name == "align" || name == "split" || name == "eqnarray") {
    return ParseAligned(name);
  }
  std::vector<Node> rows;
  std::vector<Node> row;
  const auto end_row = [&] {
    if (!row.empty()) rows.push_back(tree_.Make(MathOp::kTuple, std::move(row), "()"));
    row.clear();
  };
  for (int count = 0; !AtEnd(); ++count) {
    if (count > 3000) return Failed();
    if (Is("end:" + name)) break;
    if (Is("\\\\")) {
      ++at_;
      end_row();
    } else if (Is("&")) {
      ++at_;
    } else {
      row.push_back(ParseList());
      if (failed_) return nullptr;
    }
  }
  if (!Take("end:" + name)) return Failed();
  end_row();
  return tree_.Make(MathOp::kMatrix, std::move(rows), name);
}

}  // namespace opo
