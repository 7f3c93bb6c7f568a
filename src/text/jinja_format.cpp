// The % operator of Python's str, and str.format.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "base/utf8.h"
#include "text/jinja_library.h"

namespace opo::jinja {
namespace {

constexpr std::int64_t kMaxPrecision = 1000;

// snprintf of a double in the style e, f or g.
std::string FloatDigits(double value, char type, bool alternate, std::int64_t precision,
                        Meter& meter) {
  if (precision > kMaxPrecision) meter.Error("a precision of {}", precision);
  if (!std::isfinite(value)) {
    std::string text = std::isnan(value) ? "nan" : value < 0 ? "-inf" : "inf";
    if (type < 'a') std::transform(text.begin(), text.end(), text.begin(), ::toupper);
    return text;
  }
  const char pattern[] = {'%',
                          alternate ? '#' : '.',
                          alternate ? '.' : '*',
                          alternate ? '*' : type,
                          alternate ? type : '\0',
                          '\0'};
  char buffer[kMaxPrecision + 400];
  const int size =
      std::snprintf(buffer, sizeof(buffer), pattern, static_cast<int>(precision), value);
  return std::string(buffer, static_cast<std::size_t>(size));
}

std::string IntegerDigits(std::int64_t value, char type) {
  char buffer[72];
  const int base = type == 'x' || type == 'X' ? 16 : type == 'o' ? 8 : type == 'b' ? 2 : 10;
  const std::uint64_t size =
      value < 0 ? 0 - static_cast<std::uint64_t>(value) : static_cast<std::uint64_t>(value);
  const auto result = std::to_chars(buffer, buffer + sizeof(buffer), size, base);
  std::string text(buffer, result.ptr);
  if (type == 'X') std::transform(text.begin(), text.end(), text.begin(), ::toupper);
  return (value < 0 ? "-" : "") + text;
}

std::string Prefix(char type) {
  return type == 'x' || type == 'X' || type == 'o' || type == 'b' ? std::string("0") + type : "";
}

std::string Ascii(const std::string& repr) {
  std::string out;
  for (std::size_t pos = 0; pos < repr.size();) {
    const Utf8Step step = NextUtf8(repr, pos);
    const std::uint32_t c = step.code;
    if (step.kind != Utf8Kind::kCharacter || c < 0x80) {
      out.append(repr, pos, step.size);
    } else {
      out += c < 0x100     ? fmt::format("\\x{:02x}", c)
             : c < 0x10000 ? fmt::format("\\u{:04x}", c)
                           : fmt::format("\\U{:08x}", c);
    }
    pos += step.size;
  }
  return out;
}

// The first `most` characters.
std::string Head(const std::string& text, std::int64_t most, Meter& meter) {
  const std::vector<std::string_view> characters = Characters(text, meter);
  if (most >= static_cast<std::int64_t>(characters.size())) return text;
  return text.substr(
      0, static_cast<std::size_t>(characters[static_cast<std::size_t>(most)].data() - text.data()));
}

// [-]digits with zeros between sign (and prefix) and digits.
std::string ZeroPadded(const std::string& number, std::size_t head, std::int64_t width, Meter& m) {
  const auto fixed = static_cast<std::int64_t>(head);
  return number.substr(0, head) + Pad(number.substr(head), width - fixed, "0", '>', m);
}

// --- % ---

class PercentWriter {
 public:
  PercentWriter(const std::string& format, const Value& values, Meter& meter)
      : format_(format), meter_(meter) {
    if (values.Is<List>() && values.As<List>()->IsTuple()) {
      values_ = values.As<List>()->items;
    } else {
      values_ = {values};
      mapping_ = values.Is<Dict>() || values.Is<List>();
    }
    if (values.Is<Dict>()) dict_ = values.As<Dict>();
  }

  std::string Run() {
    std::string out;
    while (pos_ < format_.size()) {
      const std::size_t percent = std::min(format_.find('%', pos_), format_.size());
      out.append(format_, pos_, percent - pos_);
      pos_ = percent;
      if (pos_ < format_.size()) {
        ++pos_;
        Directive(out);
      }
      meter_.Grow(16, out.size());
    }
    if (next_ < values_.size() && !mapping_) {
      meter_.Error("%: not all values are used by \"{}\"", format_.substr(0, 100));
    }
    meter_.Text(out.size());
    return out;
  }

 private:
  const Value& Next() {
    if (next_ >= values_.size()) {
      meter_.Error("%: not enough values for \"{}\"", format_.substr(0, 100));
    }
    return values_[next_++];
  }
  char Peek() const { return pos_ < format_.size() ? format_[pos_] : '\0'; }
  std::int64_t Count() {
    if (Peek() == '*') {
      ++pos_;
      constexpr auto kMost = static_cast<std::int64_t>(kMaxTextBytes) + 1;
      return std::clamp(NeedInteger(Next(), "%*", meter_), -kMost, kMost);
    }
    std::int64_t count = 0;
    while (Peek() >= '0' && Peek() <= '9') {
      count = count * 10 + (format_[pos_++] - '0');
      if (count > static_cast<std::int64_t>(kMaxTextBytes)) meter_.Text(kMaxTextBytes + 1);
    }
    return count;
  }

  void Directive(std::string& out) {
    const Value* named = nullptr;
    if (Peek() == '(') {
      const std::size_t close = format_.find(')', pos_);
      if (close == std::string::npos || dict_ == nullptr) meter_.Error("%(name) needs a dict");
      const std::string key = format_.substr(pos_ + 1, close - pos_ - 1);
      if (key.find('(') != key.npos) meter_.Error("%(...(...)...) is outside the subset");
      named = dict_->Find(key);
      if (named == nullptr) meter_.Error("%({}): there is no such key", key);
      pos_ = close + 1;
    }
    bool left = false, sign = false, space = false, alternate = false, zero = false;
    for (;; ++pos_) {
      const char c = Peek();
      if (c == '-')
        left = true;
      else if (c == '+')
        sign = true;
      else if (c == ' ')
        space = true;
      else if (c == '#')
        alternate = true;
      else if (c == '0')
        zero = true;
      else
        break;
    }
    std::int64_t width = Count();
    if (width < 0) {
      left = true;
      width = -width;
    }
    std::int64_t precision = -1;
    if (Peek() == '.') {
      ++pos_;
      precision = std::max<std::int64_t>(0, Count());
    }
    while (Peek() == 'h' || Peek() == 'l' || Peek() == 'L') ++pos_;
    const char type = Peek();
    if (type == '\0')
      meter_.Error("%: the format \"{}\" ends in a directive", format_.substr(0, 100));
    ++pos_;
    if (type == '%') {
      out += '%';
      return;
    }
    const Value& value = named != nullptr ? *named : Next();
    std::string text;
    std::size_t head = 0;
    switch (type) {
      case 's':
      case 'r':
      case 'a':
        text = type == 's' ? ToText(value, meter_) : Repr(value, meter_);
        if (type == 'a') text = Ascii(text);
        if (precision >= 0) text = Head(text, precision, meter_);
        zero = false;
        break;
      case 'c':
        text = value.IsText() ? value.text() : "";
        if (!value.IsText()) AppendUtf8(Code(value), text);
        if (CountCharacters(text, meter_) != 1) meter_.Error("%c needs one character");
        zero = false;
        break;
      case 'd':
      case 'i':
      case 'u':
      case 'x':
      case 'X':
      case 'o': {
        const bool decimal = type == 'd' || type == 'i' || type == 'u';
        text = IntegerDigits(Whole(value, type, decimal), decimal ? 'd' : type);
        const bool negative = text[0] == '-';
        if (precision >= 0)
          text = ZeroPadded(text, negative ? 1 : 0, precision + (negative ? 1 : 0), meter_);
        if (alternate) text.insert(negative ? 1 : 0, Prefix(type));
        head = alternate ? Prefix(type).size() : 0;
        break;
      }
      case 'e':
      case 'E':
      case 'f':
      case 'F':
      case 'g':
      case 'G': {
        NeedDefined(value, meter_);
        if (!value.IsNumber()) meter_.Error("%{} needs a number, got a {}", type, TypeName(value));
        text = FloatDigits(value.number(), type, alternate, precision < 0 ? 6 : precision, meter_);
        break;
      }
      default:
        meter_.Error("the directive %{} is outside the subset", type);
    }
    if (type != 's' && type != 'r' && type != 'a' && type != 'c') {
      if (text[0] != '-' && (sign || space)) text.insert(0, 1, sign ? '+' : ' ');
      if (text[0] == '-' || text[0] == '+' || text[0] == ' ') ++head;
    }
    out += zero && !left ? ZeroPadded(text, head, width, meter_)
                         : Pad(text, width, " ", left ? '<' : '>', meter_);
  }

  std::uint32_t Code(const Value& value) {
    const std::int64_t code = NeedInteger(value, "%c", meter_);
    if (code < 0 || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) {
      meter_.Error("%c: {} is not a character", code);
    }
    return static_cast<std::uint32_t>(code);
  }
  std::int64_t Whole(const Value& value, char type, bool decimal) {
    NeedDefined(value, meter_);
    if (value.IsInteger()) return value.integer();
    if (!value.Is<double>() || !decimal) {
      meter_.Error("%{} needs an integer, got a {}", type, TypeName(value));
    }
    if (!(std::abs(value.number()) < 9.2e18)) meter_.Error("%{} of {}", type, value.number());
    return static_cast<std::int64_t>(value.number());
  }

  const std::string& format_;
  Meter& meter_;
  std::vector<Value> values_;
  Dict dict_;
  bool mapping_ = false;
  std::size_t pos_ = 0;
  std::size_t next_ = 0;
};

// --- str.format ---

struct Spec {
  std::string fill = " ";
  char align = '\0';  // '<', '>', '^', '='
  char sign = '-';
  bool alternate = false;
  char grouping = '\0';
  std::int64_t width = 0;
  std::int64_t precision = -1;
  char type = '\0';
};

Spec ParseSpec(const std::string& text, Meter& m) {
  Spec spec;
  const std::vector<std::string_view> c = Characters(text, m);
  std::size_t i = 0;
  const auto is_align = [&](std::size_t at) {
    return at < c.size() && (c[at] == "<" || c[at] == ">" || c[at] == "^" || c[at] == "=");
  };
  const auto is = [&](std::string_view wanted) { return i < c.size() && c[i] == wanted; };
  const auto count = [&] {
    std::int64_t n = 0;
    for (; i < c.size() && c[i][0] >= '0' && c[i][0] <= '9'; ++i) {
      n = n * 10 + (c[i][0] - '0');
      if (n > static_cast<std::int64_t>(kMaxTextBytes)) m.Text(kMaxTextBytes + 1);
    }
    return n;
  };
  if (is_align(1)) {
    spec.fill = std::string(c[0]);
    spec.align = c[1][0];
    i = 2;
  } else if (is_align(0)) {
    spec.align = c[0][0];
    i = 1;
  }
  if (is("+") || is("-") || is(" ")) spec.sign = c[i++][0];
  if (is("#")) {
    spec.alternate = true;
    ++i;
  }
  if (is("0")) {
    if (spec.align == '\0') {
      spec.fill = "0";
      spec.align = '=';
    }
    ++i;
  }
  spec.width = count();
  if (is(",") || is("_")) spec.grouping = c[i++][0];
  if (is(".")) {
    ++i;
    const std::size_t before = i;
    spec.precision = count();
    if (i == before) m.Error("format: \"{}\" misses a precision", text);
  }
  if (i < c.size()) spec.type = c[i++][0];
  if (i != c.size()) m.Error("format: \"{}\" is no format that is supported", text.substr(0, 100));
  return spec;
}

// Separators between groups of digits, in the part before a point or exponent.
void Group(std::string& digits, char separator, std::size_t group) {
  const std::size_t first = digits.find_first_not_of("0123456789abcdefABCDEF");
  const std::size_t end = std::min(first, digits.size());
  for (std::size_t at = end; at > group; at -= group) digits.insert(at - group, 1, separator);
}

std::string FormatNumber(const Value& value, Spec spec, Meter& m) {
  constexpr std::string_view kIntegerTypes = "bcdoxX";
  constexpr std::string_view kFloatTypes = "eEfFgG%";
  const bool integer = value.IsInteger() &&
                       (spec.type == '\0' || kIntegerTypes.find(spec.type) != kIntegerTypes.npos);
  std::string digits;
  std::string head;
  if (integer) {
    if (spec.precision >= 0) m.Error("format: an integer takes no precision");
    const char type = spec.type == '\0' ? 'd' : spec.type;
    if (type == 'c') m.Error("format: the type c is outside the subset");
    digits = IntegerDigits(value.integer(), type);
    if (spec.grouping != '\0') {
      const bool negative = digits[0] == '-';
      std::string bare = digits.substr(negative ? 1 : 0);
      if (spec.grouping == ',' && type != 'd') m.Error("format: ',' with the type {}", type);
      Group(bare, spec.grouping, type == 'd' ? 3 : 4);
      digits = (negative ? "-" : "") + bare;
    }
    if (spec.alternate) head = Prefix(type);
  } else {
    double number = value.number();
    if (spec.type == '\0' && spec.precision < 0 && !spec.alternate) {
      digits = ToText(Value(number), m);
    } else if (spec.type != '\0' && kFloatTypes.find(spec.type) != kFloatTypes.npos) {
      const bool percent = spec.type == '%';
      digits = FloatDigits(percent ? number * 100 : number, percent ? 'f' : spec.type,
                           spec.alternate, spec.precision < 0 ? 6 : spec.precision, m);
      if (percent) digits += '%';
    } else {
      m.Error("format: the type {} of a {} is outside the subset",
              spec.type == '\0' ? '-' : spec.type, TypeName(value));
    }
    if (spec.grouping != '\0') {
      const bool negative = digits[0] == '-';
      std::string bare = digits.substr(negative ? 1 : 0);
      if (bare.find_first_of("0123456789") == 0) {
        const std::size_t end = std::min(bare.find_first_not_of("0123456789"), bare.size());
        std::string whole = bare.substr(0, end);
        Group(whole, spec.grouping, 3);
        bare = whole + bare.substr(end);
      }
      digits = (negative ? "-" : "") + bare;
    }
  }
  std::string sign;
  if (digits[0] == '-') {
    sign = "-";
    digits.erase(0, 1);
  } else if (spec.sign != '-') {
    sign = std::string(1, spec.sign);
  }
  head = sign + head;
  if (spec.align == '=') {
    if (spec.grouping != '\0' && spec.fill == "0" && spec.width > 0) {
      m.Error("format: grouping together with zeros in front is outside the subset");
    }
    const std::int64_t left = spec.width - static_cast<std::int64_t>(head.size());
    return head + Pad(digits, left, spec.fill, '>', m);
  }
  const char align = spec.align == '\0' ? '>' : spec.align == '^' ? '=' : spec.align;
  return Pad(head + digits, spec.width, spec.fill, align, m);
}

std::string FormatValue(const Value& value, const std::string& text, Meter& m) {
  if (text.empty()) return ToText(value, m);
  NeedDefined(value, m);
  const Spec spec = ParseSpec(text, m);
  if (value.IsNumber() && !(value.Is<bool>() && spec.type == 's'))
    return FormatNumber(value, spec, m);
  if (!value.IsText()) m.Error("format: \"{}\" of a {}", text, TypeName(value));
  if ((spec.type != '\0' && spec.type != 's') || spec.sign != '-' || spec.alternate ||
      spec.grouping != '\0' || (spec.align == '=' && spec.fill != "0")) {
    m.Error("format: \"{}\" of a str", text);
  }
  const std::string shown =
      spec.precision >= 0 ? Head(value.text(), spec.precision, m) : value.text();
  const char align = spec.align == '\0' || spec.align == '=' ? '<'
                     : spec.align == '^'                     ? '='
                                                             : spec.align;
  return Pad(shown, spec.width, spec.fill, align, m);
}

class BraceWriter {
 public:
  BraceWriter(const Arguments& arguments, Dict mapping, Meter& meter)
      : arguments_(arguments), mapping_(std::move(mapping)), meter_(meter) {}

  std::string Run(std::string_view format, int depth) {
    if (depth > 2) meter_.Error("format: fields are nested too deeply");
    std::string out;
    for (std::size_t i = 0; i < format.size(); ++i) {
      const char c = format[i];
      if ((c == '{' || c == '}') && i + 1 < format.size() && format[i + 1] == c) {
        out += c;
        ++i;
      } else if (c == '}') {
        meter_.Error("format: a single }}");
      } else if (c != '{') {
        out += c;
      } else {
        const std::size_t begin = ++i;
        for (int open = 1; open > 0; ++i) {
          if (i >= format.size()) meter_.Error("format: a {{ is never closed");
          if (format[i] == '{') ++open;
          if (format[i] == '}') --open;
        }
        --i;
        out += Field(format.substr(begin, i - begin), depth);
      }
      meter_.Grow(1, out.size());
    }
    return out;
  }

 private:
  std::string Field(std::string_view field, int depth) {
    std::size_t end = 0;  // of the name: brackets may hold anything
    for (bool in_brackets = false; end < field.size(); ++end) {
      if (field[end] == '[') in_brackets = true;
      if (field[end] == ']') in_brackets = false;
      if (!in_brackets && (field[end] == '!' || field[end] == ':')) break;
    }
    Value value = Lookup(field.substr(0, end));
    std::string_view rest = field.substr(end);
    if (rest.starts_with('!')) {
      const char how = rest.size() > 1 ? rest[1] : '\0';
      if (how == 'r' || how == 'a') {
        value = Value(how == 'a' ? Ascii(Repr(value, meter_)) : Repr(value, meter_));
      } else if (how == 's') {
        value = Value(ToText(value, meter_));
      } else {
        meter_.Error("format: \"{}\" is no conversion", rest.substr(0, 10));
      }
      rest.remove_prefix(2);
      if (!rest.empty() && rest[0] != ':') meter_.Error("format: text after a conversion");
    }
    return FormatValue(value, rest.empty() ? "" : Run(rest.substr(1), depth + 1), meter_);
  }

  static bool IsIndex(std::string_view text) {
    return !text.empty() && text.size() < 10 && text.find_first_not_of("0123456789") == text.npos;
  }

  Value Lookup(std::string_view name) {
    const std::size_t end = std::min(name.find_first_of(".["), name.size());
    std::string_view first = name.substr(0, end);
    std::string_view rest = name.substr(end);
    Value value;
    if (first.empty() || IsIndex(first)) {
      const bool automatic = first.empty();
      if (numbered_ != '\0' && (numbered_ == 'a') != automatic) {
        meter_.Error("format: numbered fields beside fields without a number");
      }
      numbered_ = automatic ? 'a' : 'n';
      const std::size_t index = automatic ? next_++ : std::stoul(std::string(first));
      if (index >= arguments_.positional.size()) {
        meter_.Error("format: there is no value {}", index);
      }
      value = arguments_.positional[index];
    } else {
      const Value* found = mapping_ != nullptr ? mapping_->Find(first) : nullptr;
      for (const auto& [key, given] : arguments_.named) {
        if (key == first) found = &given;
      }
      if (found == nullptr) meter_.Error("format: there is no value {}", first.substr(0, 100));
      value = *found;
    }
    while (!rest.empty()) {
      if (rest[0] == '.') {
        const std::size_t stop = std::min(rest.find_first_of(".[", 1), rest.size());
        value = GetAttribute(value, std::string(rest.substr(1, stop - 1)), meter_);
        rest.remove_prefix(stop);
      } else {
        const std::size_t close = rest.find(']');
        if (rest[0] != '[' || close == rest.npos) meter_.Error("format: a [ is never closed");
        const std::string key(rest.substr(1, close - 1));
        value = GetItem(
            value, IsIndex(key) ? Value(static_cast<std::int64_t>(std::stoll(key))) : Value(key),
            meter_);
        rest.remove_prefix(close + 1);
      }
    }
    return value;
  }

  const Arguments& arguments_;
  const Dict mapping_;
  Meter& meter_;
  std::size_t next_ = 0;
  char numbered_ = '\0';
};

}  // namespace

std::string PercentFormat(const std::string& format, const Value& values, Meter& meter) {
  meter.Text(format.size());
  return PercentWriter(format, values, meter).Run();
}

std::string BraceFormat(const std::string& format, const Arguments& arguments, const Dict& mapping,
                        Meter& meter) {
  meter.Text(format.size());
  const std::string out = BraceWriter(arguments, mapping, meter).Run(format, 1);
  meter.Text(out.size());
  return out;
}

}  // namespace opo::jinja
