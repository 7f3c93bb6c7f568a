#include "base/utf8.h"

#include <fmt/format.h>

namespace opo {

Utf8Step NextUtf8(std::string_view text, std::size_t pos) {
  const auto lead = static_cast<unsigned char>(text[pos]);
  if (lead < 0x80) return {Utf8Kind::kCharacter, 1, lead};
  if (lead < 0xC2 || lead > 0xF4) return {Utf8Kind::kInvalid, 1, 0};
  const std::size_t size = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  std::uint32_t code = lead & (0xFFU >> (size + 1));
  // The second byte's range keeps out overlong forms, surrogates and what is above U+10FFFF.
  unsigned char low = 0x80;
  unsigned char high = 0xBF;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  for (std::size_t i = 1; i < size; ++i) {
    if (pos + i == text.size()) return {Utf8Kind::kUnfinished, i, 0};
    const auto byte = static_cast<unsigned char>(text[pos + i]);
    if (byte < low || byte > high) return {Utf8Kind::kInvalid, i, 0};
    code = code << 6 | (byte & 0x3FU);
    low = 0x80;
    high = 0xBF;
  }
  return {Utf8Kind::kCharacter, size, code};
}

bool IsUtf8(std::string_view text) {
  for (std::size_t pos = 0; pos < text.size();) {
    const Utf8Step step = NextUtf8(text, pos);
    if (step.kind != Utf8Kind::kCharacter) return false;
    pos += step.size;
  }
  return true;
}

void AppendUtf8(std::uint32_t code, std::string& out) {
  const auto put = [&out](std::uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6);
    put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12);
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | code >> 18);
    put(0x80 | (code >> 12 & 0x3F));
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  }
}

std::string Printable(std::string_view text) {
  std::string out;
  for (std::size_t pos = 0; pos < text.size();) {
    const Utf8Step step = NextUtf8(text, pos);
    const std::uint32_t code = step.code;
    if (step.kind != Utf8Kind::kCharacter) {
      for (std::size_t i = 0; i < step.size; ++i) {
        out += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[pos + i]));
      }
    } else if (code < 0x20 && code != '\n' && code != '\t') {
      out += fmt::format("\\x{:02x}", code);
    } else if ((code >= 0x7f && code < 0xa0) || code == 0x200e || code == 0x200f ||
               (code >= 0x202a && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069)) {
      out += fmt::format("\\u{:04x}", code);
    } else {
      out += text.substr(pos, step.size);
    }
    pos += step.size;
  }
  return out;
}

}  // namespace opo
