#include <algorithm>
#include <cmath>
#include <cstdint>

#include "base/utf8.h"
#include "text/jinja_library.h"
#include "text/python_text.h"

namespace opo::jinja {
namespace {

// What Jinja's title filter does, which is not Python's str.title: after - ( { [ < or white space
// a word begins, and only there.
std::string TitleFilter(const Value& value, Meter& meter) {
  const std::string text = Soft(value, meter);
  const std::vector<std::string_view> c = Characters(text, meter);
  const auto separates = [&](std::string_view one) {
    return one == "-" || one == "(" || one == "{" || one == "[" || one == "<" || IsSpace(one);
  };
  std::string out;
  for (std::size_t i = 0; i < c.size();) {
    const bool separator = separates(c[i]);
    std::string rest;
    const std::size_t first = i++;
    for (; i < c.size() && separates(c[i]) == separator; ++i) rest += c[i];
    out += ToUpper(c[first]) + ToLower(rest);
    meter.Grow(rest.size(), out.size());
  }
  return out;
}

std::string Indent(const Value& value, const Arguments& arguments, Meter& meter) {
  const auto bound = arguments.Bind("indent", {"width", "first", "blank"}, meter);
  const std::string& text = NeedText(value, "indent", meter);
  std::string by = "    ";
  if (bound[0].IsText()) {
    by = bound[0].text();
  } else if (!bound[0].Is<Undefined>()) {
    const std::int64_t n = std::max<std::int64_t>(0, NeedInteger(bound[0], "indent", meter));
    meter.Text(static_cast<std::size_t>(n));
    by.assign(static_cast<std::size_t>(n), ' ');
  }
  const bool blank = Truth(bound[2]);
  std::string out = Truth(bound[1]) ? by : "";
  const std::vector<std::string> lines = SplitLines(text + "\n", false, meter);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += '\n';
    if (i > 0 && (blank || !lines[i].empty())) out += by;
    out += lines[i];
    meter.Grow(by.size() + lines[i].size(), out.size());
  }
  return out;
}

Value Truncate(const Value& value, const Arguments& arguments, Meter& meter) {
  const auto bound = arguments.Bind("truncate", {"length", "killwords", "end", "leeway"}, meter);
  const std::string& text = NeedText(value, "truncate", meter);
  const std::int64_t length =
      bound[0].Is<Undefined>() ? 255 : NeedInteger(bound[0], "truncate", meter);
  const std::string end = bound[2].Is<Undefined>() ? "..." : NeedText(bound[2], "truncate", meter);
  const std::int64_t leeway = bound[3].IsMissing() ? 5 : NeedInteger(bound[3], "truncate", meter);
  constexpr std::int64_t kMost = INT64_MAX / 4;
  if (std::max(length, leeway) > kMost || length < 0) meter.Error("truncate to {}", length);
  const std::int64_t kept = length - CountCharacters(end, meter);
  if (kept < 0) meter.Error("truncate to less than its end");
  if (leeway < 0) meter.Error("truncate with a leeway below 0");
  const std::vector<std::string_view> c = Characters(text, meter);
  if (static_cast<std::int64_t>(c.size()) <= length + leeway) return value;
  std::string head;
  for (std::int64_t i = 0; i < kept; ++i) head += c[static_cast<std::size_t>(i)];
  if (!Truth(bound[1])) head = head.substr(0, head.rfind(' '));
  return Value(head + end);
}

std::int64_t WordCount(const Value& value, Meter& meter) {
  const std::string text = Soft(value, meter);
  std::int64_t words = 0;
  bool inside = false;
  for (std::size_t pos = 0; pos < text.size();) {
    const Utf8Step step = NextUtf8(text, pos);
    const bool part = step.kind == Utf8Kind::kCharacter &&
                      (step.code == '_' || (ClassOf(step.code) & kAlnum) != 0);
    words += part && !inside;
    inside = part;
    pos += step.size;
  }
  return words;
}

std::string UrlQuote(const Value& value, bool query, Meter& meter) {
  const std::string text = Soft(value, meter);
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '_' || c == '.' || c == '-' || c == '~' || (c == '/' && !query);
    if (plain) {
      out += c;
    } else if (c == ' ' && query) {
      out += '+';
    } else {
      out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
  }
  meter.Text(out.size());
  return out;
}

std::string UrlEncode(const Value& value, Meter& meter) {
  const bool sequence = value.Is<Dict>() || value.Is<List>() || value.Is<Undefined>() ||
                        value.Is<std::shared_ptr<Iterator>>();
  if (!sequence) return UrlQuote(value, false, meter);
  std::string out;
  const std::vector<Value> pairs =
      value.Is<Dict>() ? DictItems(*value.As<Dict>(), meter) : Elements(value, meter);
  for (const Value& one : pairs) {
    const std::vector<Value> pair = Elements(one, meter);
    if (pair.size() != 2) meter.Error("urlencode needs pairs");
    if (!out.empty()) out += '&';
    out += UrlQuote(pair[0], true, meter) + "=" + UrlQuote(pair[1], true, meter);
    meter.Grow(0, out.size());
  }
  return out;
}

Value XmlAttributes(const Value& value, const Arguments& arguments, Meter& meter) {
  const auto bound = arguments.Bind("xmlattr", {"autospace"}, meter);
  if (!value.Is<Dict>()) meter.Error("xmlattr of a {}", TypeName(value));
  std::string out;
  for (const auto& [key, item] : value.As<Dict>()->items) {
    if (item.IsMissing()) continue;
    const std::string& name = NeedText(key, "xmlattr", meter);
    if (name.find_first_of(" \t\n\v\f\r/>=") != name.npos) {
      meter.Error("xmlattr: \"{}\" is no name of an attribute", name.substr(0, 100));
    }
    if (!out.empty()) out += ' ';
    out += HtmlEscape(name, meter) + "=\"" +
           (item.IsSafe() ? item.text() : HtmlEscape(Soft(item, meter), meter)) + "\"";
    meter.Grow(0, out.size());
  }
  const bool space = bound[0].Is<Undefined>() || Truth(bound[0]);
  return Value(space && !out.empty() ? " " + out : out);
}

// Cuts out everything from `open` to `close`, once from the left.
std::string Without(const std::string& text, std::string_view open, std::string_view close) {
  std::string out;
  std::size_t pos = 0;
  for (;;) {
    const std::size_t start = text.find(open, pos);
    const std::size_t end = start == text.npos ? text.npos : text.find(close, start);
    if (end == text.npos) return out + text.substr(pos);
    out.append(text, pos, start - pos);
    pos = end + close.size();
  }
}

std::string StripTags(const Value& value, Meter& meter) {
  const std::string text = Without(Without(Soft(value, meter), "<!--", "-->"), "<", ">");
  if (text.find('&') != text.npos) meter.Error("striptags of a text with & is outside the subset");
  std::string out;
  bool space = false;
  for (const std::string_view c : Characters(text, meter)) {
    if (IsSpace(c)) {
      space = true;
      continue;
    }
    if (space && !out.empty()) out += ' ';
    space = false;
    out += c;
  }
  return out;
}

Value FileSize(const Value& value, const Arguments& arguments, Meter& meter) {
  const bool binary = Truth(arguments.Bind("filesizeformat", {"binary"}, meter)[0]);
  std::optional<double> bytes;
  if (value.IsNumber()) bytes = value.number();
  if (value.IsText()) bytes = ParseFloat(value.text(), meter);
  if (bytes.has_value() && !(std::abs(*bytes) < 1e300)) bytes.reset();
  if (!bytes.has_value()) meter.Error("filesizeformat of a {}", TypeName(value));
  const double base = binary ? 1024 : 1000;
  if (*bytes == 1) return Value(std::string("1 Byte"));
  if (*bytes < base) return Value(fmt::format("{:.0f} Bytes", std::trunc(*bytes) + 0.0));
  double unit = base;
  std::string_view prefixes = binary ? "KMGTPEZY" : "kMGTPEZY";
  for (std::size_t i = 0;; ++i) {
    unit *= base;
    if (*bytes < unit || i + 1 == prefixes.size()) {
      return Value(
          fmt::format("{:.1f} {}{}", base * *bytes / unit, prefixes[i], binary ? "iB" : "B"));
    }
  }
}

Value Safe(const Value& value, Meter& meter) { return Value::MakeSafe(Soft(value, meter)); }
Value Escape(const Value& value, Meter& meter) {
  return value.IsSafe() ? value : Value::MakeSafe(HtmlEscape(Soft(value, meter), meter));
}
Value ForceEscape(const Value& value, Meter& meter) {
  return Value::MakeSafe(HtmlEscape(Soft(value, meter), meter));
}
Value String(const Value& value, Meter& meter) {
  return value.IsSafe() ? value : Value(Soft(value, meter));
}
template <std::string (*F)(std::string_view)>
std::string Case(const Value& value, Meter& meter) {
  return F(Soft(value, meter));
}

template <auto F>
Value Plain(const Value& value, const Arguments& arguments, Meter& meter) {
  arguments.Bind("this filter", {}, meter);
  return Value(F(value, meter));
}

}  // namespace

void AddTextFilters(FilterTable& f) {
  f["upper"] = Plain<Case<ToUpper>>;
  f["lower"] = Plain<Case<ToLower>>;
  f["capitalize"] = Plain<Case<Capitalize>>;
  f["title"] = Plain<TitleFilter>;
  f["string"] = Plain<String>;
  f["safe"] = Plain<Safe>;
  f["escape"] = f["e"] = Plain<Escape>;
  f["forceescape"] = Plain<ForceEscape>;
  f["wordcount"] = Plain<WordCount>;
  f["urlencode"] = Plain<UrlEncode>;
  f["striptags"] = Plain<StripTags>;
  f["xmlattr"] = XmlAttributes;
  f["truncate"] = Truncate;
  f["filesizeformat"] = FileSize;
  f["trim"] = [](const Value& v, const Arguments& a, Meter& m) {
    return Value(Strip(Soft(v, m), a.Bind("trim", {"chars"}, m)[0], true, true, m));
  };
  f["replace"] = [](const Value& v, const Arguments& a, Meter& m) {
    const auto bound = a.Bind("replace", {"old", "new", "count"}, m);
    return Value(Replace(Soft(v, m), Soft(bound[0], m), Soft(bound[1], m),
                         bound[2].IsMissing() ? -1 : NeedInteger(bound[2], "replace", m), m));
  };
  f["indent"] = [](const Value& v, const Arguments& a, Meter& m) { return Value(Indent(v, a, m)); };
  f["center"] = [](const Value& v, const Arguments& a, Meter& m) {
    const Value width = a.Bind("center", {"width"}, m)[0];
    return Value(
        Pad(Soft(v, m), width.Is<Undefined>() ? 80 : NeedInteger(width, "center", m), " ", '^', m));
  };
  f["format"] = [](const Value& v, const Arguments& a, Meter& m) {
    if (!a.positional.empty() && !a.named.empty()) {
      m.Error("format takes values or named values, not both");
    }
    if (a.named.empty()) {
      return Value(PercentFormat(Soft(v, m), MakeList(a.positional, m, ListKind::kTuple), m));
    }
    std::vector<std::pair<Value, Value>> named;
    for (const auto& [name, value] : a.named) named.emplace_back(Value(name), value);
    return Value(PercentFormat(Soft(v, m), MakeDict(std::move(named), m), m));
  };
}

}  // namespace opo::jinja
