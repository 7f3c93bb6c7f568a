#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "base/utf8.h"
#include "text/jinja_library.h"
#include "text/python_text.h"

namespace opo::jinja {
namespace {

using IteratorPtr = std::shared_ptr<Iterator>;
using MethodPtr = std::shared_ptr<const Method>;
using NamespacePtr = std::shared_ptr<Namespace>;
using LoopPtr = std::shared_ptr<LoopState>;
using CyclerPtr = std::shared_ptr<Cycler>;

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

Value Integer(char op, std::int64_t a, std::int64_t b, Meter& meter) {
  std::int64_t result = 0;
  const bool overflow = op == '+'   ? __builtin_add_overflow(a, b, &result)
                        : op == '-' ? __builtin_sub_overflow(a, b, &result)
                                    : __builtin_mul_overflow(a, b, &result);
  if (overflow) meter.Error("a number beyond 64 bits");
  return Value(result);
}

Value Power(const Value& a, const Value& b, Meter& meter) {
  if (a.IsInteger() && b.IsInteger() && b.integer() >= 0) {
    std::int64_t base = a.integer();
    std::int64_t result = 1;
    for (std::int64_t left = b.integer(); left > 0; left >>= 1) {
      if ((left & 1) != 0) result = Integer('*', result, base, meter).integer();
      if (left > 1) base = Integer('*', base, base, meter).integer();
    }
    return Value(result);
  }
  const double base = a.number();
  const double exponent = b.number();
  if (base == 0 && exponent < 0) meter.Error("0 to a negative power");
  const double result = std::pow(base, exponent);
  if (base < 0 && std::isnan(result) && !std::isnan(exponent)) {
    meter.Error("a complex number, from a root of {}", base);
  }
  if (std::isinf(result) && std::isfinite(base) && std::isfinite(exponent)) {
    meter.Error("a number too large for a float");
  }
  return Value(result);
}

Value Repeat(const Value& sequence, std::int64_t times, Meter& meter) {
  times = std::max<std::int64_t>(0, times);
  if (sequence.Is<List>()) {
    const ListData& list = *sequence.As<List>();
    if (list.kind > ListKind::kGroup) meter.Error("the operator * of a {}", TypeName(sequence));
    if (!list.items.empty()) {
      if (times > kMaxSteps) meter.Step(kMaxSteps + 1);
      meter.Step(times * static_cast<std::int64_t>(list.items.size()));
    }
    std::vector<Value> items;
    for (std::int64_t i = 0; i < times && !list.items.empty(); ++i) {
      items.insert(items.end(), list.items.begin(), list.items.end());
    }
    return MakeList(std::move(items), meter, list.IsTuple() ? ListKind::kTuple : ListKind::kList);
  }
  const std::string& text = sequence.text();
  if (!text.empty() && times > static_cast<std::int64_t>(kMaxTextBytes / text.size())) {
    meter.Text(kMaxTextBytes + 1);
  }
  std::string out;
  for (std::int64_t i = 0; i < times && !text.empty(); ++i) out += text;
  meter.Text(out.size());
  return sequence.IsSafe() ? Value::MakeSafe(std::move(out)) : Value(std::move(out));
}

Value Add(const Value& a, const Value& b, Meter& meter) {
  if (a.IsSafe() || b.IsSafe()) {  // markup takes other text only escaped
    const std::string left = a.IsSafe() ? a.text() : HtmlEscape(a.text(), meter);
    const std::string right = b.IsSafe() ? b.text() : HtmlEscape(b.text(), meter);
    meter.Text(left.size() + right.size());
    return Value::MakeSafe(left + right);
  }
  meter.Text(a.text().size() + b.text().size());
  return Value(a.text() + b.text());
}

bool IsPlainList(const Value& value) {
  return value.Is<List>() && value.As<List>()->kind <= ListKind::kGroup;
}

}  // namespace

void NeedDefined(const Value& value, Meter& meter) {
  if (!value.Is<Undefined>()) return;
  const auto& what = value.As<Undefined>().what;
  meter.Error("{}", what != nullptr ? *what : "a value is undefined");
}

const std::string& NeedText(const Value& value, std::string_view callee, Meter& meter) {
  if (!value.IsText()) meter.Error("{} needs a text, got a {}", callee, TypeName(value));
  return value.text();
}

std::int64_t NeedInteger(const Value& value, std::string_view callee, Meter& meter) {
  if (!value.IsInteger()) meter.Error("{} needs an integer, got a {}", callee, TypeName(value));
  return value.integer();
}

Value GetAttribute(const Value& object, const std::string& name, Meter& meter) {
  meter.Step();
  NeedDefined(object, meter);
  if (HasMethod(object, name)) {
    return Value(MethodPtr(std::make_shared<const Method>(Method{object, name})));
  }
  if (IsDenied(object, name)) {
    return Value::MakeUndefined(fmt::format("the sandbox denies {} of a {}, which would change it",
                                            name, TypeName(object)));
  }
  if (object.Is<Dict>()) {
    if (const Value* found = object.As<Dict>()->Find(name); found != nullptr) return *found;
  } else if (object.Is<List>() && object.As<List>()->kind == ListKind::kGroup) {
    if (name == "grouper") return object.As<List>()->items[0];
    if (name == "list") return object.As<List>()->items[1];
  } else if (object.Is<NamespacePtr>()) {
    Namespace& names = *object.As<NamespacePtr>();
    meter.Step(static_cast<std::int64_t>(names.attributes.size() / 8));
    if (const Value* found = names.Find(name); found != nullptr) return *found;
  } else if (object.Is<LoopPtr>()) {
    return LoopAttribute(*object.As<LoopPtr>(), name);
  } else if (object.Is<CyclerPtr>()) {
    const Cycler& cycler = *object.As<CyclerPtr>();
    if (name == "current") return cycler.items[cycler.position];
    if (name == "pos") return Value(static_cast<std::int64_t>(cycler.position));
    if (name == "items") return MakeList(cycler.items, meter, ListKind::kTuple);
  } else if (object.IsNumber() && (name == "real" || name == "imag")) {
    meter.Error("{} of a {} is outside the subset", name, TypeName(object));
  }
  return Value::MakeUndefined(
      fmt::format("'{} object' has no attribute '{}'", TypeName(object), name));
}

Value GetItem(const Value& object, const Value& key, Meter& meter) {
  meter.Step();
  NeedDefined(object, meter);
  if (object.Is<Dict>()) {
    const bool list_in_key = key.Is<Dict>() || (key.Is<List>() && !key.As<List>()->IsTuple());
    const Value* found = list_in_key ? nullptr : FindKey(*object.As<Dict>(), key, meter);
    if (found != nullptr) return *found;
  } else if ((object.IsText() || (object.Is<List>() && !object.As<List>()->IsView())) &&
             key.IsInteger()) {
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
  // As Jinja does: what is no key may still be an attribute.
  if (key.IsText() && !object.Is<Dict>()) return GetAttribute(object, key.text(), meter);
  if (key.IsText() && (HasMethod(object, key.text()) || IsDenied(object, key.text()))) {
    return GetAttribute(object, key.text(), meter);
  }
  return Value::MakeUndefined(fmt::format("'{} object' has no element {}", TypeName(object),
                                          key.IsText()     ? "'" + key.text().substr(0, 100) + "'"
                                          : key.IsNumber() ? ToText(key, meter)
                                                           : std::string(TypeName(key))));
}

Value Slice(const Value& object, const Value (&bounds)[3], Meter& meter) {
  NeedDefined(object, meter);
  const bool view = object.Is<List>() && object.As<List>()->IsView();
  if (view || (!object.IsText() && !object.Is<List>())) {
    meter.Error("a slice of a {}", TypeName(object));
  }
  for (const Value& bound : bounds) {
    if (!bound.Is<None>() && !bound.IsInteger()) {
      meter.Error("a slice bound is a {}", TypeName(bound));
    }
  }
  const std::vector<Value> items = Elements(object, meter);
  const auto size = static_cast<std::int64_t>(items.size());
  std::int64_t step = bounds[2].Is<None>() ? 1 : bounds[2].integer();
  if (step == 0) meter.Error("a slice with step 0");
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
  if (object.Is<List>() && object.As<List>()->kind == ListKind::kRange) {
    const ListData& range = *object.As<List>();
    const auto at = [&](std::int64_t i) {  // of the range's own numbers
      return Integer('+', range.start, Integer('*', i, range.step, meter).integer(), meter)
          .integer();
    };
    return MakeRange(at(start), at(stop), Integer('*', range.step, step, meter).integer(), meter);
  }
  std::vector<Value> taken;
  for (std::int64_t i = start; step < 0 ? i > stop : i < stop; i += step) {
    taken.push_back(items[static_cast<std::size_t>(i)]);
  }
  if (object.Is<List>()) {
    const bool tuple = object.As<List>()->IsTuple();
    return MakeList(std::move(taken), meter, tuple ? ListKind::kTuple : ListKind::kList);
  }
  std::string text;
  for (const Value& c : taken) text += c.text();
  return object.IsSafe() ? Value::MakeSafe(std::move(text)) : Value(std::move(text));
}

std::vector<Value> DictItems(const DictData& dict, Meter& meter) {
  std::vector<Value> items;
  for (const auto& [key, value] : dict.items) {
    items.push_back(MakeList({key, value}, meter, ListKind::kTuple));
  }
  return items;
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
    for (const auto& item : value.As<Dict>()->items) elements.push_back(item.first);
  } else if (value.Is<IteratorPtr>()) {
    Iterator& iterator = *value.As<IteratorPtr>();
    elements.assign(iterator.items.begin() + static_cast<std::ptrdiff_t>(iterator.next),
                    iterator.items.end());
    iterator.next = iterator.items.size();
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
  if (container.Is<Dict>()) return FindKey(*container.As<Dict>(), item, meter) != nullptr;
  if (container.Is<IteratorPtr>()) {  // takes elements up to the one that is found
    Iterator& iterator = *container.As<IteratorPtr>();
    while (iterator.next < iterator.items.size()) {
      if (Equal(iterator.items[iterator.next++], item, meter)) return true;
    }
    return false;
  }
  if (container.Is<List>()) {
    const std::vector<Value>& items = container.As<List>()->items;
    return std::any_of(items.begin(), items.end(),
                       [&](const Value& element) { return Equal(element, item, meter); });
  }
  return !Elements(container, meter).empty();  // undefined: nothing is in it
}

Value Arithmetic(std::string_view op, const Value& a, const Value& b, Meter& meter) {
  if (op == "%" && a.IsText()) {
    if (a.IsSafe()) meter.Error("% of a text marked safe is outside the subset");
    return Value(PercentFormat(a.text(), b, meter));
  }
  NeedDefined(a, meter);
  NeedDefined(b, meter);
  if (op == "+" && a.IsText() && b.IsText()) return Add(a, b, meter);
  if (op == "+" && IsPlainList(a) && IsPlainList(b) &&
      a.As<List>()->IsTuple() == b.As<List>()->IsTuple()) {
    std::vector<Value> items = a.As<List>()->items;
    items.insert(items.end(), b.As<List>()->items.begin(), b.As<List>()->items.end());
    return MakeList(std::move(items), meter,
                    a.As<List>()->IsTuple() ? ListKind::kTuple : ListKind::kList);
  }
  if (op == "*" && (a.IsText() || a.Is<List>()) && b.IsInteger()) {
    return Repeat(a, b.integer(), meter);
  }
  if (op == "*" && (b.IsText() || b.Is<List>()) && a.IsInteger()) {
    return Repeat(b, a.integer(), meter);
  }
  if (!a.IsNumber() || !b.IsNumber()) {
    meter.Error("the operator {} between a {} and a {}", op, TypeName(a), TypeName(b));
  }
  if (op == "**") return Power(a, b, meter);
  const bool division = op == "/" || op == "//" || op == "%";
  if (division && b.number() == 0) meter.Error("division by zero");
  if (op == "/") return Value(a.number() / b.number());
  if (a.IsInteger() && b.IsInteger()) {
    const std::int64_t x = a.integer();
    const std::int64_t y = b.integer();
    if (!division) return Integer(op[0], x, y, meter);
    if (y == -1) return op == "%" ? Value(std::int64_t{0}) : Integer('-', 0, x, meter);
    const bool down = x % y != 0 && (x < 0) != (y < 0);  // Python rounds down, not to zero
    return op == "%" ? Value(x % y + (down ? y : 0)) : Value(x / y - (down ? 1 : 0));
  }
  const double x = a.number();
  const double y = b.number();
  if (op == "+") return Value(x + y);
  if (op == "-") return Value(x - y);
  if (op == "*") return Value(x * y);
  double rest = std::fmod(x, y);
  const bool down = rest != 0 && (rest < 0) != (y < 0);
  if (op == "%") {
    if (down) rest += y;
    return Value(rest == 0 ? std::copysign(0.0, y) : rest);
  }
  double quotient = (x - rest) / y - (down ? 1 : 0);
  if (quotient == 0) return Value(std::copysign(0.0, x / y));
  const double floor = std::floor(quotient);
  return Value(quotient - floor > 0.5 ? floor + 1 : floor);
}

std::string HtmlEscape(std::string_view text, Meter& meter) {
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

std::string Strip(std::string_view text, const Value& set, bool left, bool right, Meter& meter) {
  meter.Text(text.size());
  const bool spaces = set.IsMissing();
  const std::vector<std::string_view> wanted =
      spaces ? std::vector<std::string_view>() : Characters(NeedText(set, "strip", meter), meter);
  const auto stripped = [&](std::string_view c) {
    meter.Step(1 + static_cast<std::int64_t>(wanted.size() / 8));
    return spaces ? IsSpace(c) : std::find(wanted.begin(), wanted.end(), c) != wanted.end();
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
  if (count < 0) count = INT64_MAX;
  std::string out;
  if (from.empty()) {  // between all characters, and at both ends
    const std::vector<std::string_view> characters = Characters(text, meter);
    for (std::size_t i = 0; i <= characters.size(); ++i) {
      if (count-- != 0) {
        out += to;
      } else {
        count = 0;
      }
      if (i < characters.size()) out += characters[i];
      meter.Grow(to.size(), out.size());
    }
    return out;
  }
  PaySearch(text, from, meter);
  std::size_t pos = 0;
  for (; count != 0; --count) {
    const std::size_t found = text.find(from, pos);
    if (found == std::string::npos) break;
    out.append(text, pos, found - pos);
    out += to;
    meter.Grow(to.size(), out.size());
    pos = found + from.size();
  }
  out.append(text, pos);
  meter.Text(out.size());
  return out;
}

std::string Join(const std::vector<Value>& items, const std::string& separator, bool soft,
                 Meter& meter) {
  std::string out;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out += separator;
    out += soft ? Soft(items[i], meter) : NeedText(items[i], "join", meter);
    meter.Grow(separator.size(), out.size());
  }
  return out;
}

std::vector<std::string> SplitLines(std::string_view text, bool keep_ends, Meter& meter) {
  meter.Text(text.size());
  std::vector<std::string> lines;
  std::size_t start = 0;
  for (std::size_t pos = 0; pos < text.size();) {
    const Utf8Step step = NextUtf8(text, pos);
    if (step.kind != Utf8Kind::kCharacter || !IsLineEnd(step.code)) {
      pos += step.size;
      continue;
    }
    const std::size_t end = pos;
    pos += step.code == '\r' && text.substr(pos + 1, 1) == "\n" ? 2 : step.size;
    lines.emplace_back(text.substr(start, (keep_ends ? pos : end) - start));
    meter.Step();
    start = pos;
  }
  if (start < text.size()) lines.emplace_back(text.substr(start));
  return lines;
}

std::string Pad(const std::string& text, std::int64_t width, std::string_view fill, char align,
                Meter& meter) {
  const std::int64_t missing = std::max<std::int64_t>(0, width) - CountCharacters(text, meter);
  if (missing <= 0) return text;
  if (missing > static_cast<std::int64_t>(kMaxTextBytes)) meter.Text(kMaxTextBytes + 1);
  std::int64_t left = 0;
  if (align == '>') left = missing;
  if (align == '^') left = missing / 2 + (missing & width & 1);
  if (align == '=') left = missing / 2;
  std::string out;
  for (std::int64_t i = 0; i < left; ++i) out += fill;
  out += text;
  for (std::int64_t i = left; i < missing; ++i) out += fill;
  meter.Text(out.size());
  return out;
}

namespace {

// The text that a number is read from: no white space around it, no underscores between digits.
// Absent where Python would refuse.
std::optional<std::string> NumberText(std::string_view text, Meter& meter) {
  std::string digits = Strip(text, Value(), true, true, meter);
  for (std::size_t i = 0; i < digits.size(); ++i) {
    const auto c = static_cast<unsigned char>(digits[i]);
    if (c >= 0x80 && (ClassOf(NextUtf8(digits, i).code) & kDecimal) != 0) {
      meter.Error("a number with other digits than 0 to 9 is outside the subset");
    }
    if (c != '_') continue;
    const auto digit = [&](std::size_t at) {
      return at < digits.size() && (ClassOf(static_cast<unsigned char>(digits[at])) & kAlnum) != 0;
    };
    if (i == 0 || !digit(i - 1) || !digit(i + 1)) return std::nullopt;
  }
  std::erase(digits, '_');
  return digits;
}

}  // namespace

std::optional<double> ParseFloat(std::string_view text, Meter& meter) {
  const std::optional<std::string> digits = NumberText(text, meter);
  if (!digits.has_value() || digits->empty() || digits->find('(') != digits->npos) {
    return std::nullopt;
  }
  const bool plus = digits->starts_with('+') && !digits->starts_with("+-");
  double number = 0;
  const char* end = digits->data() + digits->size();
  const auto read = std::from_chars(digits->data() + (plus ? 1 : 0), end, number);
  if (read.ec == std::errc::result_out_of_range && read.ptr == end) {
    return std::strtod(digits->c_str(), nullptr);  // 0 or infinity, as in Python
  }
  if (read.ec != std::errc() || read.ptr != end) return std::nullopt;
  return number;
}

std::optional<std::int64_t> ParseInteger(std::string_view text, std::int64_t base, Meter& meter) {
  if (base != 0 && (base < 2 || base > 36)) meter.Error("int with the base {}", base);
  std::optional<std::string> digits = NumberText(text, meter);
  if (!digits.has_value()) return std::nullopt;
  std::string_view rest = *digits;
  const bool negative = rest.starts_with('-');
  if (negative || rest.starts_with('+')) rest.remove_prefix(1);
  if (rest.size() > 2 && rest[0] == '0') {
    const char letter = static_cast<char>(rest[1] | 0x20);
    const int prefix = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
    if (prefix != 0 && (base == prefix || base == 0)) {
      base = prefix;
      rest.remove_prefix(2);
    }
  }
  if (base == 0) base = 10;
  std::uint64_t value = 0;
  const char* end = rest.data() + rest.size();
  const auto read = std::from_chars(rest.data(), end, value, static_cast<int>(base));
  if (rest.empty() || read.ptr != end || read.ec == std::errc::invalid_argument)
    return std::nullopt;
  if (read.ec != std::errc() || value > INT64_MAX) meter.Error("a number beyond 64 bits");
  return negative ? -static_cast<std::int64_t>(value) : static_cast<std::int64_t>(value);
}

}  // namespace opo::jinja
