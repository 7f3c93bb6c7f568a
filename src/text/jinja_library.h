// What templates can call and do: filters, tests, the methods of Python's str, dict and list, and
// the operators.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja_value.h"

namespace opo::jinja {

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;

  std::size_t size() const { return positional.size() + named.size(); }
  // The values for `names` in order, undefined where not given. Fails on any other argument.
  std::vector<Value> Bind(std::string_view callee, std::initializer_list<const char*> names,
                          Meter& meter) const;
};

// --- jinja_filters.cpp, jinja_tests.cpp ---

bool IsFilter(std::string_view name);
bool IsTest(std::string_view name);
std::string UnknownFilter(std::string_view name);  // what to say of a name that is none
std::string UnknownTest(std::string_view name);
bool IsFilterOfJinja(std::string_view name);  // also those that we refuse

// Fail for a name that is none.
Value ApplyFilter(std::string_view name, const Value& value, const Arguments& arguments,
                  Meter& meter);
bool ApplyTest(std::string_view name, const Value& value, const Arguments& arguments, Meter& meter);

using Filter = Value (*)(const Value& value, const Arguments& arguments, Meter& meter);
using FilterTable = std::unordered_map<std::string_view, Filter>;
void AddTextFilters(FilterTable& filters);  // jinja_text_filters.cpp

// --- jinja_methods.cpp ---

// Whether `object.name` is a method of Python's that the sandbox lets a template have.
bool HasMethod(const Value& object, std::string_view name);
// Whether it is one that the sandbox denies, since it would change the object.
bool IsDenied(const Value& object, std::string_view name);
Value CallMethod(const Value& object, std::string_view name, const Arguments& arguments,
                 Meter& meter);

// --- jinja_builtins.cpp ---

// Namespaces that are made are added to `namespaces`: they may come to hold each other in a ring.
Value CallBuiltin(Builtin builtin, const Arguments& given,
                  std::vector<std::shared_ptr<Namespace>>& namespaces, Meter& meter);
void SetAttribute(Namespace& names, const std::string& name, const Value& value, Meter& meter);

// --- jinja_format.cpp ---

// `values`: what stands right of the % of Python.
std::string PercentFormat(const std::string& format, const Value& values, Meter& meter);
// format.format(*positional, **named); `mapping`: of format_map, else null.
std::string BraceFormat(const std::string& format, const Arguments& arguments, const Dict& mapping,
                        Meter& meter);

// --- jinja_operators.cpp ---

// Fails for an undefined value, with what is undefined.
void NeedDefined(const Value& value, Meter& meter);
const std::string& NeedText(const Value& value, std::string_view callee, Meter& meter);
std::int64_t NeedInteger(const Value& value, std::string_view callee, Meter& meter);

// object.name and object[key]; undefined where there is none, an error for an undefined object.
Value GetAttribute(const Value& object, const std::string& name, Meter& meter);
Value GetItem(const Value& object, const Value& key, Meter& meter);
// bounds: start, stop, step, each an integer or none.
Value Slice(const Value& object, const Value (&bounds)[3], Meter& meter);

// What a loop over the value sees; an iterator has none left afterwards. Fails where it has no
// elements.
std::vector<Value> Elements(const Value& value, Meter& meter);
std::vector<Value> DictItems(const DictData& dict, Meter& meter);  // (key, value) each
bool Contains(const Value& container, const Value& item, Meter& meter);
Value Arithmetic(std::string_view op, const Value& a, const Value& b, Meter& meter);

std::string HtmlEscape(std::string_view text, Meter& meter);
// The string filter: undefined counts as empty, other values as what they print.
inline std::string Soft(const Value& value, Meter& meter) { return ToText(value, meter); }
std::string Strip(std::string_view text, const Value& set, bool left, bool right, Meter& meter);
std::string Replace(const std::string& text, const std::string& from, const std::string& to,
                    std::int64_t count, Meter& meter);
std::string Join(const std::vector<Value>& items, const std::string& separator, bool soft,
                 Meter& meter);
std::vector<std::string> SplitLines(std::string_view text, bool keep_ends, Meter& meter);
// `text` in a field of `width` characters; align: '<', '>', '^' (str.center's) or '=' (format's ^).
std::string Pad(const std::string& text, std::int64_t width, std::string_view fill, char align,
                Meter& meter);
// float(text) and int(text, base) of Python; absent where it raises ValueError.
std::optional<double> ParseFloat(std::string_view text, Meter& meter);
std::optional<std::int64_t> ParseInteger(std::string_view text, std::int64_t base, Meter& meter);

// Pays for a search of `needle` in `text`, which may compare every pair of bytes.
inline void PaySearch(std::string_view text, std::string_view needle, Meter& meter) {
  meter.Step(1 + static_cast<std::int64_t>(text.size() / 64) +
             static_cast<std::int64_t>(text.size() / 1024 * needle.size()));
}

}  // namespace opo::jinja
