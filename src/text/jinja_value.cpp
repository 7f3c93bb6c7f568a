#include "text/jinja_value.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/utf8.h"
#include "text/python_text.h"

namespace opo::jinja {
namespace {

int DepthOf(const Value& value) {
  if (value.Is<List>()) return value.As<List>()->depth;
  if (value.Is<Dict>()) return value.As<Dict>()->depth;
  if (value.Is<std::shared_ptr<Iterator>>()) return value.As<std::shared_ptr<Iterator>>()->depth;
  if (value.Is<std::shared_ptr<Cycler>>()) return value.As<std::shared_ptr<Cycler>>()->depth;
  if (value.Is<std::shared_ptr<const Method>>()) {
    return DepthOf(value.As<std::shared_ptr<const Method>>()->object) + 1;
  }
  if (value.Is<std::shared_ptr<LoopState>>()) {
    return value.As<std::shared_ptr<LoopState>>()->items->depth + 1;
  }
  return 0;
}

void CheckDepth(int depth, Meter& meter) {
  if (depth > kMaxValueDepth) meter.Error("nests values more than {} deep", kMaxValueDepth);
}

// Python's repr of a float: the shortest digits that read back the same.
std::string FloatText(double value, const char* nan, const char* infinity) {
  if (std::isnan(value)) return nan;
  if (std::isinf(value)) return value < 0 ? std::string("-") + infinity : infinity;
  char buffer[40];
  const double size = std::abs(value);
  const bool plain = size == 0 || (size >= 1e-4 && size < 1e16);
  const auto result =
      std::to_chars(buffer, buffer + sizeof(buffer), value,
                    plain ? std::chars_format::fixed : std::chars_format::scientific);
  std::string text(buffer, result.ptr);
  if (plain && text.find('.') == std::string::npos) text += ".0";
  return text;
}

std::string Escape(std::uint32_t code) {
  if (code < 0x100) return fmt::format("\\x{:02x}", code);
  return code < 0x10000 ? fmt::format("\\u{:04x}", code) : fmt::format("\\U{:08x}", code);
}

void AppendRepr(const Value& value, std::string& out, Meter& meter);

void AppendTextRepr(std::string_view text, std::string& out) {
  const char quote = text.find('\'') != text.npos && text.find('"') == text.npos ? '"' : '\'';
  out += quote;
  for (std::size_t pos = 0; pos < text.size();) {
    const Utf8Step step = NextUtf8(text, pos);
    const std::string_view bytes = text.substr(pos, step.size);
    pos += step.size;
    if (bytes == "\n") {
      out += "\\n";
    } else if (bytes == "\r") {
      out += "\\r";
    } else if (bytes == "\t") {
      out += "\\t";
    } else if (bytes == "\\" || bytes[0] == quote) {
      out += '\\';
      out += bytes;
    } else if (step.kind == Utf8Kind::kCharacter && (ClassOf(step.code) & kPrintable) == 0) {
      out += Escape(step.code);
    } else {
      out += bytes;
    }
  }
  out += quote;
}

void AppendItems(const std::vector<Value>& items, std::string& out, Meter& meter) {
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out += ", ";
    AppendRepr(items[i], out, meter);
  }
}

void AppendListRepr(const ListData& list, std::string& out, Meter& meter) {
  if (list.kind == ListKind::kRange) {
    out += fmt::format("range({}, {}", list.start, list.stop);
    if (list.step != 1) out += fmt::format(", {}", list.step);
    out += ')';
    return;
  }
  constexpr std::string_view kViews[] = {"dict_keys(", "dict_values(", "dict_items("};
  if (list.IsView()) {
    out += kViews[static_cast<int>(list.kind) - static_cast<int>(ListKind::kKeys)];
  }
  out += list.IsTuple() ? '(' : '[';
  AppendItems(list.items, out, meter);
  if (list.IsTuple() && list.items.size() == 1) out += ',';
  out += list.IsTuple() ? ')' : ']';
  if (list.IsView()) out += ')';
}

void AppendRepr(const Value& value, std::string& out, Meter& meter) {
  const std::size_t before = out.size();
  if (value.IsText()) {
    if (value.IsSafe()) out += "Markup(";
    AppendTextRepr(value.text(), out);
    if (value.IsSafe()) out += ')';
  } else if (value.Is<Undefined>()) {
    out += "Undefined";
  } else if (value.Is<List>()) {
    AppendListRepr(*value.As<List>(), out, meter);
  } else if (value.Is<Dict>()) {
    out += '{';
    bool first = true;
    for (const auto& [key, item] : value.As<Dict>()->items) {
      if (!first) out += ", ";
      first = false;
      AppendRepr(key, out, meter);
      out += ": ";
      AppendRepr(item, out, meter);
    }
    out += '}';
  } else {
    out += ToText(value, meter);
  }
  meter.Grow(out.size() - before, out.size());
}

void AppendJsonText(std::string_view text, bool ascii, std::string& out) {
  out += '"';
  for (std::size_t pos = 0; pos < text.size();) {
    const Utf8Step step = NextUtf8(text, pos);
    const std::string_view bytes = text.substr(pos, step.size);
    pos += step.size;
    if (step.kind != Utf8Kind::kCharacter) {
      out += kReplacementCharacter;
    } else if (bytes == "\"" || bytes == "\\") {
      out += '\\';
      out += bytes;
    } else if (step.code >= 0x20 && (!ascii || step.code < 0x7F)) {
      out += bytes;
    } else {
      constexpr std::pair<char, const char*> kShort[] = {
          {'\n', "\\n"}, {'\r', "\\r"}, {'\t', "\\t"}, {'\b', "\\b"}, {'\f', "\\f"}};
      const auto* found = std::find_if(std::begin(kShort), std::end(kShort),
                                       [&](const auto& pair) { return pair.first == bytes[0]; });
      if (found != std::end(kShort)) {
        out += found->second;
      } else if (step.code < 0x10000) {
        out += fmt::format("\\u{:04x}", step.code);
      } else {
        const std::uint32_t rest = step.code - 0x10000;
        out += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + (rest >> 10), 0xDC00 + (rest & 0x3FF));
      }
    }
  }
  out += '"';
}

// A key of a dict as json.dumps writes it: numbers, booleans and none become texts.
std::string JsonKey(const Value& key, Meter& meter) {
  if (key.IsText()) return key.text();
  if (key.Is<None>()) return "null";
  if (key.Is<bool>()) return key.As<bool>() ? "true" : "false";
  if (key.Is<double>()) return FloatText(key.As<double>(), "NaN", "Infinity");
  if (key.Is<std::int64_t>()) return std::to_string(key.As<std::int64_t>());
  meter.Error("tojson of a dict with a {} as a key, which JSON does not have", TypeName(key));
}

void AppendJson(const Value& value, const JsonStyle& style, int level, std::string& out,
                Meter& meter) {
  const std::size_t before = out.size();
  const auto new_line = [&](int at) {
    if (!style.indent.has_value()) return;
    out += '\n';
    meter.Grow(style.indent->size() * static_cast<std::size_t>(at), out.size());
    for (int i = 0; i < at; ++i) out += *style.indent;
  };
  if (value.IsText()) {
    AppendJsonText(value.text(), style.ascii, out);
  } else if (value.Is<None>()) {
    out += "null";
  } else if (value.Is<bool>()) {
    out += value.As<bool>() ? "true" : "false";
  } else if (value.Is<std::int64_t>()) {
    out += std::to_string(value.As<std::int64_t>());
  } else if (value.Is<double>()) {
    out += FloatText(value.As<double>(), "NaN", "Infinity");
  } else if (value.Is<List>() &&
             (value.As<List>()->kind == ListKind::kList || value.As<List>()->IsTuple())) {
    const ListData& list = *value.As<List>();
    out += '[';
    for (std::size_t i = 0; i < list.items.size(); ++i) {
      if (i > 0) out += style.item_separator;
      new_line(level + 1);
      AppendJson(list.items[i], style, level + 1, out, meter);
    }
    if (!list.items.empty()) new_line(level);
    out += ']';
  } else if (value.Is<Dict>()) {
    std::vector<const std::pair<Value, Value>*> items;
    for (const auto& item : value.As<Dict>()->items) items.push_back(&item);
    if (style.sort_keys) {
      std::stable_sort(items.begin(), items.end(), [&](const auto* a, const auto* b) {
        return Compare(a->first, b->first, meter) < 0;
      });
    }
    out += '{';
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out += style.item_separator;
      new_line(level + 1);
      AppendJsonText(JsonKey(items[i]->first, meter), style.ascii, out);
      out += style.key_separator;
      AppendJson(items[i]->second, style, level + 1, out, meter);
    }
    if (!items.empty()) new_line(level);
    out += '}';
  } else if (value.Is<Undefined>() && value.As<Undefined>().what != nullptr) {
    meter.Error("tojson of a value that is undefined: {}", *value.As<Undefined>().what);
  } else {
    meter.Error("tojson of a {}, which JSON does not have", TypeName(value));
  }
  meter.Grow(out.size() - before, out.size());
}

// Whether Python could take the value as a key.
bool Hashable(const Value& value) {
  if (value.Is<Dict>()) return false;
  if (!value.Is<List>()) return true;
  const ListData& list = *value.As<List>();
  return list.IsTuple() && std::all_of(list.items.begin(), list.items.end(), Hashable);
}

void NeedHashable(const Value& value, Meter& meter) {
  if (!Hashable(value)) meter.Error("a {} as the key of a dict", TypeName(value));
}

}  // namespace

const Value* DictData::Find(std::string_view key) const {
  const auto found = by_text.find(std::string(key));
  return found == by_text.end() ? nullptr : &items[found->second].second;
}

Value* Namespace::Find(std::string_view name) {
  const auto found = std::find_if(attributes.begin(), attributes.end(),
                                  [&](const auto& one) { return one.first == name; });
  return found == attributes.end() ? nullptr : &found->second;
}

const Value* FindKey(const DictData& dict, const Value& key, Meter& meter) {
  meter.Step();
  if (key.IsText()) return dict.Find(key.text());
  NeedHashable(key, meter);
  if (dict.by_text.size() == dict.items.size()) return nullptr;
  for (const auto& [other, value] : dict.items) {
    if (!other.IsText() && Equal(other, key, meter)) return &value;
  }
  return nullptr;
}

Value MakeList(std::vector<Value> items, Meter& meter, ListKind kind) {
  ListData list;
  for (const Value& item : items) list.depth = std::max(list.depth, DepthOf(item) + 1);
  CheckDepth(list.depth, meter);
  meter.Step(1 + static_cast<std::int64_t>(items.size()));
  list.items = std::move(items);
  list.kind = kind;
  return Value(List(std::make_shared<const ListData>(std::move(list))));
}

Value MakeRange(std::int64_t start, std::int64_t stop, std::int64_t step, Meter& meter) {
  if (step == 0) meter.Error("range with step 0");
  ListData list;
  for (std::int64_t i = start; step < 0 ? i > stop : i < stop;) {
    if (list.items.size() >= static_cast<std::size_t>(kMaxRange)) {
      meter.Error("range of more than {} numbers", kMaxRange);
    }
    list.items.push_back(Value(i));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  meter.Step(1 + static_cast<std::int64_t>(list.items.size()));
  list.kind = ListKind::kRange;
  list.start = start;
  list.stop = stop;
  list.step = step;
  return Value(List(std::make_shared<const ListData>(std::move(list))));
}

Value MakeIterator(std::vector<Value> items, Meter& meter) {
  const auto iterator = std::make_shared<Iterator>();
  for (const Value& item : items) iterator->depth = std::max(iterator->depth, DepthOf(item) + 1);
  CheckDepth(iterator->depth, meter);
  meter.Step(1 + static_cast<std::int64_t>(items.size()));
  iterator->items = std::move(items);
  return Value(iterator);
}

Value MakeDict(std::vector<std::pair<Value, Value>> items, Meter& meter) {
  DictData dict;
  for (auto& [key, value] : items) {
    meter.Step();
    NeedHashable(key, meter);
    dict.depth = std::max({dict.depth, DepthOf(key) + 1, DepthOf(value) + 1});
    if (key.IsText()) {
      const auto [at, fresh] = dict.by_text.emplace(key.text(), dict.items.size());
      if (!fresh) {
        dict.items[at->second].second = std::move(value);
        continue;
      }
    } else if (const Value* found = FindKey(dict, key, meter); found != nullptr) {
      *const_cast<Value*>(found) = std::move(value);  // `dict` is ours still
      continue;
    }
    dict.items.emplace_back(std::move(key), std::move(value));
  }
  CheckDepth(dict.depth, meter);
  return Value(Dict(std::make_shared<const DictData>(std::move(dict))));
}

namespace {

Value FromJsonAt(const nlohmann::ordered_json& json, int level, Meter& meter) {
  CheckDepth(level, meter);
  switch (json.type()) {
    case nlohmann::ordered_json::value_t::boolean:
      return Value(json.get<bool>());
    case nlohmann::ordered_json::value_t::number_integer:
      return Value(json.get<std::int64_t>());
    case nlohmann::ordered_json::value_t::number_unsigned:
      if (json.get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX)) {
        meter.Error("the number {} is above {}", json.get<std::uint64_t>(), INT64_MAX);
      }
      return Value(json.get<std::int64_t>());
    case nlohmann::ordered_json::value_t::number_float:
      return Value(json.get<double>());
    case nlohmann::ordered_json::value_t::string:
      return Value(json.get<std::string>());
    case nlohmann::ordered_json::value_t::array: {
      std::vector<Value> items;
      for (const auto& item : json) items.push_back(FromJsonAt(item, level + 1, meter));
      return MakeList(std::move(items), meter);
    }
    case nlohmann::ordered_json::value_t::object: {
      std::vector<std::pair<Value, Value>> items;
      for (const auto& [key, item] : json.items()) {
        items.emplace_back(Value(key), FromJsonAt(item, level + 1, meter));
      }
      return MakeDict(std::move(items), meter);
    }
    default:
      return Value(None{});
  }
}

}  // namespace

Value FromJson(const nlohmann::ordered_json& json, Meter& meter) {
  return FromJsonAt(json, 1, meter);
}

const char* TypeName(const Value& value) {
  struct Name {
    const char* operator()(const Undefined&) const { return "undefined value"; }
    const char* operator()(const None&) const { return "None"; }
    const char* operator()(bool) const { return "bool"; }
    const char* operator()(std::int64_t) const { return "int"; }
    const char* operator()(double) const { return "float"; }
    const char* operator()(const Text&) const { return "str"; }
    const char* operator()(const List& list) const {
      constexpr const char* kNames[] = {"list",      "tuple",       "tuple",     "range",
                                        "dict_keys", "dict_values", "dict_items"};
      return kNames[static_cast<int>(list->kind)];
    }
    const char* operator()(const Dict&) const { return "dict"; }
    const char* operator()(const std::shared_ptr<Iterator>&) const { return "generator"; }
    const char* operator()(const std::shared_ptr<const Method>&) const { return "method"; }
    const char* operator()(const std::shared_ptr<Namespace>&) const { return "namespace"; }
    const char* operator()(const std::shared_ptr<Cycler>&) const { return "cycler"; }
    const char* operator()(const std::shared_ptr<Joiner>&) const { return "joiner"; }
    const char* operator()(const std::shared_ptr<LoopState>&) const { return "loop"; }
    const char* operator()(const std::shared_ptr<const Macro>&) const { return "macro"; }
    const char* operator()(Builtin) const { return "function"; }
  };
  return std::visit(Name{}, value.variant());
}

bool Truth(const Value& value) {
  if (value.Is<Undefined>() || value.Is<None>()) return false;
  if (value.IsNumber()) return value.number() != 0;
  if (value.IsText()) return !value.text().empty();
  if (value.Is<List>()) return !value.As<List>()->items.empty();
  if (value.Is<Dict>()) return !value.As<Dict>()->items.empty();
  return true;
}

bool Equal(const Value& a, const Value& b, Meter& meter) {
  meter.Step();
  if (a.IsNumber() && b.IsNumber()) {
    if (a.IsInteger() && b.IsInteger()) return a.integer() == b.integer();
    return a.number() == b.number();
  }
  if (a.variant().index() != b.variant().index()) return false;
  if (a.Is<Undefined>() || a.Is<None>()) return true;
  if (a.IsText()) {
    meter.Text(std::min(a.text().size(), b.text().size()));
    return a.text() == b.text();
  }
  if (a.Is<List>()) {
    const ListData& x = *a.As<List>();
    const ListData& y = *b.As<List>();
    if (x.IsView() || y.IsView()) meter.Error("compares a {} with a {}", TypeName(a), TypeName(b));
    if (x.IsTuple() != y.IsTuple() ||
        (x.kind == ListKind::kRange) != (y.kind == ListKind::kRange)) {
      return false;
    }
    if (x.items.size() != y.items.size()) return false;
    for (std::size_t i = 0; i < x.items.size(); ++i) {
      if (!Equal(x.items[i], y.items[i], meter)) return false;
    }
    return true;
  }
  if (a.Is<Dict>()) {
    const DictData& x = *a.As<Dict>();
    const DictData& y = *b.As<Dict>();
    if (x.items.size() != y.items.size()) return false;
    for (const auto& [key, value] : x.items) {
      const Value* other = FindKey(y, key, meter);
      if (other == nullptr || !Equal(value, *other, meter)) return false;
    }
    return true;
  }
  const auto same = [&](const auto& x) {
    using Held = std::decay_t<decltype(x)>;
    if constexpr (requires { x.get(); }) {
      return x == b.As<Held>();
    } else {
      return false;
    }
  };
  if (!a.Is<Builtin>() && !a.Is<std::shared_ptr<const Method>>()) {
    return std::visit(same, a.variant());
  }
  meter.Error("compares a {} with a {}", TypeName(a), TypeName(b));
}

int Compare(const Value& a, const Value& b, Meter& meter) {
  meter.Step();
  if (a.IsInteger() && b.IsInteger()) {
    return a.integer() < b.integer() ? -1 : a.integer() > b.integer() ? 1 : 0;
  }
  if (a.IsNumber() && b.IsNumber() && !std::isnan(a.number()) && !std::isnan(b.number())) {
    return a.number() < b.number() ? -1 : a.number() > b.number() ? 1 : 0;
  }
  if (a.IsText() && b.IsText()) {
    meter.Text(std::min(a.text().size(), b.text().size()));
    return a.text().compare(b.text());  // of UTF-8: the order of code points, Python's too
  }
  if (a.Is<List>() && b.Is<List>() && a.As<List>()->IsTuple() == b.As<List>()->IsTuple() &&
      a.As<List>()->kind <= ListKind::kGroup && b.As<List>()->kind <= ListKind::kGroup) {
    const std::vector<Value>& x = a.As<List>()->items;
    const std::vector<Value>& y = b.As<List>()->items;
    for (std::size_t i = 0; i < x.size() && i < y.size(); ++i) {
      if (!Equal(x[i], y[i], meter)) return Compare(x[i], y[i], meter);
    }
    return x.size() < y.size() ? -1 : x.size() > y.size() ? 1 : 0;
  }
  meter.Error("orders a {} and a {}, which have no order", TypeName(a), TypeName(b));
}

std::string ToText(const Value& value, Meter& meter) {
  if (value.IsText()) {
    meter.Text(value.text().size());
    return value.text();
  }
  if (value.Is<Undefined>()) return "";
  if (value.Is<None>()) return "None";
  if (value.Is<bool>()) return value.As<bool>() ? "True" : "False";
  if (value.Is<std::int64_t>()) return std::to_string(value.As<std::int64_t>());
  if (value.Is<double>()) return FloatText(value.As<double>(), "nan", "inf");
  if (value.Is<List>() || value.Is<Dict>()) return Repr(value, meter);
  meter.Error("writes a {} as text", TypeName(value));
}

std::string Repr(const Value& value, Meter& meter) {
  std::string out;
  AppendRepr(value, out, meter);
  return out;
}

std::string ToJson(const Value& value, const JsonStyle& style, Meter& meter) {
  std::string out;
  AppendJson(value, style, 0, out, meter);
  return out;
}

std::vector<std::string_view> Characters(std::string_view text, Meter& meter) {
  meter.Step(static_cast<std::int64_t>(text.size()));
  std::vector<std::string_view> characters;
  for (std::size_t pos = 0; pos < text.size();) {
    const std::size_t size = NextUtf8(text, pos).size;
    characters.push_back(text.substr(pos, size));
    pos += size;
  }
  return characters;
}

std::int64_t CountCharacters(std::string_view text, Meter& meter) {
  meter.Step(static_cast<std::int64_t>(text.size() / 4));
  std::int64_t count = 0;
  for (std::size_t pos = 0; pos < text.size(); pos += NextUtf8(text, pos).size) ++count;
  return count;
}

bool IsSpace(std::string_view character) {
  const Utf8Step step = NextUtf8(character, 0);
  return step.kind == Utf8Kind::kCharacter && IsPythonSpace(step.code);
}

}  // namespace opo::jinja
