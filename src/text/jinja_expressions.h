// Expressions of templates, from tokens to trees. Internal to the parser.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja_lexer.h"
#include "text/jinja_syntax.h"

namespace opo::jinja {

inline constexpr int kMaxExprDepth = 150;

// The parser of statements derives from it. Everything throws Error(kInput) naming template, line
// and construct.
class ExprParser {
 protected:
  ExprParser(std::vector<Token> tokens, const std::string& name)
      : tokens_(std::move(tokens)), name_(name) {}

  // An expression, or several with commas, which are a tuple.
  ExprPtr ParseTuple(bool with_conditional = true);
  ExprPtr ParseExpr();
  // An expression without `if`: a loop has one of its own.
  ExprPtr ParseOr();
  // What follows a |, for `base` (null where a block is filtered).
  ExprPtr ParseFilter(ExprPtr base);
  // Further filters of a block.
  ExprPtr ParseFilterChain(ExprPtr expr);

  [[noreturn]] void Error(std::string_view what) const {
    Fail(ErrorCode::kInput, "{}: line {}: {}", name_, Peek().line, what);
  }
  const Token& Peek(std::size_t ahead = 0) const {
    return tokens_[std::min(next_ + ahead, tokens_.size() - 1)];
  }
  Token Take() {
    Token token = Peek();
    if (next_ + 1 < tokens_.size()) ++next_;
    return token;
  }
  bool IsOperator(std::string_view text, std::size_t ahead = 0) const {
    return Peek(ahead).type == TokenType::kOperator && Peek(ahead).text == text;
  }
  bool IsName(std::string_view text, std::size_t ahead = 0) const {
    return Peek(ahead).type == TokenType::kName && Peek(ahead).text == text;
  }
  bool TakeOperator(std::string_view text) {
    if (!IsOperator(text)) return false;
    Take();
    return true;
  }
  bool TakeName(std::string_view text) {
    if (!IsName(text)) return false;
    Take();
    return true;
  }
  void Expect(std::string_view text) {
    if (!TakeOperator(text)) Error(fmt::format("expected {}, found {}", text, Found()));
  }
  std::string Found() const {
    switch (Peek().type) {
      case TokenType::kEnd:
        return "the end of the template";
      case TokenType::kTagEnd:
        return "%}";
      case TokenType::kOutputEnd:
        return "}}";
      case TokenType::kString:
        return "a string";
      default:
        return Peek().text;
    }
  }
  std::string TakeIdentifier() {
    if (Peek().type != TokenType::kName) Error(fmt::format("expected a name, found {}", Found()));
    return Take().text;
  }
  void EndTag() {
    if (Peek().type != TokenType::kTagEnd) Error(fmt::format("unexpected {} in a tag", Found()));
    Take();
  }

  // Counts the levels of the parser itself; the trees it makes are bounded in Finish.
  struct Level {
    explicit Level(ExprParser& parser) : parser_(parser) {
      if (++parser_.level_ > kMaxExprDepth) parser_.Error("an expression is nested too deeply");
    }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;
    ~Level() { --parser_.level_; }
    ExprParser& parser_;
  };

  std::vector<Token> tokens_;
  const std::string& name_;
  std::size_t next_ = 0;
  // Inside {% if %}: an unknown filter or test is an error only where it is reached, as in Jinja.
  int lenient_level_ = 0;

 private:
  ExprPtr New(ExprKind kind) const;
  ExprPtr Finish(ExprPtr expr) const;
  ExprPtr Constant(Value value) const;
  ExprPtr ParseAnd();
  ExprPtr ParseNot();
  ExprPtr ParseCompare();
  template <class Next>
  ExprPtr ParseBinary(std::initializer_list<std::string_view> operators, Next next);
  ExprPtr ParseSum();
  ExprPtr ParseConcatenation();
  ExprPtr ParseProduct();
  ExprPtr ParsePower();
  ExprPtr ParseUnary(bool with_filter);
  ExprPtr ParsePrimary();
  ExprPtr ParsePostfix(ExprPtr expr);
  ExprPtr ParseSubscript(ExprPtr base);
  void ParseArguments(Expr& call);
  ExprPtr ParseCall(ExprPtr callee);
  ExprPtr ParseFilters(ExprPtr expr);
  ExprPtr ParseTest(ExprPtr base);

  int level_ = 0;
};

}  // namespace opo::jinja
