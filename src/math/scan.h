// What stands in a text: boxes, formulas, numbers. Linear in the text.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace opo {

inline constexpr std::size_t kNone = std::string_view::npos;

inline bool IsDigit(char c) { return c >= '0' && c <= '9'; }
inline bool IsLetter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
inline bool IsSpace(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f'; }
inline char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }
std::string LowerCopy(std::string_view text);
std::string_view TrimSpace(std::string_view text);

// \boxed{...}, \fbox{...}, \boxed 7, boxed{...}.
struct Box {
  std::size_t begin = 0;
  std::size_t end = 0;
  std::string_view content;
  bool frame = false;  // \fbox
  bool closed = false;
};

std::vector<Box> FindBoxes(std::string_view text);

// Whether two boxes are parts of one answer: between them stands a comma or "and" or "or", and
// little else.
bool BoxesJoin(std::string_view gap);

struct Span {
  std::size_t begin = 0;
  std::size_t end = 0;
  std::string_view content;
};

// $...$, $$...$$, \(...\), \[...\] in order.
std::vector<Span> FindMath(std::string_view text);

// The first and the last number of a text outside of words, with what belongs to it: "-1,000.99",
// "2/3", "25%", "\frac{2}{5}", "10^{3}"; empty where there is none.
std::string FirstNumberIn(std::string_view text);
std::string LastNumberIn(std::string_view text);

}  // namespace opo
