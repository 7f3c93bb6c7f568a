// Names and what they are applied to: x_1, f(x), \sin^2 x, \sum_{k=1}^{n} k.
#include <algorithm>

#include "math/parser_state.h"

namespace opo {
namespace {

bool IsOneOf(std::string_view text, std::initializer_list<std::string_view> words) {
  return std::find(words.begin(), words.end(), text) != words.end();
}

}  // namespace

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
  // SymPy's imaginary unit.
  const bool after_star = at_ >= 2 && tokens_[at_ - 2].text == "*";
  if (name == "I" && (Is("*") || after_star)) name = "i";
  if (name == "E" && reading_.capital_e) name = "e";
  Node value = nullptr;
  // f^{-1}(x)
  if ((name == "f" || name == "g" || name == "h") && Is("^") && Is("{", 1) && Is("-", 2) &&
      IsKind(TokenKind::kNumber, 3) && Is("}", 4) && Is("(", 5)) {
    at_ += 5;
    std::string connective;
    bool trailing = false;
    ++at_;
    std::vector<Node> args = ParseItems(&connective, &trailing);
    if (failed_ || !Take(")")) return Failed();
    return Call("f:" + name + "^-1", std::move(args));
  }
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
  const bool braces = function && Is("{") && Is("(", 1);  // f{\left(x\right)}
  if (braces || (Is("(") && !Token().space && (function || (capital && argument)))) {
    at_ += braces ? 2 : 1;
    std::string connective;
    bool trailing = false;
    std::vector<Node> args = ParseItems(&connective, &trailing);
    if (failed_ || !Take(")") || (braces && !Take("}"))) return Failed();
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
  if (args.size() == 1 && args[0]->op == MathOp::kSet && args[0]->kids.size() == 1) {
    args[0] = args[0]->kids[0];  // \ln\{x\}
  }
  for (const auto& [relation, word] : {std::pair<std::string_view, const char*>{"Eq", "="},
                                       {"Ne", "!="},
                                       {"Lt", "<"},
                                       {"Le", "<="},
                                       {"Gt", ">"},
                                       {"Ge", ">="}}) {
    if (name != relation || args.size() != 2) continue;
    MathNode* node = tree_.Make(MathOp::kRelation, std::move(args));
    node->words = {word};
    return node;
  }
  if (name == "root" && args.size() == 2) {
    Node index = tree_.Make(MathOp::kInverse, std::vector<Node>{args[1]});
    return tree_.Make(MathOp::kPower, std::vector<Node>{args[0], index});
  }
  if (name == "Matrix" && args.size() == 1 && args[0]->op == MathOp::kTuple) return args[0];
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

}  // namespace opo
