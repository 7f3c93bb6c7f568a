#include <algorithm>

#include "text/jinja_library.h"
#include "text/jinja_syntax.h"

namespace opo::jinja {

// Names by scope: the template, each turn of a loop, each macro call and each {% with %}.
struct Scope {
  std::shared_ptr<Scope> parent;
  std::unordered_map<std::string, Value> names;
};

namespace {

using NamespacePtr = std::shared_ptr<Namespace>;
using LoopPtr = std::shared_ptr<LoopState>;
using MacroPtr = std::shared_ptr<const Macro>;
using MethodPtr = std::shared_ptr<const Method>;
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
                    {"dict", Builtin::kDict},
                    {"cycler", Builtin::kCycler},
                    {"joiner", Builtin::kJoiner}};
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
      case StmtKind::kOutput:
        for (const ExprPtr& expr : stmt.exprs) {
          const Value value = Evaluate(*expr, scope);
          Write(value.IsText() ? value.text() : ToText(value, meter_), out);
        }
        return Flow::kNext;
      case StmtKind::kIf:
        for (const auto& [condition, body] : stmt.branches) {
          if (Truth(Evaluate(*condition, scope))) return Execute(body, scope, out);
        }
        return Execute(stmt.body, scope, out);
      case StmtKind::kFor:
        For(stmt, scope, Evaluate(*stmt.expr, scope), 0, out);
        return Flow::kNext;
      case StmtKind::kSet:
        Assign(stmt.target, Evaluate(*stmt.expr, scope), scope);
        return Flow::kNext;
      case StmtKind::kSetBlock: {
        Value text(BodyText(stmt.body, scope));
        if (stmt.expr != nullptr) text = Filtered(*stmt.expr, text, scope);
        Assign(stmt.target, text, scope);
        return Flow::kNext;
      }
      case StmtKind::kMacro:
        scope->names[stmt.text] =
            Value(MacroPtr(std::make_shared<const Macro>(Macro{&stmt, scope})));
        return Flow::kNext;
      case StmtKind::kCallBlock: {
        const Value caller(MacroPtr(std::make_shared<const Macro>(Macro{&stmt, scope})));
        const Value value = Call(*stmt.expr, scope, &caller);
        Write(ToText(value, meter_), out);
        return Flow::kNext;
      }
      case StmtKind::kFilter:
        Write(ToText(Filtered(*stmt.expr, Value(BodyText(stmt.body, scope)), scope), meter_), out);
        return Flow::kNext;
      case StmtKind::kWith: {
        const auto inner = std::make_shared<Scope>();
        for (std::size_t i = 0; i < stmt.parameters.size(); ++i) {
          inner->names[stmt.parameters[i]] = Evaluate(*stmt.defaults[i], scope);
        }
        inner->parent = scope;
        return Execute(stmt.body, inner, out);
      }
      case StmtKind::kScope:
        Write(BodyText(stmt.body, scope), out);
        return Flow::kNext;
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

  // The filters of a block, from the inside out.
  Value Filtered(const Expr& filter, const Value& text, const ScopePtr& scope) {
    const Value value = filter.args[0] == nullptr ? text : Filtered(*filter.args[0], text, scope);
    const Arguments given = Given(filter, scope);
    meter_.set_line(filter.line);
    return ApplyFilter(filter.name, value, given, meter_);
  }

  void Assign(const Target& target, const Value& value, const ScopePtr& scope) {
    if (target.tuple) {
      const std::vector<Value> parts = Elements(value, meter_);
      if (parts.size() != target.parts.size()) {
        meter_.Error("{} values for {} names", parts.size(), target.parts.size());
      }
      for (std::size_t i = 0; i < parts.size(); ++i) Assign(target.parts[i], parts[i], scope);
      return;
    }
    if (target.attribute.empty()) {
      scope->names[target.name] = value;
      return;
    }
    const Value holder = Lookup(target.name, scope);
    if (!holder.Is<NamespacePtr>()) {
      meter_.Error("sets {}.{}, which only a namespace can", target.name, target.attribute);
    }
    SetAttribute(*holder.As<NamespacePtr>(), target.attribute, value, meter_);
  }

  void For(const Stmt& stmt, const ScopePtr& scope, const Value& sequence, int depth0,
           std::string& out) {
    NeedIterable(sequence);
    std::vector<Value> items = Elements(sequence, meter_);
    if (stmt.filter != nullptr) {
      std::vector<Value> kept;
      for (Value& item : items) {
        const auto inner = std::make_shared<Scope>();
        inner->parent = scope;
        Assign(stmt.target, item, inner);
        if (Truth(Evaluate(*stmt.filter, inner))) kept.push_back(std::move(item));
      }
      items = std::move(kept);
    }
    if (items.empty()) {
      out += BodyText(stmt.otherwise, scope);
      return;
    }
    const auto loop = std::make_shared<LoopState>();
    loop->items = MakeList(std::move(items), meter_).As<List>();
    loop->depth0 = depth0;
    loop->recursive = stmt.recursive ? &stmt : nullptr;
    loop->scope = scope;
    struct Forget {  // what changed() saw may hold the loop itself
      LoopState& loop;
      ~Forget() { loop.changed.reset(); }
    } const forget{*loop};
    for (; loop->index0 < loop->items->items.size(); ++loop->index0) {
      meter_.Step();
      const auto inner = std::make_shared<Scope>();  // nothing set in a turn lives into the next
      inner->parent = scope;
      inner->names["loop"] = Value(loop);
      Assign(stmt.target, loop->items->items[loop->index0], inner);
      if (Execute(stmt.body, inner, out) == Flow::kBreak) break;
    }
  }

  void NeedIterable(const Value& value) {
    if (value.IsNumber() || value.Is<None>()) {
      meter_.Error("a loop over a {}", TypeName(value));
    }
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
        return MakeList(EvaluateAll(expr, 0, scope), meter_,
                        expr.kind == ExprKind::kTuple ? ListKind::kTuple : ListKind::kList);
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
        return SliceOf(expr, scope);
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
        NeedDefined(value, meter_);
        if (!value.IsNumber()) meter_.Error("a sign before a {}", TypeName(value));
        const bool negative = expr.kind == ExprKind::kNegative;
        if (value.Is<double>()) return Value(negative ? -value.number() : value.number());
        return Arithmetic(negative ? "-" : "+", Value(std::int64_t{0}), value, meter_);
      }
      case ExprKind::kBinary: {
        const Value left = Evaluate(*expr.args[0], scope);
        const Value right = Evaluate(*expr.args[1], scope);
        meter_.set_line(expr.line);
        return Arithmetic(expr.name, left, right, meter_);
      }
      case ExprKind::kConcatenate: {
        std::string text;
        for (const ExprPtr& arg : expr.args) {
          const std::string part = ToText(Evaluate(*arg, scope), meter_);
          text += part;
          meter_.Grow(part.size(), text.size());
        }
        return Value(std::move(text));
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
    if (expr.star != nullptr) {
      const std::vector<Value> more = Elements(Evaluate(*expr.star, scope), meter_);
      given.positional.insert(given.positional.end(), more.begin(), more.end());
    }
    if (expr.double_star != nullptr) {
      const Value more = Evaluate(*expr.double_star, scope);
      if (!more.Is<Dict>()) meter_.Error("** of a {}", TypeName(more));
      for (const auto& [key, value] : more.As<Dict>()->items) {
        if (!key.IsText()) meter_.Error("** of a dict with a {} as a key", TypeName(key));
        meter_.Step(1 + static_cast<std::int64_t>(given.named.size() / 8));
        for (const auto& other : given.named) {
          if (other.first == key.text())
            meter_.Error("the argument {} is given twice", other.first);
        }
        given.named.emplace_back(key.text(), value);
      }
    }
    return given;
  }

  Value DictLiteral(const Expr& expr, const ScopePtr& scope) {
    std::vector<std::pair<Value, Value>> items;
    for (std::size_t i = 0; i < expr.args.size(); i += 2) {
      Value key = Evaluate(*expr.args[i], scope);
      items.emplace_back(std::move(key), Evaluate(*expr.args[i + 1], scope));
    }
    return MakeDict(std::move(items), meter_);
  }

  Value SliceOf(const Expr& expr, const ScopePtr& scope) {
    const Value object = Evaluate(*expr.args[0], scope);
    Value bounds[3];
    for (std::size_t i = 0; i < 3; ++i) {
      const ExprPtr& bound = expr.args[i + 1];
      bounds[i] = bound != nullptr ? Evaluate(*bound, scope) : Value(None{});
    }
    meter_.set_line(expr.line);
    return Slice(object, bounds, meter_);
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
        NeedDefined(left, meter_);
        NeedDefined(right, meter_);
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

  // `caller`: of a call block, else null.
  Value Call(const Expr& expr, const ScopePtr& scope, const Value* caller = nullptr) {
    const Expr& callee = *expr.args[0];
    if (callee.kind == ExprKind::kAttribute) {
      const Value object = Evaluate(*callee.args[0], scope);
      Arguments given = Given(expr, scope);
      meter_.set_line(expr.line);
      if (caller != nullptr) given.named.emplace_back("caller", *caller);
      const Value function = GetAttribute(object, callee.name, meter_);
      if (function.Is<Undefined>()) return CallMethod(object, callee.name, given, meter_);
      return CallValue(callee.name, function, given);
    }
    const Value function = Evaluate(callee, scope);
    Arguments given = Given(expr, scope);
    if (caller != nullptr) given.named.emplace_back("caller", *caller);
    meter_.set_line(expr.line);
    return CallValue(callee.name, function, given);
  }

  Value CallValue(const std::string& name, const Value& function, const Arguments& given) {
    if (function.Is<Builtin>())
      return CallBuiltin(function.As<Builtin>(), given, namespaces_, meter_);
    if (function.Is<MacroPtr>()) return CallMacro(*function.As<MacroPtr>(), given);
    if (function.Is<LoopPtr>()) return CallLoop(*function.As<LoopPtr>(), given);
    if (function.Is<MethodPtr>()) {
      const Method& method = *function.As<MethodPtr>();
      return CallMethod(method.object, method.name, given, meter_);
    }
    if (function.Is<std::shared_ptr<Joiner>>()) {
      Joiner& joiner = *function.As<std::shared_ptr<Joiner>>();
      given.Bind("joiner", {}, meter_);
      if (std::exchange(joiner.used, true)) return joiner.separator;
      return Value(std::string());
    }
    if (function.Is<Undefined>()) {
      const auto& what = function.As<Undefined>().what;
      meter_.Error("the function {} is outside the subset of Jinja that is supported ({})", name,
                   what != nullptr ? *what : "it is undefined");
    }
    meter_.Error("calls {}, which is a {}", name.empty() ? "a value" : name, TypeName(function));
  }

  Value CallLoop(const LoopState& loop, const Arguments& given) {
    const Depth depth(*this);
    const ScopePtr scope = loop.scope.lock();
    if (loop.recursive == nullptr || scope == nullptr) {
      meter_.Error("calls a loop that is not recursive");
    }
    const Value sequence = given.Bind("loop", {"iterable"}, meter_)[0];
    std::string text;
    For(*loop.recursive, scope, sequence, loop.depth0 + 1, text);
    return Value(std::move(text));
  }

  Value CallMacro(const Macro& macro, const Arguments& given) {
    const Depth depth(*this);
    const Stmt& stmt = *macro.stmt;
    const ScopePtr outer = macro.scope.lock();
    if (outer == nullptr) meter_.Error("calls the macro {} after its scope has ended", stmt.text);
    const auto inner = std::make_shared<Scope>();
    inner->parent = outer;
    const std::size_t num_parameters = stmt.parameters.size();
    std::vector<Value> rest;
    for (std::size_t i = 0; i < given.positional.size(); ++i) {
      if (i < num_parameters) {
        inner->names[stmt.parameters[i]] = given.positional[i];
      } else {
        rest.push_back(given.positional[i]);
      }
    }
    if (!rest.empty() && !stmt.uses_varargs) {
      meter_.Error("the macro {} takes at most {} arguments, got {}", stmt.text, num_parameters,
                   given.positional.size());
    }
    std::vector<std::pair<Value, Value>> more;
    Value caller = Value::MakeUndefined("No caller defined");
    for (const auto& [name, value] : given.named) {
      const auto found = std::find(stmt.parameters.begin(), stmt.parameters.end(), name);
      const auto place = static_cast<std::size_t>(found - stmt.parameters.begin());
      if (found != stmt.parameters.end() && place >= given.positional.size()) {
        inner->names[name] = value;
      } else if (name == "caller" && stmt.uses_caller) {
        caller = value;
      } else if (stmt.uses_kwargs && name != "caller") {
        more.emplace_back(Value(name), value);
      } else {
        meter_.Error("the macro {} does not take the argument {}", stmt.text, name);
      }
    }
    for (std::size_t i = 0; i < num_parameters; ++i) {
      const std::string& name = stmt.parameters[i];
      if (inner->names.contains(name)) continue;
      inner->names[name] =
          stmt.defaults[i] != nullptr
              ? Evaluate(*stmt.defaults[i], inner)
              : Value::MakeUndefined(fmt::format("parameter '{}' was not provided", name));
    }
    if (stmt.uses_varargs) {
      inner->names.emplace("varargs", MakeList(std::move(rest), meter_, ListKind::kTuple));
    }
    if (stmt.uses_kwargs) inner->names.emplace("kwargs", MakeDict(std::move(more), meter_));
    if (stmt.uses_caller && stmt.kind == StmtKind::kMacro) {
      inner->names.emplace("caller", std::move(caller));
    }
    std::string text;
    Execute(stmt.body, inner, text);
    return Value(std::move(text));
  }

  Meter& meter_;
  int depth_ = 0;
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
