// JSON that comes from outside. The library's parser nests without end, and copies and prints of
// what it returns recurse: here the depth is bounded before anything is parsed. (Callbacks of that
// parser could count it, but it then takes quadratic time for a list of many objects.)
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"

namespace opo {

inline constexpr int kMaxJsonDepth = 64;

// Whether lists and objects of a JSON text lie deeper in one another than `limit`. Of a text that
// is not JSON it says so up to where the parser stops.
bool NestsDeeper(std::string_view text, int limit);

// Where a text has a zero byte, which the library takes for its end: nothing behind it would be
// read.
inline std::size_t FindZero(std::string_view text) { return text.find('\0'); }

// The first key that an object of the text holds twice, of which the library keeps the last.
std::optional<std::string> RepeatedKey(std::string_view text);

// `where` begins messages, and the byte of an error is counted in `unit` ("line", "file"). Throws
// Error(kInput).
template <class Json>
Json ParseJson(std::string_view text, const std::string& where, const char* unit) {
  if (NestsDeeper(text, kMaxJsonDepth)) {
    Fail(ErrorCode::kInput, "{}: nested deeper than {} levels", where, kMaxJsonDepth);
  }
  if (const std::size_t zero = FindZero(text); zero != text.npos) {
    Fail(ErrorCode::kInput, "{}: not valid JSON at byte {} of the {}", where, zero + 1, unit);
  }
  try {
    return Json::parse(text);
  } catch (const typename Json::parse_error& error) {
    Fail(ErrorCode::kInput, "{}: not valid JSON at byte {} of the {}", where, error.byte, unit);
  } catch (const typename Json::exception&) {
    Fail(ErrorCode::kInput, "{}: a number is out of range", where);
  }
}

// Nothing, and what is wrong in `fault`, where that would throw.
template <class Json>
std::optional<Json> TryParseJson(std::string_view text, std::string& fault,
                                 int max_depth = kMaxJsonDepth) {
  if (NestsDeeper(text, max_depth)) {
    fault = "nested too deep";
    return std::nullopt;
  }
  fault = "not JSON";
  if (FindZero(text) != text.npos) return std::nullopt;
  try {
    return Json::parse(text);
  } catch (const typename Json::parse_error&) {
    return std::nullopt;
  } catch (const typename Json::exception&) {
    fault = "a number that is out of range";
  }
  return std::nullopt;
}

// Whether it is an integer that Int holds. The library converts any number to any type, and what
// does not fit to anything.
template <class Int, class Json>
bool HoldsInteger(const Json& value) {
  if (value.is_number_unsigned()) return std::in_range<Int>(value.template get<std::uint64_t>());
  return value.is_number_integer() && std::in_range<Int>(value.template get<std::int64_t>());
}
// `where` names file and field. Throws Error(kInput).
template <class Int, class Json>
Int IntegerOf(const Json& value, const std::string& where) {
  if (!HoldsInteger<Int>(value)) {
    Fail(ErrorCode::kInput, "{}: is no integer, or out of range", where);
  }
  return value.template get<Int>();
}
// Of an object's entry, if it has it.
template <class Int, class Json>
Int IntegerOr(const Json& object, const char* key, Int otherwise, const std::string& where) {
  const auto found = object.find(key);
  return found == object.end() ? otherwise : IntegerOf<Int>(*found, where + ": " + key);
}

}  // namespace opo
