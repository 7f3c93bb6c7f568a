#include "text/jinja_expressions.h"

#include <charconv>
#include <cstdlib>

#include "text/jinja_library.h"

namespace opo::jinja {

ExprPtr ExprParser::New(ExprKind kind) const {
  auto expr = std::make_unique<Expr>();
  expr->kind = kind;
  expr->line = Peek().line;
  return expr;
}
ExprPtr ExprParser::Finish(ExprPtr expr) const {
  const auto deepen = [&](const ExprPtr& arg) {
    if (arg != nullptr) expr->depth = std::max(expr->depth, arg->depth + 1);
  };
  for (const ExprPtr& arg : expr->args) deepen(arg);
  for (const auto& arg : expr->named) deepen(arg.second);
  deepen(expr->star);
  deepen(expr->double_star);
  if (expr->depth > kMaxExprDepth) Error("an expression is nested too deeply");
  return expr;
}
ExprPtr ExprParser::Constant(Value value) const {
  ExprPtr expr = New(ExprKind::kConstant);
  expr->value = std::move(value);
  return expr;
}

ExprPtr ExprParser::ParseTuple(bool with_conditional) {
  const auto next = [&] { return with_conditional ? ParseExpr() : ParseOr(); };
  ExprPtr first = next();
  if (!IsOperator(",")) return first;
  ExprPtr tuple = New(ExprKind::kTuple);
  tuple->args.push_back(std::move(first));
  while (TakeOperator(",")) {
    if (Peek().type == TokenType::kTagEnd || Peek().type == TokenType::kOutputEnd ||
        IsOperator(")")) {
      break;
    }
    tuple->args.push_back(next());
  }
  return Finish(std::move(tuple));
}

ExprPtr ExprParser::ParseExpr() {
  const Level level(*this);
  ExprPtr expr = ParseOr();
  while (IsName("if")) {
    ExprPtr conditional = New(ExprKind::kConditional);
    Take();
    conditional->args.push_back(ParseOr());
    conditional->args.push_back(std::move(expr));
    conditional->args.push_back(TakeName("else") ? ParseExpr() : nullptr);
    expr = Finish(std::move(conditional));
  }
  return expr;
}

ExprPtr ExprParser::ParseOr() {
  ExprPtr left = ParseAnd();
  if (!IsName("or")) return left;
  ExprPtr expr = New(ExprKind::kOr);
  expr->args.push_back(std::move(left));
  while (TakeName("or")) expr->args.push_back(ParseAnd());
  return Finish(std::move(expr));
}
ExprPtr ExprParser::ParseAnd() {
  ExprPtr left = ParseNot();
  if (!IsName("and")) return left;
  ExprPtr expr = New(ExprKind::kAnd);
  expr->args.push_back(std::move(left));
  while (TakeName("and")) expr->args.push_back(ParseNot());
  return Finish(std::move(expr));
}
ExprPtr ExprParser::ParseNot() {
  if (!IsName("not")) return ParseCompare();
  const Level level(*this);
  ExprPtr expr = New(ExprKind::kNot);
  Take();
  expr->args.push_back(ParseNot());
  return Finish(std::move(expr));
}

ExprPtr ExprParser::ParseCompare() {
  ExprPtr left = ParseSum();
  ExprPtr expr;
  for (;;) {
    std::string op;
    for (const char* candidate : {"==", "!=", "<=", ">=", "<", ">"}) {
      if (op.empty() && IsOperator(candidate)) op = candidate;
    }
    if (IsName("in")) op = "in";
    if (IsName("not") && IsName("in", 1)) op = "not in";
    if (op.empty()) break;
    if (expr == nullptr) {
      expr = New(ExprKind::kCompare);
      expr->args.push_back(std::move(left));
    }
    Take();
    if (op == "not in") Take();
    expr->ops.push_back(op);
    expr->args.push_back(ParseSum());
  }
  return expr == nullptr ? std::move(left) : Finish(std::move(expr));
}

template <class Next>
ExprPtr ExprParser::ParseBinary(std::initializer_list<std::string_view> operators, Next next) {
  ExprPtr left = next();
  for (;;) {
    const auto* op = std::find_if(operators.begin(), operators.end(),
                                  [&](std::string_view text) { return IsOperator(text); });
    if (op == operators.end()) return left;
    ExprPtr expr = New(ExprKind::kBinary);
    expr->name = Take().text;
    expr->args.push_back(std::move(left));
    expr->args.push_back(next());
    left = Finish(std::move(expr));
  }
}
ExprPtr ExprParser::ParseSum() {
  return ParseBinary({"+", "-"}, [this] { return ParseConcatenation(); });
}
ExprPtr ExprParser::ParseConcatenation() {
  ExprPtr first = ParseProduct();
  if (!IsOperator("~")) return first;
  ExprPtr expr = New(ExprKind::kConcatenate);
  expr->args.push_back(std::move(first));
  while (TakeOperator("~")) expr->args.push_back(ParseProduct());
  return Finish(std::move(expr));
}
ExprPtr ExprParser::ParseProduct() {
  return ParseBinary({"*", "/", "//", "%"}, [this] { return ParsePower(); });
}
ExprPtr ExprParser::ParsePower() {  // to the left, unlike Python's
  return ParseBinary({"**"}, [this] { return ParseUnary(true); });
}

ExprPtr ExprParser::ParseUnary(bool with_filter) {
  const Level level(*this);
  ExprPtr expr;
  if (IsOperator("-") || IsOperator("+")) {
    expr = New(IsOperator("-") ? ExprKind::kNegative : ExprKind::kPositive);
    Take();
    expr->args.push_back(ParseUnary(false));
    expr = Finish(std::move(expr));
  } else {
    expr = ParsePostfix(ParsePrimary());
  }
  if (with_filter) expr = ParseFilters(std::move(expr));
  return expr;
}

ExprPtr ExprParser::ParsePrimary() {
  const Token token = Peek();
  switch (token.type) {
    case TokenType::kName: {
      if (token.text == "true" || token.text == "True" || token.text == "false" ||
          token.text == "False") {
        ExprPtr expr = Constant(Value(token.text == "true" || token.text == "True"));
        Take();
        return expr;
      }
      if (token.text == "none" || token.text == "None") {
        ExprPtr expr = Constant(Value(None{}));
        Take();
        return expr;
      }
      if (token.text == "self" || token.text == "super") {
        Error(fmt::format("{} is outside the subset", token.text));
      }
      ExprPtr expr = New(ExprKind::kName);
      expr->name = Take().text;
      return expr;
    }
    case TokenType::kString: {
      ExprPtr expr = New(ExprKind::kConstant);
      std::string text;
      while (Peek().type == TokenType::kString) text += Take().text;  // adjacent ones join
      expr->value = Value(std::move(text));
      return expr;
    }
    case TokenType::kInteger: {
      std::int64_t number = 0;
      const char* end = token.text.data() + token.text.size();
      if (std::from_chars(token.text.data(), end, number).ec != std::errc()) {
        Error(fmt::format("the number {} is too large", token.text));
      }
      ExprPtr expr = Constant(Value(number));
      Take();
      return expr;
    }
    case TokenType::kFloat: {
      ExprPtr expr = Constant(Value(std::strtod(token.text.c_str(), nullptr)));
      Take();
      return expr;
    }
    case TokenType::kOperator:
      break;
    default:
      Error(fmt::format("expected an expression, found {}", Found()));
  }
  if (TakeOperator("(")) {
    if (IsOperator(")")) {
      ExprPtr empty = New(ExprKind::kTuple);
      Take();
      return empty;
    }
    ExprPtr expr = ParseTuple();
    Expect(")");
    return expr;
  }
  if (IsOperator("[")) {
    ExprPtr expr = New(ExprKind::kList);
    Take();
    while (!IsOperator("]")) {
      expr->args.push_back(ParseExpr());
      if (!TakeOperator(",")) break;
    }
    Expect("]");
    return Finish(std::move(expr));
  }
  if (IsOperator("{")) {
    ExprPtr expr = New(ExprKind::kDict);
    Take();
    while (!IsOperator("}")) {
      expr->args.push_back(ParseExpr());
      Expect(":");
      expr->args.push_back(ParseExpr());
      if (!TakeOperator(",")) break;
    }
    Expect("}");
    return Finish(std::move(expr));
  }
  Error(fmt::format("expected an expression, found {}", Found()));
}

ExprPtr ExprParser::ParsePostfix(ExprPtr expr) {
  for (;;) {
    if (IsOperator(".")) {
      ExprPtr outer = New(ExprKind::kAttribute);
      Take();
      outer->args.push_back(std::move(expr));
      if (Peek().type == TokenType::kInteger) {
        outer->kind = ExprKind::kItem;
        outer->args.push_back(ParsePrimary());
      } else {
        outer->name = TakeIdentifier();
      }
      expr = Finish(std::move(outer));
    } else if (IsOperator("[")) {
      expr = ParseSubscript(std::move(expr));
    } else if (IsOperator("(")) {
      expr = ParseCall(std::move(expr));
    } else {
      return expr;
    }
  }
}

ExprPtr ExprParser::ParseSubscript(ExprPtr base) {
  ExprPtr expr = New(ExprKind::kItem);
  Take();
  expr->args.push_back(std::move(base));
  if (IsOperator("]")) {  // x[] is x[()]
    expr->args.push_back(New(ExprKind::kTuple));
  } else {
    expr->args.push_back(IsOperator(":") ? nullptr : ParseExpr());
  }
  if (IsOperator(":")) {
    expr->kind = ExprKind::kSlice;
    while (expr->args.size() < 4) {
      const bool more = TakeOperator(":");
      const bool empty = !more || IsOperator(":") || IsOperator("]");
      expr->args.push_back(empty ? nullptr : ParseExpr());
    }
  } else if (IsOperator(",")) {
    ExprPtr key = New(ExprKind::kTuple);
    key->args.push_back(std::move(expr->args[1]));
    while (TakeOperator(",") && !IsOperator("]")) key->args.push_back(ParseExpr());
    expr->args[1] = Finish(std::move(key));
  }
  Expect("]");
  return Finish(std::move(expr));
}

void ExprParser::ParseArguments(Expr& call) {
  Expect("(");
  while (!IsOperator(")")) {
    if (IsOperator("*") && call.star == nullptr && call.double_star == nullptr) {
      Take();
      call.star = ParseExpr();
    } else if (IsOperator("**") && call.double_star == nullptr) {
      Take();
      call.double_star = ParseExpr();
    } else if (call.double_star != nullptr) {
      Error("an argument follows one with **");
    } else if (Peek().type == TokenType::kName && IsOperator("=", 1)) {
      std::string name = Take().text;
      Take();
      for (const auto& other : call.named) {
        if (other.first == name) Error(fmt::format("the argument {} is given twice", name));
      }
      call.named.emplace_back(std::move(name), ParseExpr());
    } else {
      if (!call.named.empty()) Error("an argument without a name follows one with a name");
      if (call.star != nullptr) Error("an argument without a name follows one with *");
      call.args.push_back(ParseExpr());
    }
    if (!TakeOperator(",")) break;
  }
  Expect(")");
}

ExprPtr ExprParser::ParseCall(ExprPtr callee) {
  ExprPtr expr = New(ExprKind::kCall);
  expr->args.push_back(std::move(callee));
  ParseArguments(*expr);
  return Finish(std::move(expr));
}

ExprPtr ExprParser::ParseFilter(ExprPtr base) {
  ExprPtr expr = New(ExprKind::kFilter);
  expr->name = TakeIdentifier();
  if (IsOperator(".")) Error(UnknownFilter(expr->name + "."));
  if (lenient_level_ == 0 && !IsFilter(expr->name)) Error(UnknownFilter(expr->name));
  expr->args.push_back(std::move(base));
  if (IsOperator("(")) ParseArguments(*expr);
  return Finish(std::move(expr));
}

ExprPtr ExprParser::ParseFilterChain(ExprPtr expr) {
  while (TakeOperator("|")) expr = ParseFilter(std::move(expr));
  return expr;
}

ExprPtr ExprParser::ParseFilters(ExprPtr expr) {
  for (;;) {
    if (TakeOperator("|")) {
      expr = ParseFilter(std::move(expr));
    } else if (IsName("is")) {
      expr = ParseTest(std::move(expr));
    } else if (IsOperator("(")) {
      expr = ParseCall(std::move(expr));
    } else {
      return expr;
    }
  }
}

ExprPtr ExprParser::ParseTest(ExprPtr base) {
  ExprPtr test = New(ExprKind::kTest);
  Take();
  const bool negated = TakeName("not");
  test->name = TakeIdentifier();
  if (lenient_level_ == 0 && !IsTest(test->name)) Error(UnknownTest(test->name));
  test->args.push_back(std::move(base));
  const Token& next = Peek();
  const bool plain_argument = (next.type == TokenType::kName && next.text != "else" &&
                               next.text != "or" && next.text != "and" && next.text != "is") ||
                              next.type == TokenType::kString || next.type == TokenType::kInteger ||
                              next.type == TokenType::kFloat || IsOperator("[") || IsOperator("{");
  if (IsOperator("(")) {
    ParseArguments(*test);
  } else if (next.type == TokenType::kName && next.text == "is") {
    Error("tests in a row need brackets");
  } else if (plain_argument) {
    const Level level(*this);
    test->args.push_back(ParsePostfix(ParsePrimary()));
  }
  test = Finish(std::move(test));
  if (!negated) return test;
  ExprPtr expr = New(ExprKind::kNot);
  expr->args.push_back(std::move(test));
  return Finish(std::move(expr));
}

}  // namespace opo::jinja
