#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <unordered_set>

#include "text/jinja_library.h"
#include "text/python_text.h"

namespace opo::jinja {
namespace {

using IteratorPtr = std::shared_ptr<Iterator>;

// What Jinja has and we do not, each for a reason.
constexpr std::pair<std::string_view, const char*> kRefusedFilters[] = {
    {"random", "it gives another text each time"},
    {"pprint", "it lays out lines as Python's pprint does"},
    {"urlize", "it makes web pages"},
    {"wordwrap", "it lays out lines as Python's textwrap does"},
};

// --- attributes of elements ---

// "a.b.0" cut at the points; what is all digits is an index.
std::vector<Value> AttributePath(const Value& path, Meter& meter) {
  if (path.IsMissing()) return {};
  if (!path.IsText()) return {path};
  std::vector<Value> parts;
  const std::string& names = path.text();
  for (std::size_t pos = 0; pos <= names.size();) {
    const std::size_t end = std::min(names.find('.', pos), names.size());
    const std::string part = names.substr(pos, end - pos);
    const bool number = !part.empty() && part.find_first_not_of("0123456789") == part.npos;
    if (number) {
      parts.push_back(Value(ParseInteger(part, 10, meter).value()));
    } else {
      parts.push_back(Value(part));
    }
    pos = end + 1;
  }
  return parts;
}

Value Follow(Value value, const std::vector<Value>& path, Meter& meter,
             const Value& otherwise = Value()) {
  for (const Value& part : path) {
    value = GetItem(value, part, meter);
    if (value.Is<Undefined>() && !otherwise.IsMissing()) value = otherwise;
  }
  return value;
}

// The value that sorting looks at: texts without case unless asked for.
Value SortKey(const Value& value, bool case_sensitive, Meter& meter) {
  if (case_sensitive || !value.IsText()) return value;
  meter.Text(value.text().size());
  return Value(ToLower(value.text()));
}

struct Keyed {
  Value key;
  Value item;
};

void SortKeyed(std::vector<Keyed>& keyed, bool reverse, Meter& meter) {
  // Comparing may fail, and then with an exception: std::stable_sort is left in good order by one.
  std::stable_sort(keyed.begin(), keyed.end(), [&](const Keyed& a, const Keyed& b) {
    const int order = Compare(a.key, b.key, meter);
    return reverse ? order > 0 : order < 0;
  });
}

Arguments Rest(const Arguments& arguments, std::size_t from) {
  Arguments rest;
  if (arguments.positional.size() > from) {
    rest.positional.assign(arguments.positional.begin() + static_cast<std::ptrdiff_t>(from),
                           arguments.positional.end());
  }
  rest.named = arguments.named;
  return rest;
}

// --- select, reject, map ---

Value Select(const Value& value, const Arguments& arguments, bool by_attribute, bool wanted,
             Meter& meter) {
  const std::size_t first = by_attribute ? 1 : 0;
  if (!Truth(value)) return MakeIterator({}, meter);
  if (arguments.positional.size() < first) meter.Error("selectattr needs the name of an attribute");
  const std::vector<Value> path =
      by_attribute ? AttributePath(arguments.positional[0], meter) : std::vector<Value>();
  std::string test;
  if (arguments.positional.size() > first) {
    test = NeedText(arguments.positional[first], "the name of a test", meter);
    if (!IsTest(test)) meter.Error("{}", UnknownTest(test));
  }
  const Arguments rest = Rest(arguments, first + 1);
  std::vector<Value> selected;
  for (const Value& item : Elements(value, meter)) {
    const Value subject = Follow(item, path, meter);
    const bool passes = test.empty() ? Truth(subject) : ApplyTest(test, subject, rest, meter);
    if (passes == wanted) selected.push_back(item);
  }
  return MakeIterator(std::move(selected), meter);
}

Value Map(const Value& value, const Arguments& arguments, Meter& meter) {
  if (!Truth(value)) return MakeIterator({}, meter);
  std::vector<Value> mapped;
  if (arguments.positional.empty()) {
    const auto bound = arguments.Bind("map", {"attribute", "default"}, meter);
    if (bound[0].Is<Undefined>()) meter.Error("map needs a filter or an attribute");
    const std::vector<Value> path = AttributePath(bound[0], meter);
    for (const Value& item : Elements(value, meter)) {
      mapped.push_back(Follow(item, path, meter, bound[1]));
    }
    return MakeIterator(std::move(mapped), meter);
  }
  const std::string& filter = NeedText(arguments.positional[0], "the name of a filter", meter);
  if (!IsFilter(filter)) meter.Error("{}", UnknownFilter(filter));
  const Arguments rest = Rest(arguments, 1);
  for (const Value& item : Elements(value, meter)) {
    mapped.push_back(ApplyFilter(filter, item, rest, meter));
  }
  return MakeIterator(std::move(mapped), meter);
}

// --- order ---

Value Sort(const Value& value, const Arguments& arguments, Meter& meter) {
  const auto bound = arguments.Bind("sort", {"reverse", "case_sensitive", "attribute"}, meter);
  std::vector<std::vector<Value>> paths;
  if (bound[2].IsText()) {
    const std::string& names = bound[2].text();
    for (std::size_t pos = 0; pos <= names.size();) {
      const std::size_t end = std::min(names.find(',', pos), names.size());
      paths.push_back(AttributePath(Value(names.substr(pos, end - pos)), meter));
      pos = end + 1;
    }
  } else {
    paths.push_back(AttributePath(bound[2], meter));
  }
  std::vector<Keyed> keyed;
  for (const Value& item : Elements(value, meter)) {
    std::vector<Value> keys;
    for (const std::vector<Value>& path : paths) {
      keys.push_back(SortKey(Follow(item, path, meter), Truth(bound[1]), meter));
    }
    keyed.push_back({keys.size() == 1 ? keys[0] : MakeList(std::move(keys), meter), item});
  }
  SortKeyed(keyed, Truth(bound[0]), meter);
  std::vector<Value> sorted;
  for (Keyed& one : keyed) sorted.push_back(std::move(one.item));
  return MakeList(std::move(sorted), meter);
}

Value DictSort(const Value& value, const Arguments& arguments, Meter& meter) {
  const auto bound = arguments.Bind("dictsort", {"case_sensitive", "by", "reverse"}, meter);
  if (!value.Is<Dict>()) meter.Error("dictsort of a {}", TypeName(value));
  const std::string by = bound[1].Is<Undefined>() ? "key" : NeedText(bound[1], "dictsort", meter);
  if (by != "key" && by != "value") meter.Error("dictsort goes by key or value, not by {}", by);
  std::vector<Keyed> keyed;
  for (const Value& item : DictItems(*value.As<Dict>(), meter)) {
    const auto& pair = item.As<List>()->items;
    keyed.push_back({SortKey(pair[by == "value" ? 1 : 0], Truth(bound[0]), meter), item});
  }
  SortKeyed(keyed, Truth(bound[2]), meter);
  std::vector<Value> sorted;
  for (Keyed& one : keyed) sorted.push_back(std::move(one.item));
  return MakeList(std::move(sorted), meter);
}

Value GroupBy(const Value& value, const Arguments& arguments, Meter& meter) {
  const auto bound = arguments.Bind("groupby", {"attribute", "default", "case_sensitive"}, meter);
  const std::vector<Value> path = AttributePath(bound[0], meter);
  const bool case_sensitive = Truth(bound[2]);
  std::vector<Keyed> keyed;
  for (const Value& item : Elements(value, meter)) {
    keyed.push_back({SortKey(Follow(item, path, meter, bound[1]), case_sensitive, meter), item});
  }
  SortKeyed(keyed, false, meter);
  std::vector<Value> groups;
  for (std::size_t i = 0; i < keyed.size();) {
    std::vector<Value> members;
    const std::size_t first = i;
    for (; i < keyed.size() && Equal(keyed[i].key, keyed[first].key, meter); ++i) {
      members.push_back(keyed[i].item);
    }
    Value grouper = Follow(keyed[first].item, path, meter, bound[1]);
    groups.push_back(MakeList({std::move(grouper), MakeList(std::move(members), meter)}, meter,
                              ListKind::kGroup));
  }
  return MakeList(std::move(groups), meter);
}

Value Extreme(const Value& value, const Arguments& arguments, int sign, Meter& meter) {
  const auto bound = arguments.Bind("min and max", {"case_sensitive", "attribute"}, meter);
  const std::vector<Value> path = AttributePath(bound[1], meter);
  const auto key = [&](const Value& item) {
    return SortKey(Follow(item, path, meter), Truth(bound[0]), meter);
  };
  const std::vector<Value> elements = Elements(value, meter);
  if (elements.empty()) return Value::MakeUndefined("the min or max of an empty sequence");
  Value best = elements[0];
  Value best_key = key(best);
  for (std::size_t i = 1; i < elements.size(); ++i) {
    Value own = key(elements[i]);
    if (Compare(own, best_key, meter) * sign > 0) {
      best = elements[i];
      best_key = std::move(own);
    }
  }
  return best;
}

// A text that equal values share and others do not; absent where there is none.
std::optional<std::string> Identity(const Value& value, Meter& meter) {
  if (value.IsText()) {
    meter.Text(value.text().size());
    return "t" + value.text();
  }
  if (value.Is<None>()) return "none";
  if (value.IsInteger()) return "n" + std::to_string(value.integer());
  if (value.Is<double>() && std::abs(value.number()) < 1e15 &&
      value.number() == std::trunc(value.number())) {
    return "n" + std::to_string(static_cast<std::int64_t>(value.number()));
  }
  return std::nullopt;
}

Value Unique(const Value& value, const Arguments& arguments, Meter& meter) {
  const auto bound = arguments.Bind("unique", {"case_sensitive", "attribute"}, meter);
  const std::vector<Value> path = AttributePath(bound[1], meter);
  std::vector<Value> unique;
  std::vector<Value> others;  // keys without an identity
  std::unordered_set<std::string> seen;
  for (const Value& element : Elements(value, meter)) {
    Value key = SortKey(Follow(element, path, meter), Truth(bound[0]), meter);
    if (key.Is<Dict>() || (key.Is<List>() && !key.As<List>()->IsTuple())) {
      meter.Error("unique with a {}", TypeName(key));
    }
    if (const std::optional<std::string> id = Identity(key, meter); id.has_value()) {
      if (!seen.insert(*id).second) continue;
    } else {
      if (std::any_of(others.begin(), others.end(),
                      [&](const Value& other) { return Equal(key, other, meter); })) {
        continue;
      }
      others.push_back(std::move(key));
    }
    unique.push_back(element);
  }
  return MakeIterator(std::move(unique), meter);
}

Value Reverse(const Value& value, Meter& meter) {
  if (value.IsText()) {
    std::string out;
    const auto characters = Characters(value.text(), meter);
    for (auto c = characters.rbegin(); c != characters.rend(); ++c) out += *c;
    return Value(out);
  }
  std::vector<Value> elements = Elements(value, meter);
  std::reverse(elements.begin(), elements.end());
  // A generator cannot be walked from its end: Jinja makes a list of it.
  if (value.Is<IteratorPtr>()) return MakeList(std::move(elements), meter);
  return MakeIterator(std::move(elements), meter);
}

// --- parts ---

std::int64_t Length(const Value& value, Meter& meter) {
  if (value.IsText()) return CountCharacters(value.text(), meter);
  if (value.Is<Undefined>()) return 0;
  if (value.Is<List>()) return static_cast<std::int64_t>(value.As<List>()->items.size());
  if (value.Is<Dict>()) return static_cast<std::int64_t>(value.As<Dict>()->items.size());
  if (value.Is<std::shared_ptr<LoopState>>()) {
    return static_cast<std::int64_t>(value.As<std::shared_ptr<LoopState>>()->items->items.size());
  }
  meter.Error("length of a {}", TypeName(value));
}

Value First(const Value& value, Meter& meter) {
  if (value.Is<IteratorPtr>()) {
    Iterator& iterator = *value.As<IteratorPtr>();
    if (iterator.next < iterator.items.size()) return iterator.items[iterator.next++];
    return Value::MakeUndefined("the first of an empty sequence");
  }
  const std::vector<Value> elements = Elements(value, meter);
  return elements.empty() ? Value::MakeUndefined("the first of an empty sequence")
                          : elements.front();
}

Value Last(const Value& value, Meter& meter) {
  if (value.Is<IteratorPtr>()) meter.Error("last of a generator; make it a list first");
  const std::vector<Value> elements = Elements(value, meter);
  return elements.empty() ? Value::MakeUndefined("the last of an empty sequence") : elements.back();
}

Value Batch(const Value& value, const Arguments& arguments, Meter& meter) {
  const auto bound = arguments.Bind("batch", {"linecount", "fill_with"}, meter);
  const std::int64_t size = NeedInteger(bound[0], "batch", meter);
  std::vector<Value> batches;
  std::vector<Value> current;
  for (const Value& item : Elements(value, meter)) {
    if (static_cast<std::int64_t>(current.size()) == size) {
      batches.push_back(MakeList(std::exchange(current, {}), meter));
    }
    current.push_back(item);
  }
  if (!current.empty()) {
    while (!bound[1].IsMissing() && static_cast<std::int64_t>(current.size()) < size) {
      meter.Step();
      current.push_back(bound[1]);
    }
    batches.push_back(MakeList(std::move(current), meter));
  }
  return MakeIterator(std::move(batches), meter);
}

Value SliceFilter(const Value& value, const Arguments& arguments, Meter& meter) {
  const auto bound = arguments.Bind("slice", {"slices", "fill_with"}, meter);
  const std::int64_t slices = NeedInteger(bound[0], "slice", meter);
  const std::vector<Value> items = Elements(value, meter);
  if (slices == 0) meter.Error("division by zero");
  const auto length = static_cast<std::int64_t>(items.size());
  std::vector<Value> out;
  std::int64_t begin = 0;
  for (std::int64_t i = 0; i < slices; ++i) {
    meter.Step();
    const bool extra = i < length % slices;
    const std::int64_t end = begin + length / slices + (extra ? 1 : 0);
    std::vector<Value> part(items.begin() + begin, items.begin() + end);
    if (!bound[1].IsMissing() && !extra) part.push_back(bound[1]);
    out.push_back(MakeList(std::move(part), meter));
    begin = end;
  }
  return MakeIterator(std::move(out), meter);
}

Value AttrFilter(const Value& value, const Arguments& arguments, Meter& meter) {
  const std::string name = NeedText(arguments.Bind("attr", {"name"}, meter)[0], "attr", meter);
  NeedDefined(value, meter);
  const bool attributes = !value.Is<Dict>() || HasMethod(value, name) || IsDenied(value, name);
  return attributes ? GetAttribute(value, name, meter)
                    : Value::MakeUndefined(fmt::format("a dict has no attribute '{}'", name));
}

// --- numbers ---

Value ToInteger(const Value& value, const Arguments& arguments, Meter& meter) {
  const auto bound = arguments.Bind("int", {"default", "base"}, meter);
  const Value fallback = bound[0].Is<Undefined>() ? Value(std::int64_t{0}) : bound[0];
  NeedDefined(value, meter);
  double number = 0;
  if (value.IsInteger()) return Value(value.integer());
  if (value.Is<double>()) {
    number = value.As<double>();
    if (std::isnan(number)) return fallback;
  } else if (value.IsText()) {
    const std::int64_t base = bound[1].Is<Undefined>() ? 10 : NeedInteger(bound[1], "int", meter);
    if (const auto integer = ParseInteger(value.text(), base, meter)) return Value(*integer);
    const std::optional<double> parsed = ParseFloat(value.text(), meter);
    if (!parsed.has_value() || !std::isfinite(*parsed)) return fallback;
    number = *parsed;
  } else {
    return fallback;
  }
  if (!(std::abs(number) < 9.2e18)) meter.Error("int of {} is too large", number);
  return Value(static_cast<std::int64_t>(number));
}

Value ToFloat(const Value& value, const Arguments& arguments, Meter& meter) {
  const Value otherwise = arguments.Bind("float", {"default"}, meter)[0];
  NeedDefined(value, meter);
  if (value.IsNumber()) return Value(value.number());
  if (value.IsText()) {
    if (const std::optional<double> number = ParseFloat(value.text(), meter)) return Value(*number);
  }
  return otherwise.Is<Undefined>() ? Value(0.0) : otherwise;
}

Value Absolute(const Value& value, Meter& meter) {
  NeedDefined(value, meter);
  if (value.Is<double>()) return Value(std::abs(value.As<double>()));
  const std::int64_t n = NeedInteger(value, "abs", meter);
  if (n == INT64_MIN) meter.Error("abs of {} is too large", n);
  return Value(n < 0 ? -n : n);
}

Value Round(const Value& value, const Arguments& arguments, Meter& meter) {
  const auto bound = arguments.Bind("round", {"precision", "method"}, meter);
  NeedDefined(value, meter);
  if (!value.IsNumber()) meter.Error("round of a {}", TypeName(value));
  const std::int64_t precision =
      bound[0].Is<Undefined>() ? 0 : NeedInteger(bound[0], "round", meter);
  const std::string method =
      bound[1].Is<Undefined>() ? "common" : NeedText(bound[1], "round", meter);
  if (precision < 0 || precision > 300) {
    meter.Error("round(precision={}); supported are 0 to 300", precision);
  }
  if (method == "common") {
    if (value.IsInteger()) return Value(value.integer());
    if (!std::isfinite(value.number())) return value;
    char digits[800];  // printf rounds the exact value, half to even, as Python does
    std::snprintf(digits, sizeof(digits), "%.*f", static_cast<int>(precision), value.number());
    return Value(std::strtod(digits, nullptr));
  }
  if (method != "ceil" && method != "floor") {
    meter.Error("round goes by common, ceil or floor, not by {}", method);
  }
  if (precision > 15) meter.Error("round(precision={}) by {}", precision, method);
  double scale = 1;
  for (std::int64_t i = 0; i < precision; ++i) scale *= 10;
  const double scaled = value.number() * scale;
  return Value((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
}

Value Sum(const Value& value, const Arguments& arguments, Meter& meter) {
  const auto bound = arguments.Bind("sum", {"attribute", "start"}, meter);
  const std::vector<Value> path = AttributePath(bound[0], meter);
  Value total = bound[1].Is<Undefined>() ? Value(std::int64_t{0}) : bound[1];
  if (total.IsText()) meter.Error("sum of texts; join them");
  for (const Value& item : Elements(value, meter)) {
    total = Arithmetic("+", total, Follow(item, path, meter), meter);
  }
  return total;
}

// --- the rest ---

Value Json(const Value& value, const Arguments& arguments, Meter& meter) {
  // In the order of the function that transformers puts in the place of Jinja's own.
  const auto bound =
      arguments.Bind("tojson", {"ensure_ascii", "indent", "separators", "sort_keys"}, meter);
  JsonStyle style;
  style.ascii = Truth(bound[0]);
  style.sort_keys = Truth(bound[3]);
  if (bound[1].IsText()) {
    style.indent = bound[1].text();
  } else if (!bound[1].IsMissing()) {
    const std::int64_t indent = NeedInteger(bound[1], "tojson(indent=...)", meter);
    if (indent > 1000) meter.Error("tojson(indent={})", indent);
    style.indent = std::string(static_cast<std::size_t>(std::max<std::int64_t>(0, indent)), ' ');
  }
  if (style.indent.has_value()) style.item_separator = ",";
  if (!bound[2].IsMissing()) {
    const std::vector<Value> separators = Elements(bound[2], meter);
    if (separators.size() != 2) meter.Error("tojson(separators=...) takes two texts");
    style.item_separator = NeedText(separators[0], "tojson(separators=...)", meter);
    style.key_separator = NeedText(separators[1], "tojson(separators=...)", meter);
  }
  return Value(ToJson(value, style, meter));
}

Value Default(const Value& value, const Arguments& arguments, Meter& meter) {
  const auto bound = arguments.Bind("default", {"default_value", "boolean"}, meter);
  if (!value.Is<Undefined>() && !(Truth(bound[1]) && !Truth(value))) return value;
  const bool given = !arguments.positional.empty() ||
                     std::any_of(arguments.named.begin(), arguments.named.end(),
                                 [](const auto& one) { return one.first == "default_value"; });
  return given ? bound[0] : Value(std::string());
}

Value JoinFilter(const Value& value, const Arguments& arguments, Meter& meter) {
  const auto bound = arguments.Bind("join", {"d", "attribute"}, meter);
  const std::vector<Value> path = AttributePath(bound[1], meter);
  std::vector<Value> items = Elements(value, meter);
  for (Value& item : items) item = Follow(item, path, meter);
  return Value(Join(items, Soft(bound[0], meter), true, meter));
}

Value ItemsFilter(const Value& value, Meter& meter) {
  if (value.Is<Undefined>()) return MakeIterator({}, meter);
  if (!value.Is<Dict>()) meter.Error("items of a {}", TypeName(value));
  return MakeIterator(DictItems(*value.As<Dict>(), meter), meter);
}

template <auto F>
Value Plain(const Value& value, const Arguments& arguments, Meter& meter) {
  arguments.Bind("this filter", {}, meter);
  return Value(F(value, meter));
}

const FilterTable& Filters() {
  static const FilterTable filters = [] {
    FilterTable f;
    f["tojson"] = Json;
    f["default"] = f["d"] = Default;
    f["join"] = JoinFilter;
    f["map"] = Map;
    f["sort"] = Sort;
    f["dictsort"] = DictSort;
    f["groupby"] = GroupBy;
    f["unique"] = Unique;
    f["batch"] = Batch;
    f["slice"] = SliceFilter;
    f["attr"] = AttrFilter;
    f["int"] = ToInteger;
    f["float"] = ToFloat;
    f["round"] = Round;
    f["sum"] = Sum;
    f["abs"] = Plain<Absolute>;
    f["length"] = f["count"] = Plain<Length>;
    f["first"] = Plain<First>;
    f["last"] = Plain<Last>;
    f["reverse"] = Plain<Reverse>;
    f["items"] = Plain<ItemsFilter>;
    f["list"] = [](const Value& v, const Arguments& a, Meter& m) {
      a.Bind("list", {}, m);
      return MakeList(Elements(v, m), m);
    };
    f["min"] = [](const Value& v, const Arguments& a, Meter& m) { return Extreme(v, a, -1, m); };
    f["max"] = [](const Value& v, const Arguments& a, Meter& m) { return Extreme(v, a, 1, m); };
    f["select"] = [](const Value& v, const Arguments& a, Meter& m) {
      return Select(v, a, false, true, m);
    };
    f["reject"] = [](const Value& v, const Arguments& a, Meter& m) {
      return Select(v, a, false, false, m);
    };
    f["selectattr"] = [](const Value& v, const Arguments& a, Meter& m) {
      return Select(v, a, true, true, m);
    };
    f["rejectattr"] = [](const Value& v, const Arguments& a, Meter& m) {
      return Select(v, a, true, false, m);
    };
    AddTextFilters(f);
    return f;
  }();
  return filters;
}

}  // namespace

std::vector<Value> Arguments::Bind(std::string_view callee,
                                   std::initializer_list<const char*> names, Meter& meter) const {
  std::vector<Value> bound(names.size());
  if (positional.size() > names.size()) {
    meter.Error("{} takes at most {} arguments, got {}", callee, names.size(), positional.size());
  }
  std::copy(positional.begin(), positional.end(), bound.begin());
  for (const auto& [name, value] : named) {
    const auto* found = std::find(names.begin(), names.end(), std::string_view(name));
    const auto i = static_cast<std::size_t>(found - names.begin());
    if (found == names.end() || i < positional.size()) {
      meter.Error("{} does not take the argument {}", callee, name);
    }
    bound[i] = value;
  }
  return bound;
}

bool IsFilter(std::string_view name) { return Filters().contains(name); }

bool IsFilterOfJinja(std::string_view name) {
  return IsFilter(name) || std::any_of(std::begin(kRefusedFilters), std::end(kRefusedFilters),
                                       [&](const auto& refused) { return refused.first == name; });
}

std::string UnknownFilter(std::string_view name) {
  for (const auto& [refused, why] : kRefusedFilters) {
    if (refused == name) {
      return fmt::format("the filter {} is outside the subset of Jinja that is supported ({})",
                         name, why);
    }
  }
  return fmt::format("the filter {} is outside the subset of Jinja that is supported", name);
}

Value ApplyFilter(std::string_view name, const Value& value, const Arguments& arguments,
                  Meter& meter) {
  meter.Step();
  const auto found = Filters().find(name);
  if (found == Filters().end()) meter.Error("{}", UnknownFilter(name));
  return found->second(value, arguments, meter);
}

}  // namespace opo::jinja
