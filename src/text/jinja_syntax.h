// Templates as trees: what the parser makes and the interpreter walks.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja_value.h"

namespace opo::jinja {

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

enum class ExprKind {
  kConstant,     // value
  kName,         // name
  kList,         // args
  kTuple,        // args
  kDict,         // args: key, value, key, value ...
  kAttribute,    // args[0].name
  kItem,         // args[0][args[1]]
  kSlice,        // args[0][args[1]:args[2]:args[3]], each of the three may be null
  kCall,         // args[0](args[1...], named, *star, **double_star)
  kFilter,       // args[0] | name(args[1...], ...); args[0] is null where a block is filtered
  kTest,         // args[0] is name(args[1...], ...)
  kNot,          // args[0]
  kNegative,     // args[0]
  kPositive,     // args[0]
  kBinary,       // args[0] name args[1], an arithmetic operator
  kConcatenate,  // args[0] ~ args[1] ~ ...
  kCompare,      // args[0] ops[0] args[1] ops[1] args[2] ...
  kAnd,          // args
  kOr,           // args
  kConditional,  // args[1] if args[0] else args[2] (may be null)
};

struct Expr {
  ExprKind kind = ExprKind::kConstant;
  int line = 1;
  int depth = 1;  // of the tree from here; bounded, so walking and freeing it cannot overflow
  std::string name;
  Value value;
  std::vector<ExprPtr> args;
  std::vector<std::pair<std::string, ExprPtr>> named;
  ExprPtr star, double_star;
  std::vector<std::string> ops;
};

// What a loop or {% set %} assigns to: name, name.attribute, or several of them in a tuple.
struct Target {
  std::string name;
  std::string attribute;
  std::vector<Target> parts;
  bool tuple = false;
};

struct Stmt;
using Body = std::vector<std::unique_ptr<Stmt>>;

enum class StmtKind {
  kText,       // text
  kOutput,     // exprs
  kIf,         // branches, body: the else part
  kFor,        // target, expr, filter, body, otherwise, recursive
  kSet,        // target, expr
  kSetBlock,   // target, expr: a kFilter or null, body
  kMacro,      // text: its name, parameters, defaults, body, uses_...
  kCallBlock,  // expr: a kCall; parameters, defaults, body: of the caller
  kFilter,     // expr: a kFilter, body
  kWith,       // parameters: its names, defaults: their values, body
  kScope,      // body, with names of its own
  kBreak,
  kContinue,
};

struct Stmt {
  StmtKind kind = StmtKind::kText;
  int line = 1;
  std::string text;
  Target target;
  std::vector<std::string> parameters;
  std::vector<ExprPtr> defaults;  // null where a parameter has none
  std::vector<ExprPtr> exprs;
  ExprPtr expr;
  ExprPtr filter;
  std::vector<std::pair<ExprPtr, Body>> branches;
  Body body;
  Body otherwise;
  bool recursive = false;
  bool uses_caller = false, uses_varargs = false, uses_kwargs = false;  // of a macro's body
};

// Throws Error(kInput) naming template, line and construct.
Body Parse(const std::string& source, const std::string& name);

// Runs a template with `variables` as its names. Throws Error(kInput) naming line and reason.
std::string Run(const Body& body, const std::vector<std::pair<std::string, Value>>& variables,
                Meter& meter);

}  // namespace opo::jinja
