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
    return mark == "accent" ? value : Call("overline", {value});
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
    if (Is("{", 1) && (IsKind(TokenKind::kText, 2) || IsKind(TokenKind::kSymbol, 2))) {
      while (!AtEnd() && !Is("}")) ++at_;  // 123_{ten}
      Take("}");
    }
  }
  return Number(std::move(digits));
}

// The text of a subscript, and its value where it has one.
MathParser::Node MathParser::ParseSubscript(bool* word, std::string* text) {
  *word = true;
  if (!Is("{")) {
    *text = Token().text;
    ++at_;
    return nullptr;
  }
  if (Is("}", 2)) {
    *text = Token(1).text;
    at_ += 3;
    return nullptr;
  }
  const std::size_t begin = at_;
  int depth = 0;
  do {
    if (Is("{")) ++depth;
    if (Is("}")) --depth;
    if (depth > 0 || !Is("}")) *text += Token().text;
    ++at_;
  } while (!AtEnd() && depth > 0);
  if (depth > 0) return Failed();
  const std::size_t end = at_;
  at_ = begin + 1;
  Node value = ParseSum();
  if (!failed_ && Is("}") && at_ + 1 == end) {
    at_ = end;
    *word = false;
    return value;
  }
  failed_ = false;
  at_ = end;
  return nullptr;
}

MathParser::Node MathParser::ParseSymbol() {
  std::string name = Token().text;
  ++at_;
  if (name == "I" && !AtEnd() && Is("_")) name = "I";
  Node value = nullptr;
  if (Is("_") && !AtEnd()) {
    ++at_;
    if (AtEnd()) return Failed();
    bool word = true;
    std::string text;
    Node subscript = ParseSubscript(&word, &text);
    if (failed_) return nullptr;
    // A single letter or number is an argument too, so that F_k in a sum follows k.
    if (word) {
      const bool letter = text.size() == 1 && text[0] >= 'a' && text[0] <= 'z';
      if (letter) {
        value = Call("_" + name, {tree_.Make(MathOp::kSymbol, text)});
      } else if (!text.empty() && text.find_first_not_of("0123456789") == std::string::npos) {
        value = Call("_" + name, {Number(text)});
      } else {
        value = tree_.Make(MathOp::kSymbol, name + "_" + text);
      }
    } else {
      value = Call("_" + name, {subscript});
    }
  }
  // f(x): these letters name functions; others before a bracket are factors.
  const bool function = name == "f" || name == "g" || name == "h";
  const bool capital = name.size() == 1 && name[0] >= 'A' && name[0] <= 'Z';
  const bool argument =
      (IsKind(TokenKind::kSymbol, 1) || IsKind(TokenKind::kNumber, 1)) && Is(")", 2);
  std::string primes;
  if (function && (Is("'") || Is("''"))) {
    while (!AtEnd() && (Is("'") || Is("''"))) {
      primes += Token().text;
      ++at_;
      if (primes.size() > 20) return Failed();
    }
    if (!Is("("))
      return Call("prime",
                  {tree_.Make(MathOp::kSymbol, name), tree_.Make(MathOp::kSymbol, primes)});
  }
  if (Is("(") && !Token().space && (function || (capital && argument))) {
    ++at_;
    std::string connective;
    bool trailing = false;
    std::vector<Node> args = ParseItems(&connective, &trailing);
    if (failed_ || !Take(")")) return Failed();
    if (value != nullptr) args.push_back(value);
    return Call("f:" + name + primes, std::move(args));
  }
  if (value != nullptr) return value;
  return tree_.Make(MathOp::kSymbol, name);
}

// What follows a function's name without brackets: a product of simple factors.
MathParser::Node MathParser::ParseFunctionArgument() {
  std::vector<Node> factors;
  while (!AtEnd() && StartsFactor() && factors.size() < 50) {
    const bool stops = IsKind(TokenKind::kFunction) || Is("(") || Is("[");
    if (stops && !factors.empty()) break;
    factors.push_back(ParsePower());
    if (failed_) return nullptr;
    if (stops) break;
  }
  if (factors.empty()) {
    if (Is("-")) {
      ++at_;
      Node value = ParseFunctionArgument();
      if (failed_) return nullptr;
      return tree_.Make(MathOp::kNeg, std::vector<Node>{value});
    }
    return Failed();
  }
  return factors.size() == 1 ? factors[0] : tree_.Make(MathOp::kMul, std::move(factors));
}

MathParser::Node MathParser::ParseFunction() {
  const Deeper deeper(*this);
  if (failed_) return nullptr;
  std::string name = Token().text;
  ++at_;
  if (name == "sqrt" && !Is("(")) {
    --at_;
    return ParseSqrt();
  }
  Node base = nullptr;
  Node exponent = nullptr;
  for (int i = 0; i < 2 && !failed_; ++i) {
    if (Is("_")) {
      ++at_;
      base = Is("{") ? ParseBraces(false) : ParsePrimary();
    } else if (Is("^")) {
      ++at_;
      exponent = ParseExponent();
    }
  }
  if (failed_) return nullptr;
  std::vector<Node> args;
  if (Is("(")) {
    ++at_;
    std::string connective;
    bool trailing = false;
    args = ParseItems(&connective, &trailing);
    if (failed_ || !Take(")")) return Failed();
  } else if (Is("{") || Is("\\{")) {
    Node inner = ParseBraces(false);
    if (failed_) return nullptr;
    if (inner->op == MathOp::kSet || inner->op == MathOp::kList) {
      args = inner->kids;
    } else {
      args = {inner};
    }
  } else if (AtEnd() || !(StartsFactor() || Is("-"))) {
    // A function's name alone: "\sin" is a symbol.
    return tree_.Make(MathOp::kSymbol, name);
  } else {
    args = {ParseFunctionArgument()};
  }
  if (failed_ || args.empty()) return Failed();
  if (name == "Eq" && args.size() == 2) {
    MathNode* node = tree_.Make(MathOp::kRelation, std::move(args));
    node->words = {"="};
    return node;
  }
  if (name == "rational" && args.size() == 2) {
    return Mul(args[0], tree_.Make(MathOp::kInverse, std::vector<Node>{args[1]}));
  }
  if (name == "log" && args.size() == 2) {
    base = args[1];
    args.pop_back();
    if (base->op == MathOp::kSymbol && base->text == "E") {
      base = nullptr;
      name = "ln";
    }
  }
  if (name == "lg") {
    name = "log";
    if (base == nullptr) base = Number("10");
  }
  if (name == "lb") {
    name = "log";
    if (base == nullptr) base = Number("2");
  }
  Node value = nullptr;
  if (base != nullptr && name == "log") {
    value =
        Mul(Call("ln", args), tree_.Make(MathOp::kInverse, std::vector<Node>{Call("ln", {base})}));
  } else if (name == "sqrt") {
    value = args.size() == 2
                ? tree_.Make(MathOp::kPower,
                             std::vector<Node>{
                                 args[0], tree_.Make(MathOp::kInverse, std::vector<Node>{args[1]})})
                : Call("sqrt", args);
  } else {
    value = Call(name, args);
  }
  if (exponent == nullptr) return value;
  const bool inverse = exponent->op == MathOp::kNeg && exponent->kids[0]->op == MathOp::kNumber &&
                       exponent->kids[0]->text == "1";
  if (inverse &&
      IsOneOf(name, {"sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh"})) {
    return Call("a" + name, args);
  }
  return tree_.Make(MathOp::kPower, std::vector<Node>{value, exponent});
}

MathParser::Node MathParser::ParseBigOperator(const std::string& name) {
  Node below = nullptr;
  Node above = nullptr;
  for (int i = 0; i < 2 && !failed_; ++i) {
    if (Take("_")) {
      if (Take("{")) {
        below = ParseList();
        if (failed_ || !Take("}")) return Failed();
      } else {
        below = ParsePrimary();
      }
    } else if (Take("^")) {
      above = ParseExponent();
    }
  }
  if (failed_) return nullptr;
  Node body = name == "int" || name == "lim" ? ParseSum() : ParseProduct();
  if (failed_) return nullptr;
  std::vector<Node> args = {body};
  Node variable = nullptr;
  if (below != nullptr && below->op == MathOp::kRelation && below->kids.size() == 2 &&
      below->kids[0]->op == MathOp::kSymbol) {
    variable = below->kids[0];
    below = below->kids[1];
  }
  Node none = tree_.Make(MathOp::kSymbol, "none");
  args.push_back(variable != nullptr ? variable : none);
  args.push_back(below != nullptr ? below : none);
  args.push_back(above != nullptr ? above : none);
  return Call(name, std::move(args));
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
  if (!Is(")") && !Is("]")) items = ParseItems(&connective, &trailing);
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

MathParser::Node MathParser::ParseEnvironment() {
  const Deeper deeper(*this);
  if (failed_) return nullptr;
  const std::string name = Token().text.substr(6);
  ++at_;
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
