#include "text/jinja_library.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <unordered_map>

#include "text/utf8.h"

namespace opo::jinja {
namespace {

using NamespacePtr = std::shared_ptr<Namespace>;
using LoopPtr = std::shared_ptr<LoopState>;
using MacroPtr = std::shared_ptr<const Macro>;

// Text in a filter's place: undefined counts as empty, other values as what they print.
std::string Soft(const Value& value, Meter& meter) { return ToText(value, meter); }

const std::string& NeedText(const Value& value, std::string_view callee, Meter& meter) {
  if (!value.IsText()) meter.Error("{} needs a text, got a {}", callee, TypeName(value));
  return value.text();
}

std::int64_t NeedInteger(const Value& value, std::string_view callee, Meter& meter) {
  if (!value.IsInteger()) meter.Error("{} needs an integer, got a {}", callee, TypeName(value));
  return value.integer();
}

// Pays for a search of `needle` in `text`, which may compare every pair of bytes.
void PaySearch(std::string_view text, std::string_view needle, Meter& meter) {
  meter.Step(1 + static_cast<std::int64_t>(text.size() / 64) +
             static_cast<std::int64_t>(text.size() / 1024 * needle.size()));
}

std::string Strip(std::string_view text, const Value& set, bool left, bool right, Meter& meter) {
  meter.Text(text.size());
  const bool spaces = set.Is<Undefined>() || set.Is<None>();
  const std::vector<std::string_view> wanted =
      spaces ? std::vector<std::string_view>() : Characters(NeedText(set, "strip", meter), meter);
  const auto stripped = [&](std::string_view c) {
    meter.Step(1 + static_cast<std::int64_t>(wanted.size() / 8));
    return spaces ? IsPythonSpace(c) : std::find(wanted.begin(), wanted.end(), c) != wanted.end();
  };
  const std::vector<std::string_view> characters = Characters(text, meter);
  std::size_t begin = 0;
  std::size_t end = characters.size();
  while (left && begin < end && stripped(characters[begin])) ++begin;
  while (right && end > begin && stripped(characters[end - 1])) --end;
  std::string out;
  for (std::size_t i = begin; i < end; ++i) out += characters[i];
  return out;
}

std::string Replace(const std::string& text, const std::string& from, const std::string& to,
                    std::int64_t count, Meter& meter) {
  if (from.empty()) meter.Error("replace of an empty text is outside the subset");
  PaySearch(text, from, meter);
  std::string out;
  std::size_t pos = 0;
  for (; count != 0; --count) {
    const std::size_t found = text.find(from, pos);
    if (found == std::string::npos) break;
    out.append(text, pos, found - pos);
    out += to;
    meter.Text(to.size());
    if (out.size() > kMaxTextBytes) meter.Text(out.size());
    pos = found + from.size();
  }
  out.append(text, pos);
  meter.Text(out.size());
  return out;
}

// Upper and lower case beyond ASCII depends on tables and context: refused, never half done.
std::string ChangeCase(const std::string& text, char how, Meter& meter) {
  meter.Text(text.size());
  std::string out = text;
  bool start = true;
  for (char& c : out) {
    if (static_cast<unsigned char>(c) >= 0x80) {
      meter.Error("upper and lower case of other letters than a to z is outside the subset");
    }
    const bool lower = c >= 'a' && c <= 'z';
    const bool upper = c >= 'A' && c <= 'Z';
    const bool to_upper = how == 'u' || ((how == 't' || how == 'c') && start);
    if (to_upper && lower) c = static_cast<char>(c - 'a' + 'A');
    if (!to_upper && upper) c = static_cast<char>(c - 'A' + 'a');
    start = how == 't' && !lower && !upper;
  }
  return out;
}

std::string Join(const std::vector<Value>& items, const std::string& separator, bool soft,
                 Meter& meter) {
  std::string out;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out += separator;
    out += soft ? Soft(items[i], meter) : NeedText(items[i], "join", meter);
    meter.Text(separator.size());
    if (out.size() > kMaxTextBytes) meter.Text(out.size());
  }
  return out;
}

Value Split(const std::string& text, const Value& separator, std::int64_t most, Meter& meter) {
  meter.Text(text.size());
  std::vector<Value> parts;
  if (separator.Is<Undefined>() || separator.Is<None>()) {
    if (most >= 0) meter.Error("split() with maxsplit and no separator is outside the subset");
    std::string word;
    for (const std::string_view c : Characters(text, meter)) {
      if (!IsPythonSpace(c)) {
        word += c;
      } else if (!word.empty()) {
        parts.push_back(Value(std::exchange(word, "")));
      }
    }
    if (!word.empty()) parts.push_back(Value(word));
    return MakeList(std::move(parts), meter);
  }
  const std::string& by = NeedText(separator, "split", meter);
  if (by.empty()) meter.Error("split by an empty text");
  PaySearch(text, by, meter);
  std::size_t pos = 0;
  for (; most != 0; --most) {
    const std::size_t found = text.find(by, pos);
    if (found == std::string::npos) break;
    parts.push_back(Value(text.substr(pos, found - pos)));
    pos = found + by.size();
  }
  parts.push_back(Value(text.substr(pos)));
  return MakeList(std::move(parts), meter);
}

std::string Indent(const std::string& text, const Value& width, bool first, bool blank,
                   Meter& meter) {
  std::string by = "    ";
  if (width.IsText()) {
    by = width.text();
  } else if (!width.Is<Undefined>()) {
    const std::int64_t n = NeedInteger(width, "indent", meter);
    meter.Text(static_cast<std::size_t>(std::max<std::int64_t>(n, 0)));
    by.assign(static_cast<std::size_t>(std::max<std::int64_t>(n, 0)), ' ');
  }
  std::string out;
  for (std::size_t pos = 0; pos <= text.size();) {
    const std::size_t end = std::min(text.find('\n', pos), text.size());
    const bool indented = pos == 0 ? first : blank || end > pos;
    if (indented) out += by;
    out.append(text, pos, end - pos);
    if (end < text.size()) out += '\n';
    meter.Text(by.size() + end - pos);
    if (out.size() > kMaxTextBytes) meter.Text(out.size());
    pos = end + 1;
  }
  return out;
}

// "a.b.0": each part as an item, and where there is none as an attribute.
Value AttributePath(const Value& value, const Value& path, Meter& meter) {
  if (path.IsInteger()) return GetItem(value, path, meter);
  const std::string& names = NeedText(path, "attribute", meter);
  Value current = value;
  for (std::size_t pos = 0; pos <= names.size();) {
    const std::size_t end = std::min(names.find('.', pos), names.size());
    const std::string part = names.substr(pos, end - pos);
    std::int64_t index = 0;
    const auto read = std::from_chars(part.data(), part.data() + part.size(), index);
    const bool number = !part.empty() && read.ec == std::errc() &&
                        read.ptr == part.data() + part.size() && part[0] != '-';
    current = GetItem(current, number ? Value(index) : Value(part), meter);
    pos = end + 1;
  }
  return current;
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

// select, reject, selectattr, rejectattr
Value Select(const Value& value, const Arguments& arguments, bool by_attribute, bool wanted,
             Meter& meter) {
  const std::size_t first = by_attribute ? 1 : 0;
  if (arguments.positional.size() < first) meter.Error("selectattr needs the name of an attribute");
  std::string test;
  if (arguments.positional.size() > first) {
    test = NeedText(arguments.positional[first], "the name of a test", meter);
    if (!IsTest(test)) meter.Error("the test {} is outside the subset", test);
  }
  const Arguments rest = Rest(arguments, first + 1);
  std::vector<Value> selected;
  for (const Value& item : Elements(value, meter)) {
    const Value subject = by_attribute ? AttributePath(item, arguments.positional[0], meter) : item;
    const bool passes = test.empty() ? Truth(subject) : ApplyTest(test, subject, rest, meter);
    if (passes == wanted) selected.push_back(item);
  }
  return MakeList(std::move(selected), meter);
}

Value Map(const Value& value, const Arguments& arguments, Meter& meter) {
  std::vector<Value> mapped;
  if (arguments.positional.empty()) {
    const auto bound = arguments.Bind("map", {"attribute", "default"}, meter);
    if (bound[0].Is<Undefined>()) meter.Error("map needs a filter or an attribute");
    for (const Value& item : Elements(value, meter)) {
      Value found = AttributePath(item, bound[0], meter);
      mapped.push_back(found.Is<Undefined>() && !bound[1].Is<Undefined>() ? bound[1] : found);
    }
    return MakeList(std::move(mapped), meter);
  }
  const std::string& filter = NeedText(arguments.positional[0], "the name of a filter", meter);
  if (!IsFilter(filter)) meter.Error("the filter {} is outside the subset", filter);
  const Arguments rest = Rest(arguments, 1);
  for (const Value& item : Elements(value, meter)) {
    mapped.push_back(ApplyFilter(filter, item, rest, meter));
  }
  return MakeList(std::move(mapped), meter);
}

// The value that sorting looks at: texts without case unless asked for.
Value SortKey(const Value& value, bool case_sensitive, Meter& meter) {
  if (case_sensitive || !value.IsText()) return value;
  return Value(ChangeCase(value.text(), 'l', meter));
}

Value Sort(const Value& value, const Arguments& arguments, Meter& meter) {
  const auto bound = arguments.Bind("sort", {"reverse", "case_sensitive", "attribute"}, meter);
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : Elements(value, meter)) {
    const Value subject = bound[2].Is<Undefined>() ? item : AttributePath(item, bound[2], meter);
    keyed.emplace_back(SortKey(subject, Truth(bound[1]), meter), item);
  }
  const bool reverse = Truth(bound[0]);
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    const int order = Compare(a.first, b.first, meter);
    return reverse ? order > 0 : order < 0;
  });
  std::vector<Value> sorted;
  for (auto& item : keyed) sorted.push_back(std::move(item.second));
  return MakeList(std::move(sorted), meter);
}

std::vector<Value> Items(const Dict& dict, Meter& meter) {
  std::vector<Value> items;
  for (const auto& [key, value] : dict->items) {
    items.push_back(MakeList({Value(key), value}, meter, true));
  }
  return items;
}

Value DictSort(const Value& value, const Arguments& arguments, Meter& meter) {
  const auto bound = arguments.Bind("dictsort", {"case_sensitive", "by", "reverse"}, meter);
  if (!value.Is<Dict>()) meter.Error("dictsort of a {}", TypeName(value));
  const bool by_value = bound[1].IsText() && bound[1].text() == "value";
  const bool reverse = Truth(bound[2]);
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : Items(value.As<Dict>(), meter)) {
    const auto& pair = item.As<List>()->items;
    keyed.emplace_back(SortKey(pair[by_value ? 1 : 0], Truth(bound[0]), meter), item);
  }
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    const int order = Compare(a.first, b.first, meter);
    return reverse ? order > 0 : order < 0;
  });
  std::vector<Value> sorted;
  for (auto& item : keyed) sorted.push_back(std::move(item.second));
  return MakeList(std::move(sorted), meter);
}

std::int64_t Length(const Value& value, Meter& meter) {
  if (value.IsText()) return static_cast<std::int64_t>(Characters(value.text(), meter).size());
  if (value.Is<Undefined>()) return 0;
  if (value.Is<List>()) return static_cast<std::int64_t>(value.As<List>()->items.size());
  if (value.Is<Dict>()) return static_cast<std::int64_t>(value.As<Dict>()->items.size());
  meter.Error("length of a {}", TypeName(value));
}

Value ToInteger(const Value& value, const Value& otherwise, Meter& meter) {
  const Value fallback = otherwise.Is<Undefined>() ? Value(std::int64_t{0}) : otherwise;
  if (value.IsInteger()) return Value(value.integer());
  double number = 0;
  if (value.Is<double>()) {
    number = value.As<double>();
  } else if (value.IsText()) {
    const std::string text = Strip(value.text(), Value(), true, true, meter);
    const char* begin = text.data() + (text.starts_with('+') ? 1 : 0);
    const char* end = text.data() + text.size();
    std::int64_t integer = 0;
    const auto read = std::from_chars(begin, end, integer);
    if (read.ec == std::errc() && read.ptr == end) return Value(integer);
    const auto as_float = std::from_chars(begin, end, number);
    if (as_float.ec != std::errc() || as_float.ptr != end) return fallback;
  } else {
    return fallback;
  }
  if (!std::isfinite(number)) return fallback;
  if (std::abs(number) >= 9.2e18) meter.Error("int of {} is too large", number);
  return Value(static_cast<std::int64_t>(number));
}

Value ToFloat(const Value& value, const Value& otherwise, Meter& meter) {
  if (value.IsNumber()) return Value(value.number());
  double number = 0;
  if (value.IsText()) {
    const std::string text = Strip(value.text(), Value(), true, true, meter);
    const char* end = text.data() + text.size();
    const auto read = std::from_chars(text.data() + (text.starts_with('+') ? 1 : 0), end, number);
    if (read.ec == std::errc() && read.ptr == end) return Value(number);
  }
  return otherwise.Is<Undefined>() ? Value(0.0) : otherwise;
}

Value FirstOrLast(const Value& value, bool last, Meter& meter) {
  const std::vector<Value> elements = Elements(value, meter);
  if (elements.empty()) return Value::MakeUndefined("the first or last of an empty sequence");
  return last ? elements.back() : elements.front();
}

Value Extreme(const Value& value, const Arguments& arguments, int sign, Meter& meter) {
  const auto bound = arguments.Bind("min and max", {"case_sensitive", "attribute"}, meter);
  const auto key = [&](const Value& item) {
    const Value subject = bound[1].Is<Undefined>() ? item : AttributePath(item, bound[1], meter);
    return SortKey(subject, Truth(bound[0]), meter);
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

Value Unique(const Value& value, Meter& meter) {
  std::vector<Value> unique;
  std::vector<Value> keys;
  for (const Value& element : Elements(value, meter)) {
    Value key = SortKey(element, false, meter);
    if (std::none_of(keys.begin(), keys.end(),
                     [&](const Value& other) { return Equal(key, other, meter); })) {
      keys.push_back(std::move(key));
      unique.push_back(element);
    }
  }
  return MakeList(std::move(unique), meter);
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
  return MakeList(std::move(elements), meter);
}

std::string HtmlEscape(const std::string& text, Meter& meter) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&#34;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  meter.Text(out.size());
  return out;
}

using Filter = Value (*)(const Value& value, const Arguments& arguments, Meter& meter);

Value JsonFilter(const Value& value, const Arguments& arguments, Meter& meter) {
  // In the order of the function that transformers puts in the place of Jinja's own.
  const auto bound =
      arguments.Bind("tojson", {"ensure_ascii", "indent", "separators", "sort_keys"}, meter);
  if (!bound[2].Is<Undefined>() && !bound[2].Is<None>()) {
    meter.Error("tojson(separators=...) is outside the subset");
  }
  JsonStyle style;
  style.ascii = Truth(bound[0]);
  style.sort_keys = Truth(bound[3]);
  if (!bound[1].Is<Undefined>() && !bound[1].Is<None>()) {
    const std::int64_t indent = NeedInteger(bound[1], "tojson(indent=...)", meter);
    if (indent < 0 || indent > 100)
      meter.Error("tojson(indent={}); supported are 0 to 100", indent);
    style.indent = static_cast<int>(indent);
  }
  return Value(ToJson(value, style, meter));
}

Value RoundFilter(const Value& value, const Arguments& arguments, Meter& meter) {
  const auto bound = arguments.Bind("round", {"precision", "method"}, meter);
  if (!bound[1].Is<Undefined>() ||
      (!bound[0].Is<Undefined>() && !Equal(bound[0], Value(0.0), meter))) {
    meter.Error("round with a precision or method is outside the subset");
  }
  if (!value.IsNumber()) meter.Error("round of a {}", TypeName(value));
  if (value.IsInteger()) return Value(value.integer());
  return Value(std::nearbyint(value.number()));
}

const std::unordered_map<std::string_view, Filter>& Filters() {
  static const std::unordered_map<std::string_view, Filter> filters = [] {
    std::unordered_map<std::string_view, Filter> f;
    f["tojson"] = JsonFilter;
    f["trim"] = [](const Value& v, const Arguments& a, Meter& m) {
      return Value(Strip(Soft(v, m), a.Bind("trim", {"chars"}, m)[0], true, true, m));
    };
    f["length"] = f["count"] = [](const Value& v, const Arguments& a, Meter& m) {
      a.Bind("length", {}, m);
      return Value(Length(v, m));
    };
    f["string"] = [](const Value& v, const Arguments& a, Meter& m) {
      a.Bind("string", {}, m);
      return Value(Soft(v, m));
    };
    f["safe"] = f["string"];
    f["escape"] = f["e"] = [](const Value& v, const Arguments& a, Meter& m) {
      a.Bind("escape", {}, m);
      return Value(HtmlEscape(Soft(v, m), m));
    };
    f["list"] = [](const Value& v, const Arguments& a, Meter& m) {
      a.Bind("list", {}, m);
      return MakeList(Elements(v, m), m);
    };
    f["join"] = [](const Value& v, const Arguments& a, Meter& m) {
      const auto bound = a.Bind("join", {"d", "attribute"}, m);
      std::vector<Value> items = Elements(v, m);
      if (!bound[1].Is<Undefined>()) {
        for (Value& item : items) item = AttributePath(item, bound[1], m);
      }
      return Value(Join(items, Soft(bound[0], m), true, m));
    };
    f["default"] = f["d"] = [](const Value& v, const Arguments& a, Meter& m) {
      const auto bound = a.Bind("default", {"default_value", "boolean"}, m);
      const bool missing = v.Is<Undefined>() || (Truth(bound[1]) && !Truth(v));
      if (!missing) return v;
      return bound[0].Is<Undefined>() ? Value(std::string()) : bound[0];
    };
    f["upper"] = [](const Value& v, const Arguments& a, Meter& m) {
      a.Bind("upper", {}, m);
      return Value(ChangeCase(Soft(v, m), 'u', m));
    };
    f["lower"] = [](const Value& v, const Arguments& a, Meter& m) {
      a.Bind("lower", {}, m);
      return Value(ChangeCase(Soft(v, m), 'l', m));
    };
    f["capitalize"] = [](const Value& v, const Arguments& a, Meter& m) {
      a.Bind("capitalize", {}, m);
      return Value(ChangeCase(Soft(v, m), 'c', m));
    };
    f["replace"] = [](const Value& v, const Arguments& a, Meter& m) {
      const auto bound = a.Bind("replace", {"old", "new", "count"}, m);
      const bool all = bound[2].Is<Undefined>() || bound[2].Is<None>();
      return Value(Replace(Soft(v, m), Soft(bound[0], m), Soft(bound[1], m),
                           all ? -1 : NeedInteger(bound[2], "replace", m), m));
    };
    f["indent"] = [](const Value& v, const Arguments& a, Meter& m) {
      const auto bound = a.Bind("indent", {"width", "first", "blank"}, m);
      return Value(Indent(NeedText(v, "indent", m), bound[0], Truth(bound[1]), Truth(bound[2]), m));
    };
    f["int"] = [](const Value& v, const Arguments& a, Meter& m) {
      return ToInteger(v, a.Bind("int", {"default"}, m)[0], m);
    };
    f["float"] = [](const Value& v, const Arguments& a, Meter& m) {
      return ToFloat(v, a.Bind("float", {"default"}, m)[0], m);
    };
    f["abs"] = [](const Value& v, const Arguments& a, Meter& m) {
      a.Bind("abs", {}, m);
      if (v.Is<double>()) return Value(std::abs(v.As<double>()));
      const std::int64_t n = NeedInteger(v, "abs", m);
      if (n == INT64_MIN) m.Error("abs of {} is too large", n);
      return Value(n < 0 ? -n : n);
    };
    f["round"] = RoundFilter;
    f["first"] = [](const Value& v, const Arguments& a, Meter& m) {
      a.Bind("first", {}, m);
      return FirstOrLast(v, false, m);
    };
    f["last"] = [](const Value& v, const Arguments& a, Meter& m) {
      a.Bind("last", {}, m);
      return FirstOrLast(v, true, m);
    };
    f["min"] = [](const Value& v, const Arguments& a, Meter& m) { return Extreme(v, a, -1, m); };
    f["max"] = [](const Value& v, const Arguments& a, Meter& m) { return Extreme(v, a, 1, m); };
    f["unique"] = [](const Value& v, const Arguments& a, Meter& m) {
      a.Bind("unique", {}, m);
      return Unique(v, m);
    };
    f["reverse"] = [](const Value& v, const Arguments& a, Meter& m) {
      a.Bind("reverse", {}, m);
      return Reverse(v, m);
    };
    f["sort"] = Sort;
    f["dictsort"] = DictSort;
    f["items"] = [](const Value& v, const Arguments& a, Meter& m) {
      a.Bind("items", {}, m);
      if (v.Is<Undefined>()) return MakeList({}, m);
      if (!v.Is<Dict>()) m.Error("items of a {}", TypeName(v));
      return MakeList(Items(v.As<Dict>(), m), m);
    };
    f["map"] = Map;
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
    return f;
  }();
  return filters;
}

// A test of the value alone, or against one argument.
using PlainTest = bool (*)(const Value& value, Meter& meter);
using PairTest = bool (*)(const Value& value, const Value& other, Meter& meter);

std::int64_t Modulo(const Value& value, const Value& by, Meter& meter) {
  const std::int64_t divisor = NeedInteger(by, "a test for division", meter);
  if (divisor == 0) meter.Error("division by zero");
  return divisor == -1 ? 0 : NeedInteger(value, "a test for division", meter) % divisor;
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
      {"sequence",
       [](const Value& v, Meter&) {
         return v.IsText() || v.Is<List>() || v.Is<Dict>() || v.Is<Undefined>();
       }},
      {"iterable",
       [](const Value& v, Meter&) {
         return v.IsText() || v.Is<List>() || v.Is<Dict>() || v.Is<Undefined>() || v.Is<LoopPtr>();
       }},
      {"callable",
       [](const Value& v, Meter&) {
         return v.Is<MacroPtr>() || v.Is<Builtin>() || v.Is<Undefined>();  // as in Jinja
       }},
      {"odd", [](const Value& v, Meter& m) { return Modulo(v, Value(std::int64_t{2}), m) != 0; }},
      {"even", [](const Value& v, Meter& m) { return Modulo(v, Value(std::int64_t{2}), m) == 0; }},
  };
  return tests;
}

const std::unordered_map<std::string_view, PairTest>& PairTests() {
  static const std::unordered_map<std::string_view, PairTest> tests = [] {
    std::unordered_map<std::string_view, PairTest> t;
    t["equalto"] =
        t["eq"] = [](const Value& a, const Value& b, Meter& m) { return Equal(a, b, m); };
    t["ne"] = [](const Value& a, const Value& b, Meter& m) { return !Equal(a, b, m); };
    t["lt"] = t["lessthan"] = [](const Value& a, const Value& b, Meter& m) {
      return Compare(a, b, m) < 0;
    };
    t["gt"] = t["greaterthan"] = [](const Value& a, const Value& b, Meter& m) {
      return Compare(a, b, m) > 0;
    };
    t["le"] = [](const Value& a, const Value& b, Meter& m) { return Compare(a, b, m) <= 0; };
    t["ge"] = [](const Value& a, const Value& b, Meter& m) { return Compare(a, b, m) >= 0; };
    t["in"] = [](const Value& a, const Value& b, Meter& m) { return Contains(b, a, m); };
    t["divisibleby"] = [](const Value& a, const Value& b, Meter& m) {
      return Modulo(a, b, m) == 0;
    };
    // Python compares identities here; for true, false and none that is type and value.
    t["sameas"] = [](const Value& a, const Value& b, Meter& m) {
      return a.variant().index() == b.variant().index() && Equal(a, b, m);
    };
    return t;
  }();
  return tests;
}

constexpr std::string_view kDictMethods[] = {"items", "keys", "values", "get"};
constexpr std::string_view kTextMethods[] = {
    "strip",   "lstrip", "rstrip",       "split",      "startswith",   "endswith",
    "replace", "upper",  "lower",        "title",      "capitalize",   "join",
    "find",    "count",  "removeprefix", "splitlines", "removesuffix",
};

Value TextMethod(const std::string& text, std::string_view name, const Arguments& arguments,
                 Meter& m) {
  const auto one = [&](const char* argument) {
    const Value value = arguments.Bind(name, {argument}, m)[0];
    return NeedText(value, name, m);
  };
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    return Value(
        Strip(text, arguments.Bind(name, {"chars"}, m)[0], name != "rstrip", name != "lstrip", m));
  }
  if (name == "split") {
    const auto bound = arguments.Bind(name, {"sep", "maxsplit"}, m);
    return Split(text, bound[0], bound[1].Is<Undefined>() ? -1 : NeedInteger(bound[1], name, m), m);
  }
  if (name == "startswith" || name == "endswith") {
    const Value wanted = arguments.Bind(name, {"prefix"}, m)[0];
    const auto matches = [&](const Value& part) {
      const std::string& p = NeedText(part, name, m);
      m.Text(p.size());
      return name == "startswith" ? text.starts_with(p) : text.ends_with(p);
    };
    if (!wanted.Is<List>()) return Value(matches(wanted));
    const auto& parts = wanted.As<List>()->items;
    return Value(std::any_of(parts.begin(), parts.end(), matches));
  }
  if (name == "replace") {
    const auto bound = arguments.Bind(name, {"old", "new", "count"}, m);
    return Value(Replace(text, NeedText(bound[0], name, m), NeedText(bound[1], name, m),
                         bound[2].Is<Undefined>() ? -1 : NeedInteger(bound[2], name, m), m));
  }
  if (name == "removeprefix" || name == "removesuffix") {
    const std::string part = one("affix");
    if (name == "removeprefix" && text.starts_with(part)) return Value(text.substr(part.size()));
    if (name == "removesuffix" && text.ends_with(part)) {
      return Value(text.substr(0, text.size() - part.size()));
    }
    return Value(text);
  }
  if (name == "join") {
    return Value(Join(Elements(arguments.Bind(name, {"iterable"}, m)[0], m), text, false, m));
  }
  if (name == "find" || name == "count") {
    const std::string part = one("sub");
    PaySearch(text, part, m);
    if (name == "find") {
      const std::size_t found = text.find(part);
      if (found == std::string::npos) return Value(std::int64_t{-1});
      return Value(Length(Value(text.substr(0, found)), m));
    }
    if (part.empty()) return Value(Length(Value(text), m) + 1);
    std::int64_t count = 0;
    for (std::size_t at = text.find(part); at != text.npos;
         at = text.find(part, at + part.size())) {
      ++count;
    }
    return Value(count);
  }
  arguments.Bind(name, {}, m);
  if (name == "splitlines") {
    std::vector<Value> lines;
    for (std::size_t pos = 0; pos < text.size();) {
      const std::size_t end = std::min(text.find('\n', pos), text.size());
      lines.push_back(Value(text.substr(pos, end - pos)));
      pos = end + 1;
    }
    if (text.find_first_of("\r\v\f\x1c\x1d\x1e\xc2\xe2") != text.npos) {
      m.Error("splitlines of a text with other line ends than \\n is outside the subset");
    }
    m.Text(text.size());
    return MakeList(std::move(lines), m);
  }
  return Value(ChangeCase(text, name[0], m));  // upper, lower, title, capitalize
}

Value DictMethod(const Dict& dict, std::string_view name, const Arguments& arguments, Meter& m) {
  if (name == "get") {
    const auto bound = arguments.Bind(name, {"key", "default"}, m);
    m.Step(static_cast<std::int64_t>(dict->items.size() / 8));
    const Value* found = bound[0].IsText() ? dict->Find(bound[0].text()) : nullptr;
    if (found != nullptr) return *found;
    return arguments.positional.size() + arguments.named.size() < 2 ? Value(None{}) : bound[1];
  }
  arguments.Bind(name, {}, m);
  if (name == "items") return MakeList(Items(dict, m), m);
  std::vector<Value> out;
  for (const auto& [key, value] : dict->items) {
    out.push_back(name == "keys" ? Value(key) : value);
  }
  return MakeList(std::move(out), m);
}

Value LoopAttribute(const LoopState& loop, std::string_view name) {
  const auto size = static_cast<std::int64_t>(loop.items->items.size());
  const auto index0 = static_cast<std::int64_t>(loop.index0);
  if (name == "index") return Value(index0 + 1);
  if (name == "index0") return Value(index0);
  if (name == "first") return Value(index0 == 0);
  if (name == "last") return Value(index0 + 1 == size);
  if (name == "length") return Value(size);
  if (name == "revindex") return Value(size - index0);
  if (name == "revindex0") return Value(size - index0 - 1);
  if (name == "depth") return Value(std::int64_t{loop.depth0} + 1);
  if (name == "depth0") return Value(std::int64_t{loop.depth0});
  if (name == "previtem" && index0 > 0) return loop.items->items[loop.index0 - 1];
  if (name == "nextitem" && index0 + 1 < size) return loop.items->items[loop.index0 + 1];
  return Value::MakeUndefined(fmt::format("'loop' has no {} here", name));
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
bool IsTest(std::string_view name) {
  return PlainTests().contains(name) || PairTests().contains(name);
}

Value ApplyFilter(std::string_view name, const Value& value, const Arguments& arguments,
                  Meter& meter) {
  meter.Step();
  return Filters().at(name)(value, arguments, meter);
}

bool ApplyTest(std::string_view name, const Value& value, const Arguments& arguments,
               Meter& meter) {
  meter.Step();
  if (const auto plain = PlainTests().find(name); plain != PlainTests().end()) {
    arguments.Bind(name, {}, meter);
    return plain->second(value, meter);
  }
  if (arguments.positional.size() + arguments.named.size() != 1) {
    meter.Error("the test {} needs one argument", name);
  }
  return PairTests().at(name)(value, arguments.Bind(name, {"other"}, meter)[0], meter);
}

Value CallMethod(const Value& object, std::string_view name, const Arguments& arguments,
                 Meter& meter) {
  meter.Step();
  if (object.Is<Undefined>()) {
    const auto& what = object.As<Undefined>().what;
    meter.Error("{}", what != nullptr ? *what : "a value is undefined");
  }
  if (object.IsText() && std::count(std::begin(kTextMethods), std::end(kTextMethods), name) > 0) {
    return TextMethod(object.text(), name, arguments, meter);
  }
  if (object.Is<Dict>() && std::count(std::begin(kDictMethods), std::end(kDictMethods), name) > 0) {
    return DictMethod(object.As<Dict>(), name, arguments, meter);
  }
  if (object.Is<LoopPtr>() && name == "cycle" && !arguments.positional.empty()) {
    return arguments.positional[object.As<LoopPtr>()->index0 % arguments.positional.size()];
  }
  meter.Error("the method {} of a {} is outside the subset of Jinja that is supported", name,
              TypeName(object));
}

Value GetAttribute(const Value& object, const std::string& name, Meter& meter) {
  meter.Step();
  if (object.Is<Undefined>()) {
    const auto& what = object.As<Undefined>().what;
    meter.Error("{}", what != nullptr ? *what : "a value is undefined");
  }
  if (object.Is<Dict>()) {
    if (std::count(std::begin(kDictMethods), std::end(kDictMethods), name) > 0) {
      meter.Error(
          "the method {} without a call is outside the subset; a key of this name is ['{}']", name,
          name);
    }
    const Dict& dict = object.As<Dict>();
    meter.Step(static_cast<std::int64_t>(dict->items.size() / 8));
    if (const Value* found = dict->Find(name); found != nullptr) return *found;
  } else if (object.Is<NamespacePtr>()) {
    const auto& attributes = object.As<NamespacePtr>()->attributes;
    if (const auto found = attributes.find(name); found != attributes.end()) return found->second;
  } else if (object.Is<LoopPtr>()) {
    return LoopAttribute(*object.As<LoopPtr>(), name);
  } else if (object.IsText() &&
             std::count(std::begin(kTextMethods), std::end(kTextMethods), name) > 0) {
    meter.Error("the method {} without a call is outside the subset", name);
  }
  return Value::MakeUndefined(
      fmt::format("'{} object' has no attribute '{}'", TypeName(object), name));
}

Value GetItem(const Value& object, const Value& key, Meter& meter) {
  meter.Step();
  if (object.Is<Undefined>()) return GetAttribute(object, "", meter);
  if (object.Is<Dict>() && key.IsText()) {
    const Dict& dict = object.As<Dict>();
    meter.Step(static_cast<std::int64_t>(dict->items.size() / 8));
    if (const Value* found = dict->Find(key.text()); found != nullptr) return *found;
  } else if ((object.Is<NamespacePtr>() || object.Is<LoopPtr>()) && key.IsText()) {
    return GetAttribute(object, key.text(), meter);
  } else if ((object.Is<List>() || object.IsText()) && key.IsInteger()) {
    const std::vector<std::string_view> characters =
        object.IsText() ? Characters(object.text(), meter) : std::vector<std::string_view>();
    const std::size_t size = object.IsText() ? characters.size() : object.As<List>()->items.size();
    std::int64_t index = key.integer();
    if (index < 0) index += static_cast<std::int64_t>(size);
    if (index >= 0 && index < static_cast<std::int64_t>(size)) {
      const auto i = static_cast<std::size_t>(index);
      return object.IsText() ? Value(std::string(characters[i])) : object.As<List>()->items[i];
    }
  }
  return Value::MakeUndefined(fmt::format("'{} object' has no element {}", TypeName(object),
                                          key.IsText()     ? "'" + key.text().substr(0, 100) + "'"
                                          : key.IsNumber() ? ToText(key, meter)
                                                           : std::string(TypeName(key))));
}

std::vector<Value> Elements(const Value& value, Meter& meter) {
  std::vector<Value> elements;
  if (value.Is<Undefined>()) return elements;
  if (value.IsText()) {
    for (const std::string_view c : Characters(value.text(), meter)) {
      elements.push_back(Value(std::string(c)));
    }
  } else if (value.Is<List>()) {
    elements = value.As<List>()->items;
  } else if (value.Is<Dict>()) {
    for (const auto& item : value.As<Dict>()->items) elements.push_back(Value(item.first));
  } else {
    meter.Error("a {} is not a sequence", TypeName(value));
  }
  meter.Step(1 + static_cast<std::int64_t>(elements.size()));
  return elements;
}

bool Contains(const Value& container, const Value& item, Meter& meter) {
  if (container.IsText()) {
    const std::string& part = NeedText(item, "in", meter);
    PaySearch(container.text(), part, meter);
    return container.text().find(part) != std::string::npos;
  }
  if (container.Is<Dict>()) {
    meter.Step(static_cast<std::int64_t>(container.As<Dict>()->items.size() / 8));
    return item.IsText() && container.As<Dict>()->Find(item.text()) != nullptr;
  }
  const std::vector<Value> elements = Elements(container, meter);
  return std::any_of(elements.begin(), elements.end(),
                     [&](const Value& element) { return Equal(element, item, meter); });
}

}  // namespace opo::jinja
