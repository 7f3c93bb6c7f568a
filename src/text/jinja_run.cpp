#include <algorithm>
#include <cmath>
#include <ctime>

#include "text/jinja_library.h"
#include "text/jinja_syntax.h"

namespace opo::jinja {

// Names by scope: the template, each turn of a loop, each macro call and each {% with %}.
struct Scope {
  std::shared_ptr<Scope> parent;
  std::unordered_map<std::string, Value> names;
};

struct Macro {
  const Stmt* stmt = nullptr;
  std::weak_ptr<Scope> scope;  // weak: the scope holds the macro
};

namespace {

using NamespacePtr = std::shared_ptr<Namespace>;
using LoopPtr = std::shared_ptr<LoopState>;
using MacroPtr = std::shared_ptr<const Macro>;
using ScopePtr = std::shared_ptr<Scope>;

constexpr int kMaxDepth = 600;  // of expressions, tags and macro calls inside each other

class Interpreter {
 public:
  explicit Interpreter(Meter& meter) : meter_(meter) {}
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;
  // Namespaces may hold each other in a ring; here every ring is opened.
  ~Interpreter() {
    for (const NamespacePtr& one : namespaces_) one->attributes.clear();
  }

  void Run(const Body& body, const std::vector<std::pair<std::string, Value>>& variables,
           std::string& out) {
    const auto scope = std::make_shared<Scope>();
    scope->names = {{"raise_exception", Builtin::kRaiseException},
                    {"namespace", Builtin::kNamespace},
                    {"range", Builtin::kRange},
                    {"strftime_now", Builtin::kStrftimeNow},
                    {"dict", Builtin::kDict}};
    for (const auto& [name, value] : variables) scope->names[name] = value;
    Execute(body, scope, out);
  }

 private:
  enum class Flow { kNext, kBreak, kContinue };

  struct Depth {
    explicit Depth(Interpreter& run) : run_(run) {
      if (++run_.depth_ > kMaxDepth) run_.meter_.Error("nests more than {} deep", kMaxDepth);
    }
    Depth(const Depth&) = delete;
    Depth& operator=(const Depth&) = delete;
    ~Depth() { --run_.depth_; }
    Interpreter& run_;
  };

  // --- statements ---

  Flow Execute(const Body& body, const ScopePtr& scope, std::string& out) {
    for (const auto& stmt : body) {
      const Flow flow = Execute(*stmt, scope, out);
      if (flow != Flow::kNext) return flow;
    }
    return Flow::kNext;
  }

  void Write(std::string_view text, std::string& out) {
    meter_.Text(text.size());
    if (out.size() + text.size() > kMaxTextBytes) meter_.Text(out.size() + text.size());
    out += text;
  }

  Flow Execute(const Stmt& stmt, const ScopePtr& scope, std::string& out) {
    const Depth depth(*this);
    meter_.set_line(stmt.line);
    meter_.Step();
    switch (stmt.kind) {
      case StmtKind::kText:
        Write(stmt.text, out);
        return Flow::kNext;
      case StmtKind::kOutput: {
        const Value value = Evaluate(*stmt.expr, scope);
        Write(value.IsText() ? value.text() : ToText(value, meter_), out);
        return Flow::kNext;
      }
      case StmtKind::kIf:
        for (const auto& [condition, body] : stmt.branches) {
          if (Truth(Evaluate(*condition, scope))) return Execute(body, scope, out);
        }
        return Execute(stmt.body, scope, out);
      case StmtKind::kFor:
        For(stmt, scope, out);
        return Flow::kNext;
      case StmtKind::kSet:
        Set(stmt, scope, Evaluate(*stmt.expr, scope));
        return Flow::kNext;
      case StmtKind::kSetBlock:
        Set(stmt, scope, Value(BodyText(stmt.body, scope)));
        return Flow::kNext;
      case StmtKind::kMacro:
        scope->names[stmt.text] =
            Value(MacroPtr(std::make_shared<const Macro>(Macro{&stmt, scope})));
        return Flow::kNext;
      case StmtKind::kFilter: {
        const Value body = Value(BodyText(stmt.body, scope));
        const Value value = ApplyFilter(stmt.expr->name, body, Given(*stmt.expr, scope), meter_);
        Write(ToText(value, meter_), out);
        return Flow::kNext;
      }
      case StmtKind::kWith: {
        const auto inner = std::make_shared<Scope>();
        for (std::size_t i = 0; i < stmt.targets.size(); ++i) {
          inner->names[stmt.targets[i]] = Evaluate(*stmt.defaults[i], scope);
        }
        inner->parent = scope;
        return Execute(stmt.body, inner, out);
      }
      case StmtKind::kBlock:
        return Execute(stmt.body, scope, out);
      case StmtKind::kBreak:
        return Flow::kBreak;
      case StmtKind::kContinue:
        return Flow::kContinue;
    }
    return Flow::kNext;
  }

  std::string BodyText(const Body& body, const ScopePtr& scope) {
    const auto inner = std::make_shared<Scope>();
    inner->parent = scope;
    std::string text;
    Execute(body, inner, text);
    return text;
  }

  void Assign(const std::vector<std::string>& targets, const Value& value, Scope& scope) {
    if (targets.size() == 1) {
      scope.names[targets[0]] = value;
      return;
    }
    const std::vector<Value> parts = Elements(value, meter_);
    if (parts.size() != targets.size()) {
      meter_.Error("{} values for {} names", parts.size(), targets.size());
    }
    for (std::size_t i = 0; i < targets.size(); ++i) scope.names[targets[i]] = parts[i];
  }

  void Set(const Stmt& stmt, const ScopePtr& scope, const Value& value) {
    if (stmt.attribute.empty()) {
      Assign(stmt.targets, value, *scope);
      return;
    }
    const Value target = Lookup(stmt.targets[0], scope);
    if (!target.Is<NamespacePtr>()) {
      meter_.Error("sets {}.{}, which only a namespace can", stmt.targets[0], stmt.attribute);
    }
    target.As<NamespacePtr>()->attributes[stmt.attribute] = value;
  }

  void For(const Stmt& stmt, const ScopePtr& scope, std::string& out) {
    std::vector<Value> items = Elements(Evaluate(*stmt.expr, scope), meter_);
    if (stmt.filter != nullptr) {
      std::vector<Value> kept;
      for (Value& item : items) {
        const auto inner = std::make_shared<Scope>();
        inner->parent = scope;
        Assign(stmt.targets, item, *inner);
        if (Truth(Evaluate(*stmt.filter, inner))) kept.push_back(std::move(item));
      }
      items = std::move(kept);
    }
    if (items.empty()) {
      Execute(stmt.otherwise, scope, out);
      return;
    }
    const auto loop = std::make_shared<LoopState>();
    loop->items = MakeList(std::move(items), meter_).As<List>();
    loop->depth0 = loop_depth_;
    ++loop_depth_;
    for (; loop->index0 < loop->items->items.size(); ++loop->index0) {
      meter_.Step();
      const auto inner = std::make_shared<Scope>();  // nothing set in a turn lives into the next
      inner->parent = scope;
      inner->names["loop"] = Value(loop);
      Assign(stmt.targets, loop->items->items[loop->index0], *inner);
      if (Execute(stmt.body, inner, out) == Flow::kBreak) break;
    }
    --loop_depth_;
  }

  // --- expressions ---

  Value Lookup(const std::string& name, const ScopePtr& scope) {
    for (const Scope* at = scope.get(); at != nullptr; at = at->parent.get()) {
      meter_.Step();
      if (const auto found = at->names.find(name); found != at->names.end()) return found->second;
    }
    return Value::MakeUndefined(fmt::format("'{}' is undefined", name));
  }

  Value Evaluate(const Expr& expr, const ScopePtr& scope) {
    const Depth depth(*this);
    meter_.set_line(expr.line);
    meter_.Step();
    switch (expr.kind) {
      case ExprKind::kConstant:
        return expr.value;
      case ExprKind::kName:
        return Lookup(expr.name, scope);
      case ExprKind::kList:
      case ExprKind::kTuple:
        return MakeList(EvaluateAll(expr, 0, scope), meter_, expr.kind == ExprKind::kTuple);
      case ExprKind::kDict:
        return DictLiteral(expr, scope);
      case ExprKind::kAttribute: {
        const Value object = Evaluate(*expr.args[0], scope);
        meter_.set_line(expr.line);
        return GetAttribute(object, expr.name, meter_);
      }
      case ExprKind::kItem: {
        const Value object = Evaluate(*expr.args[0], scope);
        return GetItem(object, Evaluate(*expr.args[1], scope), meter_);
      }
      case ExprKind::kSlice:
        return Slice(expr, scope);
      case ExprKind::kCall:
        return Call(expr, scope);
      case ExprKind::kFilter: {
        const Value value = Evaluate(*expr.args[0], scope);
        const Arguments given = Given(expr, scope);
        meter_.set_line(expr.line);
        return ApplyFilter(expr.name, value, given, meter_);
      }
      case ExprKind::kTest: {
        const Value value = Evaluate(*expr.args[0], scope);
        return Value(ApplyTest(expr.name, value, Given(expr, scope), meter_));
      }
      case ExprKind::kNot:
        return Value(!Truth(Evaluate(*expr.args[0], scope)));
      case ExprKind::kNegative:
      case ExprKind::kPositive: {
        const Value value = Evaluate(*expr.args[0], scope);
        if (!value.IsNumber()) meter_.Error("a sign before a {}", TypeName(value));
        const bool negative = expr.kind == ExprKind::kNegative;
        if (value.Is<double>()) return Value(negative ? -value.number() : value.number());
        return Integer('-', negative ? 0 : value.integer(), negative ? value.integer() : 0);
      }
      case ExprKind::kBinary: {
        const Value left = Evaluate(*expr.args[0], scope);
        const Value right = Evaluate(*expr.args[1], scope);
        meter_.set_line(expr.line);
        return Binary(expr.name, left, right);
      }
      case ExprKind::kCompare:
        return CompareChain(expr, scope);
      case ExprKind::kAnd:
      case ExprKind::kOr: {  // Python: the value that decided
        Value value;
        for (const ExprPtr& arg : expr.args) {
          value = Evaluate(*arg, scope);
          if (Truth(value) == (expr.kind == ExprKind::kOr)) return value;
        }
        return value;
      }
      case ExprKind::kConditional:
        if (Truth(Evaluate(*expr.args[0], scope))) return Evaluate(*expr.args[1], scope);
        if (expr.args[2] != nullptr) return Evaluate(*expr.args[2], scope);
        return Value::MakeUndefined("an `if` without `else` was false");
    }
    return Value();
  }

  std::vector<Value> EvaluateAll(const Expr& expr, std::size_t from, const ScopePtr& scope) {
    std::vector<Value> values;
    for (std::size_t i = from; i < expr.args.size(); ++i) {
      values.push_back(Evaluate(*expr.args[i], scope));
    }
    return values;
  }

  Arguments Given(const Expr& expr, const ScopePtr& scope) {
    Arguments given;
    given.positional = EvaluateAll(expr, 1, scope);
    for (const auto& [name, arg] : expr.named) {
      given.named.emplace_back(name, Evaluate(*arg, scope));
    }
    return given;
  }

  Value DictLiteral(const Expr& expr, const ScopePtr& scope) {
    std::vector<std::pair<std::string, Value>> items;
    for (std::size_t i = 0; i < expr.args.size(); i += 2) {
      const Value key = Evaluate(*expr.args[i], scope);
      if (!key.IsText()) meter_.Error("a {} as a key is outside the subset", TypeName(key));
      Value value = Evaluate(*expr.args[i + 1], scope);
      meter_.Step(static_cast<std::int64_t>(items.size() / 8));
      const auto same = std::find_if(items.begin(), items.end(),
                                     [&](const auto& item) { return item.first == key.text(); });
      if (same != items.end()) {
        same->second = std::move(value);
      } else {
        items.emplace_back(key.text(), std::move(value));
      }
    }
    return MakeDict(std::move(items), meter_);
  }

  Value Slice(const Expr& expr, const ScopePtr& scope) {
    const Value object = Evaluate(*expr.args[0], scope);
    Value bounds[3];
    for (std::size_t i = 0; i < 3; ++i) {
      if (expr.args[i + 1] != nullptr) bounds[i] = Evaluate(*expr.args[i + 1], scope);
      if (expr.args[i + 1] == nullptr || bounds[i].Is<None>()) {
        bounds[i] = Value(None{});
      } else if (!bounds[i].IsInteger()) {
        meter_.Error("a slice bound is a {}", TypeName(bounds[i]));
      }
    }
    if (!object.IsText() && !object.Is<List>()) {
      if (object.Is<Undefined>()) return GetAttribute(object, "", meter_);
      meter_.Error("a slice of a {}", TypeName(object));
    }
    const std::vector<Value> items = Elements(object, meter_);
    const auto size = static_cast<std::int64_t>(items.size());
    std::int64_t step = bounds[2].Is<None>() ? 1 : bounds[2].integer();
    if (step == 0) meter_.Error("a slice with step 0");
    step = std::clamp(step, -size - 1, size + 1);
    const auto bound = [&](const Value& value, std::int64_t otherwise) {
      if (value.Is<None>()) return otherwise;
      const std::int64_t at = value.integer();
      const std::int64_t low = step < 0 ? -1 : 0;
      const std::int64_t high = step < 0 ? size - 1 : size;
      return std::clamp(at < 0 ? at + size : at, low, high);
    };
    const std::int64_t start = bound(bounds[0], step < 0 ? size - 1 : 0);
    const std::int64_t stop = bound(bounds[1], step < 0 ? -1 : size);
    std::vector<Value> taken;
    for (std::int64_t i = start; step < 0 ? i > stop : i < stop; i += step) {
      taken.push_back(items[static_cast<std::size_t>(i)]);
    }
    if (object.Is<List>()) return MakeList(std::move(taken), meter_, object.As<List>()->tuple);
    std::string text;
    for (const Value& c : taken) text += c.text();
    return Value(std::move(text));
  }

  Value Integer(char op, std::int64_t a, std::int64_t b) {
    std::int64_t result = 0;
    const bool overflow = op == '+'   ? __builtin_add_overflow(a, b, &result)
                          : op == '-' ? __builtin_sub_overflow(a, b, &result)
                                      : __builtin_mul_overflow(a, b, &result);
    if (overflow) meter_.Error("a number beyond 64 bits");
    return Value(result);
  }

  Value Binary(const std::string& op, const Value& a, const Value& b) {
    if (op == "~") return Concatenate(ToText(a, meter_), ToText(b, meter_));
    for (const Value* side : {&a, &b}) {
      if (side->Is<Undefined>()) GetAttribute(*side, "", meter_);  // fails: it is undefined
    }
    if (op == "+" && a.IsText() && b.IsText()) return Concatenate(a.text(), b.text());
    if (op == "+" && a.Is<List>() && b.Is<List>() && a.As<List>()->tuple == b.As<List>()->tuple) {
      std::vector<Value> items = a.As<List>()->items;
      items.insert(items.end(), b.As<List>()->items.begin(), b.As<List>()->items.end());
      return MakeList(std::move(items), meter_, a.As<List>()->tuple);
    }
    if (op == "*" && a.IsText() != b.IsText() && (a.IsInteger() || b.IsInteger())) {
      const std::string& text = a.IsText() ? a.text() : b.text();
      const std::int64_t times = std::max<std::int64_t>(0, a.IsText() ? b.integer() : a.integer());
      if (!text.empty() && times > static_cast<std::int64_t>(kMaxTextBytes / text.size())) {
        meter_.Text(kMaxTextBytes + 1);
      }
      std::string out;
      for (std::int64_t i = 0; i < times && !text.empty(); ++i) out += text;
      meter_.Text(out.size());
      return Value(std::move(out));
    }
    if (!a.IsNumber() || !b.IsNumber()) {
      meter_.Error("the operator {} between a {} and a {}", op, TypeName(a), TypeName(b));
    }
    const bool division = op == "/" || op == "//" || op == "%";
    if (division && b.number() == 0) meter_.Error("division by zero");
    if (op == "/") return Value(a.number() / b.number());
    if (a.IsInteger() && b.IsInteger()) {
      const std::int64_t x = a.integer();
      const std::int64_t y = b.integer();
      if (!division) return Integer(op[0], x, y);
      if (y == -1) return op == "%" ? Value(std::int64_t{0}) : Integer('-', 0, x);
      const bool down = x % y != 0 && (x < 0) != (y < 0);  // Python rounds down, not to zero
      return op == "%" ? Value(x % y + (down ? y : 0)) : Value(x / y - (down ? 1 : 0));
    }
    const double x = a.number();
    const double y = b.number();
    if (op == "+") return Value(x + y);
    if (op == "-") return Value(x - y);
    if (op == "*") return Value(x * y);
    if (op == "//") return Value(std::floor(x / y));
    const double rest = std::fmod(x, y);
    return Value(rest != 0 && (rest < 0) != (y < 0) ? rest + y : rest);
  }

  Value Concatenate(const std::string& a, const std::string& b) {
    meter_.Text(a.size() + b.size());
    return Value(a + b);
  }

  Value CompareChain(const Expr& expr, const ScopePtr& scope) {
    Value left = Evaluate(*expr.args[0], scope);
    for (std::size_t i = 0; i < expr.ops.size(); ++i) {
      const std::string& op = expr.ops[i];
      const Value right = Evaluate(*expr.args[i + 1], scope);
      meter_.set_line(expr.line);
      bool holds = false;
      if (op == "==" || op == "!=") {
        holds = Equal(left, right, meter_) == (op == "==");
      } else if (op == "in" || op == "not in") {
        holds = Contains(right, left, meter_) == (op == "in");
      } else {
        for (const Value* side : {static_cast<const Value*>(&left), &right}) {
          if (side->Is<Undefined>()) GetAttribute(*side, "", meter_);
        }
        const int order = Compare(left, right, meter_);
        holds = op == "<"    ? order < 0
                : op == ">"  ? order > 0
                : op == "<=" ? order <= 0
                             : order >= 0;
      }
      if (!holds) return Value(false);
      left = right;
    }
    return Value(true);
  }

  Value Call(const Expr& expr, const ScopePtr& scope) {
    const Expr& callee = *expr.args[0];
    if (callee.kind == ExprKind::kAttribute) {
      const Value object = Evaluate(*callee.args[0], scope);
      const Arguments given = Given(expr, scope);
      meter_.set_line(expr.line);
      if (object.Is<NamespacePtr>()) {
        return CallValue(callee.name, GetAttribute(object, callee.name, meter_), given);
      }
      return CallMethod(object, callee.name, given, meter_);
    }
    const Value function = Evaluate(callee, scope);
    const Arguments given = Given(expr, scope);
    meter_.set_line(expr.line);
    return CallValue(callee.name, function, given);
  }

  Value CallValue(const std::string& name, const Value& function, const Arguments& given) {
    if (function.Is<Builtin>()) return CallBuiltin(function.As<Builtin>(), given);
    if (function.Is<MacroPtr>()) return CallMacro(*function.As<MacroPtr>(), given);
    if (function.Is<Undefined>()) {
      meter_.Error("the function {} is outside the subset of Jinja that is supported", name);
    }
    meter_.Error("calls {}, which is a {}", name.empty() ? "a value" : name, TypeName(function));
  }

  Value CallMacro(const Macro& macro, const Arguments& given) {
    const Depth depth(*this);
    const Stmt& stmt = *macro.stmt;
    const ScopePtr outer = macro.scope.lock();
    if (outer == nullptr) meter_.Error("calls the macro {} after its scope has ended", stmt.text);
    const auto inner = std::make_shared<Scope>();
    inner->parent = outer;
    if (given.positional.size() > stmt.targets.size()) {
      meter_.Error("the macro {} takes at most {} arguments, got {}", stmt.text,
                   stmt.targets.size(), given.positional.size());
    }
    for (std::size_t i = 0; i < given.positional.size(); ++i) {
      inner->names[stmt.targets[i]] = given.positional[i];
    }
    for (const auto& [name, value] : given.named) {
      const bool known =
          std::find(stmt.targets.begin(), stmt.targets.end(), name) != stmt.targets.end();
      if (!known || !inner->names.emplace(name, value).second) {
        meter_.Error("the macro {} does not take the argument {}", stmt.text, name);
      }
    }
    for (std::size_t i = 0; i < stmt.targets.size(); ++i) {
      if (inner->names.contains(stmt.targets[i])) continue;
      inner->names[stmt.targets[i]] =
          stmt.defaults[i] != nullptr ? Evaluate(*stmt.defaults[i], inner)
                                      : Value::MakeUndefined(fmt::format(
                                            "parameter '{}' was not provided", stmt.targets[i]));
    }
    std::string text;
    Execute(stmt.body, inner, text);
    return Value(std::move(text));
  }

  Value CallBuiltin(Builtin builtin, const Arguments& given) {
    switch (builtin) {
      case Builtin::kRaiseException: {  // does not come back
        const Value message = given.Bind("raise_exception", {"message"}, meter_)[0];
        meter_.Error("the template refuses these messages: {}", ToText(message, meter_));
      }
      case Builtin::kNamespace: {
        if (given.positional.size() > 1) meter_.Error("namespace takes at most one dict");
        const auto made = std::make_shared<Namespace>();
        namespaces_.push_back(made);
        if (given.positional.size() == 1) {
          if (!given.positional[0].Is<Dict>()) meter_.Error("namespace takes a dict");
          for (const auto& [name, value] : given.positional[0].As<Dict>()->items) {
            made->attributes[name] = value;
          }
        }
        for (const auto& [name, value] : given.named) made->attributes[name] = value;
        return Value(made);
      }
      case Builtin::kDict: {
        if (!given.positional.empty()) meter_.Error("dict() of a value is outside the subset");
        return MakeDict(given.named, meter_);
      }
      case Builtin::kRange:
        return Range(given);
      case Builtin::kStrftimeNow: {
        const Value format = given.Bind("strftime_now", {"format"}, meter_)[0];
        if (!format.IsText()) meter_.Error("strftime_now needs a text");
        const std::time_t now = std::time(nullptr);
        std::tm local{};
        localtime_r(&now, &local);
        char buffer[256];
        const std::size_t size =
            std::strftime(buffer, sizeof(buffer), format.text().c_str(), &local);
        return Value(std::string(buffer, size));
      }
    }
    return Value();
  }

  Value Range(const Arguments& given) {
    std::int64_t bounds[3] = {0, 0, 1};
    const std::size_t n = given.positional.size();
    if (n < 1 || n > 3 || !given.named.empty()) meter_.Error("range takes 1 to 3 numbers");
    for (std::size_t i = 0; i < n; ++i) {
      if (!given.positional[i].IsInteger()) meter_.Error("range takes integers");
      bounds[n == 1 ? 1 : i] = given.positional[i].integer();
    }
    const auto [start, stop, step] = bounds;
    if (step == 0) meter_.Error("range with step 0");
    std::vector<Value> items;
    for (std::int64_t i = start; step < 0 ? i > stop : i < stop;) {
      if (items.size() >= static_cast<std::size_t>(kMaxRange)) {
        meter_.Error("range of more than {} numbers", kMaxRange);
      }
      items.push_back(Value(i));
      if (__builtin_add_overflow(i, step, &i)) break;
    }
    return MakeList(std::move(items), meter_);
  }

  Meter& meter_;
  int depth_ = 0;
  int loop_depth_ = 0;
  std::vector<NamespacePtr> namespaces_;
};

}  // namespace

std::string Run(const Body& body, const std::vector<std::pair<std::string, Value>>& variables,
                Meter& meter) {
  std::string out;
  Interpreter(meter).Run(body, variables, out);
  return out;
}

}  // namespace opo::jinja
