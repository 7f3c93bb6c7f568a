// The values of the template language, with Python's meaning of text, equality and truth.
// Internal to the chat template, like the other jinja_* files.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "base/error.h"

namespace opo::jinja {

inline constexpr std::int64_t kMaxSteps = 20'000'000;   // of one rendering
inline constexpr std::size_t kMaxTextBytes = 16 << 20;  // of any text, the result too
inline constexpr int kMaxValueDepth = 100;              // lists in lists
inline constexpr int kMaxRange = 100'000;               // range(), as Jinja has it

// Where we are and what may still be spent. Everything that loops or makes text pays from here.
class Meter {
 public:
  explicit Meter(std::string template_name) : name_(std::move(template_name)) {}
  void set_line(int line) { line_ = line; }
  void Step(std::int64_t steps = 1) {
    steps_left_ -= steps;
    if (steps_left_ < 0) Error("takes more than {} steps; shorten the conversation", kMaxSteps);
  }
  // For `bytes` of text made or read.
  void Text(std::size_t bytes) {
    if (bytes > kMaxTextBytes) Error("makes a text of more than {} bytes", kMaxTextBytes);
    Step(1 + static_cast<std::int64_t>(bytes / 16));
  }
  // For `bytes` appended to a text that has grown to `total` bytes.
  void Grow(std::size_t bytes, std::size_t total) { Text(total > kMaxTextBytes ? total : bytes); }
  template <class... Args>
  [[noreturn]] void Error(fmt::format_string<Args...> format, Args&&... args) const {
    Fail(ErrorCode::kInput, "{}: line {}: {}", name_, line_,
         fmt::format(format, std::forward<Args>(args)...));
  }

 private:
  std::string name_;
  int line_ = 1;
  std::int64_t steps_left_ = kMaxSteps;
};

struct ListData;
struct DictData;
struct Iterator;
struct Method;
struct Namespace;
struct Cycler;
struct Joiner;
struct LoopState;
struct Macro;

struct Undefined {
  std::shared_ptr<const std::string> what;  // "'x' is undefined"
};
struct None {};
enum class Builtin { kRaiseException, kNamespace, kRange, kStrftimeNow, kDict, kCycler, kJoiner };

struct Text {
  std::shared_ptr<const std::string> chars;
  bool safe = false;  // markup: `+` escapes what it is joined with
};
using List = std::shared_ptr<const ListData>;
using Dict = std::shared_ptr<const DictData>;

// Lists and dicts never change once made (the sandbox of transformers sees to that too), so copies
// share them. Namespaces, cyclers, joiners and iterators change.
class Value {
 public:
  using Variant =
      std::variant<Undefined, None, bool, std::int64_t, double, Text, List, Dict,
                   std::shared_ptr<Iterator>, std::shared_ptr<const Method>,
                   std::shared_ptr<Namespace>, std::shared_ptr<Cycler>, std::shared_ptr<Joiner>,
                   std::shared_ptr<LoopState>, std::shared_ptr<const Macro>, Builtin>;
  Value() = default;  // undefined
  template <class T>
  Value(T value) : v_(std::move(value)) {  // NOLINT(google-explicit-constructor)
    static_assert(!std::is_convertible_v<T, const char*>, "would be a bool: make a std::string");
  }
  Value(std::string text)  // NOLINT(google-explicit-constructor)
      : v_(Text{std::make_shared<const std::string>(std::move(text))}) {}
  static Value MakeUndefined(std::string what) {
    return Value(Undefined{std::make_shared<const std::string>(std::move(what))});
  }
  static Value MakeSafe(std::string text) {
    return Value(Text{std::make_shared<const std::string>(std::move(text)), true});
  }

  template <class T>
  bool Is() const {
    return std::holds_alternative<T>(v_);
  }
  template <class T>
  const T& As() const {  // REQUIRES Is<T>()
    return std::get<T>(v_);
  }
  bool IsNumber() const { return Is<bool>() || Is<std::int64_t>() || Is<double>(); }
  bool IsInteger() const { return Is<bool>() || Is<std::int64_t>(); }  // as in Python, bools too
  bool IsText() const { return Is<Text>(); }
  bool IsSafe() const { return IsText() && As<Text>().safe; }
  bool IsMissing() const { return Is<Undefined>() || Is<None>(); }
  const std::string& text() const { return *As<Text>().chars; }
  std::int64_t integer() const { return Is<bool>() ? As<bool>() : As<std::int64_t>(); }
  double number() const { return Is<double>() ? As<double>() : static_cast<double>(integer()); }
  const Variant& variant() const { return v_; }

 private:
  Variant v_;
};

// The views of a dict and groupby's pairs are lists too, each with what Python lets them do.
enum class ListKind { kList, kTuple, kGroup, kRange, kKeys, kValues, kItems };

struct ListData {
  std::vector<Value> items;
  ListKind kind = ListKind::kList;
  int depth = 1;
  std::int64_t start = 0, stop = 0, step = 1;  // as a range was asked for
  bool IsTuple() const { return kind == ListKind::kTuple || kind == ListKind::kGroup; }
  bool IsView() const { return kind >= ListKind::kKeys; }
};

struct DictData {
  std::vector<std::pair<Value, Value>> items;
  std::unordered_map<std::string, std::size_t> by_text;  // the keys that are texts
  int depth = 1;
  const Value* Find(std::string_view key) const;
};

// What a generator or iterator of Python's has left; it gives each element once.
struct Iterator {
  std::vector<Value> items;
  std::size_t next = 0;
  int depth = 1;
};

struct Method {  // object.name, not called yet
  Value object;
  std::string name;
};

struct Namespace {
  std::vector<std::pair<std::string, Value>> attributes;  // in order of their first setting
  Value* Find(std::string_view name);
};

struct Cycler {
  std::vector<Value> items;
  int depth = 1;
  std::size_t position = 0;
};

struct Joiner {
  Value separator;
  bool used = false;
};

struct Stmt;
struct Scope;

struct LoopState {
  List items;
  std::size_t index0 = 0;
  int depth0 = 0;
  std::optional<std::vector<Value>> changed;  // what changed() saw last
  const Stmt* recursive = nullptr;            // the loop, where it may be called
  std::weak_ptr<Scope> scope;                 // around it
};

struct Macro {
  const Stmt* stmt = nullptr;
  std::weak_ptr<Scope> scope;  // weak: the scope holds the macro
};

// Fails where values are nested too deeply.
Value MakeList(std::vector<Value> items, Meter& meter, ListKind kind = ListKind::kList);
Value MakeRange(std::int64_t start, std::int64_t stop, std::int64_t step, Meter& meter);
Value MakeIterator(std::vector<Value> items, Meter& meter);
// A later key takes the place of an equal earlier one. Fails on keys that Python cannot hash.
Value MakeDict(std::vector<std::pair<Value, Value>> items, Meter& meter);
Value FromJson(const nlohmann::ordered_json& json, Meter& meter);

// nullptr where there is none. Fails on keys that Python cannot hash.
const Value* FindKey(const DictData& dict, const Value& key, Meter& meter);

const char* TypeName(const Value& value);  // Python's
bool Truth(const Value& value);
bool Equal(const Value& a, const Value& b, Meter& meter);
// Below, at or above 0; fails for values that Python does not order.
int Compare(const Value& a, const Value& b, Meter& meter);

std::string ToText(const Value& value, Meter& meter);  // Python's str()
std::string Repr(const Value& value, Meter& meter);    // Python's repr()

struct JsonStyle {
  std::optional<std::string> indent;  // absent: on one line
  std::string item_separator = ", ", key_separator = ": ";
  bool sort_keys = false;
  bool ascii = false;
};
std::string ToJson(const Value& value, const JsonStyle& style, Meter& meter);  // json.dumps

// Characters of a text; a malformed byte counts as one.
std::vector<std::string_view> Characters(std::string_view text, Meter& meter);
std::int64_t CountCharacters(std::string_view text, Meter& meter);
bool IsSpace(std::string_view character);  // Python's str.isspace()

}  // namespace opo::jinja
