// One list for a struct of settings: each key stands once, with its help and range, and from that
// list come TOML loading, `--set key=value`, the commented print, checks and suggestions.
//
//   struct OptimConfig { double lr = 1e-5; std::string schedule = "constant"; };
//   void VisitFields(Fields& f, OptimConfig& c) {
//     f.Field("lr", c.lr, "peak learning rate", Range(0.0, 1.0));
//     f.Field("schedule", c.schedule, "shape after the warm-up", OneOf({"constant", "linear"}));
//   }
//   ...
//   OptimConfig config;                    // the defaults
//   Fields fields = FieldsOf(config);
//   fields.LoadToml(text, "run.toml");     // then
//   fields.Set("lr=1e-6");
//   std::string resolved = fields.Print();
//
// A Fields object points into the struct that it was made from: that must outlive it and stay put.
// Everything a user can get wrong throws Error(kUsage) naming the place, the key and the cure.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <set>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/types.h"

namespace opo {

// What values a key may have. Numbers: low <= x <= high. Strings: one of `choices`, if there are
// any. Numbers must also be finite; a seed is at most 2^63-1, TOML's largest integer.
struct FieldCheck {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool above_low = false;  // low itself is not allowed
  std::vector<std::string> choices;
};
inline FieldCheck Range(double low, double high) { return {low, high, false, {}}; }
inline FieldCheck AtLeast(double low) {
  return {low, std::numeric_limits<double>::infinity(), false, {}};
}
inline FieldCheck Above(double low) {
  return {low, std::numeric_limits<double>::infinity(), true, {}};
}
inline FieldCheck OneOf(std::vector<std::string> choices) {
  FieldCheck check;
  check.choices = std::move(choices);
  return check;
}

class Fields {
 public:
  using Value =
      std::variant<bool*, idx*, std::uint64_t*, double*, std::string*, std::vector<std::string>*>;

  // One key. `T` is one of the types of Value. The default in the struct must pass the check.
  template <class T>
  void Field(std::string name, T& value, std::string help, FieldCheck check = {}) {
    Entry entry;
    entry.name = std::move(name);
    entry.help = std::move(help);
    entry.value = &value;
    entry.check = std::move(check);
    entries_.push_back(std::move(entry));
  }

  // A sub-struct: `[name]`.
  template <class C>
  void Section(std::string name, C& config, std::string help) {
    Entry entry;
    entry.kind = Kind::kSection;
    entry.name = std::move(name);
    entry.help = std::move(help);
    entry.item = [&config](idx) {
      Fields inner;
      VisitFields(inner, config);
      return inner;
    };
    entries_.push_back(std::move(entry));
  }

  // A vector of sub-structs: `[[name]]`. A file that names it replaces the default entries;
  // `--set name.0.key=value` changes one, and may append one after the last. Where it may be empty,
  // that must be its default: no entries print as nothing.
  template <class C>
  void List(std::string name, std::vector<C>& list, std::string help, bool may_be_empty = false) {
    Entry entry;
    entry.kind = Kind::kList;
    entry.may_be_empty = may_be_empty;
    entry.name = std::move(name);
    entry.help = std::move(help);
    entry.size = [&list] { return static_cast<idx>(list.size()); };
    entry.resize = [&list](idx n) { list.resize(static_cast<std::size_t>(n)); };
    entry.item = [&list](idx i) {
      Fields inner;
      VisitFields(inner, list[static_cast<std::size_t>(i)]);
      return inner;
    };
    entries_.push_back(std::move(entry));
  }

  // Reads a TOML document over the present values. `where` names the file in messages, which have
  // the form "where:line: key 'a.b': ...".
  void LoadToml(std::string_view text, const std::string& where);
  // The same of a file; one that cannot be read is Error(kUsage) too.
  void LoadTomlFile(const std::string& path);

  // One override, "a.b=value". Strings stand as they are, without quotes; a list of strings is
  // written as in TOML: ["a", "b"].
  void Set(std::string_view assignment);

  // All keys as TOML, each with its help. LoadToml of that gives the same values back, to the bit.
  std::string Print() const;

  // The dotted keys of values that differ from those of `other`, an object of the same struct.
  // Lists are not looked into.
  std::vector<std::string> Changed(const Fields& other) const;

  // Every dotted key, lists as "name.0.key".
  std::vector<std::string> Keys() const;

  // Whether a document or an override has named this key so far, written like those of Keys().
  bool IsGiven(std::string_view key) const { return given_.contains(key); }

 private:
  friend class FieldsLoader;
  enum class Kind { kValue, kSection, kList };
  struct Entry {
    Kind kind = Kind::kValue;
    std::string name;
    std::string help;
    Value value;                      // kValue
    FieldCheck check;                 // kValue
    std::function<Fields(idx)> item;  // kSection (of 0) and kList: the inner fields
    std::function<idx()> size;        // kList
    std::function<void(idx)> resize;  // kList
    bool may_be_empty = false;        // kList
  };
  std::vector<Entry> entries_;
  std::set<std::string, std::less<>> given_;
};

// The fields of a struct; found through the overload of VisitFields for its type.
template <class C>
Fields FieldsOf(C& config) {
  Fields fields;
  VisitFields(fields, config);
  return fields;
}

// The known name with the fewest edits from `name`, "" if none is near enough to be meant.
std::string NearestName(std::string_view name, const std::vector<std::string>& known);

}  // namespace opo
