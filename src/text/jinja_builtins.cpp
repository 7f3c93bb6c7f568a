// The functions that every template has.
#include <ctime>

#include "text/jinja_library.h"

namespace opo::jinja {
namespace {

using NamespacePtr = std::shared_ptr<Namespace>;

Value Range(const Arguments& given, Meter& meter) {
  std::int64_t bounds[3] = {0, 0, 1};
  const std::size_t n = given.positional.size();
  if (n < 1 || n > 3 || !given.named.empty()) meter.Error("range takes 1 to 3 numbers");
  for (std::size_t i = 0; i < n; ++i) {
    if (!given.positional[i].IsInteger()) meter.Error("range takes integers");
    bounds[n == 1 ? 1 : i] = given.positional[i].integer();
  }
  return MakeRange(bounds[0], bounds[1], bounds[2], meter);
}

// dict(mapping or pairs, name=value ...)
Value MakeDictOf(const Arguments& given, Meter& meter) {
  if (given.positional.size() > 1) meter.Error("dict takes at most one value without a name");
  std::vector<std::pair<Value, Value>> items;
  if (!given.positional.empty() && given.positional[0].Is<Dict>()) {
    items = given.positional[0].As<Dict>()->items;
  } else if (!given.positional.empty()) {
    for (const Value& one : Elements(given.positional[0], meter)) {
      const std::vector<Value> pair = Elements(one, meter);
      if (pair.size() != 2) meter.Error("dict needs pairs");
      items.emplace_back(pair[0], pair[1]);
    }
  }
  for (const auto& [name, value] : given.named) items.emplace_back(Value(name), value);
  return MakeDict(std::move(items), meter);
}

}  // namespace

void SetAttribute(Namespace& names, const std::string& name, const Value& value, Meter& meter) {
  if (name.starts_with('_')) meter.Error("a namespace has no names like {}", name);
  meter.Step(1 + static_cast<std::int64_t>(names.attributes.size() / 8));
  if (Value* found = names.Find(name); found != nullptr) {
    *found = value;
  } else {
    names.attributes.emplace_back(name, value);
  }
}

Value CallBuiltin(Builtin builtin, const Arguments& given, std::vector<NamespacePtr>& namespaces,
                  Meter& meter) {
  switch (builtin) {
    case Builtin::kRaiseException: {  // does not come back
      const Value message = given.Bind("raise_exception", {"message"}, meter)[0];
      meter.Error("the template refuses these messages: {}", ToText(message, meter));
    }
    case Builtin::kNamespace: {
      const auto made = std::make_shared<Namespace>();
      namespaces.push_back(made);
      const Value names = MakeDictOf(given, meter);
      for (const auto& [name, value] : names.As<Dict>()->items) {
        SetAttribute(*made, NeedText(name, "namespace", meter), value, meter);
      }
      return Value(made);
    }
    case Builtin::kDict:
      return MakeDictOf(given, meter);
    case Builtin::kCycler: {
      if (given.positional.empty() || !given.named.empty()) meter.Error("cycler needs values");
      const Value items = MakeList(given.positional, meter);  // for its bounds
      return Value(
          std::make_shared<Cycler>(Cycler{items.As<List>()->items, items.As<List>()->depth, 0}));
    }
    case Builtin::kJoiner: {
      const Value separator = given.Bind("joiner", {"sep"}, meter)[0];
      if (!separator.Is<Undefined>() && !separator.IsText()) {
        meter.Error("joiner of a {}", TypeName(separator));
      }
      return Value(std::make_shared<Joiner>(
          Joiner{separator.IsText() ? separator : Value(std::string(", ")), false}));
    }
    case Builtin::kRange:
      return Range(given, meter);
    case Builtin::kStrftimeNow: {
      const Value format = given.Bind("strftime_now", {"format"}, meter)[0];
      if (!format.IsText()) meter.Error("strftime_now needs a text");
      const std::time_t now = std::time(nullptr);
      std::tm local{};
      localtime_r(&now, &local);
      char buffer[256];
      const std::size_t size = std::strftime(buffer, sizeof(buffer), format.text().c_str(), &local);
      return Value(std::string(buffer, size));
    }
  }
  return Value();
}

}  // namespace opo::jinja
