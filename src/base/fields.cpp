#include "base/fields.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <toml++/toml.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <sstream>
#include <utility>

#include "base/error.h"
#include "base/file.h"

namespace opo {
namespace {

idx EditDistance(std::string_view a, std::string_view b) {
  std::vector<idx> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = static_cast<idx>(j);
  for (std::size_t i = 1; i <= a.size(); ++i) {
    idx diagonal = row[0];
    row[0] = static_cast<idx>(i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const idx substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row[b.size()];
}

std::string Leaf(const std::string& key) { return key.substr(key.rfind('.') + 1); }

std::string Join(const std::string& prefix, std::string_view name) {
  return prefix.empty() ? std::string(name) : fmt::format("{}.{}", prefix, name);
}

// TOML's basic string: quotes, backslashes and control characters escaped.
std::string Quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\u{:04X}", byte);
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string ChoicesText(const std::vector<std::string>& choices) {
  std::string text;
  for (const std::string& choice : choices) {
    text += (text.empty() ? "" : ", ") + (choice.empty() ? "\"\"" : choice);
  }
  return text;
}

// The shortest decimal that reads back as the same double, always with a point or an exponent.
std::string Number(double value) {
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

std::string RangeText(const FieldCheck& check) {
  const bool low = std::isfinite(check.low);
  const bool high = std::isfinite(check.high);
  if (low && high) {
    return check.above_low ? fmt::format("above {}, at most {}", check.low, check.high)
                           : fmt::format("from {} to {}", check.low, check.high);
  }
  if (low) return fmt::format("{} {}", check.above_low ? "above" : "at least", check.low);
  if (high) return fmt::format("at most {}", check.high);
  return "";
}

const char* TypeName(const Fields::Value& value) {
  constexpr const char* kNames[] = {
      "true or false", "a whole number",  "a whole number that is not negative",
      "a number",      "a quoted string", "a list of strings, like [\"a\", \"b\"]"};
  return kNames[value.index()];
}

// A parsed value of any of the types a key can have. Whole numbers stay apart from others.
using Parsed = std::variant<bool, std::int64_t, double, std::string, std::vector<std::string>>;

// `place` is the beginning of messages: "file:line: key 'a.b'".
template <class T>
T Checked(T value, const FieldCheck& check, const std::string& place) {
  const auto x = static_cast<double>(value);
  if (!std::isfinite(x) || x < check.low || x > check.high || (check.above_low && x <= check.low)) {
    const std::string range = RangeText(check);
    Fail(ErrorCode::kUsage, "{}: must be {}, but is {}", place, range.empty() ? "finite" : range,
         value);
  }
  return value;
}

void Assign(const Fields::Value& target, const Parsed& parsed, const FieldCheck& check,
            const std::string& place) {
  const auto* whole = std::get_if<std::int64_t>(&parsed);
  if (auto* const* p = std::get_if<bool*>(&target)) {
    if (const auto* b = std::get_if<bool>(&parsed)) return void(**p = *b);
  } else if (auto* const* i = std::get_if<idx*>(&target)) {
    if (whole) return void(**i = Checked<idx>(*whole, check, place));
  } else if (auto* const* u = std::get_if<std::uint64_t*>(&target)) {
    if (whole && *whole >= 0) {
      return void(**u = Checked(static_cast<std::uint64_t>(*whole), check, place));
    }
  } else if (auto* const* d = std::get_if<double*>(&target)) {
    const auto* real = std::get_if<double>(&parsed);
    if (whole) return void(**d = Checked(static_cast<double>(*whole), check, place));
    if (real) return void(**d = Checked(*real, check, place));
  } else if (auto* const* s = std::get_if<std::string*>(&target)) {
    if (const auto* text = std::get_if<std::string>(&parsed)) {
      const auto& choices = check.choices;
      if (!choices.empty() && std::find(choices.begin(), choices.end(), *text) == choices.end()) {
        const std::string near = NearestName(*text, choices);
        Fail(ErrorCode::kUsage, "{}: unknown value '{}'; {}choose one of: {}", place, *text,
             near.empty() ? "" : fmt::format("did you mean '{}'? ", near), ChoicesText(choices));
      }
      return void(**s = *text);
    }
  } else if (const auto* list = std::get_if<std::vector<std::string>>(&parsed)) {
    return void(*std::get<std::vector<std::string>*>(target) = *list);
  }
  Fail(ErrorCode::kUsage, "{}: expected {}", place, TypeName(target));
}

// False where the node is of no type that a key can have.
bool FromNode(const toml::node& node, Parsed& out) {
  if (const auto* b = node.as_boolean()) return out = b->get(), true;
  if (const auto* i = node.as_integer()) return out = i->get(), true;
  if (const auto* f = node.as_floating_point()) return out = f->get(), true;
  if (const auto* s = node.as_string()) return out = s->get(), true;
  const auto* array = node.as_array();
  if (!array) return false;
  std::vector<std::string> list;
  for (const toml::node& element : *array) {
    const auto* s = element.as_string();
    if (!s) return false;
    list.push_back(s->get());
  }
  return out = std::move(list), true;
}

toml::table ParseToml(std::string_view text, const std::string& where) {
  try {
    return toml::parse(text, std::string_view(where));
  } catch (const toml::parse_error& error) {
    Fail(ErrorCode::kUsage, "{}:{}: not valid TOML: {}", where, error.source().begin.line,
         error.description());
  }
}

// The value of `--set key=text`, read as the key's type demands.
Parsed FromText(const Fields::Value& target, const std::string& text, const std::string& place) {
  const char* begin = text.data();
  const char* end = begin + text.size();
  if (std::holds_alternative<std::string*>(target)) return text;
  if (std::holds_alternative<bool*>(target)) {
    if (text == "true" || text == "false") return text == "true";
  } else if (std::holds_alternative<std::vector<std::string>*>(target)) {
    const toml::table table = ParseToml("value = " + text, place);
    Parsed parsed;
    if (table.size() == 1 && FromNode(*table.get("value"), parsed)) return parsed;
  } else {
    std::int64_t whole = 0;
    const auto as_whole = std::from_chars(begin, end, whole);
    if (as_whole.ec == std::errc() && as_whole.ptr == end) return whole;
    double real = 0;
    const auto as_real = std::from_chars(begin, end, real);
    if (as_real.ec == std::errc() && as_real.ptr == end) return real;
  }
  Fail(ErrorCode::kUsage, "{}: expected {}, but is '{}'", place, TypeName(target), text);
}

}  // namespace

std::string NearestName(std::string_view name, const std::vector<std::string>& known) {
  std::string best;
  idx best_distance = std::max<idx>(2, static_cast<idx>(name.size()) / 3) + 1;
  for (const std::string& candidate : known) {
    const idx distance = EditDistance(name, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

// Walks a TOML table and the fields side by side; keeps the whole list of keys for suggestions, and
// notes those that are named.
class FieldsLoader {
 public:
  using Given = std::set<std::string, std::less<>>;
  FieldsLoader(std::vector<std::string> keys, std::string where, Given& given)
      : keys_(std::move(keys)), where_(std::move(where)), given_(given) {}

  void Load(const Fields& fields, const toml::table& table, const std::string& prefix) const {
    for (const auto& [toml_key, node] : table) {
      const std::string key = Join(prefix, toml_key.str());
      const std::string place = fmt::format("{}:{}: key '{}'", where_, Line(toml_key), key);
      LoadEntry(Find(fields, std::string(toml_key.str()), key, place), node, key, place);
    }
  }

  // The entry of the last name of `key`. Fails with a suggestion: the same last name in other
  // sections (a key under the wrong heading), else the key with the fewest edits.
  const Fields::Entry& Find(const Fields& fields, const std::string& name, const std::string& key,
                            const std::string& place) const {
    for (const Fields::Entry& entry : fields.entries_) {
      if (entry.name == name) return entry;
    }
    std::string near;
    for (const std::string& known : keys_) {
      if (Leaf(known) == name) near += (near.empty() ? "" : "' or '") + known;
    }
    if (near.empty()) near = NearestName(key, keys_);
    if (near.empty()) {
      std::vector<std::string> here;
      for (const Fields::Entry& entry : fields.entries_) here.push_back(entry.name);
      if (std::string inner = NearestName(name, here); !inner.empty()) {
        near = key.substr(0, key.size() - name.size()) + inner;
      } else {
        Fail(ErrorCode::kUsage, "{}: unknown; known here are: {}", place, fmt::join(here, ", "));
      }
    }
    Fail(ErrorCode::kUsage, "{}: unknown; did you mean '{}'?", place, near);
  }

  // One "a.b" name after the other down to a value; a list takes an index.
  void Set(const Fields& fields, const std::string& key, const std::string& rest,
           const std::string& text) const {
    const std::string place = fmt::format("{}: key '{}'", where_, key);
    const std::size_t dot = rest.find('.');
    const Fields::Entry& entry = Find(fields, rest.substr(0, dot), key, place);
    if (entry.kind == Fields::Kind::kValue) {
      if (dot != std::string::npos) {
        Fail(ErrorCode::kUsage, "{}: '{}' is a value, not a section", place, entry.name);
      }
      return Give(entry, FromText(entry.value, text, place), key, place);
    }
    if (dot == std::string::npos) {
      Fail(ErrorCode::kUsage, "{}: is a section; set a key of it, like '{}{}.{}'", place, key,
           entry.kind == Fields::Kind::kList ? ".0" : "", FirstKey(entry));
    }
    std::string inner = rest.substr(dot + 1);
    idx item = 0;
    if (entry.kind == Fields::Kind::kList) {
      const std::size_t next = inner.find('.');
      const std::string number = inner.substr(0, next);
      const auto read = std::from_chars(number.data(), number.data() + number.size(), item);
      if (read.ec != std::errc() || read.ptr != number.data() + number.size() || item < 0 ||
          item > entry.size() || next == std::string::npos) {
        Fail(ErrorCode::kUsage, "{}: write '{}.N.key' with N from 0 to {}", place, entry.name,
             entry.size());
      }
      if (item == entry.size()) entry.resize(item + 1);
      inner = inner.substr(next + 1);
    }
    Set(entry.item(item), key, inner, text);
  }

  static std::string Print(const Fields& fields, const std::string& prefix) {
    std::string out;
    for (const Fields::Entry& entry : fields.entries_) {
      if (entry.kind == Fields::Kind::kValue) out += PrintValue(entry);
    }
    for (const Fields::Entry& entry : fields.entries_) {
      if (entry.kind == Fields::Kind::kValue) continue;
      const std::string key = Join(prefix, entry.name);
      const bool list = entry.kind == Fields::Kind::kList;
      const idx count = list ? entry.size() : 1;
      // An empty list must be said, or the default would come back.
      if (list && count == 0 && !entry.may_be_empty) {
        Fail(ErrorCode::kUsage, "key '{}': needs at least one entry", key);
      }
      for (idx i = 0; i < count; ++i) {
        out += fmt::format("{}# {}\n{}{}{}\n", out.empty() ? "" : "\n", entry.help,
                           list ? "[[" : "[", key, list ? "]]" : "]");
        out += Print(entry.item(i), key);
      }
    }
    return out;
  }

  static void Keys(const Fields& fields, const std::string& prefix, std::vector<std::string>& out) {
    for (const Fields::Entry& entry : fields.entries_) {
      const std::string key = Join(prefix, entry.name);
      if (entry.kind == Fields::Kind::kValue) {
        out.push_back(key);
      } else if (entry.kind == Fields::Kind::kSection) {
        Keys(entry.item(0), key, out);
      } else {
        for (idx i = 0; i < entry.size(); ++i)
          Keys(entry.item(i), Join(key, fmt::to_string(i)), out);
      }
    }
  }

 private:
  static toml::source_index Line(const toml::key& key) { return key.source().begin.line; }

  static std::string FirstKey(const Fields::Entry& entry) {
    if (entry.kind == Fields::Kind::kList && entry.size() == 0) return "key";
    return entry.item(0).entries_.front().name;
  }

  void Give(const Fields::Entry& entry, const Parsed& value, const std::string& key,
            const std::string& place) const {
    Assign(entry.value, value, entry.check, place);
    given_.insert(key);
  }

  void LoadEntry(const Fields::Entry& entry, const toml::node& node, const std::string& key,
                 const std::string& place) const {
    if (entry.kind == Fields::Kind::kValue) {
      Parsed parsed;
      if (!FromNode(node, parsed)) {
        Fail(ErrorCode::kUsage, "{}: expected {}", place, TypeName(entry.value));
      }
      return Give(entry, parsed, key, place);
    }
    if (entry.kind == Fields::Kind::kSection) {
      const auto* table = node.as_table();
      if (!table) Fail(ErrorCode::kUsage, "{}: is a section, write [{}]", place, key);
      return Load(entry.item(0), *table, key);
    }
    const auto* array = node.as_array();
    if (!array || array->empty() || !array->is_homogeneous(toml::node_type::table)) {
      Fail(ErrorCode::kUsage, "{}: is a list of sections, write [[{}]]", place, key);
    }
    entry.resize(0);  // the file's entries start from the struct's defaults, not from ours
    entry.resize(static_cast<idx>(array->size()));
    for (std::size_t i = 0; i < array->size(); ++i) {
      Load(entry.item(static_cast<idx>(i)), *(*array)[i].as_table(), Join(key, fmt::to_string(i)));
    }
  }

  static std::string PrintValue(const Fields::Entry& entry) {
    std::string text;
    if (auto* const* b = std::get_if<bool*>(&entry.value)) text = **b ? "true" : "false";
    if (auto* const* i = std::get_if<idx*>(&entry.value)) text = fmt::to_string(**i);
    if (auto* const* u = std::get_if<std::uint64_t*>(&entry.value)) text = fmt::to_string(**u);
    if (auto* const* d = std::get_if<double*>(&entry.value)) text = Number(**d);
    if (auto* const* s = std::get_if<std::string*>(&entry.value)) text = Quoted(**s);
    if (auto* const* list = std::get_if<std::vector<std::string>*>(&entry.value)) {
      std::vector<std::string> quoted;
      for (const std::string& s : **list) quoted.push_back(Quoted(s));
      text = fmt::format("[{}]", fmt::join(quoted, ", "));
    }
    std::string comment = entry.help;
    const std::string range = RangeText(entry.check);
    if (!entry.check.choices.empty()) {
      comment += fmt::format("; one of: {}", ChoicesText(entry.check.choices));
    } else if (!range.empty()) {
      comment += fmt::format(" ({})", range);
    }
    return fmt::format("# {}\n{} = {}\n", comment, entry.name, text);
  }

  std::vector<std::string> keys_;
  std::string where_;
  Given& given_;
};

void Fields::LoadToml(std::string_view text, const std::string& where) {
  const toml::table table = ParseToml(text, where);
  FieldsLoader(Keys(), where, given_).Load(*this, table, "");
}

void Fields::LoadTomlFile(const std::string& path) {
  std::string text;
  try {
    text = ReadFile(path);
  } catch (const Error& error) {
    Fail(ErrorCode::kUsage, "config {}", error.what());
  }
  LoadToml(text, path);
}

void Fields::Set(std::string_view assignment) {
  const std::size_t equals = assignment.find('=');
  if (equals == std::string_view::npos || equals == 0) {
    Fail(ErrorCode::kUsage, "--set {}: write --set key=value", assignment);
  }
  const std::string key(assignment.substr(0, equals));
  FieldsLoader(Keys(), "--set", given_)
      .Set(*this, key, key, std::string(assignment.substr(equals + 1)));
}

std::string Fields::Print() const { return FieldsLoader::Print(*this, ""); }

std::vector<std::string> Fields::Changed(const Fields& other) const {
  OPO_CHECK(entries_.size() == other.entries_.size());
  std::vector<std::string> keys;
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    const Entry& a = entries_[i];
    const Entry& b = other.entries_[i];
    if (a.kind == Kind::kSection) {
      for (const std::string& key : a.item(0).Changed(b.item(0))) keys.push_back(Join(a.name, key));
    } else if (a.kind == Kind::kValue) {
      const bool same = std::visit(
          [&](auto* value) { return *value == *std::get<decltype(value)>(b.value); }, a.value);
      if (!same) keys.push_back(a.name);
    }
  }
  return keys;
}

std::vector<std::string> Fields::Keys() const {
  std::vector<std::string> keys;
  FieldsLoader::Keys(*this, "", keys);
  return keys;
}

}  // namespace opo
