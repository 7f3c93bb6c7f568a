#include <algorithm>
#include <cmath>
#include <iterator>

#include "base/utf8.h"
#include "text/jinja_library.h"
#include "text/python_text.h"

namespace opo::jinja {
namespace {

// What Python's types have. A method that is in the list and in none of the functions below is
// refused by name when it is called.
constexpr std::string_view kTextMethods[] = {
    "capitalize",   "casefold",    "center",    "count",      "encode",       "endswith",
    "expandtabs",   "find",        "format",    "format_map", "index",        "isalnum",
    "isalpha",      "isascii",     "isdecimal", "isdigit",    "isidentifier", "islower",
    "isnumeric",    "isprintable", "isspace",   "istitle",    "isupper",      "join",
    "ljust",        "lower",       "lstrip",    "maketrans",  "partition",    "removeprefix",
    "removesuffix", "replace",     "rfind",     "rindex",     "rjust",        "rpartition",
    "rsplit",       "rstrip",      "split",     "splitlines", "startswith",   "strip",
    "swapcase",     "title",       "translate", "upper",      "zfill"};
constexpr std::string_view kNamedArguments[] = {  // the methods of str that take some
    "encode", "expandtabs", "format", "rsplit", "split", "splitlines"};
constexpr std::string_view kDictMethods[] = {"copy", "fromkeys", "get", "items", "keys", "values"};
constexpr std::string_view kDictDenied[] = {"clear", "pop", "popitem", "setdefault", "update"};
constexpr std::string_view kListMethods[] = {"copy", "count", "index"};
constexpr std::string_view kListDenied[] = {"append", "clear",  "extend",  "insert",
                                            "pop",    "remove", "reverse", "sort"};
constexpr std::string_view kTupleMethods[] = {"count", "index"};
constexpr std::string_view kLoopMethods[] = {"changed", "cycle"};
constexpr std::string_view kCyclerMethods[] = {"next", "reset"};
constexpr std::string_view kIntegerMethods[] = {"bit_length", "bit_count", "as_integer_ratio",
                                                "conjugate", "to_bytes"};
constexpr std::string_view kFloatMethods[] = {"is_integer", "as_integer_ratio", "conjugate", "hex"};

template <std::size_t N>
bool Has(const std::string_view (&names)[N], std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

std::int64_t OptionalInteger(const Value& value, std::int64_t otherwise, std::string_view callee,
                             Meter& meter) {
  return value.IsMissing() ? otherwise : NeedInteger(value, callee, meter);
}

std::string Joined(const std::vector<std::string_view>& characters, std::size_t begin,
                   std::size_t end) {
  if (begin >= end) return "";
  return std::string(characters[begin].data(),
                     characters[end - 1].data() + characters[end - 1].size());
}

// Split at white space, from the left or from the right, at most `most` times.
std::vector<Value> SplitWords(std::string_view text, std::int64_t most, bool right, Meter& m) {
  const std::vector<std::string_view> c = Characters(text, m);
  std::vector<Value> words;
  const auto space = [&](std::size_t i) { return IsSpace(c[i]); };
  if (!right) {
    for (std::size_t i = 0;;) {
      while (i < c.size() && space(i)) ++i;
      if (i == c.size()) return words;
      if (most-- == 0) {
        words.push_back(Value(Joined(c, i, c.size())));  // as it stands, to the end
        return words;
      }
      const std::size_t begin = i;
      while (i < c.size() && !space(i)) ++i;
      words.push_back(Value(Joined(c, begin, i)));
    }
  }
  for (std::size_t end = c.size();;) {
    while (end > 0 && space(end - 1)) --end;
    if (end == 0) break;
    if (most-- == 0) {
      words.push_back(Value(Joined(c, 0, end)));
      break;
    }
    const std::size_t last = end;
    while (end > 0 && !space(end - 1)) --end;
    words.push_back(Value(Joined(c, end, last)));
  }
  std::reverse(words.begin(), words.end());
  return words;
}

std::vector<Value> SplitBy(const std::string& text, const std::string& by, std::int64_t most,
                           bool right, Meter& m) {
  if (by.empty()) m.Error("split by an empty text");
  PaySearch(text, by, m);
  std::vector<Value> parts;
  if (!right) {
    std::size_t pos = 0;
    for (; most != 0; --most) {
      const std::size_t found = text.find(by, pos);
      if (found == std::string::npos) break;
      parts.push_back(Value(text.substr(pos, found - pos)));
      pos = found + by.size();
    }
    parts.push_back(Value(text.substr(pos)));
    return parts;
  }
  std::size_t end = text.size();
  for (; most != 0 && end >= by.size(); --most) {
    const std::size_t found = text.rfind(by, end - by.size());
    if (found == std::string::npos) break;
    parts.push_back(Value(text.substr(found + by.size(), end - found - by.size())));
    end = found;
  }
  parts.push_back(Value(text.substr(0, end)));
  std::reverse(parts.begin(), parts.end());
  return parts;
}

// The part of a text between two positions in characters, as slices count them.
struct Part {
  std::string text;
  std::int64_t start = 0;  // in characters
  bool outside = false;    // the start is behind the end of the text
};

Part PartOf(const std::string& text, const Value& from, const Value& to, std::string_view callee,
            Meter& m) {
  if (from.IsMissing() && to.IsMissing()) return {text, 0, false};
  const std::vector<std::string_view> c = Characters(text, m);
  const auto size = static_cast<std::int64_t>(c.size());
  const auto place = [&](std::int64_t at) {
    return at < 0 ? std::max<std::int64_t>(0, at + size) : at;
  };
  const std::int64_t begin = place(OptionalInteger(from, 0, callee, m));
  const std::int64_t end = std::min(size, place(OptionalInteger(to, size, callee, m)));
  if (begin > size) return {"", begin, true};
  return {
      Joined(c, static_cast<std::size_t>(begin), static_cast<std::size_t>(std::max(begin, end))),
      begin, begin > end};
}

// find, rfind, index, rindex, count, startswith, endswith
Value Search(const std::string& text, std::string_view name, const Arguments& arguments, Meter& m) {
  const auto bound = arguments.Bind(name, {"sub", "start", "end"}, m);
  const Part part = PartOf(text, bound[1], bound[2], name, m);
  if (name == "startswith" || name == "endswith") {
    const auto matches = [&](const Value& affix) {
      const std::string& p = NeedText(affix, name, m);
      m.Text(p.size());
      if (part.outside) return false;
      return name == "startswith" ? part.text.starts_with(p) : part.text.ends_with(p);
    };
    if (!bound[0].Is<List>()) return Value(matches(bound[0]));
    if (!bound[0].As<List>()->IsTuple()) m.Error("{} of a {}", name, TypeName(bound[0]));
    const auto& affixes = bound[0].As<List>()->items;
    return Value(std::any_of(affixes.begin(), affixes.end(), matches));
  }
  const std::string& sub = NeedText(bound[0], name, m);
  PaySearch(part.text, sub, m);
  if (name == "count") {
    if (part.outside) return Value(std::int64_t{0});
    if (sub.empty()) return Value(CountCharacters(part.text, m) + 1);
    std::int64_t count = 0;
    for (std::size_t at = part.text.find(sub); at != std::string::npos;
         at = part.text.find(sub, at + sub.size())) {
      ++count;
    }
    return Value(count);
  }
  const bool right = name[0] == 'r';
  const std::size_t found = part.outside ? std::string::npos
                            : right      ? part.text.rfind(sub)
                                         : part.text.find(sub);
  if (found != std::string::npos) {
    return Value(part.start + CountCharacters(std::string_view(part.text).substr(0, found), m));
  }
  if (name == "index" || name == "rindex") m.Error("{}: the text is not found", name);
  return Value(std::int64_t{-1});
}

// isalpha and its like: every character has the class, and there is one.
bool AllOf(std::string_view text, unsigned classes, Meter& m) {
  m.Text(text.size());
  for (std::size_t pos = 0; pos < text.size();) {
    const Utf8Step step = NextUtf8(text, pos);
    if (step.kind != Utf8Kind::kCharacter || (ClassOf(step.code) & classes) == 0) return false;
    pos += step.size;
  }
  return !text.empty();
}

bool IsTitle(std::string_view text) {
  bool cased = false;
  bool inside = false;
  for (std::size_t pos = 0; pos < text.size();) {
    const Utf8Step step = NextUtf8(text, pos);
    pos += step.size;
    const unsigned classes = step.kind == Utf8Kind::kCharacter ? ClassOf(step.code) : 0;
    if ((classes & (kUpper | kTitle)) != 0) {
      if (inside) return false;
      inside = cased = true;
    } else if ((classes & kLower) != 0) {
      if (!inside) return false;
      cased = true;
    } else {
      inside = false;
    }
  }
  return cased;
}

Value Is(const std::string& text, std::string_view name, Meter& m) {
  if (name == "isalpha") return Value(AllOf(text, kAlpha, m));
  if (name == "isalnum") return Value(AllOf(text, kAlnum, m));
  if (name == "isdigit") return Value(AllOf(text, kDecimal | kDigit, m));
  if (name == "isdecimal") return Value(AllOf(text, kDecimal, m));
  if (name == "isnumeric") return Value(AllOf(text, kNumeric, m));
  if (name == "isprintable") return Value(text.empty() || AllOf(text, kPrintable, m));
  m.Text(text.size());
  if (name == "isspace") {
    const auto characters = Characters(text, m);
    return Value(!text.empty() && std::all_of(characters.begin(), characters.end(), IsSpace));
  }
  if (name == "isascii") {
    return Value(std::all_of(text.begin(), text.end(),
                             [](char c) { return static_cast<unsigned char>(c) < 0x80; }));
  }
  if (name == "istitle") return Value(IsTitle(text));
  if (name == "islower" || name == "isupper") {
    const unsigned wanted = name == "islower" ? kLower : kUpper;
    bool any = false;
    for (std::size_t pos = 0; pos < text.size();) {
      const Utf8Step step = NextUtf8(text, pos);
      pos += step.size;
      const unsigned cased = step.kind == Utf8Kind::kCharacter ? ClassOf(step.code) & kCased : 0;
      if ((cased & ~wanted) != 0) return Value(false);
      any |= cased != 0;
    }
    return Value(any);
  }
  m.Error("the method {} of a str is outside the subset of Jinja that is supported", name);
}

Value Partition(const std::string& text, std::string_view name, const Arguments& arguments,
                Meter& m) {
  const Value sep = arguments.Bind(name, {"sep"}, m)[0];
  const std::string& by = NeedText(sep, name, m);
  if (by.empty()) m.Error("{} by an empty text", name);
  PaySearch(text, by, m);
  const bool right = name == "rpartition";
  const std::size_t found = right ? text.rfind(by) : text.find(by);
  std::vector<Value> parts;
  if (found != std::string::npos) {
    parts = {Value(text.substr(0, found)), sep, Value(text.substr(found + by.size()))};
  } else if (right) {
    parts = {Value(std::string()), Value(std::string()), Value(text)};
  } else {
    parts = {Value(text), Value(std::string()), Value(std::string())};
  }
  return MakeList(std::move(parts), m, ListKind::kTuple);
}

std::string ZeroFill(const std::string& text, std::int64_t width, Meter& m) {
  const bool sign = text.starts_with('-') || text.starts_with('+');
  if (width <= 0) return text;
  const std::string digits = Pad(text.substr(sign ? 1 : 0), width - (sign ? 1 : 0), "0", '>', m);
  return (sign ? text.substr(0, 1) : "") + digits;
}

std::string ExpandTabs(const std::string& text, std::int64_t size, Meter& m) {
  std::string out;
  std::int64_t column = 0;
  for (const std::string_view c : Characters(text, m)) {
    if (c == "\t") {
      const std::int64_t spaces = size > 0 ? size - column % size : 0;
      m.Grow(static_cast<std::size_t>(spaces), out.size() + static_cast<std::size_t>(spaces));
      out.append(static_cast<std::size_t>(spaces), ' ');
      column += spaces;
    } else {
      out += c;
      column = c == "\n" || c == "\r" ? 0 : column + 1;
    }
  }
  return out;
}

Value TextMethod(const std::string& text, std::string_view name, const Arguments& arguments,
                 Meter& m) {
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    return Value(
        Strip(text, arguments.Bind(name, {"chars"}, m)[0], name != "rstrip", name != "lstrip", m));
  }
  if (name == "split" || name == "rsplit") {
    const auto bound = arguments.Bind(name, {"sep", "maxsplit"}, m);
    const std::int64_t most =
        std::max<std::int64_t>(-1, bound[1].Is<Undefined>() ? -1 : NeedInteger(bound[1], name, m));
    m.Text(text.size());
    const bool right = name == "rsplit";
    return MakeList(bound[0].IsMissing()
                        ? SplitWords(text, most, right, m)
                        : SplitBy(text, NeedText(bound[0], name, m), most, right, m),
                    m);
  }
  for (const char* search :
       {"find", "rfind", "index", "rindex", "count", "startswith", "endswith"}) {
    if (name == search) return Search(text, name, arguments, m);
  }
  if (name == "replace") {
    const auto bound = arguments.Bind(name, {"old", "new", "count"}, m);
    return Value(Replace(text, NeedText(bound[0], name, m), NeedText(bound[1], name, m),
                         bound[2].Is<Undefined>() ? -1 : NeedInteger(bound[2], name, m), m));
  }
  if (name == "removeprefix" || name == "removesuffix") {
    const std::string part = NeedText(arguments.Bind(name, {"affix"}, m)[0], name, m);
    if (name == "removeprefix" && text.starts_with(part)) return Value(text.substr(part.size()));
    if (name == "removesuffix" && text.ends_with(part)) {
      return Value(text.substr(0, text.size() - part.size()));
    }
    return Value(text);
  }
  if (name == "join") {
    return Value(Join(Elements(arguments.Bind(name, {"iterable"}, m)[0], m), text, false, m));
  }
  if (name == "format") return Value(BraceFormat(text, arguments, nullptr, m));
  if (name == "format_map") {
    const Value mapping = arguments.Bind(name, {"mapping"}, m)[0];
    if (!mapping.Is<Dict>()) m.Error("format_map of a {}", TypeName(mapping));
    return Value(BraceFormat(text, {}, mapping.As<Dict>(), m));
  }
  if (name == "partition" || name == "rpartition") return Partition(text, name, arguments, m);
  if (name == "center" || name == "ljust" || name == "rjust") {
    const auto bound = arguments.Bind(name, {"width", "fillchar"}, m);
    const std::string fill = bound[1].Is<Undefined>() ? " " : NeedText(bound[1], name, m);
    if (CountCharacters(fill, m) != 1) m.Error("{} fills with one character", name);
    const char align = name == "center" ? '^' : name == "ljust" ? '<' : '>';
    return Value(Pad(text, NeedInteger(bound[0], name, m), fill, align, m));
  }
  if (name == "zfill") {
    return Value(ZeroFill(text, NeedInteger(arguments.Bind(name, {"width"}, m)[0], name, m), m));
  }
  if (name == "expandtabs") {
    const Value size = arguments.Bind(name, {"tabsize"}, m)[0];
    return Value(ExpandTabs(text, size.Is<Undefined>() ? 8 : NeedInteger(size, name, m), m));
  }
  if (name == "splitlines") {
    const bool keep_ends = Truth(arguments.Bind(name, {"keepends"}, m)[0]);
    std::vector<Value> lines;
    for (std::string& line : SplitLines(text, keep_ends, m))
      lines.push_back(Value(std::move(line)));
    return MakeList(std::move(lines), m);
  }
  if (name.starts_with("is")) {
    arguments.Bind(name, {}, m);
    return Is(text, name, m);
  }
  m.Text(text.size());
  if (name == "upper" || name == "lower" || name == "title" || name == "capitalize" ||
      name == "swapcase") {
    arguments.Bind(name, {}, m);
    return Value(name == "upper"      ? ToUpper(text)
                 : name == "lower"    ? ToLower(text)
                 : name == "title"    ? ToTitle(text)
                 : name == "swapcase" ? SwapCase(text)
                                      : Capitalize(text));
  }
  m.Error("the method {} of a str is outside the subset of Jinja that is supported", name);
}

Value DictMethod(const Dict& dict, std::string_view name, const Arguments& arguments, Meter& m) {
  if (name == "get") {
    const auto bound = arguments.Bind(name, {"key", "default"}, m);
    if (arguments.positional.empty()) m.Error("get needs a key");
    const Value* found = FindKey(*dict, bound[0], m);
    if (found != nullptr) return *found;
    return arguments.size() < 2 ? Value(None{}) : bound[1];
  }
  if (name == "fromkeys") {
    const auto bound = arguments.Bind(name, {"iterable", "value"}, m);
    std::vector<std::pair<Value, Value>> items;
    for (const Value& key : Elements(bound[0], m)) {
      items.emplace_back(key, arguments.size() < 2 ? Value(None{}) : bound[1]);
    }
    return MakeDict(std::move(items), m);
  }
  arguments.Bind(name, {}, m);
  if (name == "copy") return Value(dict);
  if (name == "items") return MakeList(DictItems(*dict, m), m, ListKind::kItems);
  std::vector<Value> out;
  for (const auto& [key, value] : dict->items) out.push_back(name == "keys" ? key : value);
  return MakeList(std::move(out), m, name == "keys" ? ListKind::kKeys : ListKind::kValues);
}

Value ListMethod(const List& list, std::string_view name, const Arguments& arguments, Meter& m) {
  if (name == "copy") {
    arguments.Bind(name, {}, m);
    return Value(list);
  }
  const auto bound = arguments.Bind(name, {"value", "start", "stop"}, m);
  const auto size = static_cast<std::int64_t>(list->items.size());
  const auto place = [&](const Value& value, std::int64_t otherwise) {
    const std::int64_t at = OptionalInteger(value, otherwise, name, m);
    return std::clamp<std::int64_t>(at < 0 ? at + size : at, 0, size);
  };
  std::int64_t count = 0;
  for (std::int64_t i = place(bound[1], 0); i < place(bound[2], size); ++i) {
    if (!Equal(list->items[static_cast<std::size_t>(i)], bound[0], m)) continue;
    if (name == "index") return Value(i);
    ++count;
  }
  if (name == "index") m.Error("index: the value is not in the {}", TypeName(Value(list)));
  return Value(count);
}

Value LoopMethod(LoopState& loop, std::string_view name, const Arguments& arguments, Meter& m) {
  const std::vector<Value>& values = arguments.positional;
  if (name == "cycle") {
    if (values.empty()) m.Error("loop.cycle needs values");
    return values[loop.index0 % values.size()];
  }
  const bool same = loop.changed.has_value() && loop.changed->size() == values.size() &&
                    std::equal(values.begin(), values.end(), loop.changed->begin(),
                               [&](const Value& a, const Value& b) { return Equal(a, b, m); });
  if (!same) loop.changed = values;
  return Value(!same);
}

}  // namespace

bool HasMethod(const Value& object, std::string_view name) {
  if (object.IsText()) return Has(kTextMethods, name);
  if (object.Is<Dict>()) return Has(kDictMethods, name);
  if (object.Is<List>()) {
    const ListData& list = *object.As<List>();
    if (list.IsView()) return false;
    return list.kind == ListKind::kList ? Has(kListMethods, name) : Has(kTupleMethods, name);
  }
  if (object.Is<std::shared_ptr<LoopState>>()) return Has(kLoopMethods, name);
  if (object.Is<std::shared_ptr<Cycler>>()) return Has(kCyclerMethods, name);
  if (object.IsInteger()) return Has(kIntegerMethods, name);
  if (object.Is<double>()) return Has(kFloatMethods, name);
  if (object.Is<Builtin>()) return object.As<Builtin>() == Builtin::kDict && name == "fromkeys";
  return false;
}

bool IsDenied(const Value& object, std::string_view name) {
  if (object.Is<Dict>()) return Has(kDictDenied, name);
  return object.Is<List>() && object.As<List>()->kind == ListKind::kList && Has(kListDenied, name);
}

Value CallMethod(const Value& object, std::string_view name, const Arguments& arguments,
                 Meter& meter) {
  meter.Step();
  NeedDefined(object, meter);
  if (HasMethod(object, name)) {
    const bool named = object.IsText() ? Has(kNamedArguments, name) : object.Is<Builtin>();
    if (!named && !arguments.named.empty()) meter.Error("{} takes no named arguments", name);
    if (object.IsSafe())
      meter.Error("the method {} of a text marked safe is outside the subset", name);
    if (object.IsText()) return TextMethod(object.text(), name, arguments, meter);
    if (object.Is<Dict>()) return DictMethod(object.As<Dict>(), name, arguments, meter);
    if (object.Is<Builtin>()) return DictMethod(nullptr, name, arguments, meter);  // fromkeys
    if (object.Is<List>() && object.As<List>()->kind != ListKind::kRange) {
      return ListMethod(object.As<List>(), name, arguments, meter);
    }
    if (object.Is<std::shared_ptr<LoopState>>()) {
      return LoopMethod(*object.As<std::shared_ptr<LoopState>>(), name, arguments, meter);
    }
    if (object.Is<std::shared_ptr<Cycler>>()) {
      Cycler& cycler = *object.As<std::shared_ptr<Cycler>>();
      arguments.Bind(name, {}, meter);
      if (name == "reset") {
        cycler.position = 0;
        return Value(None{});
      }
      const Value current = cycler.items[cycler.position];
      cycler.position = (cycler.position + 1) % cycler.items.size();
      return current;
    }
    if (object.Is<double>() && name == "is_integer") {
      arguments.Bind(name, {}, meter);
      return Value(std::isfinite(object.As<double>()) &&
                   object.As<double>() == std::trunc(object.As<double>()));
    }
  }
  if (IsDenied(object, name)) {
    meter.Error("the sandbox denies {} of a {}, which would change it", name, TypeName(object));
  }
  meter.Error("the method {} of a {} is outside the subset of Jinja that is supported", name,
              TypeName(object));
}

}  // namespace opo::jinja
