// The values of the template language, with Python's meaning of text, equality and truth.
// Internal to the chat template, like the other jinja_* files.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
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
struct Namespace;
struct LoopState;
struct Macro;

struct Undefined {
  std::shared_ptr<const std::string> what;  // "'x' is undefined"
};
struct None {};
enum class Builtin { kRaiseException, kNamespace, kRange, kStrftimeNow, kDict };

using Text = std::shared_ptr<const std::string>;
using List = std::shared_ptr<const ListData>;
using Dict = std::shared_ptr<const DictData>;

// Lists and dicts never change once made, so copies share them; only a namespace changes.
class Value {
 public:
  using Variant = std::variant<Undefined, None, bool, std::int64_t, double, Text, List, Dict,
                               std::shared_ptr<Namespace>, std::shared_ptr<LoopState>,
                               std::shared_ptr<const Macro>, Builtin>;
  Value() = default;  // undefined
  template <class T>
  Value(T value) : v_(std::move(value)) {  // NOLINT(google-explicit-constructor)
    static_assert(!std::is_convertible_v<T, const char*>, "would be a bool: make a std::string");
  }
  Value(std::string text)  // NOLINT(google-explicit-constructor)
      : v_(std::make_shared<const std::string>(std::move(text))) {}
  static Value MakeUndefined(std::string what) {
    return Value(Undefined{std::make_shared<const std::string>(std::move(what))});
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
  const std::string& text() const { return *As<Text>(); }
  std::int64_t integer() const { return Is<bool>() ? As<bool>() : As<std::int64_t>(); }
  double number() const { return Is<double>() ? As<double>() : static_cast<double>(integer()); }
  const Variant& variant() const { return v_; }

 private:
  Variant v_;
};

struct ListData {
  std::vector<Value> items;
  bool tuple = false;
  int depth = 1;
};

struct DictData {
  std::vector<std::pair<std::string, Value>> items;
  int depth = 1;
  const Value* Find(std::string_view key) const;
};

struct Namespace {
  std::unordered_map<std::string, Value> attributes;
};

struct LoopState {
  List items;
  std::size_t index0 = 0;
  int depth0 = 0;
};

// Fails where values are nested too deeply.
Value MakeList(std::vector<Value> items, Meter& meter, bool tuple = false);
Value MakeDict(std::vector<std::pair<std::string, Value>> items, Meter& meter);
Value FromJson(const nlohmann::ordered_json& json, Meter& meter);

const char* TypeName(const Value& value);  // Python's
bool Truth(const Value& value);
bool Equal(const Value& a, const Value& b, Meter& meter);
// Below, at or above 0; fails for values that Python does not order.
int Compare(const Value& a, const Value& b, Meter& meter);

std::string ToText(const Value& value, Meter& meter);  // Python's str()

struct JsonStyle {
  int indent = -1;  // -1: on one line
  bool sort_keys = false;
  bool ascii = false;
};
std::string ToJson(const Value& value, const JsonStyle& style, Meter& meter);  // json.dumps

// Characters of a text; a malformed byte counts as one.
std::vector<std::string_view> Characters(std::string_view text, Meter& meter);
bool IsPythonSpace(std::string_view character);

}  // namespace opo::jinja
