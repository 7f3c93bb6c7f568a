#include <algorithm>

#include "text/jinja_expressions.h"
#include "text/jinja_lexer.h"
#include "text/jinja_syntax.h"

namespace opo::jinja {
namespace {

constexpr int kMaxBlockDepth = 50;

class Parser : private ExprParser {
 public:
  Parser(std::vector<Token> tokens, const std::string& name)
      : ExprParser(std::move(tokens), name) {}

  Body Template() {
    Body body = ParseBody({});
    OPO_CHECK(Peek().type == TokenType::kEnd);
    return body;
  }

 private:
  // Up to a tag named in `ends` (which is left, from its name on), or the template's end.
  Body ParseBody(std::initializer_list<std::string_view> ends) {
    if (++block_level_ > kMaxBlockDepth) Error("tags are nested too deeply");
    const int opened = Peek().line;
    Body body;
    for (;;) {
      const Token token = Peek();
      if (token.type == TokenType::kEnd) {
        if (ends.size() != 0) {
          Error(fmt::format("the tag of line {} misses its {}", opened, *(ends.end() - 1)));
        }
        break;
      }
      Take();
      if (token.type == TokenType::kData) {
        body.push_back(NewStmt(StmtKind::kText, token.line));
        body.back()->text = token.text;
      } else if (token.type == TokenType::kOutputBegin) {
        body.push_back(NewStmt(StmtKind::kOutput, token.line));
        body.back()->exprs.push_back(ParseTuple());
        if (Peek().type != TokenType::kOutputEnd) {
          Error(fmt::format("expected }}}}, found {}", Found()));
        }
        Take();
      } else {
        OPO_CHECK(token.type == TokenType::kTagBegin);
        const std::string& tag = Peek().text;
        if (Peek().type == TokenType::kName &&
            std::find(ends.begin(), ends.end(), tag) != ends.end()) {
          break;
        }
        body.push_back(ParseTag());
      }
    }
    --block_level_;
    return body;
  }

  static std::unique_ptr<Stmt> NewStmt(StmtKind kind, int line) {
    auto stmt = std::make_unique<Stmt>();
    stmt->kind = kind;
    stmt->line = line;
    return stmt;
  }

  std::unique_ptr<Stmt> ParseTag() {
    const int line = Peek().line;
    const std::string tag = TakeIdentifier();
    if (tag == "if") return ParseIf(line);
    if (tag == "for") return ParseFor(line);
    if (tag == "set") return ParseSet(line);
    if (tag == "macro") return ParseMacro(line);
    if (tag == "with") return ParseWith(line);
    if (tag == "call") return ParseCallBlock(line);
    if (tag == "print") {
      auto stmt = NewStmt(StmtKind::kOutput, line);
      while (Peek().type != TokenType::kTagEnd) {
        stmt->exprs.push_back(ParseExpr());
        if (!TakeOperator(",")) break;
      }
      EndTag();
      return stmt;
    }
    if (tag == "break" || tag == "continue") {
      if (loop_level_ == 0) Error(fmt::format("{{% {} %}} outside of a loop", tag));
      EndTag();
      return NewStmt(tag == "break" ? StmtKind::kBreak : StmtKind::kContinue, line);
    }
    if (tag == "generation") {  // marks what an assistant wrote; the text is the same without
      EndTag();
      auto stmt = NewStmt(StmtKind::kScope, line);
      ParseOwnBody(*stmt, "endgeneration");
      return stmt;
    }
    if (tag == "filter") {
      auto stmt = NewStmt(StmtKind::kFilter, line);
      stmt->expr = ParseFilterChain(ParseFilter(nullptr));
      EndTag();
      stmt->body = ParseBody({"endfilter"});
      Take();
      EndTag();
      return stmt;
    }
    Fail(ErrorCode::kInput,
         "{}: line {}: the tag {{% {} %}} is outside the subset of Jinja that is supported", name_,
         line, tag);
  }

  std::unique_ptr<Stmt> ParseIf(int line) {
    auto stmt = NewStmt(StmtKind::kIf, line);
    ++lenient_level_;
    for (;;) {
      ExprPtr condition = ParseTuple(false);
      EndTag();
      Body body = ParseBody({"elif", "else", "endif"});
      stmt->branches.emplace_back(std::move(condition), std::move(body));
      if (TakeName("elif")) continue;
      if (TakeName("else")) {
        EndTag();
        stmt->body = ParseBody({"endif"});
      }
      --lenient_level_;
      Take();
      EndTag();
      return stmt;
    }
  }

  // One name, name.attribute, or a tuple in brackets.
  Target ParseTargetPart(bool with_attribute) {
    const Level level(*this);
    Target target;
    if (TakeOperator("(")) {
      target = ParseTarget(with_attribute);
      Expect(")");
      return target;
    }
    target.name = TakeIdentifier();
    for (const char* constant : {"true", "false", "none", "True", "False", "None"}) {
      if (target.name == constant) Error(fmt::format("{} cannot be assigned to", constant));
    }
    if (with_attribute && TakeOperator(".")) target.attribute = TakeIdentifier();
    return target;
  }
  Target ParseTarget(bool with_attribute) {
    Target first = ParseTargetPart(with_attribute);
    if (!IsOperator(",")) return first;
    Target target;
    target.tuple = true;
    target.parts.push_back(std::move(first));
    while (TakeOperator(",")) {
      if (IsName("in") || IsOperator(")")) break;
      target.parts.push_back(ParseTargetPart(with_attribute));
    }
    return target;
  }

  std::unique_ptr<Stmt> ParseFor(int line) {
    auto stmt = NewStmt(StmtKind::kFor, line);
    stmt->target = ParseTarget(false);
    if (!TakeName("in")) Error(fmt::format("expected in, found {}", Found()));
    stmt->expr = ParseTuple(false);  // no conditional here: its `if` is the loop's own
    if (TakeName("if")) stmt->filter = ParseExpr();
    stmt->recursive = TakeName("recursive");
    EndTag();
    ++loop_level_;
    stmt->body = ParseBody({"else", "endfor"});
    --loop_level_;
    if (TakeName("else")) {
      EndTag();
      stmt->otherwise = ParseBody({"endfor"});
    }
    Take();
    EndTag();
    return stmt;
  }

  std::unique_ptr<Stmt> ParseSet(int line) {
    auto stmt = NewStmt(StmtKind::kSet, line);
    stmt->target = ParseTarget(true);
    if (TakeOperator("=")) {
      stmt->expr = ParseTuple();
      EndTag();
      return stmt;
    }
    stmt->kind = StmtKind::kSetBlock;
    if (TakeOperator("|")) stmt->expr = ParseFilterChain(ParseFilter(nullptr));
    EndTag();
    stmt->body = ParseBody({"endset"});
    Take();
    EndTag();
    return stmt;
  }

  void ParseParameters(Stmt& stmt) {
    Expect("(");
    while (!IsOperator(")")) {
      stmt.parameters.push_back(TakeIdentifier());
      const bool has_default = TakeOperator("=");
      if (!has_default && !stmt.defaults.empty() && stmt.defaults.back() != nullptr) {
        Error("a parameter without a default follows one with a default");
      }
      stmt.defaults.push_back(has_default ? ParseExpr() : nullptr);
      if (!TakeOperator(",")) break;
    }
    Expect(")");
  }

  // The body of a macro or what is run like one: loops around it are out of reach.
  void ParseOwnBody(Stmt& stmt, std::string_view end) {
    const std::size_t begin = next_;
    const int loops = std::exchange(loop_level_, 0);
    stmt.body = ParseBody({end});
    loop_level_ = loops;
    for (std::size_t i = begin; i < next_; ++i) {
      if (tokens_[i].type != TokenType::kName) continue;
      stmt.uses_caller |= tokens_[i].text == "caller";
      stmt.uses_varargs |= tokens_[i].text == "varargs";
      stmt.uses_kwargs |= tokens_[i].text == "kwargs";
    }
    Take();
    EndTag();
  }

  std::unique_ptr<Stmt> ParseMacro(int line) {
    auto stmt = NewStmt(StmtKind::kMacro, line);
    stmt->text = TakeIdentifier();
    ParseParameters(*stmt);
    EndTag();
    ParseOwnBody(*stmt, "endmacro");
    return stmt;
  }

  std::unique_ptr<Stmt> ParseCallBlock(int line) {
    auto stmt = NewStmt(StmtKind::kCallBlock, line);
    stmt->text = "caller";
    if (IsOperator("(")) ParseParameters(*stmt);
    stmt->expr = ParseExpr();
    if (stmt->expr->kind != ExprKind::kCall) Error("{% call %} needs the call of a macro");
    EndTag();
    ParseOwnBody(*stmt, "endcall");
    return stmt;
  }

  std::unique_ptr<Stmt> ParseWith(int line) {
    auto stmt = NewStmt(StmtKind::kWith, line);
    while (Peek().type != TokenType::kTagEnd) {
      stmt->parameters.push_back(TakeIdentifier());
      Expect("=");
      stmt->defaults.push_back(ParseExpr());
      if (!TakeOperator(",")) break;
    }
    EndTag();
    stmt->body = ParseBody({"endwith"});
    Take();
    EndTag();
    return stmt;
  }

  int block_level_ = 0;
  int loop_level_ = 0;
};

}  // namespace

Body Parse(const std::string& source, const std::string& name) {
  return Parser(Lex(source, name), name).Template();
}

}  // namespace opo::jinja
