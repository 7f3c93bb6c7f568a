// Python's view of characters: their classes, and how str changes case. Internal to the chat
// template.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace opo::jinja {

enum CharacterClass : unsigned {  // bits, as in character_table.inc
  kAlpha = 1,
  kDecimal = 2,
  kDigit = 4,
  kNumeric = 8,
  kPrintable = 16,
  kLower = 32,
  kUpper = 64,
  kTitle = 128,
  kCaseIgnorable = 256,
  kCased = kLower | kUpper | kTitle,
  kAlnum = kAlpha | kDecimal | kDigit | kNumeric,
};

unsigned ClassOf(std::uint32_t code);

// str.upper() and the like. Bytes that are not UTF-8 stay. Time: linear.
std::string ToUpper(std::string_view text);
std::string ToLower(std::string_view text);  // with the final sigma
std::string ToTitle(std::string_view text);  // str.title(): by runs of cased characters
std::string Capitalize(std::string_view text);
std::string SwapCase(std::string_view text);

bool IsPythonSpace(std::uint32_t code);
bool IsLineEnd(std::uint32_t code);  // of str.splitlines()

}  // namespace opo::jinja
