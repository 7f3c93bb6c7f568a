// UTF-8 that may be malformed: characters one at a time, and the replacement of what is none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace opo {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

enum class Utf8Kind { kCharacter, kUnfinished, kInvalid };

struct Utf8Step {
  Utf8Kind kind = Utf8Kind::kInvalid;
  std::size_t size = 1;    // bytes taken: of the character, or of the maximal invalid part
  std::uint32_t code = 0;  // the code point, for kCharacter
};

// The character at `pos`; REQUIRES pos < text.size(). kUnfinished: the text ends within what could
// still become a character. Invalid parts are cut as Unicode recommends (and Python does): the
// longest start of a well-formed character, at least one byte.
Utf8Step NextUtf8(std::string_view text, std::size_t pos);

// Whether all of the text is well-formed.
bool IsUtf8(std::string_view text);

void AppendUtf8(std::uint32_t code, std::string& out);

// Text that comes from a model or a file, made fit for a terminal: control characters but line ends
// and tabs, characters that turn the direction of what follows, and bytes that are no UTF-8 become
// \x1b, \u202e and the like; a line of JSON stays the same JSON.
std::string Printable(std::string_view text);

}  // namespace opo
