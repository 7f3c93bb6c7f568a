#include "text/jinja_library.h"
#include "text/python_text.h"

namespace opo::jinja {
namespace {

using IteratorPtr = std::shared_ptr<Iterator>;
using LoopPtr = std::shared_ptr<LoopState>;

// A test of the value alone, or against one argument.
using PlainTest = bool (*)(const Value& value, Meter& meter);
using PairTest = bool (*)(const Value& value, const Value& other, Meter& meter);

bool HasRest(const Value& value, std::int64_t by, double rest, Meter& meter) {
  return Equal(Arithmetic("%", value, Value(by), meter), Value(rest), meter);
}

bool CasedAs(const Value& value, const char* method, Meter& meter) {
  return Truth(CallMethod(Value(Soft(value, meter)), method, {}, meter));
}

bool IsIterable(const Value& v) {
  return v.IsText() || v.Is<List>() || v.Is<Dict>() || v.Is<Undefined>() || v.Is<IteratorPtr>() ||
         v.Is<LoopPtr>();
}

bool IsCallable(const Value& v) {
  return v.Is<std::shared_ptr<const Macro>>() || v.Is<Builtin>() || v.Is<LoopPtr>() ||
         v.Is<std::shared_ptr<const Method>>() || v.Is<std::shared_ptr<Joiner>>() ||
         v.Is<Undefined>();  // as in Jinja
}

// Orders with an undefined value fail with what is undefined.
int Order(const Value& a, const Value& b, Meter& meter) {
  NeedDefined(a, meter);
  NeedDefined(b, meter);
  return Compare(a, b, meter);
}

const std::unordered_map<std::string_view, PlainTest>& PlainTests() {
  static const std::unordered_map<std::string_view, PlainTest> tests = {
      {"defined", [](const Value& v, Meter&) { return !v.Is<Undefined>(); }},
      {"undefined", [](const Value& v, Meter&) { return v.Is<Undefined>(); }},
      {"none", [](const Value& v, Meter&) { return v.Is<None>(); }},
      {"boolean", [](const Value& v, Meter&) { return v.Is<bool>(); }},
      {"true", [](const Value& v, Meter&) { return v.Is<bool>() && v.As<bool>(); }},
      {"false", [](const Value& v, Meter&) { return v.Is<bool>() && !v.As<bool>(); }},
      {"integer", [](const Value& v, Meter&) { return v.Is<std::int64_t>(); }},
      {"float", [](const Value& v, Meter&) { return v.Is<double>(); }},
      {"number", [](const Value& v, Meter&) { return v.IsNumber(); }},
      {"string", [](const Value& v, Meter&) { return v.IsText(); }},
      {"mapping", [](const Value& v, Meter&) { return v.Is<Dict>(); }},
      {"escaped", [](const Value& v, Meter&) { return v.IsSafe(); }},
      {"callable", [](const Value& v, Meter&) { return IsCallable(v); }},
      {"iterable", [](const Value& v, Meter&) { return IsIterable(v); }},
      {"sequence",
       [](const Value& v, Meter&) {
         const bool view = v.Is<List>() && v.As<List>()->IsView();
         return v.IsText() || (v.Is<List>() && !view) || v.Is<Dict>() || v.Is<Undefined>();
       }},
      {"odd", [](const Value& v, Meter& m) { return HasRest(v, 2, 1, m); }},
      {"even", [](const Value& v, Meter& m) { return HasRest(v, 2, 0, m); }},
      {"lower", [](const Value& v, Meter& m) { return CasedAs(v, "islower", m); }},
      {"upper", [](const Value& v, Meter& m) { return CasedAs(v, "isupper", m); }},
      {"filter",
       [](const Value& v, Meter& m) { return IsFilterOfJinja(NeedText(v, "filter", m)); }},
      {"test", [](const Value& v, Meter& m) { return IsTest(NeedText(v, "test", m)); }},
  };
  return tests;
}

// Python's `is`. Of texts and numbers it tells how they came about, which is refused.
bool Same(const Value& a, const Value& b, Meter& meter) {
  if (a.variant().index() != b.variant().index()) return false;
  if (a.Is<None>() || a.Is<bool>()) return Equal(a, b, meter);
  if (a.Is<List>()) return a.As<List>() == b.As<List>();
  if (a.Is<Dict>()) return a.As<Dict>() == b.As<Dict>();
  if (a.IsText() || a.IsNumber()) {
    if (!Equal(a, b, meter)) return false;
    meter.Error("sameas of two equal {}s is outside the subset; use ==", TypeName(a));
  }
  return Equal(a, b, meter);
}

const std::unordered_map<std::string_view, PairTest>& PairTests() {
  static const std::unordered_map<std::string_view, PairTest> tests = [] {
    std::unordered_map<std::string_view, PairTest> t;
    t["equalto"] = t["eq"] =
        t["=="] = [](const Value& a, const Value& b, Meter& m) { return Equal(a, b, m); };
    t["ne"] = t["!="] = [](const Value& a, const Value& b, Meter& m) { return !Equal(a, b, m); };
    t["lt"] = t["lessthan"] =
        t["<"] = [](const Value& a, const Value& b, Meter& m) { return Order(a, b, m) < 0; };
    t["gt"] = t["greaterthan"] =
        t[">"] = [](const Value& a, const Value& b, Meter& m) { return Order(a, b, m) > 0; };
    t["le"] =
        t["<="] = [](const Value& a, const Value& b, Meter& m) { return Order(a, b, m) <= 0; };
    t["ge"] =
        t[">="] = [](const Value& a, const Value& b, Meter& m) { return Order(a, b, m) >= 0; };
    t["in"] = [](const Value& a, const Value& b, Meter& m) { return Contains(b, a, m); };
    t["divisibleby"] = [](const Value& a, const Value& b, Meter& m) {
      return Equal(Arithmetic("%", a, b, m), Value(std::int64_t{0}), m);
    };
    t["sameas"] = Same;
    return t;
  }();
  return tests;
}

}  // namespace

bool IsTest(std::string_view name) {
  return PlainTests().contains(name) || PairTests().contains(name);
}

std::string UnknownTest(std::string_view name) {
  return fmt::format("the test {} is outside the subset of Jinja that is supported", name);
}

bool ApplyTest(std::string_view name, const Value& value, const Arguments& arguments,
               Meter& meter) {
  meter.Step();
  if (const auto plain = PlainTests().find(name); plain != PlainTests().end()) {
    arguments.Bind(name, {}, meter);
    return plain->second(value, meter);
  }
  const auto pair = PairTests().find(name);
  if (pair == PairTests().end()) meter.Error("{}", UnknownTest(name));
  if (arguments.size() != 1) meter.Error("the test {} needs one argument", name);
  const Value& other =
      arguments.named.empty() ? arguments.positional[0] : arguments.named[0].second;
  return pair->second(value, other, meter);
}

}  // namespace opo::jinja
