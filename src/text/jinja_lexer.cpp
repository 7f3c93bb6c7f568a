#include "text/jinja_lexer.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "base/utf8.h"
#include "text/python_text.h"

namespace opo::jinja {
namespace {

constexpr std::size_t kMaxSourceBytes = 4 << 20;

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsNameStart(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

// The size of the white space character at `pos`, 0 where there is none.
std::size_t SpaceAt(std::string_view text, std::size_t pos) {
  if (pos >= text.size()) return 0;
  const Utf8Step step = NextUtf8(text, pos);
  return step.kind == Utf8Kind::kCharacter && IsPythonSpace(step.code) ? step.size : 0;
}

std::size_t SkipSpaceFrom(std::string_view text, std::size_t pos) {
  while (const std::size_t size = SpaceAt(text, pos)) pos += size;
  return pos;
}

// Where the white space at the end of `text` begins.
std::size_t TrimmedSize(std::string_view text) {
  std::size_t size = text.size();
  while (size > 0) {
    std::size_t at = size - 1;
    while (at > 0 && size - at < 4 && (text[at] & 0xC0) == 0x80) --at;
    if (SpaceAt(text, at) != size - at) break;
    size = at;
  }
  return size;
}

// The size of a character that may be part of a name, 0 for others.
std::size_t NamePartAt(std::string_view text, std::size_t pos) {
  if (pos >= text.size()) return 0;
  if (static_cast<unsigned char>(text[pos]) < 0x80) {
    return IsNameStart(text[pos]) || IsDigit(text[pos]) ? 1 : 0;
  }
  const Utf8Step step = NextUtf8(text, pos);
  const bool part = step.kind == Utf8Kind::kCharacter && (ClassOf(step.code) & kAlnum) != 0;
  return part ? step.size : 0;
}

class Lexer {
 public:
  Lexer(const std::string& source, const std::string& name) : name_(name) {
    if (source.size() > kMaxSourceBytes) {
      Fail(ErrorCode::kInput, "{}: has {} bytes; templates have at most {}", name, source.size(),
           kMaxSourceBytes);
    }
    for (std::size_t i = 0; i < source.size(); ++i) {  // every kind of line end counts as \n
      if (source[i] == '\r') {
        source_ += '\n';
        if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
      } else {
        source_ += source[i];
      }
    }
    if (!source_.empty() && source_.back() == '\n') source_.pop_back();  // exactly one, as Jinja
  }

  std::vector<Token> Run() {
    while (pos_ < source_.size()) {
      const std::size_t open = FindOpening(pos_);
      if (open == std::string::npos) {
        AddData(source_.substr(pos_));
        break;
      }
      const char kind = source_[open + 1];
      const char sign = open + 2 < source_.size() ? source_[open + 2] : '\0';
      Advance(AddDataBefore(open, kind, sign));
      if (kind == '#') {
        Comment(open);
      } else if (kind == '%' && RawBegin()) {
        Raw();
      } else {
        Code(kind);
      }
    }
    Add(TokenType::kEnd, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void Error(std::string_view what) const {
    Fail(ErrorCode::kInput, "{}: line {}: {}", name_, line_, what);
  }
  void Add(TokenType type, std::string text) { tokens_.push_back({type, std::move(text), line_}); }
  void AddData(std::string text) {
    if (!text.empty()) Add(TokenType::kData, std::move(text));
  }
  void Advance(std::size_t to) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(pos_),
                                         source_.begin() + static_cast<std::ptrdiff_t>(to), '\n'));
    pos_ = to;
  }
  bool At(std::string_view text) const {
    return std::string_view(source_).substr(pos_, text.size()) == text;
  }
  std::size_t FindOpening(std::size_t from) const {
    for (std::size_t i = source_.find('{', from); i != std::string::npos && i + 1 < source_.size();
         i = source_.find('{', i + 1)) {
      const char next = source_[i + 1];
      if (next == '{' || next == '%' || next == '#') return i;
    }
    return std::string::npos;
  }

  // The text before an opening, cut as its sign says. Returns the position after opening and sign.
  std::size_t AddDataBefore(std::size_t open, char kind, char sign) {
    std::string_view data = std::string_view(source_).substr(pos_, open - pos_);
    if (sign == '-') {
      data = data.substr(0, TrimmedSize(data));
    } else if (sign != '+' && kind != '{') {
      const std::size_t newline = data.rfind('\n');
      const std::size_t line_start = newline == data.npos ? 0 : newline + 1;
      const bool starts_line = line_start > 0 || pos_ == 0 || source_[pos_ - 1] == '\n';
      if (starts_line && SkipSpaceFrom(data, line_start) == data.size()) {
        data = data.substr(0, line_start);
      }
    }
    AddData(std::string(data));
    return open + (sign == '-' || sign == '+' ? 3 : 2);
  }

  void SkipSpace() { Advance(SkipSpaceFrom(source_, pos_)); }

  // At the end of a tag or comment whose closing has two characters; false where there is none.
  bool Closing(std::string_view close) {
    const bool minus = At("-") && std::string_view(source_).substr(pos_ + 1, 2) == close;
    const bool plus =
        close != "}}" && At("+") && std::string_view(source_).substr(pos_ + 1, 2) == close;
    if (!minus && !plus && !At(close)) return false;
    Advance(pos_ + (minus || plus ? 3 : 2));
    if (minus) SkipSpace();
    if (!minus && !plus && close != "}}" && At("\n")) Advance(pos_ + 1);
    return true;
  }

  void Comment(std::size_t open) {
    const std::size_t end = source_.find("#}", pos_);
    if (end == std::string::npos) Error("a comment {# is never closed");
    const bool sign =
        end > open + 2 && end > pos_ && (source_[end - 1] == '-' || source_[end - 1] == '+');
    Advance(sign ? end - 1 : end);
    Closing("#}");
  }

  // After "{%" and its sign: is this a raw tag? Moves behind it if so.
  bool RawBegin() {
    std::size_t i = SkipSpaceFrom(source_, pos_);
    if (source_.compare(i, 3, "raw") != 0) return false;
    i = SkipSpaceFrom(source_, i + 3);
    const bool minus = source_.compare(i, 3, "-%}") == 0;
    if (!minus && source_.compare(i, 2, "%}") != 0) return false;
    Advance(i + (minus ? 3 : 2));
    if (minus) SkipSpace();
    return true;
  }

  void Raw() {
    for (std::size_t open = source_.find("{%", pos_); open != std::string::npos;
         open = source_.find("{%", open + 1)) {
      std::size_t i = open + 2;
      const char sign = i < source_.size() ? source_[i] : '\0';
      if (sign == '-' || sign == '+') ++i;
      i = SkipSpaceFrom(source_, i);
      if (source_.compare(i, 6, "endraw") != 0) continue;
      i = SkipSpaceFrom(source_, i + 6);
      AddDataBefore(open, '%', sign);
      Advance(i);
      if (!Closing("%}")) Error("the tag {% endraw is not closed");
      return;
    }
    Error("a {% raw %} block is never closed");
  }

  void Code(char kind) {
    const char* close = kind == '{' ? "}}" : "%}";
    Add(kind == '{' ? TokenType::kOutputBegin : TokenType::kTagBegin, "");
    std::string open_brackets;
    for (;;) {
      SkipSpace();
      if (pos_ >= source_.size()) Error(fmt::format("a {{{} is never closed", kind));
      const int line = line_;
      if (open_brackets.empty() && Closing(close)) {
        Add(kind == '{' ? TokenType::kOutputEnd : TokenType::kTagEnd, "");
        tokens_.back().line = line;
        return;
      }
      const char c = source_[pos_];
      if (!IsDigit(c) && NamePartAt(source_, pos_) > 0) {
        std::size_t end = pos_;
        while (const std::size_t size = NamePartAt(source_, end)) end += size;
        Add(TokenType::kName, source_.substr(pos_, end - pos_));
        Advance(end);
      } else if (IsDigit(c)) {
        Number();
      } else if (c == '\'' || c == '"') {
        String(c);
      } else {
        Operator(open_brackets);
      }
    }
  }

  // 0x1F, 0o17, 0b11: an integer in another base.
  bool NumberInBase() {
    if (source_[pos_] != '0' || pos_ + 1 >= source_.size()) return false;
    const char letter = static_cast<char>(source_[pos_ + 1] | 0x20);
    const int base = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
    if (base == 0) return false;
    std::string digits;
    std::size_t end = pos_ + 2;
    for (; NamePartAt(source_, end) == 1; ++end) {
      if (source_[end] != '_') digits += source_[end];
    }
    std::uint64_t value = 0;
    const char* last = digits.data() + digits.size();
    const auto read = std::from_chars(digits.data(), last, value, base);
    if (read.ec != std::errc() || read.ptr != last || value > INT64_MAX) {
      Error(fmt::format("{} is not a number of 64 bits", source_.substr(pos_, end - pos_)));
    }
    Add(TokenType::kInteger, std::to_string(value));
    Advance(end);
    return true;
  }

  void Number() {
    if (NumberInBase()) return;
    std::size_t end = pos_;
    std::string digits;
    const auto take = [&] {
      while (end < source_.size() && (IsDigit(source_[end]) || source_[end] == '_')) {
        if (source_[end] != '_') digits += source_[end];
        ++end;
      }
    };
    const auto digit_at = [&](std::size_t i) { return i < source_.size() && IsDigit(source_[i]); };
    take();
    bool is_float = false;
    const bool after_dot = !tokens_.empty() && tokens_.back().type == TokenType::kOperator &&
                           tokens_.back().text == ".";  // x.0.y is two subscripts
    if (!after_dot && end < source_.size() && source_[end] == '.' && digit_at(end + 1)) {
      is_float = true;
      digits += source_[end++];
      take();
    }
    if (!after_dot && end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
      const bool sign =
          end + 1 < source_.size() && (source_[end + 1] == '-' || source_[end + 1] == '+');
      if (digit_at(end + (sign ? 2 : 1))) {
        is_float = true;
        digits += source_.substr(end, sign ? 2 : 1);
        end += sign ? 2 : 1;
        take();
      }
    }
    if (end < source_.size() && IsNameStart(source_[end])) {
      Error(fmt::format("the number {}{} is outside the subset", digits, source_[end]));
    }
    Add(is_float ? TokenType::kFloat : TokenType::kInteger, digits);
    Advance(end);
  }

  void String(char quote) {
    std::string text;
    std::size_t i = pos_ + 1;
    for (;; ++i) {
      if (i >= source_.size()) Error("a string is never closed");
      if (source_[i] == quote) break;
      if (source_[i] != '\\') {
        text += source_[i];
        continue;
      }
      if (++i >= source_.size()) Error("a string is never closed");
      i = EscapeAt(i, text);
    }
    Add(TokenType::kString, std::move(text));
    Advance(i + 1);
  }

  // The escape whose letter is at `i`; returns the position of its last character.
  std::size_t EscapeAt(std::size_t i, std::string& text) {
    constexpr std::string_view kLetters = "\\'\"abfnrtv";
    constexpr std::string_view kMeant = "\\'\"\a\b\f\n\r\t\v";
    const char c = source_[i];
    if (const std::size_t letter = kLetters.find(c); letter != kLetters.npos) {
      text += kMeant[letter];
      return i;
    }
    if (c == '\n') return i;  // a line continued
    std::size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    int base = 16;
    std::size_t first = i + 1;
    if (c >= '0' && c <= '7') {
      base = 8;
      first = i;
      digits = 1;
      while (digits < 3 && i + digits < source_.size() && source_[i + digits] >= '0' &&
             source_[i + digits] <= '7') {
        ++digits;
      }
    }
    if (c == 'N') Error("the escape \\N in a string is outside the subset");
    if (digits == 0) {  // Python keeps an unknown escape as it stands
      text += '\\';
      text += c;
      return i;
    }
    std::uint32_t code = 0;
    const char* begin = source_.data() + first;
    const char* end = source_.data() + std::min(first + digits, source_.size());
    const auto result = std::from_chars(begin, end, code, base);
    const bool surrogate = code >= 0xD800 && code < 0xE000;
    if (result.ec != std::errc() || result.ptr != begin + digits || code > 0x10FFFF || surrogate) {
      Error(fmt::format("the escape \\{} in a string is not a character", c));
    }
    AppendUtf8(code, text);
    return first + digits - 1;
  }

  void Operator(std::string& open_brackets) {
    constexpr std::array<std::string_view, 6> kLong = {"//", "**", "==", "!=", ">=", "<="};
    for (const std::string_view op : kLong) {
      if (!At(op)) continue;
      Add(TokenType::kOperator, std::string(op));
      Advance(pos_ + 2);
      return;
    }
    const char c = source_[pos_];
    constexpr std::string_view kShort = "+-*/%~[](){}<>=.:|,";
    if (kShort.find(c) == kShort.npos) {
      Error(fmt::format("unexpected character {}", c >= 0x20 && c < 0x7F
                                                       ? std::string(1, c)
                                                       : fmt::format("0x{:02x}", c & 0xFF)));
    }
    if (c == '(' || c == '[' || c == '{') open_brackets += c;
    if (c == ')' || c == ']' || c == '}') {
      const char opened = c == ')' ? '(' : c == ']' ? '[' : '{';
      if (open_brackets.empty() || open_brackets.back() != opened) {
        Error(fmt::format("{} closes nothing", c));
      }
      open_brackets.pop_back();
    }
    Add(TokenType::kOperator, std::string(1, c));
    Advance(pos_ + 1);
  }

  const std::string& name_;
  std::string source_;
  std::size_t pos_ = 0;
  int line_ = 1;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> Lex(const std::string& source, const std::string& name) {
  return Lexer(source, name).Run();
}

}  // namespace opo::jinja
